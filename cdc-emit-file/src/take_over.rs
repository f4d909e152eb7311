//! Going on behind what is there: in append mode, and where no checkpoint knows better. Every step may be
//! interrupted and done again.

use std::sync::Arc;
use std::time::Duration;

use cdc_core::EmitError;
use cdc_core::storage::{OpenMode, write_again};
use tracing::warn;

use crate::error::io_error;
use crate::framing::{Framing, scan};
use crate::manifest;
use crate::restart::{Form, Found};
use crate::state::FileState;
use crate::writer::{OpenFile, Writer, append_line};

impl Writer {
    /// Keeps every whole line that is there. With a state the newest open file is continued,
    /// without one every open file is closed as it is.
    pub(crate) fn take_over(&mut self, state: Option<&FileState>) -> Result<(), EmitError> {
        let listed = self.listed(u64::MAX)?;
        self.cut_manifest(listed.length)?;
        self.secure_manifest(&listed)?;
        self.finish_renames(&listed)?;
        self.out.sequence = listed.state.sequence;
        self.out.manifest_len = listed.length;
        self.out.chain = listed.state.chain;
        self.out.last = state.map(|state| state.last).unwrap_or_default();
        let mut found: Vec<_> = self.found()?;
        found.retain(|found| !listed.names.contains(&found.text));
        // Only listed files are compressed: of one that is not, nothing is known.
        found.retain(|found| {
            let packed = found.form == Form::Packed;
            if packed {
                warn!(file = %self.path_of(found).display(), "a compressed file is not in the manifest; leaving it alone");
            }
            !packed
        });
        let continued = found.iter().rposition(|found| found.form == Form::Part);
        let continued = continued
            .filter(|_| state.is_some())
            .map(|index| found.remove(index));
        for found in found {
            self.adopt(&found)?;
        }
        self.compress_closed(&listed.names)?;
        if let Some(found) = continued {
            let known = state
                .and_then(|state| state.open.as_ref())
                .filter(|known| known.name == found.text);
            let mut open = self.open_whole(&found, known.map_or(0, |known| known.length))?;
            if let Some(known) = known {
                open.opened_micros = known.opened_micros;
                if known.length == open.length {
                    open.events = known.events;
                    open.last = state.map(|state| state.last);
                }
            }
            self.age(&mut open);
            self.out.open = Some(open);
        }
        Ok(())
    }

    /// Takes a file that the manifest does not know into it, as it is.
    fn adopt(&mut self, found: &Found) -> Result<(), EmitError> {
        let open = self.open_whole(found, 0)?;
        let (storage, path) = (&self.config.storage, self.path_of(found));
        if open.length == 0 {
            return storage
                .remove(&path)
                .map_err(|cause| io_error("remove the empty file", &path, cause));
        }
        warn!(file = %path.display(), lines = open.lines, "taking over a file that was not closed; its lines stay");
        let entry = open.entry(self.out.sequence + 1);
        let (line, chain) = manifest::line(&entry, None, &self.out.chain);
        let manifest = manifest::path(&self.config.path);
        append_line(
            &*self.config.storage,
            &self.config.path,
            self.out.manifest_len,
            &line,
        )
        .map_err(|cause| io_error("append to", &manifest, cause))?;
        if found.form == Form::Part {
            self.rename_closed(&found.text)?;
        }
        self.out.sequence += 1;
        self.out.manifest_len += line.len() as u64;
        self.out.chain = chain;
        Ok(())
    }

    /// Opens a file, cuts off a torn end and makes durable what is behind `durable`.
    fn open_whole(&self, found: &Found, durable: u64) -> Result<OpenFile, EmitError> {
        let path = self.path_of(found);
        let file = self
            .config
            .storage
            .open(&path, OpenMode::ReadWrite)
            .map_err(|cause| io_error("open", &path, cause))?;
        let framing = Framing::of(found.name.format);
        let scan =
            scan(&*file, u64::MAX, framing).map_err(|cause| io_error("read", &path, cause))?;
        let failed = |cause| io_error("cut the torn end of", &path, cause);
        if file.len().map_err(failed)? > scan.whole {
            warn!(file = %path.display(), "cutting off a torn end");
            file.set_len(scan.whole).map_err(failed)?;
        }
        write_again(&*file, durable, scan.whole)
            .and_then(|()| file.sync_data())
            .map_err(|cause| io_error("write again the end of", &path, cause))?;
        self.sync_dir()?;
        Ok(OpenFile {
            file: Arc::from(file),
            name: found.text.clone(),
            first: found.name.first,
            length: scan.whole,
            events: scan.lines,
            lines: scan.lines,
            crc: scan.crc,
            hash: scan.hash,
            opened_micros: self.config.clock.wall_micros(),
            opened_at: Duration::ZERO,
            last: None,
            torn: false,
            name_dirty: false,
        })
    }
}
