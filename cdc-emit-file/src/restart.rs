//! Going back to a checkpoint, and finishing what a crash interrupted. Every step may be
//! interrupted and done again from the same checkpoint.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cdc_core::storage::{OpenMode, create_dir, open_if_there, write_again};
use cdc_core::{Checkpoint, EmitError, EmitErrorKind, Position};
use tracing::{error, info, warn};

use crate::begun::Begun;
use crate::compress::{GZ, GZ_TMP, inflate, is_damage, with_end};
use crate::error::{contradiction, io_error};
use crate::framing::{Framing, Scan, scan};
use crate::manifest::{self, Line, Manifest};
use crate::name::{FileName, PART};
use crate::state::{FileState, OpenState};
use crate::writer::{OpenFile, Output, Writer, state_of};
use crate::{Compress, FileConfig, Fsync, LOCK, OnRestart};

/// A data file of ours in the directory.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) name: FileName,
    pub(crate) text: String,
    pub(crate) form: Form,
}

/// In which form a data file is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Part,
    Closed,
    Packed,
    /// A compressed file that is not finished.
    Packing,
}

impl Form {
    /// With the longest first, for the end of one is the end of another.
    const ENDS: [(Self, &str); 4] = [
        (Self::Packing, GZ_TMP),
        (Self::Packed, GZ),
        (Self::Part, PART),
        (Self::Closed, ""),
    ];
}

/// The whole lines of the manifest.
#[derive(Default)]
pub(crate) struct Listed {
    pub(crate) length: u64,
    /// Where the last of them begins.
    last_line: u64,
    pub(crate) state: FileState,
    /// The files they name, with their lengths.
    pub(crate) names: BTreeMap<String, u64>,
    /// As much of a damaged line.
    doubtful: BTreeMap<String, u64>,
}

/// True if a file is among these in this form.
pub(crate) fn is_among(found: &[Found], name: &str, form: Form) -> bool {
    found.iter().any(|f| f.form == form && f.text == name)
}

impl Writer {
    pub(crate) fn restart(&mut self, from: Option<&Checkpoint>) -> Result<(), EmitError> {
        self.compressor.stop();
        self.quiet();
        self.own_directory()?;
        self.remove_unfinished()?;
        let position = from.map(|checkpoint| checkpoint.position);
        let mut state = match state_of(from) {
            Some(bytes) => Some(
                FileState::decode(bytes).map_err(|what| contradiction(&self.config.path, what))?,
            ),
            None => None,
        };
        // The same process, and the lane's checkpoint is still where it began: back to there.
        if state.is_none()
            && let Some((began, base)) = &self.base
            && *began == position
        {
            state = Some(base.clone());
        }
        self.out = Output {
            lineage: from.map(|checkpoint| checkpoint.lineage),
            ..Output::default()
        };
        match state {
            Some(state) if self.config.on_restart == OnRestart::Truncate => self.go_back(&state)?,
            state => self.take_over(state.as_ref())?,
        }
        // Another format than that of the open file needs a file of its own.
        let format = self.config.encoder.format();
        let other = self.out.open.as_ref().is_some_and(|open| {
            FileName::parse(&self.config.stream, &open.name).is_none_or(|n| n.format != format)
        });
        if other {
            self.close_open()?;
        }
        self.written = position.unwrap_or_default();
        self.dirty_since = None;
        self.lost = None;
        self.whole = true;
        self.mark = self.mark_now();
        if self.base.is_none() {
            self.base = Some((position, self.state()));
        }
        Ok(())
    }

    /// Removes compressed files that were not finished.
    fn remove_unfinished(&self) -> Result<(), EmitError> {
        for found in self.found()? {
            if found.form == Form::Packing {
                let path = self.path_of(&found);
                self.config
                    .storage
                    .remove(&path)
                    .map_err(|cause| io_error("remove", &path, cause))?;
            }
        }
        Ok(())
    }

    /// Has every closed file compressed that is not.
    pub(crate) fn compress_closed(
        &mut self,
        listed: &BTreeMap<String, u64>,
    ) -> Result<(), EmitError> {
        if self.config.compress == Compress::Gzip {
            for found in self.found()? {
                if found.form == Form::Closed && listed.contains_key(&found.text) {
                    self.compressor.add(found.text);
                }
            }
        }
        Ok(())
    }

