//! Going on behind what is there: in append mode, and where no checkpoint knows better. Every step may be
//! interrupted and done again.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cdc_core::EmitError;
use cdc_core::storage::{OpenMode, write_again};
use tracing::{error, warn};

use crate::Fsync;
use crate::begun::Begun;
use crate::error::{contradiction, io_error};
use crate::framing::{Framing, scan};
use crate::manifest;
use crate::restart::{Form, Found};
use crate::state::{FileState, OpenState};
use crate::writer::{OpenFile, Writer, append_line};

impl Writer {
    /// Keeps every whole line that is there. With a state the newest open file is continued,
    /// without one every open file is closed as it is.
    pub(crate) fn take_over(&mut self, state: Option<&FileState>) -> Result<(), EmitError> {
        let listed = self.listed(u64::MAX)?;
        self.cut_manifest(listed.length)?;
        self.secure_manifest(&listed)?;
        self.finish_renames(&listed, None)?;
        self.out.begun = Begun::of(&self.config.stream, listed.names.keys());
        self.out.sequence = listed.state.sequence;
        self.out.manifest_len = listed.length;
        self.out.chain = listed.state.chain;
        self.out.last = state.map(|state| state.last).unwrap_or_default();
        let known = state.and_then(|state| state.open.as_ref());
        let mut found = self.found()?;
        found.retain(|found| !listed.names.contains_key(&found.text));
        let mut found = self.unpacked(found, known)?;
        if let Some(known) = known
            && known.length > 0
            && !listed.names.contains_key(&known.name)
            && !found.iter().any(|found| found.text == known.name)
        {
            self.short_of(&self.part_path(&known.name), "it is gone")?;
        }
        let mut continued = None;
        for (index, found) in found.iter().enumerate().rev() {
            // An empty one may be no more than the mark of a compressed one that was taken back.
            let is_known = known.is_some_and(|known| known.name == found.text);
            if state.is_some()
                && found.form == Form::Part
                && (is_known || !self.is_empty(&self.path_of(found))?)
            {
                continued = Some(index);
                break;
            }
        }
        let continued = continued.map(|index| found.remove(index));
        for found in found {
            self.adopt(&found, known)?;
        }
        self.compress_closed(&listed.names)?;
        if let Some(found) = continued {
            let mut open = self.open_whole(&found, known)?;
            if let Some(known) = known.filter(|known| known.name == open.name) {
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

    /// Decompresses files that are in no line of the manifest, but open in the checkpoint or in the directory:
    /// a start in truncate mode that died while it opened them again has left them so.
    fn unpacked(
        &self,
        found: Vec<Found>,
        known: Option<&OpenState>,
    ) -> Result<Vec<Found>, EmitError> {
        let texts = |form| -> BTreeSet<String> {
            let of = found.iter().filter(|found| found.form == form);
            of.map(|found| found.text.clone()).collect()
        };
        let (open, closed) = (texts(Form::Part), texts(Form::Closed));
        let mut unpacked = Vec::with_capacity(found.len());
        for mut found in found {
            if found.form == Form::Packed {
                let is_known = known.is_some_and(|known| known.name == found.text);
                let (is_open, is_closed) =
                    (open.contains(&found.text), closed.contains(&found.text));
                if is_closed || !(is_open || is_known) {
                    // Only listed files are compressed: of one that is not, nothing is known.
                    warn!(file = %self.path_of(&found).display(), "a compressed file is not in the manifest; leaving it alone");
                    continue;
                }
                self.unpack(&found.text, u64::MAX)?;
                if is_open {
                    continue;
                }
                found.form = Form::Part;
            }
            unpacked.push(found);
        }
        Ok(unpacked)
    }

    /// Less is there than the checkpoint knows.
    fn short_of(&self, path: &Path, what: &str) -> Result<(), EmitError> {
        if self.config.fsync != Fsync::None {
            return Err(contradiction(path, what));
        }
        error!(file = %path.display(), what, "lines that the checkpoint knows are lost; fsync is \"none\", so a power cut may have taken them");
        Ok(())
    }

    /// Takes a file that the manifest does not know into it, as it is.
    fn adopt(&mut self, found: &Found, known: Option<&OpenState>) -> Result<(), EmitError> {
        let open = self.open_whole(found, known)?;
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
        self.out.begun.add(&self.config.stream, &found.text);
        self.out.manifest_len += line.len() as u64;
        self.out.chain = chain;
        Ok(())
    }

    /// Opens a file, cuts off a torn end and makes durable what is behind the checkpoint.
    fn open_whole(&self, found: &Found, known: Option<&OpenState>) -> Result<OpenFile, EmitError> {
        let path = self.path_of(found);
        let file = self
            .config
            .storage
            .open(&path, OpenMode::ReadWrite)
            .map_err(|cause| io_error("open", &path, cause))?;
        let framing = Framing::of(found.name.format);
        let scan =
            scan(&*file, u64::MAX, framing).map_err(|cause| io_error("read", &path, cause))?;
        let known = known.filter(|known| known.name == found.text);
        let covered = known.map_or(0, |known| known.length);
        if scan.whole < covered {
            self.short_of(&path, "it is shorter than the checkpoint says")?;
        }
        let durable = self.durable_of(covered);
        let failed = |cause| io_error("cut the torn end of", &path, cause);
        if file.len().map_err(failed)? > scan.whole {
            warn!(file = %path.display(), "cutting off a torn end");
        }
        // Also one that ends there: an earlier start may have cut it, and the power take that back.
        file.set_len(scan.whole).map_err(failed)?;
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
