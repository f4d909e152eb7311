//! The half that touches the disk: chunks into files, files into the manifest, syncs into marks.
//!
//! It does what it is told in the order it is told ([`Command`]), whether the emitter's own thread or
//! the one beside it ([`crate::beside`]) calls.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use blake3::Hasher;
use bytes::Bytes;
use cdc_core::crash;
use cdc_core::storage::{OpenMode, Storage, StorageFile, StorageLock, open_if_there};
use cdc_core::{Checkpoint, DurableMark, EmitError, EmitErrorKind, Lineage, Position};
use tracing::{info, warn};

use crate::begun::Begun;
use crate::compress::{Compressor, GZ, with_end};
use crate::error::{io_error, is_full};
use crate::manifest::{self, Entry, Range};
use crate::name::{FileName, PART, REPEAT_MAX};
use crate::state::{FileState, Hash, OpenState};
use crate::{Compress, FileConfig, Fsync};

/// One step of writing. All but [`Command::Chunk`] may be repeated after a failure without a trace; a
/// chunk whose write failed is cut off again before it is written once more.
pub(crate) enum Command {
    /// These bytes go to the end of the open file, into a new one if none is open.
    Chunk(Chunk),
    /// The open file is closed.
    Close,
    /// A batch ends here: what was written belongs to this position.
    End(Position),
}

/// Encoded events on their way to the disk.
pub(crate) struct Chunk {
    pub(crate) bytes: Vec<u8>,
    pub(crate) lineage: Lineage,
    pub(crate) first: Position,
    pub(crate) last: Position,
    pub(crate) events: u64,
    pub(crate) lines: u64,
}

/// Everything of a file emitter that is on the disk, or about to be.
pub(crate) struct Writer {
    pub(crate) config: FileConfig,
    /// Before the lock, so that its thread ends while the directory is still ours.
    pub(crate) compressor: Compressor,
    pub(crate) lock: Option<Box<dyn StorageLock>>,
    pub(crate) out: Output,
    /// The checkpoint's position and the state at the first resume of this process, to go back to
    /// while the lane has no later checkpoint.
    pub(crate) base: Option<(Option<Position>, FileState)>,
    /// What the last complete and durable batch left behind.
    pub(crate) mark: DurableMark,
    /// End of the last batch that was written.
    pub(crate) written: Position,
    /// False while a batch is written in part: the mark stays before it.
    pub(crate) whole: bool,
    /// When the oldest byte was written that is not synced yet.
    pub(crate) dirty_since: Option<Duration>,
    /// A sync on a thread of its own, and what is durable when it is done.
    pub(crate) syncing: Option<Syncing>,
    /// A file that is closed on a thread of its own. The mark stays before its end until it is done.
    closing: Option<Closing>,
    /// Something accepted may be gone: nothing is taken until the lane has gone back.
    pub(crate) lost: Option<Loss>,
}

/// A sync that runs beside the writer.
pub(crate) struct Syncing {
    mark: DurableMark,
    thread: JoinHandle<std::io::Result<()>>,
}

/// A close that runs beside the writer.
struct Closing {
    closable: Arc<Closable>,
    /// `None` once there was no room for it: the writer tries again.
    thread: Option<JoinHandle<Result<(), Failure>>>,
}

/// What failed.
#[derive(Clone, Debug)]
pub(crate) struct Loss {
    pub(crate) what: String,
    pub(crate) cause: String,
}

/// The open file and what is closed before it.
#[derive(Default)]
pub(crate) struct Output {
    pub(crate) sequence: u64,
    pub(crate) manifest_len: u64,
    pub(crate) chain: Hash,
    pub(crate) last: Position,
    /// Where the listed files begin.
    pub(crate) begun: Begun,
    pub(crate) lineage: Option<Lineage>,
    pub(crate) open: Option<OpenFile>,
}

pub(crate) struct OpenFile {
    pub(crate) file: Arc<dyn StorageFile>,
    pub(crate) name: String,
    pub(crate) first: Position,
    pub(crate) length: u64,
    pub(crate) events: u64,
    pub(crate) lines: u64,
    pub(crate) crc: u32,
    pub(crate) hash: Hasher,
    pub(crate) opened_micros: i64,
    /// On the clock that never goes back.
    pub(crate) opened_at: Duration,
    /// Position of the last event in it; unknown for a tail that was taken over.
    pub(crate) last: Option<Position>,
    /// Bytes of a failed write may stand behind `length`.
    pub(crate) torn: bool,
    /// Its name is not durable yet.
    pub(crate) name_dirty: bool,
}