    /// Creates the directory and takes its lock.
    fn own_directory(&mut self) -> Result<(), EmitError> {
        if self.lock.is_some() {
            return Ok(());
        }
        let (storage, dir) = (&self.config.storage, &self.config.path);
        create_dir(storage.as_ref(), dir)
            .map_err(|cause| io_error("create the directory", dir, cause))?;
        let path = dir.join(LOCK);
        let lock = storage.lock(&path).map_err(|cause| {
            if cause.kind() == io::ErrorKind::WouldBlock {
                EmitError::new(
                    EmitErrorKind::EndpointStop,
                    format!(
                        "write to {}: another process writes there; stop it, or give this emitter a directory of its own",
                        dir.display()
                    ),
                )
            } else {
                io_error("lock", &path, cause)
            }
        })?;
        self.lock = Some(lock);
        Ok(())
    }

    /// Brings the directory back to what it was at a mark.
    fn go_back(&mut self, state: &FileState) -> Result<(), EmitError> {
        let listed = self.listed(state.manifest_len)?;
        let manifest = manifest::path(&self.config.path);
        if listed.length < state.manifest_len {
            return Err(contradiction(
                &manifest,
                "it is shorter than the checkpoint says",
            ));
        }
        if (listed.state.sequence, listed.state.chain) != (state.sequence, state.chain) {
            return Err(contradiction(
                &manifest,
                "its lines are not those of the checkpoint",
            ));
        }
        // Redriven letters, and what follows a move backwards, stand in files whose names begin before
        // the mark. What was not closed then, or is closed behind the mark, came after it all the same.
        let mut all = Listed::default();
        let damaged = match self.list(u64::MAX, &mut all) {
            Ok(()) => false,
            // Damage behind the mark: those lines are cut off anyway.
            Err(error) if error.kind == EmitErrorKind::Fatal => true,
            Err(error) => return Err(error),
        };
        all.names.append(&mut all.doubtful);
        self.take_back(state, &listed.names, &all.names, damaged)?;
        let open_name = state.open.as_ref().map(|open| open.name.as_str());
        self.finish_renames(&listed, open_name)?;
        let mut open = match &state.open {
            Some(open) => self.reopen(open, state.last)?,
            None => None,
        };
        if let Some(open) = &mut open {
            self.age(open);
        }
        self.sync_dir()?;
        self.compress_closed(&listed.names)?;
        self.out.sequence = state.sequence;
        self.out.manifest_len = state.manifest_len;
        self.out.chain = state.chain;
        self.out.last = state.last;
        self.out.begun = Begun::of(&self.config.stream, listed.names.keys());
        self.out.open = open;
        Ok(())
    }

    /// Cuts the file of a mark to the mark's length, and checks what is left.
    fn reopen(&self, state: &OpenState, last: Position) -> Result<Option<OpenFile>, EmitError> {
        let storage = &self.config.storage;
        let closed = self.config.path.join(&state.name);
        let part = self.part_path(&state.name);
        let Some(name) = FileName::parse(&self.config.stream, &state.name) else {
            return Err(contradiction(&closed, "it does not belong to this stream"));
        };
        self.unpack(&state.name, state.length)?;
        match (self.is_there(&part)?, self.is_there(&closed)?) {
            (true, false) => {}
            (false, true) => storage
                .rename(&closed, &part)
                .map_err(|cause| io_error("open again", &closed, cause))?,
            (true, true) => {
                return Err(contradiction(&part, "it is there closed and open at once"));
            }
            (false, false) if self.config.fsync == Fsync::None => {
                error!(file = %part.display(), "the file is gone; fsync is \"none\", so a power cut may have taken it: its events are lost");
                return Ok(None);
            }
            (false, false) => return Err(contradiction(&part, "it is gone")),
        }
        let file = storage
            .open(&part, OpenMode::ReadWrite)
            .map_err(|cause| io_error("open", &part, cause))?;
        let failed = |cause| io_error("read", &part, cause);
        let framing = Framing::of(name.format);
        let length = file.len().map_err(failed)?;
        let mut open = OpenFile {
            name: state.name.clone(),
            first: name.first,
            length: state.length,
            events: state.events,
            lines: state.lines,
            crc: state.crc,
            hash: blake3::Hasher::new(),
            opened_micros: state.opened_micros,
            opened_at: Duration::ZERO,
            last: Some(last),
            torn: false,
            name_dirty: false,
            file: Arc::from(file),
        };
        let Scan {
            whole,
            lines,
            crc,
            hash,
            read: _,
        } = scan(&*open.file, state.length, framing).map_err(failed)?;
        open.hash = hash;
        if (whole, lines, crc) != (state.length, state.lines, state.crc) {
            if self.config.fsync != Fsync::None {
                let what = if length < state.length {
                    "it is shorter than the checkpoint says"
                } else {
                    "its bytes are not those of the checkpoint"
                };
                return Err(contradiction(&part, what));
            }
            error!(file = %part.display(), expected = state.length, found = whole, "the file lost its end; fsync is \"none\", so a power cut may have taken it: those events are lost");
            (open.length, open.lines, open.crc) = (whole, lines, crc);
            open.events = state.events.min(lines);
        }
        if length > open.length {
            info!(file = %part.display(), bytes = length - open.length, "cutting off what lies behind the checkpoint; its events come again");
        }
        let durable = self.durable_of(open.length);
        open.file
            .set_len(open.length)
            .and_then(|()| write_again(&*open.file, durable, open.length))
            .and_then(|()| open.file.sync_data())
            .map_err(|cause| io_error("cut", &part, cause))?;
        Ok(Some(open))
    }

