//! The reader: a thread that follows the log, and batches of what it found.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use cdc_core::storage::StdStorage;
use cdc_core::{
    BatchLimit, ChangeEvent, EventBatch, Lineage, Position, SourceError, SourceErrorKind,
    SourceInfo, SourceKind, WalSource,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::begin::Begun;
use super::collect::{CHUNKS, Chunk, Collector};
use super::config::{Mode, SqliteConfig};
use super::downstream::Downstream;
use super::follow::{Follower, Looked};
use super::format::Salts;
use super::free::Free;
use super::wal_index::WalIndex;

/// Longest time without a mark on the log after it had grown too long.
const RELEASED_TIME_MAX: Duration = Duration::from_secs(1);
/// Under load each look takes what was committed in this time: looking all the time would find one
/// transaction each, and cost a core that the application may want.
const GATHER_INTERVAL: Duration = Duration::from_millis(1);
/// How often it is tried to find the write lock free.
const URGENT_INTERVAL: Duration = Duration::from_micros(100);
/// Longest wait for the thread's end.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Shared {
    confirmed: Mutex<Position>,
    lag_bytes: AtomicU64,
}

/// Reads the committed changes of a SQLite database in WAL mode, whoever writes it.
///
/// # Positions
/// `commit` is the log's generation, counted by us, in the upper 32 bits and the transaction's
/// commit frame in the lower; the ordinal counts its changes: table definitions first, then rows,
/// table by table. It is the same when the same transaction is read again, as long as the state
/// directory is the same.
///
/// # Transactions
/// Net changes: what a transaction leaves, not what its statements did on the way. A change of a
/// primary key is a delete and an insert. The commit time is when the change was seen.
///
/// # Confirmation
/// With a state directory the log is held until what it holds is confirmed, so that nothing is
/// lost by a crash of ours; confirm soon. Without one it is held until it is handed over.
///
/// # Failures
/// What the file cannot give any more is [`SourceErrorKind::Gap`]; a log held by an exclusive lock
/// [`SourceErrorKind::InUse`]; what is not set up for capture [`SourceErrorKind::Configuration`]
/// with the command that sets it up.
///
/// Dropping it ends the thread soon after; [`SqliteSource::close`] waits for that.
#[derive(Debug)]
pub struct SqliteSource {
    info: Arc<SourceInfo>,
    start: Position,
    end_at_start: Position,
    chunks: mpsc::Receiver<Result<Chunk, SourceError>>,
    pending: VecDeque<ChangeEvent>,
    pending_end: Position,
    covered: Position,
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    ended: bool,
}

impl SqliteSource {
    /// Opens the database, holds its log, and begins to follow: after what the state directory
    /// says is confirmed, or with what is committed now.
    ///
    /// `resume_from` is how far the consumer has come (the end of the journal), if it knows:
    /// with it a state that contradicts the journal, and a log that was lost and written anew, are
    /// found.
    ///
    /// # Errors
    /// [`SourceErrorKind::Unreachable`], [`SourceErrorKind::Configuration`],
    /// [`SourceErrorKind::Unsupported`], [`SourceErrorKind::InUse`], [`SourceErrorKind::Gap`] if
    /// changes since the last confirmation are gone and [`SqliteConfig::accept_gap`] is false.
    pub async fn connect(
        config: SqliteConfig,
        resume_from: Option<Position>,
    ) -> Result<Self, SourceError> {
        Self::connect_to(config, Box::new(resume_from)).await
    }

    /// As [`connect`](Self::connect), for a consumer that can take back what it has recorded: then what
    /// the state directory has lost with the machine's power is no [`SourceErrorKind::Gap`].
    ///
    /// # Errors
    /// As for [`connect`](Self::connect), and from the consumer's record.
    pub async fn connect_to(
        config: SqliteConfig,
        downstream: Box<dyn Downstream>,
    ) -> Result<Self, SourceError> {
        let (to_consumer, chunks) = mpsc::channel(CHUNKS);
        let (tell, told) = oneshot::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(Shared::default());
        let name = config.source_name();
        let run = Thread {
            config,
            shared: shared.clone(),
            stop: stop.clone(),
            out: to_consumer,
        };
        let thread = thread::Builder::new()
            .name("sqlite".to_owned())
            .spawn(move || run.run(downstream, tell))
            .map_err(|cause| {
                SourceError::new(
                    SourceErrorKind::Io,
                    format!("start a thread for the database: {cause}"),
                )
                .with_cause(cause)
            })?;
        let begun: Begun = told.await.unwrap_or_else(|_| Err(stopped()))?;
        let lineage = Lineage::new(SourceKind::Sqlite, begun.id, 1);
        Ok(Self {
            info: Arc::new(SourceInfo::new(name.as_str(), name.as_str(), lineage)),
            start: begun.floor,
            end_at_start: begun.end,
            chunks,
            pending: VecDeque::new(),
            pending_end: begun.floor,
            covered: begun.floor,
            shared,
            stop,
            thread: Some(thread),
            ended: false,
        })
    }

