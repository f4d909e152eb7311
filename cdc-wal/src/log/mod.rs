//! The log: one writer, many threads that commit, many tails.

mod closing;
mod config;
pub(crate) mod cursors;
mod cut;
mod helper;
pub(crate) mod recent;
pub(crate) mod recover;
mod registry;
mod retention;
mod savepoint;
pub(crate) mod state;
mod sync;
mod transaction;

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::sync::{Arc, PoisonError};

use cdc_core::storage::{OpenMode, Storage, StorageFile, StorageLock, create_dir};
use cdc_core::{Clock, Lineage, Lsn, Position, SourceInfo, SourceKind, WalHook, wall_micros};

pub use config::{LogConfig, OnLimit, Recovery, SyncPolicy, Visibility};
pub use cursors::Cursor;
pub(crate) use retention::{check_cursor, confirm, locate, may_vanish, oldest, register};
pub use savepoint::Savepoint;
pub use transaction::{CommitAt, Transaction};

use crate::control::{CONTROL, Control};
use crate::format::HEADER_BYTES;
use crate::format::frame::{FRAME_HEADER, FrameKind, Heartbeat};
use crate::format::header::SegmentHeader;
use crate::lane;
use crate::repair::{RepairMode, RepairReport, repair_locked};
use crate::segment::{self, PREPARED, Segment};
use crate::tail::{StartAt, WalTail};
use crate::{LogError, LogErrorKind};
use closing::{Closing, stop};
use cursors::Cursors;
use recover::Recovered;
use registry::Registry;
use state::{Place, SegmentMeta, Shared, Start};

const LOCK: &str = "lock";

/// A foreign source, and the position its stream begins after; `None` for a native log.
type Foreign<'a> = Option<(&'a SourceInfo, Position)>;

/// A write-ahead log, open for writing. Clones are handles to the same log; the last one to go
/// flushes and closes it.
///
/// # Durability
/// See [`SyncPolicy`]. After a failed write or sync the log is dead: every later call fails with
/// [`LogErrorKind::Dead`], nothing acknowledged is lost, opening again recovers.
#[derive(Clone, Debug)]
pub struct Log {
    handle: Arc<Handle>,
}

#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
    /// There until the handle is dropped.
    closing: Option<Closing>,
    cut: u64,
    repaired: Option<RepairReport>,
}

impl Log {
    /// Opens the log in a directory, or creates one.
    ///
    /// # Errors
    /// [`LogErrorKind::InUse`] if another writer has it, [`LogErrorKind::Corrupt`] if what was
    /// durable is damaged, [`LogErrorKind::OtherSource`] if it is the journal of a database.
    pub fn open(config: LogConfig) -> Result<Self, LogError> {
        Self::open_for(config, None, &[])
    }

    /// Opens a log of its own, or of a foreign source, whose positions begin at the one given.
    ///
    /// What the lanes need is held before anything is trimmed.
    pub(crate) fn open_for(
        config: LogConfig,
        foreign: Foreign<'_>,
        lanes: &[(String, Position)],
    ) -> Result<Self, LogError> {
        config.check()?;
        let (storage, dir) = (config.storage.clone(), config.dir.clone());
        create_dir(storage.as_ref(), &dir)
            .map_err(|cause| LogError::io("create the log directory", &dir, cause))?;
        let lock = lock(storage.as_ref(), &dir)?;
        let prepared = dir.join(PREPARED);
        if storage.exists(&prepared) {
            storage
                .remove(&prepared)
                .map_err(|cause| LogError::io("remove", &prepared, cause))?;
        }
        let mut bases = segment::list(storage.as_ref(), &dir)?;
        let mut control = Control::load(storage.as_ref(), &dir)?;
        let strict = config.recovery == Recovery::Strict;
        let mut report = None;
        if config.recovery == Recovery::Salvage && !bases.is_empty() {
            report = salvaged(storage.as_ref(), &dir)?;
            bases = segment::list(storage.as_ref(), &dir)?;
            control = Control::load(storage.as_ref(), &dir)?;
        }
        let recovered = if bases.is_empty() {
            create(&config, control.as_ref(), foreign)?
        } else {
            recover::recover(&storage, &dir, &bases, control, strict)?
        };
        check_source(&config, &recovered.current.header, foreign)?;
        Self::start(config, recovered, lock, report, lanes)
    }

