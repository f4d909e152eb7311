//! What the writer's threads share, and the one place where frames are appended and synced.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use cdc_core::storage::{Storage, StorageFile};
use cdc_core::{Position, SourceInfo, WalHook, wall_micros};

use super::closing::Closing;
use super::config::{LogConfig, SyncPolicy, Visibility};
use super::cursors::Cursors;
use super::recent::Recent;
use super::registry::{Known, Registry};
use super::sync::Queue;
use crate::control::Control;
use crate::format::frame::{self, FRAME_HEADER, Fragment, FrameKind, Heartbeat, SEAL_ROOM};
use crate::format::header::SegmentHeader;
use crate::format::{align, frame_max};
use crate::notify::Notify;
use crate::read::frames::LogId;
use crate::segment::{self, Segment};
use crate::threads::{AtomicBool, AtomicU64, Condvar, Mutex, MutexGuard, RwLock};
use crate::{LogError, LogErrorKind};

/// The buffer is handed to the operating system at this size.
const WRITE_BYTES: usize = 256 << 10;
/// What is appended gathers in memory of this size, which writes are cut from.
pub(crate) const ARENA_BYTES: usize = 512 << 10;
/// Appending waits while more than this is buffered behind a write under way.
const PENDING_BYTES_MAX: usize = 8 << 20;
/// Sealed segments that may await their sync under [`SyncPolicy::Never`]; they are what a recovery
/// has to look at.
const UNSYNCED_MAX: usize = 16;

/// Longest pause between two pieces of a segment that is made ahead: the disk is slow then.
const PREPARE_PAUSE_MAX: Duration = Duration::from_millis(50);

/// A segment's place and first position, kept in memory for every retained segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentMeta {
    pub(crate) base: u64,
    pub(crate) prev: Position,
    pub(crate) restart: u64,
    /// When it was created, microseconds since 1970-01-01T00:00:00Z.
    pub(crate) created: i64,
}

impl SegmentMeta {
    pub(crate) fn of(header: &SegmentHeader) -> Self {
        Self {
            base: header.base,
            prev: header.prev,
            restart: header.restart,
            created: header.created_micros,
        }
    }
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) dead: Option<String>,
    pub(crate) current: Arc<Segment>,
    /// Where the next frame goes.
    pub(crate) next: u64,
    /// Bytes in front of `next` that were not written yet; all in the current segment.
    pub(crate) pending: BytesMut,
    /// A thread is writing or syncing without the lock.
    pub(crate) busy: bool,
    /// Who waits for which sync.
    pub(crate) queue: Queue,
    pub(crate) written: u64,
    pub(crate) flushed: u64,
    /// Sealed segments whose bytes were not synced yet, oldest first.
    pub(super) unsynced: Vec<Arc<Segment>>,
    /// Relations defined in the current segment.
    defined: HashSet<u32>,
    /// Begin LSNs of open transactions that have frames in the log.
    pub(crate) open: BTreeSet<u64>,
    /// Position of the last commit or heartbeat.
    pub(crate) last: Position,
    pub(crate) segments: VecDeque<SegmentMeta>,
    /// Bases of trimmed segments whose files may still be there, oldest first.
    pub(crate) condemned: VecDeque<u64>,
    /// Position of the oldest resume point, when it is known.
    pub(crate) oldest: Option<Position>,
    pub(crate) cursors: Cursors,
    pub(crate) prepared: Option<Box<dyn StorageFile>>,
    /// The helper is preparing a segment.
    pub(crate) preparing: bool,
    pub(crate) closing: bool,
    /// A segment was filled since the last trim.
    pub(crate) trim_due: bool,
}

impl State {
    /// True when the next segment should be made ahead: the current one is in use, not just begun,
    /// so that a log that is hardly used takes the space of one.
    pub(crate) fn prepare_due(&self) -> bool {
        let used = self.next - self.current.base();
        let quarter = u64::from(self.current.header.segment_bytes) / 4;
        self.prepared.is_none() && !self.preparing && used >= quarter
    }

    /// Begin LSN of the oldest open transaction, or `next` if none is open.
    pub(crate) fn restart(&self, next: u64) -> u64 {
        self.open.first().copied().unwrap_or(next)
    }
}