/// How writing went wrong.
pub(crate) enum Failure {
    /// Nothing is lost; the same may be tried again.
    Again(EmitError),
    /// What is on disk is unknown.
    Lost(Loss),
}

impl Failure {
    pub(crate) fn lost(what: String, cause: &std::io::Error) -> Self {
        let cause = cause.to_string();
        Self::Lost(Loss { what, cause })
    }
}

impl Loss {
    pub(crate) fn error(&self) -> EmitError {
        EmitError::new(
            EmitErrorKind::EndpointRetry { retry_after: None },
            format!(
                "{}: what was written since the checkpoint does not count; going back to it",
                self.what
            ),
        )
        .with_cause(self.cause.clone())
    }
}

impl Command {
    /// Encoded bytes in it.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Chunk(chunk) => chunk.bytes.len(),
            Self::Close | Self::End(_) => 0,
        }
    }
}

impl Writer {
    pub(crate) fn new(config: FileConfig) -> Self {
        Self {
            config,
            compressor: Compressor::default(),
            lock: None,
            out: Output::default(),
            base: None,
            mark: DurableMark::default(),
            written: Position::ZERO,
            whole: true,
            dirty_since: None,
            syncing: None,
            closing: None,
            lost: None,
        }
    }

    pub(crate) fn part_path(&self, name: &str) -> PathBuf {
        self.config.path.join(format!("{name}{PART}"))
    }

    /// True if the open file is one of the operating system: in simulations one thread makes all calls,
    /// so that every run makes the same ones in the same order.
    pub(crate) fn is_real(&self) -> bool {
        let open = self.out.open.as_ref();
        open.is_some_and(|open| open.file.as_std().is_some())
    }

    /// Where the stream stands now.
    pub(crate) fn state(&self) -> FileState {
        let out = &self.out;
        FileState {
            sequence: out.sequence,
            manifest_len: out.manifest_len,
            chain: out.chain,
            last: out.last,
            open: out.open.as_ref().map(|open| OpenState {
                name: open.name.clone(),
                length: open.length,
                events: open.events,
                lines: open.lines,
                crc: open.crc,
                opened_micros: open.opened_micros,
            }),
        }
    }

    /// What is written so far, as a mark.
    pub(crate) fn mark_now(&self) -> DurableMark {
        DurableMark {
            through: self.written,
            state: self.state().encode(),
        }
    }

    /// Everything written so far belongs to the mark.
    fn settle(&mut self) {
        self.mark = self.mark_now();
    }

    /// Does one step. After a loss nothing is done any more.
    pub(crate) fn run(&mut self, command: &Command) -> Result<(), Failure> {
        if self.lost.is_some() {
            return Ok(());
        }
        match command {
            Command::Chunk(chunk) => {
                self.closed(false)?;
                self.write(chunk)
            }
            Command::Close => {
                let beside = matches!(self.config.fsync, Fsync::Interval(_));
                self.close(beside)?;
                if self.whole && self.closing.is_none() {
                    self.settle();
                }
                Ok(())
            }
            Command::End(position) => {
                self.written = *position;
                self.whole = true;
                Ok(())
            }
        }
    }

    /// Writes a chunk in one call.
    fn write(&mut self, chunk: &Chunk) -> Result<(), Failure> {
        self.out.lineage = Some(chunk.lineage);
        if self.out.open.is_none() {
            let open = self.create(chunk.first).map_err(Failure::Again)?;
            self.out.open = Some(open);
            // Its name is no more durable than bytes are, and a mark may name it before it holds any: its first
            // write may find no room.
            self.dirty_since.get_or_insert(self.config.clock.elapsed());
        }
        let dir = &self.config.path;
        let Some(open) = &mut self.out.open else {
            return Ok(());
        };
        let tried = open.mend().and_then(|()| {
            open.torn = true;
            open.file.write_all_at(&chunk.bytes, open.length)
        });
        if let Err(cause) = tried {
            let (what, path) = ("write to", dir.join(format!("{}{PART}", open.name)));
            if !is_full(&cause) {
                return Err(Failure::lost(format!("{what} {}", path.display()), &cause));
            }
            // Tried at once, so that the disk's last bytes are free again; if it fails, the next
            // write does it.
            if let Err(error) = open.mend() {
                warn!(file = %path.display(), %error, "cut off a torn write");
            }
            return Err(Failure::Again(io_error(what, &path, cause)));
        }
        open.torn = false;
        crash::point("file-written");
        open.crc = crc32c::crc32c_append(open.crc, &chunk.bytes);
        open.hash.update(&chunk.bytes);
        open.length += chunk.bytes.len() as u64;
        open.events += chunk.events;
        open.lines += chunk.lines;
        open.last = Some(chunk.last);
        self.out.last = chunk.last;
        self.whole = false;
        self.dirty_since.get_or_insert(self.config.clock.elapsed());
        Ok(())
    }