    fn start(
        config: LogConfig,
        mut recovered: Recovered,
        lock: Box<dyn StorageLock>,
        repaired: Option<RepairReport>,
        lanes: &[(String, Position)],
    ) -> Result<Self, LogError> {
        let next = match recovered.next {
            Some(next) => next,
            None => {
                go_on(&config, &mut recovered)?;
                recovered.current.first()
            }
        };
        let Recovered {
            current,
            last,
            defined,
            segments,
            restart_needed,
            cut,
            ..
        } = recovered;
        let control = open_control(config.storage.as_ref(), &config.dir)?;
        let cursors = Cursors::load(config.storage.as_ref(), &config.dir)?;
        let source = Arc::new(current.header.source.clone());
        let start = Start {
            registry: Registry::recovered(&defined),
            defined: defined.keys().copied().collect::<HashSet<_>>(),
            current,
            next,
            last,
            segments,
            cursors,
        };
        let background = config.background;
        let shared = Arc::new(Shared::new(config, source, control, start));
        shared.write_control(next, next)?;
        if restart_needed {
            let mut frame = [0; FRAME_HEADER];
            let state = shared.lock();
            let appended = shared.append(
                state,
                &mut frame,
                Place::new(FrameKind::Restart, Some(0)),
                &[],
                |_, _, _| {},
            )?;
            drop(appended);
        }
        // Before the helper, which trims.
        for (lane, after) in lanes {
            lane::hold(&shared, lane, *after)?;
        }
        let mut threads = Vec::new();
        if background {
            let failed = |cause| LogError::io("start a thread for the log", &shared.dir, cause);
            threads.push(helper::spawn(shared.clone()).map_err(failed)?);
            if shared.config.sync == SyncPolicy::Always {
                // Without it the helper has to end.
                let flusher = sync::spawn(shared.clone()).map_err(failed);
                threads.push(flusher.inspect_err(|_| stop(&shared))?);
                shared.lock().queue.has_flusher = true;
            }
        }
        Ok(Self {
            handle: Arc::new(Handle {
                shared,
                closing: Some(Closing {
                    threads,
                    _lock: lock,
                }),
                cut,
                repaired,
            }),
        })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// What the log's events come from.
    pub fn source(&self) -> &Arc<SourceInfo> {
        &self.shared().source
    }

    /// Begins a transaction. `id` is the engine's own number for it, as consumers will see it.
    ///
    /// Nothing is written before a frame is full (at most 1 MiB) or it commits.
    pub fn begin(&self, id: u64) -> Transaction {
        Transaction::new(self.handle.clone(), id)
    }

    /// True if the log has threads of its own.
    pub(crate) fn has_background(&self) -> bool {
        self.shared().config.background
    }

    /// Makes everything appended so far durable and gives the end of it.
    ///
    /// # Errors
    /// [`LogErrorKind::Io`], and the log is dead then; [`LogErrorKind::Dead`] later.
    pub fn flush(&self) -> Result<Lsn, LogError> {
        let shared = self.shared();
        let next = {
            let state = shared.lock();
            shared.alive(&state)?;
            state.next
        };
        shared.flush_to(next)?;
        Ok(Lsn(next))
    }

    /// Appends a heartbeat: everything up to `end` is in the log. Ignored if the log is there
    /// already.
    pub(crate) fn heartbeat(&self, end: Position) -> Result<(), LogError> {
        let shared = self.shared();
        let mut frame = [0; FRAME_HEADER + 20];
        let state = shared.lock();
        if end <= state.last {
            return Ok(());
        }
        let (mut state, _) = shared.append(
            state,
            &mut frame,
            Place::new(FrameKind::Heartbeat, Some(0)),
            &[],
            |state, frame, lsn| {
                let next = lsn + crate::format::align(frame.len() as u64);
                let restart = state.restart(next);
                frame[FRAME_HEADER..].copy_from_slice(&Heartbeat { end, restart }.encode());
            },
        )?;
        state.last = end;
        Ok(())
    }

    /// Position of the last commit in the log, durable or not.
    pub fn end(&self) -> Position {
        self.shared().lock().last
    }

    /// The oldest position a tail can resume after.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn oldest(&self) -> Result<Position, LogError> {
        oldest(self.shared())
    }