    /// Removes a compressed file; if it is there in no other form but perhaps an open one, its first `length`
    /// bytes become the open file. What an interrupted compression, or decompression, left beside it holds
    /// no more than it does.
    pub(crate) fn unpack(&self, name: &str, length: u64) -> Result<(), EmitError> {
        let storage = &self.config.storage;
        let closed = self.config.path.join(name);
        let (packed, part) = (with_end(&closed, GZ), self.part_path(name));
        if !self.is_there(&packed)? {
            return Ok(());
        }
        if !self.is_there(&closed)? {
            info!(file = %packed.display(), "decompressing a file to go on in it");
            inflate(&**storage, &packed, &part, length).map_err(|cause| {
                if is_damage(&cause) {
                    contradiction(&packed, "its compressed form is damaged")
                } else {
                    io_error("decompress", &packed, cause)
                }
            })?;
        }
        self.sync_dir()?;
        storage
            .remove(&packed)
            .map_err(|cause| io_error("remove", &packed, cause))
    }

    /// How much of what a checkpoint covers is durable. Without fsync it runs ahead of the syncs: if one failed,
    /// no later one is of these bytes.
    pub(crate) fn durable_of(&self, covered: u64) -> u64 {
        match self.config.fsync {
            Fsync::None => 0,
            Fsync::Batch | Fsync::Interval(_) => covered,
        }
    }

    /// Puts the wall time of opening onto the clock that never goes back. A wall clock that was
    /// set back makes the file young.
    pub(crate) fn age(&self, open: &mut OpenFile) {
        let clock = &self.config.clock;
        let micros = clock.wall_micros().saturating_sub(open.opened_micros);
        let age = Duration::from_micros(u64::try_from(micros).unwrap_or(0));
        // Before the clock's beginning is as old as can be told.
        open.opened_at = clock.elapsed().saturating_sub(age);
    }

    /// A crash between manifest and rename leaves the last listed file with its open name, and one while files
    /// are taken back leaves several so. `open` is one that is open in the checkpoint.
    pub(crate) fn finish_renames(
        &self,
        listed: &Listed,
        open: Option<&str>,
    ) -> Result<(), EmitError> {
        let storage = &*self.config.storage;
        let found = self.found()?;
        let is_there = |name: &str, form| is_among(&found, name, form);
        for part in found.iter().filter(|found| found.form == Form::Part) {
            let name = &part.text;
            let Some(length) = listed.names.get(name) else {
                continue;
            };
            if is_there(name, Form::Closed) || Some(name.as_str()) == open {
                continue;
            }
            let path = self.path_of(part);
            let len = storage
                .open(&path, OpenMode::Read)
                .and_then(|file| file.len())
                .map_err(|cause| io_error("open", &path, cause))?;
            if is_there(name, Form::Packed) || (len == 0 && *length > 0) {
                // Only a mark that the compressed one, which may have been carried off since, was about to be
                // taken back.
                storage
                    .remove(&path)
                    .map_err(|cause| io_error("remove", &path, cause))?;
                continue;
            }
            if len != *length {
                return Err(contradiction(
                    &path,
                    "it is closed in the manifest with another length",
                ));
            }
            self.rename_closed(name)?;
        }
        Ok(())
    }

    pub(crate) fn rename_closed(&self, name: &str) -> Result<(), EmitError> {
        let part = self.part_path(name);
        self.config
            .storage
            .rename(&part, &self.config.path.join(name))
            .map_err(|cause| io_error("rename", &part, cause))?;
        self.sync_dir()
    }

    /// True if a file that is there has no bytes.
    pub(crate) fn is_empty(&self, path: &Path) -> Result<bool, EmitError> {
        let file = self.config.storage.open(path, OpenMode::Read);
        let length = file.and_then(|file| file.len());
        let length = length.map_err(|cause| io_error("look at", path, cause))?;
        Ok(length == 0)
    }