/// Everything but the handle; tails hold it too.
pub(crate) struct Shared {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) dir: PathBuf,
    pub(crate) config: LogConfig,
    pub(crate) source: Arc<SourceInfo>,
    pub(crate) id: LogId,
    pub(crate) frame_max: usize,
    pub(crate) state: Mutex<State>,
    /// Signalled when `busy` ends and somebody waits for that, a segment is prepared, or the log dies.
    pub(crate) turn: Condvar,
    /// Signalled when a sync ends, by turns.
    pub(super) synced: [Condvar; 2],
    /// Signalled when the flusher has something to do.
    pub(super) sync_due: Condvar,
    /// Signalled when the helper has something to do.
    pub(crate) work: Condvar,
    pub(super) written: AtomicU64,
    pub(super) flushed: AtomicU64,
    /// Set with `State::dead`, for tails that wait.
    pub(crate) failed: AtomicBool,
    pub(crate) closed: AtomicBool,
    pub(crate) notify: Notify,
    pub(crate) hooks: RwLock<Vec<Arc<dyn WalHook>>>,
    pub(crate) registry: Mutex<Registry>,
    /// What was written last, for tails of this process.
    pub(crate) recent: Arc<Recent>,
    /// Held while cursors are stored and segments removed, none of which happens once the log is
    /// closed; taken before `state`, and not held where hooks and wakers are called.
    files: Mutex<()>,
    control: Box<dyn StorageFile>,
    /// A thread of the log let go of the last handle, and closes the log when it ends.
    left: Mutex<Option<Closing>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log")
            .field("dir", &self.dir)
            .field("source", &self.source)
            .field("written", &self.written)
            .field("flushed", &self.flushed)
            .finish_non_exhaustive()
    }
}

/// What recovery found, to go on from.
pub(crate) struct Start {
    pub(crate) current: Segment,
    pub(crate) next: u64,
    pub(crate) last: Position,
    pub(crate) defined: HashSet<u32>,
    pub(crate) segments: VecDeque<SegmentMeta>,
    pub(crate) registry: Registry,
    pub(crate) cursors: Cursors,
}

/// What a frame is: its kind, its part of a record, and the LSN of its transaction's first frame,
/// which is its own if `None`; 0 for frames of no transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) kind: FrameKind,
    pub(crate) fragment: Fragment,
    pub(crate) tx: Option<u64>,
}

impl Place {
    pub(crate) const fn new(kind: FrameKind, tx: Option<u64>) -> Self {
        Self {
            kind,
            fragment: Fragment::None,
            tx,
        }
    }
}