    /// End of what was handed to the operating system (exclusive).
    pub fn written_lsn(&self) -> Lsn {
        Lsn(self.shared().written())
    }

    /// End of what is durable (exclusive).
    pub fn flushed_lsn(&self) -> Lsn {
        Lsn(self.shared().flushed())
    }

    /// The lowest position confirmed by a valid cursor; `None` without cursors.
    pub fn confirmed(&self) -> Option<Position> {
        let state = self.shared().lock();
        let valid = state.cursors.entries.values().filter(|c| !c.invalidated);
        valid.map(|c| c.position).min()
    }

    /// Bytes from the oldest retained segment to the end.
    pub fn retained_bytes(&self) -> u64 {
        let state = self.shared().lock();
        state.next
            - state
                .segments
                .front()
                .map_or(state.next, |first| first.base)
    }

    /// Bytes of a torn tail that were cut when the log was opened.
    pub fn recovered_cut_bytes(&self) -> u64 {
        self.handle.cut
    }

    /// What opening with [`Recovery::Salvage`] had to repair; `None` if nothing was damaged.
    pub fn repaired(&self) -> Option<&RepairReport> {
        self.handle.repaired.as_ref()
    }

    /// Calls the hook after each sync with the new durable end, from the thread that synced: a
    /// committer, or the log's own. It must only notify; one that panics is logged, and the commit and the
    /// other hooks go on.
    pub fn add_hook(&self, hook: Arc<dyn WalHook>) {
        let mut hooks = self
            .shared()
            .hooks
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        hooks.push(hook);
    }

    /// A tail of this log, woken by it. It may live on another thread, and runs on any executor that
    /// its clock does: [`ThreadClock`](cdc_core::ThreadClock) on all.
    ///
    /// # Errors
    /// [`LogErrorKind::Refused`] if the position is not retained or ahead of the log.
    pub fn tail(&self, start: StartAt, clock: Arc<dyn Clock>) -> Result<WalTail, LogError> {
        WalTail::local(self.shared().clone(), start, clock, None)
    }

    /// As [`tail`](Self::tail), for a named cursor: what it has not confirmed is retained. An
    /// unknown cursor is registered at the start position. A known one does not move, and `start` says
    /// where to read all the same: `StartAt::After` the position it has in
    /// [`cursors`](Self::cursors) goes on where it was.
    ///
    /// # Errors
    /// As for [`tail`](Self::tail) and [`register_cursor`](Self::register_cursor).
    pub fn tail_cursor(
        &self,
        name: &str,
        start: StartAt,
        clock: Arc<dyn Clock>,
    ) -> Result<WalTail, LogError> {
        let mut tail = WalTail::local(self.shared().clone(), start, clock, Some(name.to_owned()))?;
        if !self.cursors().contains_key(name) {
            self.register_cursor(name, tail.end())?;
        }
        tail.check_cursor()?;
        Ok(tail)
    }

    /// Registers a cursor durably, or moves it, also backwards: what follows `position` is retained from now on.
    /// If a crash could take the commit at `position`, it is made durable first, unless tails may read
    /// what is not.
    ///
    /// # Errors
    /// [`LogErrorKind::TooLarge`] for a name over 200 bytes or more than 1024 cursors,
    /// [`LogErrorKind::Refused`] if the position is no longer retained, or ahead of the log.
    pub fn register_cursor(&self, name: &str, position: Position) -> Result<(), LogError> {
        register(self.shared(), name, position)
    }