    /// True if there is a file of this name. One that cannot be looked at is an error, not absent: its
    /// events would be taken for lost, or its name for free.
    pub(crate) fn is_there(&self, path: &Path) -> Result<bool, EmitError> {
        let there = open_if_there(&*self.config.storage, path, OpenMode::Read);
        let there = there.map_err(|cause| io_error("look for", path, cause))?;
        Ok(there.is_some())
    }

    pub(crate) fn sync_dir(&self) -> Result<(), EmitError> {
        let FileConfig { storage, path, .. } = &self.config;
        storage
            .sync_dir(path)
            .map_err(|cause| io_error("sync the directory", path, cause))
    }

    pub(crate) fn cut_manifest(&self, length: u64) -> Result<(), EmitError> {
        let storage = &*self.config.storage;
        let path = manifest::path(&self.config.path);
        let cut = || {
            let Some(file) = open_if_there(storage, &path, OpenMode::ReadWrite)? else {
                return Ok(());
            };
            // Also one that is as long as it should be: an earlier try may have cut it and died before, or at,
            // the sync.
            if file.len()? >= length {
                file.set_len(length)?;
                file.sync_data()?;
            }
            Ok(())
        };
        cut().map_err(|cause| io_error("cut", &path, cause))
    }

    /// Each line is synced before the next is written, so that only the last one may be in memory alone.
    pub(crate) fn secure_manifest(&self, listed: &Listed) -> Result<(), EmitError> {
        if listed.length == 0 {
            return Ok(());
        }
        let path = manifest::path(&self.config.path);
        let secure = || {
            let file = self.config.storage.open(&path, OpenMode::ReadWrite)?;
            write_again(&*file, listed.last_line, listed.length)?;
            file.sync_data()
        };
        secure().map_err(|cause| io_error("write again the end of", &path, cause))?;
        self.sync_dir()
    }

    /// Reads the first bytes of the manifest. A torn last line is left out.
    pub(crate) fn listed(&self, limit: u64) -> Result<Listed, EmitError> {
        let mut listed = Listed::default();
        self.list(limit, &mut listed)?;
        Ok(listed)
    }

    /// As [`listed`](Self::listed); what is read before damage is in `listed`.
    fn list(&self, limit: u64, listed: &mut Listed) -> Result<(), EmitError> {
        let dir = &self.config.path;
        let path = manifest::path(dir);
        let failed = |cause| io_error("read", &path, cause);
        let mut manifest = Manifest::open(&*self.config.storage, dir, limit).map_err(failed)?;
        loop {
            match manifest.next().map_err(failed)? {
                Line::End | Line::Torn => return Ok(()),
                Line::Whole(text) => {
                    let number = listed.state.sequence + 1;
                    let fits =
                        |read: &manifest::Read| read.chained && read.entry.sequence == number;
                    let read = match manifest::parse(&text, &listed.state.chain) {
                        Some(read) if fits(&read) => Some(read),
                        Some(manifest::Read { entry, .. }) => {
                            listed.doubtful.insert(entry.name, entry.bytes);
                            None
                        }
                        None => None,
                    };
                    let Some(read) = read else {
                        // A power cut may leave a line in pieces, but only the last one.
                        let last = limit == u64::MAX
                            && matches!(manifest.next().map_err(failed)?, Line::End | Line::Torn);
                        if last {
                            warn!(file = %path.display(), line = number, "dropping the manifest's torn last line");
                            return Ok(());
                        }
                        return Err(contradiction(&path, &format!("line {number} is damaged")));
                    };
                    listed.last_line = std::mem::replace(&mut listed.length, manifest.length);
                    listed.state.sequence = number;
                    listed.state.chain = read.chain;
                    listed.names.insert(read.entry.name, read.entry.bytes);
                }
                Line::Endless => return Err(contradiction(&path, "it holds an endless line")),
            }
        }
    }

    /// Our data files, sorted by name. Nothing else in the directory is ever touched.
    pub(crate) fn found(&self) -> Result<Vec<Found>, EmitError> {
        let dir = &self.config.path;
        let names = self
            .config
            .storage
            .list(dir)
            .map_err(|cause| io_error("list", dir, cause))?;
        let found = names.into_iter().filter_map(|file| {
            Form::ENDS.into_iter().find_map(|(form, end)| {
                let text = file.strip_suffix(end)?;
                let name = FileName::parse(&self.config.stream, text)?;
                let text = text.to_owned();
                Some(Found { name, text, form })
            })
        });
        Ok(found.collect())
    }

    pub(crate) fn path_of(&self, found: &Found) -> PathBuf {
        let end = Form::ENDS.iter().find(|(form, _)| *form == found.form);
        let end = end.map_or("", |(_, end)| end);
        self.config.path.join(format!("{}{end}", found.text))
    }
}
