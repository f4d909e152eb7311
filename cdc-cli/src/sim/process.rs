//! One life of the pipeline's process: the same stores, journal, capture and lanes that `run`
//! puts together, on the simulated disk.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cdc_core::checkpoint::FileCheckpoints;
use cdc_core::pipeline::{
    Capture, CaptureConfig, CaptureMetrics, ConfirmPolicy, Lane, LaneConfig, LaneControl, LaneEnd,
    LaneError, LaneMetrics, OnDeadKey, RetryConfig, Shutdown, ShutdownTrigger, Watermark,
};
use cdc_core::storage::Storage;
use cdc_core::testing::sim::{
    Alive, Oracle, SimClock, SimDatabase, SimDestination, SimEmitter, SimSource, Spawner, Timeline,
    WatchedCheckpoints, WatchedDlq, Way,
};
use cdc_core::testing::sim_storage::SimStorage;
use cdc_core::{
    BatchLimit, BoxEmitter, CheckpointError, CheckpointStore, DeadLetterQueue, DlqError,
    EmitErrorKind, EventBatch, Journal, Position, SourceError, SourceErrorKind, TokenRefusal,
    WalSource,
};
use cdc_dlq::{DlqOptions, FileDlq};
use cdc_emit_file::{FileConfig, FileEmitter, Fsync, OnRestart};
use cdc_emit_queue::{QueueConfig, QueueEmitter};
use cdc_wal::lane::LaneTails;
use cdc_wal::{FileJournal, JournalConfig, Log, LogError, LogErrorKind, StartAt};

use super::consumer;
use super::engine::{self, Engine};
use super::kept;
use super::plan::{EmitterPlan, Kind, PlanConfig};
use super::resumed::Resumed;

/// Where things are on the simulated disk.
pub(crate) struct Paths {
    lock: String,
    pub(crate) checkpoints: String,
    /// The journal, or the engine's own log.
    pub(crate) log: String,
    pub(crate) dlq: String,
}

impl Paths {
    /// Those of an era: after a failover an operator begins with a new state.
    pub(crate) fn of(era: u32) -> Self {
        let state = |name: &str| format!("/state{era}/{name}");
        Self {
            lock: state("lock"),
            checkpoints: state("checkpoints"),
            log: state("log"),
            dlq: format!("/dlq{era}"),
        }
    }
}

/// What lives longer than a process.
#[derive(Clone)]
pub(crate) struct Outside {
    pub(crate) clock: SimClock,
    pub(crate) timeline: Timeline,
    pub(crate) oracle: Oracle,
    pub(crate) spawner: Spawner,
    pub(crate) disk: SimStorage,
    pub(crate) database: SimDatabase,
    pub(crate) engine: Option<Engine>,
    /// How often the database has failed over and the operator begun anew.
    pub(crate) era: u32,
    pub(crate) destinations: Vec<SimDestination>,
    pub(crate) healed: Arc<std::sync::atomic::AtomicBool>,
    pub(crate) config: Arc<PlanConfig>,
}

/// How a part of a process ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) who: String,
    /// Why, if not as asked, and what would excuse that.
    pub(crate) error: Option<Failed>,
}

/// What excuses that a part of the process ends with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excuse {
    /// Nothing.
    Nothing,
    /// A fault of the disk, while this process ran.
    Disk,
    /// The database is on another timeline.
    OtherTimeline,
    /// A bound of the dead letter queue.
    Full,
}

/// What a process has come to, as its supervisor sees it.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) lanes_alive: usize,
    pub(crate) capture_alive: bool,
    pub(crate) started: bool,
    /// The source was taken on, so that lanes may run.
    pub(crate) accepted: bool,
    pub(crate) ends: Vec<End>,
    pub(crate) controls: Vec<LaneControl>,
    pub(crate) metrics: Vec<Arc<LaneMetrics>>,
    /// Emitters whose files were mended.
    pub(crate) resumed: BTreeSet<String>,
}

/// A process.
pub(crate) struct Process {
    pub(crate) group: u64,
    pub(crate) alive: Alive,
    pub(crate) seen: Arc<Mutex<Seen>>,
    /// Calls of the disk that had failed when it began.
    pub(crate) disk_failures: u64,
    /// A part of it has failed.
    pub(crate) failed: bool,
    lanes: ShutdownTrigger,
    capture: ShutdownTrigger,
}