    fn create(&self, first: Position) -> Result<OpenFile, EmitError> {
        let storage = &self.config.storage;
        // A name that a line has is never used again, also if its file was carried off.
        let free = match self.out.begun.free_at(first) {
            Some(free) => free,
            None => self.free_in_manifest(first)?,
        };
        for repeat in free..=REPEAT_MAX {
            let name = FileName {
                first,
                repeat,
                format: self.config.encoder.format(),
            };
            let name = name.text(&self.config.stream);
            let part = self.part_path(&name);
            let closed = self.config.path.join(&name);
            let packed = with_end(&closed, GZ);
            if self.is_there(&part)? || self.is_there(&closed)? || self.is_there(&packed)? {
                continue;
            }
            let file = storage
                .open(&part, OpenMode::CreateNew)
                .map_err(|cause| io_error("create", &part, cause))?;
            return Ok(OpenFile {
                file: Arc::from(file),
                name,
                first,
                length: 0,
                events: 0,
                lines: 0,
                crc: 0,
                hash: Hasher::new(),
                opened_micros: self.config.clock.wall_micros(),
                opened_at: self.config.clock.elapsed(),
                last: None,
                torn: false,
                name_dirty: true,
            });
        }
        Err(EmitError::new(
            EmitErrorKind::Fatal,
            format!(
                "create a file in {} that begins at {first}: there are {REPEAT_MAX} already; set another stream, or another path",
                self.config.path.display()
            ),
        ))
    }

    /// The lowest repeat for a file that begins there, by the manifest.
    fn free_in_manifest(&self, first: Position) -> Result<u16, EmitError> {
        let listed = self.listed(u64::MAX)?;
        let names = listed.names.keys();
        let taken = names
            .filter_map(|name| FileName::parse(&self.config.stream, name))
            .filter(|name| name.first == first)
            .map(|name| name.repeat.saturating_add(1));
        Ok(taken.max().unwrap_or(0))
    }

    /// Takes the result of the sync that runs beside the writer, if it has ended, or waits for it.
    fn synced(&mut self, wait: bool) -> Result<(), Failure> {
        let Some(syncing) = self.syncing.take_if(|s| wait || s.thread.is_finished()) else {
            return Ok(());
        };
        match syncing.thread.join() {
            Ok(Ok(())) => {
                crash::point("file-synced");
                self.mark = syncing.mark;
                Ok(())
            }
            Ok(Err(cause)) => {
                let what = format!("sync a file in {}", self.config.path.display());
                Err(Failure::lost(what, &cause))
            }
            Err(_) => Err(Failure::Lost(Loss {
                what: format!("sync a file in {}", self.config.path.display()),
                cause: "its thread panicked".to_owned(),
            })),
        }
    }

    /// Begins a sync of what is written so far on a thread of its own, while the next chunks are
    /// written; false if it cannot be done that way.
    fn sync_beside(&mut self) -> bool {
        let Some(open) = &self.out.open else {
            return false;
        };
        // The first sync of a file is of its name too.
        if open.name_dirty || open.file.as_std().is_none() {
            return false;
        }
        let file = open.file.clone();
        let begun = std::thread::Builder::new()
            .name("cdc-file-sync".to_owned())
            .spawn(move || file.sync_data());
        let Ok(thread) = begun else { return false };
        let mark = self.mark_now();
        self.syncing = Some(Syncing { mark, thread });
        self.dirty_since = None;
        true
    }

    /// Makes everything written durable.
    fn sync(&mut self) -> Result<(), Failure> {
        self.synced(true)?;
        let FileConfig { storage, path, .. } = &self.config;
        if let Some(open) = &mut self.out.open {
            open.sync(&**storage, path).map_err(|cause| {
                Failure::lost(format!("sync a file in {}", path.display()), &cause)
            })?;
            crash::point("file-synced");
        }
        self.dirty_since = None;
        Ok(())
    }