impl Shared {
    pub(crate) fn new(
        config: LogConfig,
        source: Arc<SourceInfo>,
        control: Box<dyn StorageFile>,
        start: Start,
    ) -> Self {
        let id = LogId::of(&start.current.header);
        let next = start.next;
        Self {
            storage: config.storage.clone(),
            dir: config.dir.clone(),
            source,
            id,
            frame_max: frame_max(id.segment_bytes),
            turn: Condvar::new(),
            synced: [Condvar::new(), Condvar::new()],
            sync_due: Condvar::new(),
            work: Condvar::new(),
            written: AtomicU64::new(next),
            flushed: AtomicU64::new(next),
            failed: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            notify: Notify::default(),
            hooks: RwLock::default(),
            registry: Mutex::new(start.registry),
            recent: Arc::default(),
            control,
            files: Mutex::new(()),
            left: Mutex::new(None),
            state: Mutex::new(State {
                dead: None,
                current: Arc::new(start.current),
                next,
                pending: BytesMut::new(),
                busy: false,
                queue: Queue::default(),
                written: next,
                flushed: next,
                unsynced: Vec::new(),
                defined: start.defined,
                open: BTreeSet::new(),
                last: start.last,
                segments: start.segments,
                condemned: VecDeque::new(),
                oldest: None,
                cursors: start.cursors,
                prepared: None,
                preparing: false,
                closing: false,
                trim_due: false,
            }),
            config,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lock_files(&self) -> MutexGuard<'_, ()> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_left(&self) -> MutexGuard<'_, Option<Closing>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    pub(crate) fn flushed(&self) -> u64 {
        self.flushed.load(Ordering::Acquire)
    }

    /// Up to where tails may read.
    pub(crate) fn visible(&self) -> u64 {
        match self.config.visibility {
            Visibility::Flushed => self.flushed(),
            Visibility::Written => self.written(),
        }
    }

    pub(crate) fn alive(&self, state: &State) -> Result<(), LogError> {
        match &state.dead {
            None => Ok(()),
            Some(why) => Err(LogError::new(
                LogErrorKind::Dead,
                format!(
                    "use the log {}: an earlier write failed ({why}), so what is on disk is unknown; mend that, then open the log anew (start the program again)",
                    self.dir.display()
                ),
            )),
        }
    }

    /// Takes the lock with it: the tails that are woken are another's code, and may let go of the log.
    pub(super) fn die(&self, mut state: MutexGuard<'_, State>, error: &LogError) {
        let cause =
            std::error::Error::source(error).map_or_else(String::new, |cause| format!(": {cause}"));
        state.dead.get_or_insert_with(|| format!("{error}{cause}"));
        self.failed.store(true, Ordering::SeqCst);
        self.wake_everybody();
        drop(state);
        self.notify.wake();
    }

    /// Appends one frame, whose first [`FRAME_HEADER`] bytes are room for the header; `fill` may
    /// set payload bytes that depend on the frame's LSN. Defines `relations` in front of it where
    /// the segment has not seen them. Gives the state back, for what must happen in the same
    /// breath, and the LSN.
    pub(crate) fn append<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        frame: &mut [u8],
        place: Place,
        relations: &[Known],
        fill: impl FnOnce(&mut State, &mut [u8], u64),
    ) -> Result<(MutexGuard<'a, State>, u64), LogError> {
        let mut state = self.make_room(state, frame.len(), relations)?;
        for known in relations {
            if state.defined.insert(known.id) {
                let mut definition = vec![0; FRAME_HEADER];
                definition.extend_from_slice(&known.id.to_le_bytes());
                definition.extend_from_slice(&known.definition);
                Self::put(
                    &mut state,
                    &mut definition,
                    FrameKind::Relation,
                    Fragment::None,
                    0,
                );
            }
        }
        let lsn = state.next;
        fill(&mut state, frame, lsn);
        let Place { kind, fragment, tx } = place;
        Self::put(&mut state, frame, kind, fragment, tx.unwrap_or(lsn));
        Ok((state, lsn))
    }

    /// Puts a frame for which there is room into the buffer.
    fn put(state: &mut State, frame: &mut [u8], kind: FrameKind, fragment: Fragment, tx: u64) {
        let (seed, lsn, flushed) = (state.current.seed, state.next, state.flushed);
        frame::finish(frame, kind, fragment, lsn, flushed, tx, seed);
        let len = frame.len() as u64;
        let end = align(len);
        if state.pending.is_empty() && state.pending.capacity() < WRITE_BYTES + frame.len() {
            // The memory of earlier writes is used again if nobody holds a slice of it.
            state.pending.reserve(ARENA_BYTES.max(2 * frame.len()));
        }
        state.pending.extend_from_slice(frame);
        let padded = state.pending.len() + usize::try_from(end - len).unwrap_or_default();
        state.pending.resize(padded, 0);
        state.next += end;
    }

    /// Waits until a frame and the definitions it needs fit the current segment and the buffer,
    /// going on to the next segment if they do not.
    fn make_room<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        frame: usize,
        relations: &[Known],
    ) -> Result<MutexGuard<'a, State>, LogError> {
        loop {
            self.alive(&state)?;
            let undefined = relations
                .iter()
                .filter(|known| !state.defined.contains(&known.id))
                .map(|known| align((FRAME_HEADER + 4 + known.definition.len()) as u64))
                .sum::<u64>();
            let need = undefined + align(frame as u64) + SEAL_ROOM;
            let fits = state.next + need <= state.current.end();
            if fits
                && (state.pending.len() < WRITE_BYTES || state.busy)
                && state.pending.len() < PENDING_BYTES_MAX
            {
                return Ok(state);
            }
            if state.busy {
                state = self.wait_for_turn(state);
            } else if fits {
                state = self.write(state)?;
            } else {
                state = self.roll(state)?;
            }
        }
    }

    /// Tells readers of other processes. Only whoever holds `busy`, or the lock while nobody
    /// does, calls this.
    pub(crate) fn write_control(&self, written: u64, flushed: u64) -> Result<(), LogError> {
        let control = Control {
            uuid: self.id.uuid,
            epoch: self.id.epoch,
            flushed,
            written,
            read_written: self.config.visibility == Visibility::Written,
        };
        self.control
            .write_all_at(&control.encode(), 0)
            .map_err(|cause| {
                LogError::io(
                    "write the log's control file",
                    &self.dir.join(crate::control::CONTROL),
                    cause,
                )
            })
    }

    /// Seals the current segment and goes on in the next one. The caller has seen that nobody is
    /// writing.
    fn roll<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
    ) -> Result<MutexGuard<'a, State>, LogError> {
        // The helper may be preparing the file: let it finish rather than make two.
        if state.preparing && state.prepared.is_none() {
            // It may be in a pause.
            self.work.notify_all();
            return Ok(self.wait_for_file(state));
        }
        let mut seal = vec![0; FRAME_HEADER];
        let position = Heartbeat {
            end: state.last,
            restart: 0,
        };
        seal.extend_from_slice(&position.encode()[..16]);
        Self::put(&mut state, &mut seal, FrameKind::Seal, Fragment::None, 0);
        match self.roll_sealed(&mut state) {
            Ok(()) => {
                let more = self.publish(&state);
                self.wake_everybody();
                self.work.notify_all();
                Ok(if more { self.wake_tails(state) } else { state })
            }
            Err(error) => {
                self.die(state, &error);
                Err(error)
            }
        }
    }

    fn roll_sealed(&self, state: &mut State) -> Result<(), LogError> {
        let sealed = state.current.clone();
        let bytes = state.pending.split().freeze();
        sealed
            .file
            .write_all_at(&bytes, state.written - sealed.base())
            .map_err(|cause| LogError::io("write the log segment", &sealed.path, cause))?;
        self.recent.push(state.written, &bytes);
        state.written = state.next;
        state.unsynced.push(sealed.clone());
        let lazy = self.config.sync == SyncPolicy::Never;
        if !lazy || state.unsynced.len() > UNSYNCED_MAX {
            for segment in state.unsynced.drain(..) {
                segment
                    .file
                    .sync_data()
                    .map_err(|cause| LogError::io("sync the log segment", &segment.path, cause))?;
            }
            state.flushed = state.next;
        }
        let base = sealed.end();
        if base.checked_add(u64::from(self.id.segment_bytes)).is_none() {
            return Err(LogError::new(
                LogErrorKind::TooLarge,
                "append to the log: its LSNs are used up; begin a new log",
            ));
        }
        let file = match state.prepared.take() {
            Some(file) => file,
            None => self.prepare()?,
        };
        let first = base + crate::format::HEADER_BYTES;
        let header = SegmentHeader {
            base,
            created_micros: wall_micros(),
            prev: state.last,
            restart: state.restart(first),
            flushed: state.flushed,
            ..sealed.header.clone()
        };
        state.segments.push_back(SegmentMeta::of(&header));
        // Unsynced log means unsynced names: a crash may take both, and recovery cuts there.
        let sync = state.unsynced.is_empty();
        let segment = Segment::create(self.storage.as_ref(), &self.dir, header, file, sync)?;
        state.current = Arc::new(segment);
        state.next = first;
        state.written = first;
        if state.unsynced.is_empty() {
            state.flushed = first;
        }
        state.defined.clear();
        state.trim_due = true;
        self.write_control(state.written, state.flushed)
    }

    /// Makes the next segment's file, as fast as it goes.
    fn prepare(&self) -> Result<Box<dyn StorageFile>, LogError> {
        self.prepare_with(|_, _| Ok(()))
    }

    /// Makes the next segment's file while commits wait for syncs of the current one: it is written
    /// in small pieces with pauses between them, unless the current one is filled faster. Between
    /// two pieces `meanwhile` has its turn.
    ///
    /// Written at once, its 64 MiB kept every commit waiting for 70 to 120 ms.
    pub(super) fn prepare_ahead(
        &self,
        mut meanwhile: impl FnMut() -> Result<(), LogError>,
    ) -> Result<Box<dyn StorageFile>, LogError> {
        self.prepare_with(|file, done| {
            let hurry = self.in_hurry(&self.lock(), done);
            let begin = Instant::now();
            if !hurry {
                file.sync_data()?;
            }
            let took = begin.elapsed();
            meanwhile().map_err(std::io::Error::other)?;
            let state = self.lock();
            if !hurry && !self.in_hurry(&state, done) {
                drop(self.work.wait_timeout(state, took.min(PREPARE_PAUSE_MAX)));
            }
            Ok(())
        })
    }

    /// True if the next segment, of which so much is made, should be made without pauses: half of it
    /// is to be there when half of the current one is used, all of it at three quarters.
    fn in_hurry(&self, state: &State, done: u64) -> bool {
        let used = state.next - state.current.base();
        let quarter = u64::from(self.id.segment_bytes) / 4;
        state.closing || state.dead.is_some() || used > quarter + done / 2
    }

    fn prepare_with(
        &self,
        between: impl FnMut(&dyn StorageFile, u64) -> std::io::Result<()>,
    ) -> Result<Box<dyn StorageFile>, LogError> {
        let zero = self.config.sync != SyncPolicy::Never;
        let (storage, bytes) = (self.storage.as_ref(), self.id.segment_bytes);
        segment::prepare(storage, &self.dir, bytes, zero, between)
    }
}