impl Process {
    /// Starts it; `group` is its number.
    pub(crate) fn start(outside: &Outside, group: u64) -> Self {
        let alive = Alive::new();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (lanes, lanes_shutdown) = Shutdown::new();
        let (capture, capture_shutdown) = Shutdown::new();
        let inside = Inside {
            outside: outside.clone(),
            group,
            alive: alive.clone(),
            seen: seen.clone(),
            lanes: lanes_shutdown,
            capture: capture_shutdown,
        };
        outside.spawner.spawn("start", group, async move {
            let end = inside.run().await;
            let mut seen = inside.seen();
            seen.started = true;
            if let Err((what, excuse)) = end {
                inside
                    .outside
                    .timeline
                    .note("process", || format!("does not start: {what}"));
                seen.ends.push(End {
                    who: "start".into(),
                    error: Some((what, excuse)),
                });
            }
        });
        Self {
            group,
            disk_failures: outside.disk.failures(),
            failed: false,
            alive,
            seen,
            lanes,
            capture,
        }
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks it to drain.
    pub(crate) fn drain(&self) {
        self.lanes.trigger();
    }

    /// As `run` does: capture ends after the last lane, and ends the lanes by its own error. True
    /// when everything has ended.
    pub(crate) fn supervise(&self) -> bool {
        let seen = self.seen();
        if !seen.started {
            return false;
        }
        if seen.lanes_alive == 0 {
            self.capture.trigger();
        }
        if !seen.capture_alive {
            self.lanes.trigger();
        }
        seen.lanes_alive == 0 && !seen.capture_alive
    }
}

struct Inside {
    outside: Outside,
    group: u64,
    alive: Alive,
    seen: Arc<Mutex<Seen>>,
    lanes: Shutdown,
    capture: Shutdown,
}

/// An error as text, and what excuses it.
pub(crate) type Failed = (String, Excuse);

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn source_failed(error: &SourceError) -> Failed {
    let excuse = match &error.kind {
        SourceErrorKind::Io => Excuse::Disk,
        SourceErrorKind::Refused(TokenRefusal::OtherTimeline { .. }) => Excuse::OtherTimeline,
        _ => Excuse::Nothing,
    };
    (chain(error), excuse)
}

fn log_failed(error: LogError) -> Failed {
    if error.kind == LogErrorKind::OtherSource {
        return (chain(&error), Excuse::OtherTimeline);
    }
    source_failed(&error.into())
}

fn dlq_failed(error: &DlqError) -> Failed {
    let excuse = match error {
        DlqError::Corrupt { .. } | DlqError::InUse { .. } => Excuse::Nothing,
        DlqError::Full { .. } => Excuse::Full,
        _ => Excuse::Disk,
    };
    (chain(error), excuse)
}

fn checkpoint_failed(error: &CheckpointError) -> Failed {
    let excuse = match error {
        CheckpointError::Io { .. } | CheckpointError::Dead { .. } => Excuse::Disk,
        _ => Excuse::Nothing,
    };
    (chain(error), excuse)
}

fn lane_failed(error: &LaneError) -> Failed {
    let excuse = match error {
        LaneError::Source { cause, .. } => source_failed(cause).1,
        // A lane waits for room.
        LaneError::Dlq {
            cause: DlqError::NoSpace { .. },
            ..
        } => Excuse::Nothing,
        LaneError::Dlq { cause, .. } => dlq_failed(cause).1,
        LaneError::Checkpoint { cause, .. } => checkpoint_failed(cause).1,
        // One that the destination contradicts: whatever the disk did, that is to be mended, not found.
        LaneError::Emit { cause, .. } if cause.kind == EmitErrorKind::Fatal => Excuse::Nothing,
        LaneError::Emit { .. } => Excuse::Disk,
        _ => Excuse::Nothing,
    };
    (chain(error), excuse)
}

impl Inside {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(&self) -> Result<(), Failed> {
        let Outside {
            clock,
            timeline,
            oracle,
            spawner,
            disk,
            config,
            era,
            healed,
            ..
        } = &self.outside;
        let paths = Paths::of(*era);
        let storage = disk.shared();
        let io = |error: std::io::Error| (format!("lock: {error}"), Excuse::Nothing);
        let lock = storage.lock(Path::new(&paths.lock)).map_err(io)?;
        let checkpoints = FileCheckpoints::open(&storage, &paths.checkpoints);
        let checkpoints: Arc<dyn CheckpointStore> =
            Arc::new(checkpoints.map_err(|error| checkpoint_failed(&error))?);
        let mut bounds = DlqOptions::default();
        if config.extras.small_segments {
            // As small as they may be; the bound itself must not be reached: it would block the lanes.
            bounds.bytes_max = 8 << 20;
            bounds.segment_bytes = 8 << 10;
        }
        if let Some(letters_max) = config.letters_max
            && !healed.load(std::sync::atomic::Ordering::Relaxed)
        {
            bounds.letters_max = letters_max;
        }
        let mut dlq = FileDlq::open(storage.clone(), paths.dlq.as_str(), bounds)
            .map_err(|error| dlq_failed(&error))?;
        let mut slowest: Option<Position> = None;
        let mut stored_all = Vec::new();
        for emitter in &config.emitters {
            let stored = checkpoints
                .load(&emitter.name)
                .map_err(|error| checkpoint_failed(&error))?
                .map(|checkpoint| checkpoint.position);
            oracle.loaded(&emitter.name, stored);
            stored_all.push((emitter.name.as_str(), stored));
            if let Some(stored) = stored {
                slowest = Some(slowest.map_or(stored, |slowest| slowest.min(stored)));
            }
            let letters = dlq
                .open_letters(&emitter.name, None, usize::MAX)
                .map_err(|error| dlq_failed(&error))?;
            oracle.letters_found(&emitter.name, &letters);
        }
        let dlq = Arc::new(Mutex::new(WatchedDlq {
            inner: dlq,
            oracle: oracle.clone(),
            timeline: timeline.clone(),
        }));
        let checkpoints: Arc<dyn CheckpointStore> = Arc::new(WatchedCheckpoints {
            inner: checkpoints,
            oracle: oracle.clone(),
            timeline: timeline.clone(),
        });
        let feed = self.feed(&storage, &paths, slowest, &stored_all).await?;
        let log = feed.log().clone();
        let start = log.oldest().map_err(log_failed)?;
        let watermark = Watermark::new();
        let lineage = log.source().lineage;
        {
            let mut seen = self.seen();
            seen.accepted = true;
            seen.lanes_alive = config.emitters.len();
            seen.capture_alive = true;
        }
        // Cursors of an embedding engine, one a lane, are its own.
        let embedded = matches!(feed, Feed::Engine(_));
        let handles = watermark.register_all(stored_all);
        for ((number, emitter), handle) in config.emitters.iter().enumerate().zip(handles) {
            let mut lane = LaneConfig::new(emitter.name.as_str(), lineage, start);
            lane.limit = limit(config);
            lane.checkpoint_interval = config.checkpoint_interval;
            lane.shutdown_timeout = config.shutdown_timeout;
            lane.window_max = config.window_max;
            lane.concurrency = emitter.concurrency;
            lane.order = emitter.order;
            lane.retry = RetryConfig {
                base: Duration::from_millis(20),
                cap: Duration::from_secs(1),
                probe_interval: Duration::from_millis(700),
                seed: 1 + self.group,
            };
            lane.on_dead_key = if emitter.parks {
                OnDeadKey::Park
            } else {
                OnDeadKey::Pass
            };
            let metrics = Arc::new(LaneMetrics::default());
            let (control, commands) = LaneControl::new();
            {
                let mut seen = self.seen();
                seen.controls.push(control);
                seen.metrics.push(metrics.clone());
            }
            let (log, tail_clock) = (log.clone(), clock.clone());
            let (name, tails) = (emitter.name.clone(), LaneTails::new(log.clone()));
            let lane = Lane {
                config: lane,
                open: move |after| {
                    let clock = Arc::new(tail_clock.clone());
                    if !embedded {
                        return Ok(tails.open(&name, after, clock)?);
                    }
                    log.register_cursor(&name, after)?;
                    Ok(log.tail_cursor(&name, StartAt::After(after), clock)?)
                },
                filter: kept::filter(emitter),
                transforms: kept::transforms(&self.outside, emitter),
                emitter: self.emitter(number, emitter, &storage)?,
                dlq: dlq.clone(),
                checkpoints: checkpoints.clone(),
                watermark: handle,
                clock: Arc::new(clock.clone()),
                metrics,
                control: commands,
                shutdown: self.lanes.clone(),
            };
            let (seen, name, timeline) =
                (self.seen.clone(), emitter.name.clone(), timeline.clone());
            spawner.spawn(emitter.name.clone(), self.group, async move {
                let end = lane.run().await;
                timeline.note(&name, || match &end {
                    Ok(end) => format!("lane ends: {end:?}"),
                    Err(error) => format!("lane HALTS: {}", chain(error)),
                });
                let error = match &end {
                    Ok(LaneEnd::Drained) => None,
                    Ok(other) => Some((format!("the lane ended as {other:?}"), Excuse::Nothing)),
                    Err(error) => Some(lane_failed(error)),
                };
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.lanes_alive -= 1;
                seen.ends.push(End { who: name, error });
            });
        }
        match feed {
            Feed::Database(source, journal) => {
                self.start_capture(*source, *journal, watermark, lock);
            }
            Feed::Engine(log) => self.start_engine(log, lock),
        }
        Ok(())
    }