    /// Says that a cursor's owner needs nothing up to `position` any more; trims what nobody
    /// needs. Monotonic: a lower position is ignored.
    ///
    /// A commit that is not durable is made so first, as by [`register_cursor`](Self::register_cursor).
    /// The position is on disk before anything is trimmed for it, not at once: after a restart a cursor may
    /// stand further back than was confirmed. An owner that wants no repeats keeps its own.
    ///
    /// # Errors
    /// [`LogErrorKind::NotFound`], [`LogErrorKind::Invalidated`], [`LogErrorKind::Refused`] ahead of
    /// the log, or the disk's. A full disk is none: what can be trimmed is trimmed later.
    pub fn confirm(&self, name: &str, position: Position) -> Result<(), LogError> {
        confirm(self.shared(), name, position)
    }

    /// Removes a cursor durably; what only it held may be trimmed.
    ///
    /// # Errors
    /// From the disk.
    pub fn remove_cursor(&self, name: &str) -> Result<(), LogError> {
        retention::remove(self.shared(), name)
    }

    /// All cursors by name.
    pub fn cursors(&self) -> HashMap<String, Cursor> {
        let state = self.shared().lock();
        let entries = state.cursors.entries.iter();
        entries.map(|(name, c)| (name.clone(), *c)).collect()
    }

    /// Removes the segments that no cursor, open transaction or retention bound needs; gives
    /// their number. Also done when cursors move and when segments fill.
    ///
    /// # Errors
    /// From the disk.
    pub fn trim(&self) -> Result<usize, LogError> {
        retention::trim(self.shared())
    }

    /// True while the log is at `retain_bytes_max` and something holds it: hold the source back,
    /// or move the cursors.
    pub fn is_full(&self) -> bool {
        let state = self.shared().lock();
        retention::is_full(self.shared(), &state)
    }

    /// True while a cursor has not confirmed all that is committed.
    pub(crate) fn is_awaited(&self) -> bool {
        retention::is_awaited(&self.shared().lock())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(closing) = self.closing.take() {
            closing.begin(&self.shared);
        }
    }
}

/// Locks a log's directory for writing.
pub(crate) fn lock(storage: &dyn Storage, dir: &Path) -> Result<Box<dyn StorageLock>, LogError> {
    storage.lock(&dir.join(LOCK)).map_err(|cause| {
        if cause.kind() == std::io::ErrorKind::WouldBlock {
            LogError::new(
                LogErrorKind::InUse,
                format!(
                    "open the log {}: another writer has it open; stop that one, or read it with a tail",
                    dir.display()
                ),
            )
        } else {
            LogError::io("lock the log directory", dir, cause)
        }
    })
}

/// Repairs a log whose lock the caller holds, and says so; `None` if nothing was damaged.
fn salvaged(storage: &dyn Storage, dir: &Path) -> Result<Option<RepairReport>, LogError> {
    let report = repair_locked(storage, dir, RepairMode::Keep)?;
    if report.is_clean() {
        return Ok(None);
    }
    tracing::warn!(
        dir = %dir.display(),
        lost_bytes = report.lost_bytes(),
        places = report.losses.len(),
        set_aside = ?report.set_aside,
        "log repaired: a part of it is lost, see the report"
    );
    Ok(Some(report))
}

