//! Writing: batches into lines, lines into files, files into the manifest.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use blake3::Hasher;
use bytes::Bytes;
use cdc_core::crash;
use cdc_core::storage::{OpenMode, StorageFile, StorageLock};
use cdc_core::{
    Checkpoint, DurableMark, EmitError, EmitErrorKind, Emitter, EventBatch, Lineage, Lsn, Position,
    Receipt, Rejection,
};
use tracing::{info, warn};

use crate::compress::{Compressor, GZ, with_end};
use crate::error::{io_error, is_full};
use crate::framing::Framing;
use crate::hash::FileHash;
use crate::manifest::{self, Entry, Range};
use crate::name::{FileName, PART, REPEAT_MAX};
use crate::state::{FileState, Hash, OpenState};
use crate::{Compress, FileConfig, FileConfigError, Fsync};

/// Encoded bytes are written at least this often, whatever the batch's size.
const BUFFER_MAX: usize = 4 << 20;

/// Writes events into the files of one directory.
///
/// # Cancel safety
/// No method waits at an `await`, so a future is never dropped half-way.
pub struct FileEmitter {
    pub(crate) config: FileConfig,
    pub(crate) framing: Framing,
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
    /// When the oldest byte was written that is not synced yet.
    pub(crate) dirty_since: Option<Duration>,
    /// A sync on a thread of its own, and what is durable when it is done.
    pub(crate) syncing: Option<Syncing>,
    /// Something accepted may be gone: nothing is taken until the lane has gone back.
    pub(crate) lost: Option<Loss>,
    /// Of the batch that failed for lack of room: everything up to this is written.
    pub(crate) skip_through: Option<Position>,
    /// A close that failed for lack of room is to be done first.
    pub(crate) close_due: bool,
    buffer: Vec<u8>,
}

/// A sync that runs beside the writer.
pub(crate) struct Syncing {
    mark: DurableMark,
    thread: JoinHandle<std::io::Result<()>>,
}

/// What failed.
#[derive(Clone, Debug)]
pub(crate) struct Loss {
    what: String,
    cause: String,
}

/// The open file and what is closed before it.
#[derive(Default)]
pub(crate) struct Output {
    pub(crate) sequence: u64,
    pub(crate) manifest_len: u64,
    pub(crate) chain: Hash,
    pub(crate) last: Position,
    pub(crate) lineage: Option<Lineage>,
    pub(crate) open: Option<OpenFile>,
    /// The last event's commit, and if its transaction is known to have ended.
    pub(crate) boundary: Option<(Lsn, bool)>,
}

pub(crate) struct OpenFile {
    pub(crate) file: Arc<dyn StorageFile>,
    pub(crate) name: String,
    pub(crate) first: Position,
    pub(crate) length: u64,
    pub(crate) events: u64,
    pub(crate) lines: u64,
    pub(crate) crc: u32,
    pub(crate) hash: FileHash,
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
enum Failure {
    /// Nothing is lost; the same batch may be given again.
    Again(EmitError),
    /// What is on disk is unknown.
    Lost(Loss),
}

impl Failure {
    fn lost(what: String, cause: &std::io::Error) -> Self {
        let cause = cause.to_string();
        Self::Lost(Loss { what, cause })
    }
}

impl FileEmitter {
    /// An emitter that touches the disk first in [`resume`](Emitter::resume).
    ///
    /// # Errors
    /// [`FileConfigError`] if the settings cannot work.
    pub fn new(config: FileConfig) -> Result<Self, FileConfigError> {
        config.validate()?;
        Ok(Self {
            framing: Framing::of(config.encoder.format()),
            config,
            compressor: Compressor::default(),
            lock: None,
            out: Output::default(),
            base: None,
            mark: DurableMark::default(),
            written: Position::ZERO,
            dirty_since: None,
            syncing: None,
            lost: None,
            skip_through: None,
            close_due: false,
            buffer: Vec::new(),
        })
    }