    /// Everything up to here is not part of the stream: the position to check point before
    /// anything is read.
    pub const fn start(&self) -> Position {
        self.start
    }

    /// Where what was committed when this value connected ends, its snapshot included.
    pub const fn end_at_start(&self) -> Position {
        self.end_at_start
    }

    /// Bytes of log that are committed and not decoded yet, as last seen.
    pub fn lag_bytes(&self) -> u64 {
        self.shared.lag_bytes.load(Ordering::Relaxed)
    }

    /// Ends the thread and lets the log go. Takes at most a few seconds.
    ///
    /// # Errors
    /// If the thread does not end in time.
    pub async fn close(mut self) -> Result<(), SourceError> {
        self.stop.store(true, Ordering::Relaxed);
        self.chunks.close();
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        thread.thread().unpark();
        let joined = tokio::task::spawn_blocking(move || thread.join());
        match tokio::time::timeout(CLOSE_TIME_MAX, joined).await {
            Ok(_) => Ok(()),
            Err(_) => Err(SourceError::new(
                SourceErrorKind::Io,
                "close the database: its thread does not end; it is reading from a slow disk",
            )),
        }
    }

    /// As much of what is pending as the limit allows.
    fn take(&mut self, limit: BatchLimit) -> EventBatch {
        let mut bytes = 0;
        let mut count = 0;
        for event in self.pending.iter().take(limit.events_max.max(1)) {
            bytes += event.encoded_len();
            if count > 0 && bytes > limit.bytes_max {
                break;
            }
            count += 1;
        }
        let events: Vec<ChangeEvent> = self.pending.drain(..count).collect();
        let end = match events.last() {
            Some(last) if !self.pending.is_empty() => last.position.max(self.covered),
            _ => self.pending_end,
        };
        self.covered = end;
        EventBatch::new(self.info.clone(), events, end)
    }
}

impl Drop for SqliteSource {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl WalSource for SqliteSource {
    fn source(&self) -> &Arc<SourceInfo> {
        &self.info
    }

    async fn next_batch(&mut self, limit: BatchLimit) -> Result<Option<EventBatch>, SourceError> {
        if self.pending.is_empty() && !self.ended {
            let deadline = Instant::now() + limit.linger;
            match timeout_at(deadline, self.chunks.recv()).await {
                Ok(Some(Ok(chunk))) => {
                    self.pending_end = chunk.end;
                    self.pending = chunk.events.into();
                }
                Ok(Some(Err(error))) => {
                    self.ended = true;
                    return Err(error);
                }
                Ok(None) => {
                    self.ended = true;
                    return Err(stopped());
                }
                Err(_) => {}
            }
        } else if self.ended {
            return Ok(None);
        }
        Ok(Some(self.take(limit)))
    }