/// Makes the first segment of a new log.
fn create(
    config: &LogConfig,
    control: Option<&Control>,
    foreign: Foreign<'_>,
) -> Result<Recovered, LogError> {
    if let Some(control) = control
        && control.flushed > HEADER_BYTES
    {
        return Err(LogError::new(
            LogErrorKind::Corrupt,
            format!(
                "open the log {}: its segments are missing, it was durable up to {}; restore them, or remove the directory to begin a new log",
                config.dir.display(),
                Lsn(control.flushed)
            ),
        ));
    }
    let uuid = new_uuid();
    let (source, prev) = match foreign {
        Some((source, start)) => (source.clone(), start),
        None => {
            let stem = config.dir.file_name().map_or_else(
                || "log".to_owned(),
                |name| name.to_string_lossy().into_owned(),
            );
            let name = config.name.clone().unwrap_or(stem);
            let database = config.database.clone().unwrap_or_else(|| name.clone());
            let lineage = Lineage::new(SourceKind::Wal, uuid, 1);
            (SourceInfo::new(name, database, lineage), Position::ZERO)
        }
    };
    let header = SegmentHeader {
        segment_bytes: config.segment_bytes,
        uuid,
        epoch: 1,
        base: 0,
        created_micros: wall_micros(),
        prev,
        restart: HEADER_BYTES,
        flushed: HEADER_BYTES,
        source,
    };
    let meta = SegmentMeta::of(&header);
    let current = make(config, header)?;
    Ok(Recovered {
        current,
        next: Some(HEADER_BYTES),
        last: prev,
        defined: HashMap::new(),
        segments: VecDeque::from([meta]),
        restart_needed: false,
        cut: 0,
    })
}

/// Makes the segment behind a sealed one whose successor a crash prevented.
fn go_on(config: &LogConfig, recovered: &mut Recovered) -> Result<(), LogError> {
    let base = recovered.current.end();
    let first = base + HEADER_BYTES;
    let header = SegmentHeader {
        base,
        created_micros: wall_micros(),
        prev: recovered.last,
        // Every transaction that was open has lost its writer.
        restart: first,
        flushed: base,
        ..recovered.current.header.clone()
    };
    recovered.segments.push_back(SegmentMeta::of(&header));
    recovered.current = make(config, header)?;
    recovered.defined.clear();
    Ok(())
}

fn make(config: &LogConfig, header: SegmentHeader) -> Result<Segment, LogError> {
    let zero = config.sync != SyncPolicy::Never;
    let (storage, dir) = (config.storage.as_ref(), config.dir.as_path());
    let file = segment::prepare(storage, dir, header.segment_bytes, zero, |_, _| Ok(()))?;
    Segment::create(storage, dir, header, file, true)
}

fn check_source(
    config: &LogConfig,
    header: &SegmentHeader,
    foreign: Foreign<'_>,
) -> Result<(), LogError> {
    let found = &header.source.lineage;
    let refuse = |wanted: &dyn std::fmt::Display| {
        Err(LogError::new(
            LogErrorKind::OtherSource,
            format!(
                "open the log {}: it holds changes of {found}, not of {wanted}; use another directory",
                config.dir.display()
            ),
        ))
    };
    match foreign {
        Some((source, _)) if source.lineage != *found => refuse(&source.lineage),
        None if found.source_id != header.uuid => refuse(&"an engine that embeds the log"),
        _ => Ok(()),
    }
}

fn open_control(storage: &dyn Storage, dir: &Path) -> Result<Box<dyn StorageFile>, LogError> {
    let path = dir.join(CONTROL);
    let io = |cause| LogError::io("open the log's control file", &path, cause);
    if storage.exists(&path) {
        return storage.open(&path, OpenMode::ReadWrite).map_err(io);
    }
    let file = storage.open(&path, OpenMode::CreateNew).map_err(io)?;
    storage.sync_dir(dir).map_err(io)?;
    Ok(file)
}

/// 128 random bits, from the operating system's randomness behind the hasher's keys.
fn new_uuid() -> [u8; 16] {
    let mut uuid = [0; 16];
    for half in uuid.chunks_exact_mut(8) {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_i64(wall_micros());
        hasher.write_u32(std::process::id());
        half.copy_from_slice(&hasher.finish().to_le_bytes());
    }
    // Version 4, variant 1, as other tools print it.
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}