    /// Waits until every closed file is compressed; false if one could not be (a full disk, say),
    /// which is tried again after the next start or the next closed file. For programs that end:
    /// a running emitter compresses by itself.
    pub fn finish_compression(&mut self) -> bool {
        let FileConfig { storage, path, .. } = &self.config;
        self.compressor.finish(storage, path)
    }

    pub(crate) fn part_path(&self, name: &str) -> PathBuf {
        self.config.path.join(format!("{name}{PART}"))
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

    /// Everything written so far belongs to the mark.
    fn settle(&mut self) {
        self.mark = DurableMark {
            through: self.written,
            state: self.state().encode(),
        };
    }

    fn write_batch(&mut self, batch: &EventBatch) -> Result<Vec<Rejection>, Failure> {
        let mut rejected = Vec::new();
        let skip = self.skip_through;
        self.out.lineage = Some(batch.source().lineage);
        let mut pending = Pending::default();
        self.buffer.clear();
        for (index, event) in batch.events().iter().enumerate() {
            let position = event.position;
            let skipped = skip.is_some_and(|through| position <= through);
            if !skipped && self.at_boundary(position.commit) && self.is_due(&pending) {
                self.write_pending(&mut pending)?;
                self.close()?;
            }
            let start = self.buffer.len();
            self.framing.begin(&mut self.buffer);
            let framing = self.framing;
            let encoded = self.config.encoder.encode_each(
                batch.source(),
                event,
                &mut self.buffer,
                &mut |out| {
                    if framing == Framing::Lines {
                        out.push(b'\n');
                    }
                },
            );
            let lines = match encoded {
                Ok(lines) if framing == Framing::Lines => Ok(lines as u64),
                Ok(_) if framing.end(&mut self.buffer, start) => Ok(1),
                Ok(_) => Err("encode an event: it is larger than a frame can be, 4 GiB".to_owned()),
                Err(cause) => Err(cause.to_string()),
            };
            match lines {
                Ok(_) if skipped => self.buffer.truncate(start),
                Ok(lines) => {
                    pending.first = pending.first.or(Some(position));
                    pending.last = Some(position);
                    pending.events += 1;
                    pending.lines += lines;
                    self.out.boundary = Some((position.commit, event.last));
                }
                Err(message) => {
                    self.buffer.truncate(start);
                    rejected.push(Rejection {
                        index,
                        message,
                        status: None,
                    });
                }
            }
            if self.buffer.len() >= BUFFER_MAX {
                self.write_pending(&mut pending)?;
            }
        }
        self.write_pending(&mut pending)?;
        if let Some((commit, ended)) = &mut self.out.boundary {
            *ended |= batch.end() >= Position::end_of(*commit);
        }
        self.written = batch.end();
        self.skip_through = None;
        Ok(rejected)
    }

    /// True if no transaction would be divided before an event of this commit.
    fn at_boundary(&self, commit: Lsn) -> bool {
        self.out
            .boundary
            .is_none_or(|(last, ended)| ended || last != commit)
    }

    /// True if the open file, with what is to be written, is long or old enough.
    fn is_due(&self, pending: &Pending) -> bool {
        let length = self.out.open.as_ref().map_or(0, |open| open.length);
        let long = length.saturating_add(self.buffer.len() as u64) >= self.config.rotate_bytes;
        let old = self.out.open.as_ref().is_some_and(|open| {
            self.config.clock.elapsed().saturating_sub(open.opened_at) >= self.config.rotate_age
        });
        (long || old) && (self.out.open.is_some() || pending.last.is_some())
    }

    /// Writes the buffer in one call, into a new file if none is open.
    fn write_pending(&mut self, pending: &mut Pending) -> Result<(), Failure> {
        let (Some(first), Some(last)) = (pending.first, pending.last) else {
            return Ok(());
        };
        if self.out.open.is_none() {
            let open = self.create(first).map_err(Failure::Again)?;
            self.out.open = Some(open);
        }
        let dir = &self.config.path;
        let Some(open) = &mut self.out.open else {
            return Ok(());
        };
        let path = dir.join(format!("{}{PART}", open.name));
        if let Err(cause) = open.mend().and_then(|()| {
            open.torn = true;
            open.file.write_all_at(&self.buffer, open.length)
        }) {
            let what = "write to";
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
        open.crc = crc32c::crc32c_append(open.crc, &self.buffer);
        let written = self.buffer.len() as u64;
        self.buffer = open.hash.update(std::mem::take(&mut self.buffer));
        open.length += written;
        open.events += pending.events;
        open.lines += pending.lines;
        open.last = Some(last);
        self.out.last = last;
        self.skip_through = Some(last);
        self.dirty_since.get_or_insert(self.config.clock.elapsed());
        self.buffer.shrink_to(2 * BUFFER_MAX);
        *pending = Pending::default();
        Ok(())
    }

    fn create(&self, first: Position) -> Result<OpenFile, EmitError> {
        let storage = &self.config.storage;
        for repeat in 0..=REPEAT_MAX {
            let name = FileName {
                first,
                repeat,
                format: self.config.encoder.format(),
            };
            let name = name.text(&self.config.stream);
            let part = self.part_path(&name);
            let closed = self.config.path.join(&name);
            let packed = with_end(&closed, GZ);
            if [&part, &closed, &packed]
                .into_iter()
                .any(|p| storage.exists(p))
            {
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
                hash: FileHash::new(Hasher::new()),
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
                "create a file in {} that begins at {first}: there are {REPEAT_MAX} already; move old files away",
                self.config.path.display()
            ),
        ))
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

    /// Begins a sync of what is written so far on a thread of its own, while the next batches are
    /// encoded and written; false if it cannot be done that way. A simulated disk is synced by the
    /// writer itself, so that every run makes the same calls in the same order.
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
        let mark = DurableMark {
            through: self.written,
            state: self.state().encode(),
        };
        self.syncing = Some(Syncing { mark, thread });
        self.dirty_since = None;
        true
    }

    /// Makes everything written durable.
    fn sync(&mut self) -> Result<(), Failure> {
        self.synced(true)?;
        let dir = &self.config.path;
        if let Some(open) = &mut self.out.open {
            open.sync(&*self.config.storage, dir).map_err(|cause| {
                Failure::lost(format!("sync a file in {}", dir.display()), &cause)
            })?;
            crash::point("file-synced");
        }
        self.dirty_since = None;
        Ok(())
    }

    /// Closes the open file: its bytes durable, a line in the manifest, then its final name. Every
    /// step may be done again.
    pub(crate) fn close_open(&mut self) -> Result<(), EmitError> {
        self.close().map_err(|failure| match failure {
            Failure::Again(error) => error,
            Failure::Lost(loss) => loss.error(),
        })
    }

    fn close(&mut self) -> Result<(), Failure> {
        self.close_due = true;
        self.synced(true)?;
        let (storage, dir) = (&self.config.storage, &self.config.path);
        let Some(open) = &mut self.out.open else {
            self.close_due = false;
            return Ok(());
        };
        let part = dir.join(format!("{}{PART}", open.name));
        let lost = |what: &str, cause| Failure::lost(format!("{what} {}", part.display()), &cause);
        open.mend().map_err(|cause| lost("cut", cause))?;
        open.sync(&**storage, dir)
            .map_err(|cause| lost("sync", cause))?;
        let Some(hash) = open.hash.finish() else {
            return Err(lost("hash", std::io::Error::other("its thread panicked")));
        };
        let entry = Entry {
            sequence: self.out.sequence + 1,
            name: open.name.clone(),
            events: open.events,
            lines: open.lines,
            bytes: open.length,
            crc: open.crc,
            hash,
        };
        let range = match (self.out.lineage, open.last) {
            (Some(lineage), Some(last)) => Some(Range {
                lineage,
                first: open.first,
                last,
            }),
            _ => None,
        };
        crash::point("file-closing");
        let (line, chain) = manifest::line(&entry, range, &self.out.chain);
        let written = append_line(self, self.out.manifest_len, &line);
        written.map_err(|cause| {
            let path = manifest::path(dir);
            if is_full(&cause) {
                Failure::Again(io_error("append to", &path, cause))
            } else {
                Failure::lost(format!("append to {}", path.display()), &cause)
            }
        })?;
        crash::point("file-listed");
        storage
            .rename(&part, &dir.join(&entry.name))
            .and_then(|()| storage.sync_dir(dir))
            .map_err(|cause| lost("rename", cause))?;
        crash::point("file-closed");
        info!(file = %entry.name, events = entry.events, bytes = entry.bytes, "file closed");
        if self.config.compress == Compress::Gzip {
            self.compressor.add(entry.name);
        }
        self.dirty_since = None;
        self.out.open = None;
        self.out.sequence += 1;
        self.out.manifest_len += line.len() as u64;
        self.out.chain = chain;
        self.close_due = false;
        Ok(())
    }

    /// Does what is due between batches. Lack of room is no failure here: it is tried again.
    fn tend(&mut self, sync: bool) -> Result<(), Failure> {
        let now = self.config.clock.elapsed();
        let due = match self.config.fsync {
            Fsync::Batch => true,
            Fsync::Interval(interval) => self
                .dirty_since
                .is_some_and(|since| now.saturating_sub(since) >= interval),
            Fsync::None => false,
        };
        // Half a batch is written after a failure: the mark stays before it.
        let whole = self.skip_through.is_none();
        let ended = self.out.boundary.is_some_and(|(_, ended)| ended);
        if self.out.open.is_some() && whole && ended && self.is_due(&Pending::default()) {
            match self.close() {
                Ok(()) => self.settle(),
                Err(Failure::Again(error)) => {
                    warn!(%error, "a file stays open until there is room for the manifest");
                }
                Err(lost) => return Err(lost),
            }
        }
        self.synced(sync)?;
        // One at a time: until it is done, what is written since waits for the next.
        if self.dirty_since.is_some() && (sync || due && self.syncing.is_none()) {
            let beside = !sync && whole && matches!(self.config.fsync, Fsync::Interval(_));
            if !(beside && self.sync_beside()) {
                self.sync()?;
                if whole {
                    self.settle();
                }
            }
        }
        // Without fsync the mark follows the write, and a batch of which nothing was written needs
        // none.
        let clean = self.dirty_since.is_none() && self.syncing.is_none();
        if whole && (clean || self.config.fsync == Fsync::None) && self.mark.through != self.written
        {
            self.settle();
        }
        Ok(())
    }

    fn lose(&mut self, loss: Loss) {
        warn!(what = %loss.what, cause = %loss.cause, "accepted events may be lost; the lane goes back to its checkpoint");
        self.lost = Some(loss);
        self.syncing = None;
        self.out.open = None;
    }

    fn answer(&mut self, sync: bool) -> Result<Option<DurableMark>, EmitError> {
        if self.lost.is_none()
            && let Err(failure) = self.tend(sync)
        {
            match failure {
                Failure::Again(error) => return Err(error),
                Failure::Lost(loss) => self.lose(loss),
            }
        }
        match &self.lost {
            Some(loss) => Err(loss.error()),
            None => {
                let FileConfig { storage, path, .. } = &self.config;
                self.compressor.tend(storage, path);
                Ok(Some(self.mark.clone()))
            }
        }
    }
}

/// Writes a line behind the manifest's known lines, over whatever stands there, and makes it
/// durable. A new descriptor each time, for one that failed must not be used again.
pub(crate) fn append_line(
    emitter: &FileEmitter,
    manifest_len: u64,
    line: &str,
) -> std::io::Result<()> {
    let (storage, dir) = (&emitter.config.storage, &emitter.config.path);
    let path = manifest::path(dir);
    let new = !storage.exists(&path);
    let mode = if new {
        OpenMode::CreateNew
    } else {
        OpenMode::ReadWrite
    };
    let file = storage.open(&path, mode)?;
    file.set_len(manifest_len)?;
    file.write_all_at(line.as_bytes(), manifest_len)?;
    file.sync_data()?;
    if manifest_len == 0 {
        storage.sync_dir(dir)?;
    }
    Ok(())
}

/// What is encoded and not yet written.
#[derive(Default)]
struct Pending {
    first: Option<Position>,
    last: Option<Position>,
    events: u64,
    lines: u64,
}

impl OpenFile {
    /// Cuts off what a failed write left behind.
    fn mend(&mut self) -> std::io::Result<()> {
        if self.torn {
            self.file.set_len(self.length)?;
            self.torn = false;
        }
        Ok(())
    }