    /// Closes the open file, for a restart.
    pub(crate) fn close_open(&mut self) -> Result<(), EmitError> {
        self.close(false).map_err(|failure| match failure {
            Failure::Again(error) => error,
            Failure::Lost(loss) => loss.error(),
        })
    }

    /// Closes the open file, `beside` on a thread of its own. Every step may be done again.
    fn close(&mut self, beside: bool) -> Result<(), Failure> {
        self.closed(true)?;
        self.synced(true)?;
        let dir = &self.config.path;
        if let Some(open) = &mut self.out.open {
            open.mend().map_err(|cause| {
                let part = dir.join(format!("{}{PART}", open.name));
                Failure::lost(format!("cut {}", part.display()), &cause)
            })?;
        }
        let Some(open) = &self.out.open else {
            return Ok(());
        };
        let closable = Arc::new(Closable::new(&self.config, &self.out, open));
        if beside && open.file.as_std().is_some() {
            let to_close = closable.clone();
            let begun = std::thread::Builder::new()
                .name("cdc-file-close".to_owned())
                .spawn(move || to_close.close());
            if let Ok(thread) = begun {
                self.closing = Some(Closing {
                    closable,
                    thread: Some(thread),
                });
                self.dirty_since = None;
                self.out.open = None;
                return Ok(());
            }
        }
        closable.close()?;
        self.dirty_since = None;
        self.out.open = None;
        self.note_closed(&closable);
        Ok(())
    }

    /// Takes the result of the close that runs beside the writer, if it has ended, or waits for it; false if
    /// it goes on. Where there was no room the writer does it again.
    fn closed(&mut self, wait: bool) -> Result<bool, Failure> {
        let Some(closing) = &mut self.closing else {
            return Ok(true);
        };
        let closable = closing.closable.clone();
        match closing.thread.take_if(|t| wait || t.is_finished()) {
            Some(thread) => thread.join().unwrap_or_else(|_| {
                Err(Failure::Lost(Loss {
                    what: format!("close a file in {}", self.config.path.display()),
                    cause: "its thread panicked".to_owned(),
                }))
            }),
            None if closing.thread.is_some() => return Ok(false),
            None => closable.close(),
        }?;
        self.closing = None;
        self.note_closed(&closable);
        Ok(true)
    }

    /// Waits for what runs beside the writer, whatever comes of it: nothing happens behind its back then.
    pub(crate) fn quiet(&mut self) {
        self.syncing = None;
        if let Some(Closing {
            thread: Some(thread),
            ..
        }) = self.closing.take()
            && thread.join().is_err()
        {
            warn!("the thread that closes a file panicked");
        }
    }

    fn note_closed(&mut self, closable: &Closable) {
        if self.config.compress == Compress::Gzip {
            self.compressor.add(closable.entry.name.clone());
        }
        self.out.sequence += 1;
        self.out
            .begun
            .add(&self.config.stream, &closable.entry.name);
        self.out.manifest_len += closable.line.len() as u64;
        self.out.chain = closable.chain;
    }

    /// Does what is due between batches.
    pub(crate) fn tend(&mut self, sync: bool) -> Result<(), Failure> {
        if self.lost.is_some() {
            return Ok(());
        }
        let due = match self.config.fsync {
            Fsync::Batch => true,
            Fsync::Interval(interval) => {
                let now = self.config.clock.elapsed();
                self.dirty_since
                    .is_some_and(|since| now.saturating_sub(since) >= interval)
            }
            Fsync::None => false,
        };
        match self.closed(sync) {
            Ok(true) => {}
            // The mark waits for it, and so does the sync that would move it.
            Ok(false) => return Ok(()),
            Err(Failure::Again(_)) if !sync => return Ok(()),
            Err(failure) => return Err(failure),
        }
        self.synced(sync)?;
        // One at a time: until it is done, what is written since waits for the next.
        if self.dirty_since.is_some() && (sync || due && self.syncing.is_none()) {
            let beside = !sync && self.whole && matches!(self.config.fsync, Fsync::Interval(_));
            if !(beside && self.sync_beside()) {
                self.sync()?;
                if self.whole {
                    self.settle();
                }
            }
        }
        // Without fsync the mark follows the write, and a batch of which nothing was written needs
        // none.
        let clean = self.dirty_since.is_none() && self.syncing.is_none();
        if self.whole
            && (clean || self.config.fsync == Fsync::None)
            && self.mark.through != self.written
        {
            self.settle();
        }
        Ok(())
    }