    /// What the lanes read, and who fills it.
    async fn feed(
        &self,
        storage: &Arc<dyn Storage>,
        paths: &Paths,
        slowest: Option<Position>,
        stored: &[(&str, Option<Position>)],
    ) -> Result<Feed, Failed> {
        let Outside {
            database,
            engine,
            config,
            ..
        } = &self.outside;
        if let Some(engine) = engine {
            let log = engine.open(storage, &paths.log, config.retain_bytes);
            let log = log.map_err(log_failed)?;
            for (name, stored) in stored {
                engine::hold(&log, name, *stored).map_err(log_failed)?;
            }
            return Ok(Feed::Engine(log));
        }
        let source = database.connect(self.alive.clone()).await;
        let journal = self.journal(storage, &paths.log, &source, slowest)?;
        let oldest = journal.log().oldest().map_err(log_failed)?;
        let lanes = stored.iter();
        let lanes = lanes.map(|&(name, at)| (name, at.unwrap_or(oldest)));
        LaneTails::new(journal.log().clone())
            .hold(lanes)
            .map_err(log_failed)?;
        Ok(Feed::Database(Box::new(source), Box::new(journal)))
    }

    /// The engine's own threads, beside the lanes.
    fn start_engine(&self, log: Log, lock: Box<dyn cdc_core::storage::StorageLock>) {
        let Some(engine) = self.outside.engine.clone() else {
            return;
        };
        let (seen, timeline) = (self.seen.clone(), self.outside.timeline.clone());
        let mut shutdown = self.capture.clone();
        let interval = self.outside.config.flush_interval;
        self.outside
            .spawner
            .spawn("engine", self.group, async move {
                let end = tokio::select! {
                    biased;
                    () = shutdown.asked() => Ok(()),
                    // Two transactions may be open at once.
                    end = engine.write(&log) => end,
                    end = engine.write(&log) => end,
                    end = engine.flush(&log, interval) => end,
                };
                timeline.note("engine", || match &end {
                    Ok(()) => "ends".into(),
                    Err(error) => format!("FAILS: {}", chain(error)),
                });
                drop((log, lock));
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.capture_alive = false;
                seen.ends.push(End {
                    who: "engine".into(),
                    error: end.err().map(log_failed),
                });
            });
    }