    fn sync(
        &mut self,
        storage: &dyn cdc_core::storage::Storage,
        dir: &Path,
    ) -> std::io::Result<()> {
        self.file.sync_data()?;
        if self.name_dirty {
            storage.sync_dir(dir)?;
            self.name_dirty = false;
        }
        Ok(())
    }
}

impl Loss {
    fn error(&self) -> EmitError {
        EmitError::new(
            EmitErrorKind::EndpointRetry { retry_after: None },
            format!(
                "{}: what is on disk since the last sync is unknown; going back to the checkpoint",
                self.what
            ),
        )
        .with_cause(self.cause.clone())
    }
}

impl Emitter for FileEmitter {
    /// Takes the directory's lock, brings the files back to the checkpoint ([`crate::OnRestart`]) and
    /// finishes what a crash interrupted. Without a state in the checkpoint nothing is removed:
    /// what is there is closed as it is, and a new file begins.
    async fn resume(&mut self, from: Option<&Checkpoint>) -> Result<(), EmitError> {
        self.restart(from)
    }

    /// Writes the batch and gives [`Receipt::ACCEPTED`], with events that cannot be encoded as
    /// rejected. After a loss it takes nothing more and leaves it to [`durable`](Self::durable) to
    /// say so.
    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        if self.lock.is_none() {
            self.restart(None)?;
        }
        if self.lost.is_some() {
            return Ok(Receipt::ACCEPTED);
        }
        let written = if self.close_due { self.close() } else { Ok(()) };
        let written = written
            .and_then(|()| self.write_batch(batch))
            .and_then(|rejected| self.tend(false).map(|()| rejected));
        match written {
            Ok(rejected) => Ok(Receipt {
                rejected,
                ..Receipt::ACCEPTED
            }),
            Err(Failure::Again(error)) => Err(error),
            Err(Failure::Lost(loss)) => {
                self.lose(loss);
                Ok(Receipt::ACCEPTED)
            }
        }
    }

    /// Syncs if it is due, which takes as long as the disk needs.
    fn durable(&mut self) -> Result<Option<DurableMark>, EmitError> {
        self.answer(false)
    }

    /// Syncs in every [`Fsync`] mode.
    async fn flush(&mut self) -> Result<Option<DurableMark>, EmitError> {
        self.answer(true)
    }
}

impl fmt::Debug for FileEmitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileEmitter")
            .field("path", &self.config.path)
            .field("stream", &self.config.stream)
            .field("through", &self.mark.through)
            .finish_non_exhaustive()
    }
}

/// The state of a checkpoint, if it is one of ours.
pub(crate) fn state_of(from: Option<&Checkpoint>) -> Option<&Bytes> {
    from.map(|checkpoint| &checkpoint.state)
        .filter(|state| !state.is_empty())
}