    pub(crate) fn lose(&mut self, loss: Loss) {
        warn!(what = %loss.what, cause = %loss.cause, "accepted events may be lost; the lane goes back to its checkpoint");
        self.lost = Some(loss);
        self.syncing = None;
        self.out.open = None;
    }
}

impl Drop for Writer {
    /// The directory is ours until nothing is done in it any more.
    fn drop(&mut self) {
        self.quiet();
    }
}

/// Everything that is needed to close a file, wherever that is done.
struct Closable {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    file: Arc<dyn StorageFile>,
    name_dirty: bool,
    entry: Entry,
    /// Its line in the manifest, where that line begins, and the chain hash behind it.
    line: String,
    manifest_len: u64,
    chain: Hash,
}

impl Closable {
    fn new(config: &FileConfig, out: &Output, open: &OpenFile) -> Self {
        let entry = open.entry(out.sequence + 1);
        let range = match (out.lineage, open.last) {
            (Some(lineage), Some(last)) => Some(Range {
                lineage,
                first: open.first,
                last,
            }),
            _ => None,
        };
        let (line, chain) = manifest::line(&entry, range, &out.chain);
        Self {
            storage: config.storage.clone(),
            dir: config.path.clone(),
            file: open.file.clone(),
            name_dirty: open.name_dirty,
            entry,
            line,
            manifest_len: out.manifest_len,
            chain,
        }
    }

    /// The file's bytes durable, a line in the manifest, then its final name. Every step may be done again.
    fn close(&self) -> Result<(), Failure> {
        let (storage, dir) = (&*self.storage, &self.dir);
        let part = dir.join(format!("{}{PART}", self.entry.name));
        let lost = |what: &str, cause| Failure::lost(format!("{what} {}", part.display()), &cause);
        self.file
            .sync_data()
            .and_then(|()| {
                if self.name_dirty {
                    storage.sync_dir(dir)?;
                }
                Ok(())
            })
            .map_err(|cause| lost("sync", cause))?;
        crash::point("file-closing");
        append_line(storage, dir, self.manifest_len, &self.line).map_err(|cause| {
            let path = manifest::path(dir);
            if is_full(&cause) {
                Failure::Again(io_error("append to", &path, cause))
            } else {
                Failure::lost(format!("append to {}", path.display()), &cause)
            }
        })?;
        crash::point("file-listed");
        storage
            .rename(&part, &dir.join(&self.entry.name))
            .and_then(|()| storage.sync_dir(dir))
            .map_err(|cause| lost("rename", cause))?;
        crash::point("file-closed");
        info!(file = %self.entry.name, events = self.entry.events, bytes = self.entry.bytes, "file closed");
        Ok(())
    }
}

/// Writes a line behind the manifest's known lines, over whatever stands there, and makes it
/// durable. A new descriptor each time, for one that failed must not be used again.
pub(crate) fn append_line(
    storage: &dyn Storage,
    dir: &Path,
    manifest_len: u64,
    line: &str,
) -> std::io::Result<()> {
    let path = manifest::path(dir);
    let file = match open_if_there(storage, &path, OpenMode::ReadWrite)? {
        Some(file) => file,
        None => storage.open(&path, OpenMode::CreateNew)?,
    };
    file.set_len(manifest_len)?;
    file.write_all_at(line.as_bytes(), manifest_len)?;
    file.sync_data()?;
    if manifest_len == 0 {
        storage.sync_dir(dir)?;
    }
    Ok(())
}

impl OpenFile {
    /// What the manifest says of it once it is closed.
    pub(crate) fn entry(&self, sequence: u64) -> Entry {
        Entry {
            sequence,
            name: self.name.clone(),
            events: self.events,
            lines: self.lines,
            bytes: self.length,
            crc: self.crc,
            hash: self.hash.finalize().into(),
        }
    }

    /// Cuts off what a failed write left behind.
    fn mend(&mut self) -> std::io::Result<()> {
        if self.torn {
            self.file.set_len(self.length)?;
            self.torn = false;
        }
        Ok(())
    }

    fn sync(&mut self, storage: &dyn Storage, dir: &Path) -> std::io::Result<()> {
        self.file.sync_data()?;
        if self.name_dirty {
            storage.sync_dir(dir)?;
            self.name_dirty = false;
        }
        Ok(())
    }
}

/// The state of a checkpoint, if it is one of ours.
pub(crate) fn state_of(from: Option<&Checkpoint>) -> Option<&Bytes> {
    from.map(|checkpoint| &checkpoint.state)
        .filter(|state| !state.is_empty())
}