    async fn confirm(&mut self, up_to: Position) -> Result<(), SourceError> {
        let mut confirmed = self
            .shared
            .confirmed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *confirmed = up_to.max(*confirmed);
        Ok(())
    }
}

#[cold]
fn stopped() -> SourceError {
    SourceError::new(
        SourceErrorKind::Io,
        "follow the database: its thread was stopped",
    )
}

/// How the log is followed.
enum Either {
    Pinned(Box<Follower>),
    Free(Box<Free>),
}

/// What the thread has.
struct Thread {
    config: SqliteConfig,
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    out: mpsc::Sender<Result<Chunk, SourceError>>,
}

impl Thread {
    fn run(
        self,
        mut downstream: Box<dyn Downstream>,
        tell: oneshot::Sender<Result<Begun, SourceError>>,
    ) {
        let storage = StdStorage::shared();
        let opened = match self.config.mode {
            Mode::Pinned => Follower::open(&self.config, &storage, downstream.as_mut())
                .map(|(follower, begun)| (Either::Pinned(Box::new(follower)), begun)),
            Mode::LockFree => Free::open(&self.config, &storage, downstream.as_mut())
                .map(|(follower, begun)| (Either::Free(Box::new(follower)), begun)),
        };
        let (follower, begun) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // Nobody listens only if connecting was given up.
                drop(tell.send(Err(error)));
                return;
            }
        };
        let collector = Collector::new(self.out.clone(), self.stop.clone(), begun.floor);
        if tell.send(Ok(begun)).is_err() {
            return;
        }
        let outcome = match follower {
            Either::Pinned(follower) => self.follow(*follower, collector),
            Either::Free(follower) => self.look(*follower, collector),
        };
        if let Err(error) = outcome
            && !self.stop.load(Ordering::Relaxed)
        {
            // Room for the error comes when the consumer has taken what was before it.
            drop(self.out.blocking_send(Err(error)));
        }
    }

    fn confirmed(&self) -> Position {
        let confirmed = self.shared.confirmed.lock();
        *confirmed.unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows without a lock.
    fn look(&self, mut follower: Free, mut collector: Collector) -> Result<(), SourceError> {
        let outcome = (|| {
            follower.load(&mut collector)?;
            while !collector.is_stopped() {
                let begun = std::time::Instant::now();
                let looked = follower.poll(&mut collector, self.confirmed())?;
                self.shared
                    .lag_bytes
                    .store(follower.lag(), Ordering::Relaxed);
                self.pause(looked, begun);
            }
            Ok(())
        })();
        follower.confirmed(self.confirmed(), true)?;
        outcome
    }

    /// Follows, letting the log go whenever it has grown too long, and taking it up again.
    fn follow(&self, mut follower: Follower, mut collector: Collector) -> Result<(), SourceError> {
        loop {
            let index = follower.pins.index.clone();
            collector.watch(index.clone(), self.limit(&follower));
            let outcome = self.rounds(&mut follower, &mut collector);
            let too_long = match outcome {
                Ok(too_long) => too_long,
                // Handing over was given up for this.
                Err(ref error) if error.kind == SourceErrorKind::Transient => {
                    WalIndex::read(&index)?.is_some_and(|head| collector.is_too_long(&head))
                }
                Err(_) => false,
            };
            // What was confirmed last need not come again, whatever ended this.
            follower.confirmed(self.confirmed(), true)?;
            if !too_long || collector.is_stopped() {
                return outcome.map(|_| ());
            }
            let bytes = follower.log_bytes_now()?;
            if self.config.state_dir.is_none() {
                return Err(SourceError::new(
                    SourceErrorKind::Gap,
                    format!(
                        "hold the log of {}: it has grown to {bytes} bytes, past its limit; take changes faster, let checkpoints be helped, or raise the limit, and begin with a new snapshot",
                        self.config.shown()
                    ),
                ));
            }
            tracing::warn!(
                database = %self.config.shown(),
                bytes,
                "the log has grown past its limit and is let go: if it begins anew before it is taken up again, what was not read comes as one merged transaction"
            );
            let salts = follower.head.salts;
            drop(follower);
            let told = collector.rewind();
            self.wait_for_restart(&index, salts)?;
            drop(index);
            follower = Follower::open(&self.config, &StdStorage::shared(), &mut Some(told))?.0;
        }
    }

    /// Where the log is too long. What was too long already when it was opened, since somebody
    /// else holds it, may grow by half again.
    fn limit(&self, follower: &Follower) -> u64 {
        let now = follower.log_bytes();
        self.config.log_bytes_max.max(now.saturating_add(now / 2))
    }

    /// Until the application has begun its log anew, but not for long.
    fn wait_for_restart(&self, index: &File, salts: Salts) -> Result<(), SourceError> {
        let start = std::time::Instant::now();
        while start.elapsed() < RELEASED_TIME_MAX && !self.stop.load(Ordering::Relaxed) {
            match WalIndex::read(index)? {
                Some(head) if head.salts != salts => break,
                _ => thread::park_timeout(self.config.poll_interval),
            }
        }
        Ok(())
    }

    /// True once the log has grown too long, false once the consumer wants no more.
    fn rounds(
        &self,
        follower: &mut Follower,
        collector: &mut Collector,
    ) -> Result<bool, SourceError> {
        follower.load(collector)?;
        while !collector.is_stopped() {
            let begun = std::time::Instant::now();
            let looked = follower.poll(collector, self.confirmed())?;
            self.shared
                .lag_bytes
                .store(follower.lag(), Ordering::Relaxed);
            if looked == Looked::TooLong {
                return Ok(true);
            }
            self.pause(looked, begun);
        }
        Ok(false)
    }

    /// Waits before the next look at the log; `begun` is when this one began.
    fn pause(&self, looked: Looked, begun: std::time::Instant) {
        let pause = match looked {
            Looked::Moved => GATHER_INTERVAL
                .min(self.config.poll_interval)
                .saturating_sub(begun.elapsed()),
            Looked::Urgent => URGENT_INTERVAL,
            Looked::Still => self.config.poll_interval,
            Looked::TooLong => Duration::ZERO,
        };
        if !pause.is_zero() {
            thread::park_timeout(pause);
        }
    }
}