    /// As `run` opens it, with the same look for a gap.
    fn journal(
        &self,
        storage: &Arc<dyn Storage>,
        dir: &str,
        source: &SimSource,
        slowest: Option<Position>,
    ) -> Result<FileJournal, Failed> {
        let config = &self.outside.config;
        let mut settings = JournalConfig::new(dir);
        settings.segment_bytes = 64 << 10;
        settings.retain_bytes = config.retain_bytes;
        settings.background = false;
        settings.storage = storage.clone();
        settings.start = source.start();
        let existed = engine::exists(storage.as_ref(), dir);
        let info = source.source().clone();
        let mut journal = FileJournal::open(settings, &info).map_err(log_failed)?;
        let held = journal.end().max(slowest.unwrap_or(Position::ZERO));
        if (existed || slowest.is_some()) && held.confirmable() < source.start().confirmable() {
            return Err((
                format!(
                    "events after {held} up to {} are gone at the source",
                    source.start()
                ),
                Excuse::Nothing,
            ));
        }
        if journal.end() < source.start() {
            let begin = EventBatch::heartbeat(info, source.start());
            journal
                .append(&begin)
                .map_err(|error| source_failed(&error))?;
        }
        Ok(journal)
    }

    fn start_capture(
        &self,
        source: SimSource,
        journal: FileJournal,
        watermark: Watermark,
        lock: Box<dyn cdc_core::storage::StorageLock>,
    ) {
        let Outside {
            clock,
            timeline,
            spawner,
            config,
            ..
        } = &self.outside;
        let mut capture = Capture {
            source,
            journal,
            config: CaptureConfig {
                confirm: if config.journaled {
                    ConfirmPolicy::Journaled
                } else {
                    ConfirmPolicy::Delivered
                },
                limit: limit(config),
                flush_interval: config.flush_interval,
            },
            watermark,
            clock: Arc::new(clock.clone()),
            metrics: Arc::new(CaptureMetrics::default()),
            shutdown: self.capture.clone(),
        };
        let (seen, timeline) = (self.seen.clone(), timeline.clone());
        spawner.spawn("capture", self.group, async move {
            let end = capture.run().await;
            timeline.note("capture", || match &end {
                Ok(()) => "ends".into(),
                Err(error) => format!("FAILS: {}", chain(error)),
            });
            drop((capture, lock));
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.capture_alive = false;
            seen.ends.push(End {
                who: "capture".into(),
                error: end.err().map(|error| source_failed(&error)),
            });
        });
    }

    fn emitter(
        &self,
        number: usize,
        plan: &EmitterPlan,
        storage: &Arc<dyn Storage>,
    ) -> Result<BoxEmitter, Failed> {
        let destination = self.outside.destinations[number].clone();
        let clock = &self.outside.clock;
        match plan.kind {
            Kind::Hook => Ok(BoxEmitter::new(SimEmitter::new(
                destination,
                self.alive.clone(),
                Way::Asked,
            ))),
            Kind::Queue => {
                let size = plan.destination.batch_size;
                let queue = QueueEmitter::new(QueueConfig {
                    capacity: 4 * size,
                    bytes_max: 1 << 20,
                    batch_size: size,
                });
                let queue = queue.map_err(|error| (error.to_string(), Excuse::Nothing))?;
                consumer::spawn(
                    &self.outside,
                    (number, plan),
                    &queue,
                    self.group,
                    &self.alive,
                );
                Ok(BoxEmitter::new(queue))
            }
            Kind::File {
                append,
                rotate_bytes,
                batch_sync,
            } => {
                let mut file = FileConfig::new(directory(plan, self.outside.era), "s");
                file.rotate_bytes = rotate_bytes;
                file.fsync = if batch_sync {
                    Fsync::Batch
                } else {
                    Fsync::Interval(Duration::from_millis(30))
                };
                file.on_restart = if append {
                    OnRestart::Append
                } else {
                    OnRestart::Truncate
                };
                file.storage = storage.clone();
                file.clock = Arc::new(clock.clone());
                let file = FileEmitter::new(file);
                Ok(BoxEmitter::new(Resumed {
                    inner: file.map_err(|error| (error.to_string(), Excuse::Nothing))?,
                    name: plan.name.clone(),
                    seen: self.seen.clone(),
                }))
            }
        }
    }
}

/// What the lanes read.
enum Feed {
    Database(Box<SimSource>, Box<FileJournal>),
    Engine(Log),
}

impl Feed {
    fn log(&self) -> &Log {
        match self {
            Self::Database(_, journal) => journal.log(),
            Self::Engine(log) => log,
        }
    }
}

pub(crate) fn limit(config: &PlanConfig) -> BatchLimit {
    BatchLimit {
        events_max: config.events_max,
        linger: Duration::from_millis(40),
        ..BatchLimit::default()
    }
}

/// Where an emitter's files are.
pub(crate) fn directory(plan: &EmitterPlan, era: u32) -> String {
    format!("/out{era}/{}", plan.name)
}
