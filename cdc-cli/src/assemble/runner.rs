//! A running pipeline: capture on one thread, each lane on its own, signals and control on the main
//! one.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use cdc_core::pipeline::{
    Capture, CaptureConfig, CaptureMetrics, ConfirmPolicy, LaneEnd, LaneError, Shutdown,
    ShutdownTrigger, Watermark,
};
use cdc_core::{
    CheckpointStore, DeadLetterQueue, EventBatch, Journal, Lineage, Position, ResumeToken,
    SourceError, SourceErrorKind, SourceInfo, SystemClock, TokenRefusal, WalSource, accepted_gap,
    wall_micros,
};
use cdc_wal::{FileJournal, JournalConfig, Log, StartAt};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use super::control::{self, ControlledLane};
use super::foreign::{Foreign, ForeignConfig};
use super::lanes::{self, Ended, Range, Shared, Started};
use super::start::{Extent, LogView, Start};
use super::state::State;
use super::status::{LaneReading, PipelineStatus};
use super::{dead_letters, source};
use crate::args::require_source;
use crate::config::{Config, Confirm, Source};
use crate::exit::Exit;
use crate::http::{Http, Live, Pulled};
use crate::report::CliError;

/// When a run ends by itself.
#[derive(Clone, Debug, Default)]
pub(crate) enum Until {
    /// Never.
    #[default]
    Stopped,
    /// When everything that was at the source at the start is delivered.
    CaughtUp,
    /// When everything up to this token is delivered.
    Token(ResumeToken),
}

/// What the command line adds to the configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunOptions {
    /// When to end.
    pub(crate) until: Until,
    /// Start even if events are gone at the source.
    pub(crate) accept_gap: bool,
    /// Where an emitter without checkpoint begins.
    pub(crate) from: Start,
}

/// The source side of a pipeline, ready: what the lanes need to open tails.
enum Feed {
    /// A foreign database through the journal.
    Journal { log: Log, capture: CaptureThread },
    /// A native log, read directly.
    Wal(std::path::PathBuf),
}

struct Ready {
    source: Arc<SourceInfo>,
    /// Where emitters without checkpoint begin.
    start: Position,
    stop_at: Option<Position>,
    feed: Feed,
}

/// The thread that captures; it waits for its watermark before it moves anything.
struct CaptureThread {
    go: oneshot::Sender<()>,
    metrics: Arc<CaptureMetrics>,
    trigger: ShutdownTrigger,
    thread: JoinHandle<Result<(), SourceError>>,
}

/// Runs the pipeline until it ends by itself or is told to.
///
/// # Errors
/// The first error of a lane or of the source, with its exit code. Everything else was drained.
pub(crate) fn run(config: &Config, options: &RunOptions) -> Result<Exit, CliError> {
    crate::commands::runtime()?.block_on(begin(config, options))
}

/// Opens everything, listening for signals from the first moment: one that comes before the
/// lanes run has nothing to drain.
async fn begin(config: &Config, options: &RunOptions) -> Result<Exit, CliError> {
    let mut signals = Signals::new()?;
    let source = require_source(config)?.clone();
    let state = State::open(&config.state_path)?;
    let dlq = dead_letters::open_shared(config)?;
    let http = config
        .http
        .as_ref()
        .map(|http| Http::start(http, dlq.clone()))
        .transpose()?;
    let watermark = Watermark::new();
    let (ended, events) = mpsc::unbounded_channel();
    let ready = match &source {
        Source::Postgres(_) | Source::Sqlite(_) => {
            let waits_for_end = !matches!(options.until, Until::Stopped);
            let foreign = source::foreign(config, &source, &state, waits_for_end)?;
            let looked_at = foreign.clone();
            let starting =
                start_capture(config, foreign, options, &state, &watermark, ended.clone());
            let ready = tokio::select! {
                ready = starting => ready?,
                name = signals.next() => {
                    info!(signal = name, "stopped before anything was captured");
                    return Ok(Exit::Done);
                }
            };
            if let ForeignConfig::Postgres(postgres) = &looked_at {
                source::warn_unmatched(config, postgres).await;
            }
            ready
        }
        Source::Wal(dir) => open_wal(dir, options)?,
    };
    refuse_other_source(config, &state, &ready.source.lineage)?;
    for (name, checkpoint) in state.checkpoints.list()? {
        if config.emitter(&name).is_none() {
            warn!(
                emitter = %name,
                position = %checkpoint.position,
                "a checkpoint belongs to no configured emitter: it holds nothing back; an emitter of a new name begins with the oldest event"
            );
        }
    }
    let parts = Parts {
        config,
        source: &source,
        state: &state,
        dlq,
        watermark,
        http,
    };
    supervise(parts, ready, signals, ended, events).await
}

/// A checkpoint of another source would be compared with positions it has nothing to do with.
fn refuse_other_source(config: &Config, state: &State, source: &Lineage) -> Result<(), CliError> {
    for (name, checkpoint) in state.checkpoints.list()? {
        if config.emitter(&name).is_some() && !checkpoint.lineage.same_source(source) {
            return Err(CliError::new(
                Exit::Position,
                format!(
                    "resume emitter {name}: its checkpoint belongs to source {}, this is {source}; use another state_path for another source",
                    checkpoint.lineage
                ),
            ));
        }
    }
    Ok(())
}

/// What a pipeline is made of besides its source.
struct Parts<'a> {
    config: &'a Config,
    source: &'a Source,
    state: &'a State,
    dlq: Arc<Mutex<dyn DeadLetterQueue>>,
    watermark: Watermark,
    http: Option<Http>,
}

fn open_wal(dir: &Path, options: &RunOptions) -> Result<Ready, CliError> {
    let view = LogView::Directory(dir.to_path_buf());
    let extent = view
        .extent()
        .map_err(|error| source::wal_error(dir, error))?;
    let stop_at = stop_position(&options.until, extent.lineage(), extent.end)?;
    Ok(Ready {
        start: view.locate(&options.from)?,
        source: extent.source,
        stop_at,
        feed: Feed::Wal(dir.to_path_buf()),
    })
}

/// The position `--until` or `--once` names.
fn stop_position(
    until: &Until,
    lineage: &Lineage,
    end: Position,
) -> Result<Option<Position>, CliError> {
    match until {
        Until::Stopped => Ok(None),
        Until::CaughtUp => Ok(Some(end)),
        Until::Token(token) if token.lineage().same_source(lineage) => Ok(Some(token.position())),
        Until::Token(token) => {
            let refusal = TokenRefusal::OtherSource {
                token: token.position(),
                token_lineage: *token.lineage(),
                source_lineage: *lineage,
            };
            Err(CliError::from_error(Exit::Position, refusal))
        }
    }
}

/// Connects on the capture thread, opens the journal, and waits there for the lanes to register.
async fn start_capture(
    config: &Config,
    mut foreign: ForeignConfig,
    options: &RunOptions,
    state: &State,
    watermark: &Watermark,
    ended: mpsc::UnboundedSender<Ended>,
) -> Result<Ready, CliError> {
    let mut journal = JournalConfig::new(state.paths.journal());
    journal.retain_bytes = config.retain_bytes;
    journal.retain_bytes_max = config.retain_bytes_max;
    let capture_config = CaptureConfig {
        confirm: match config.confirm {
            Confirm::Delivered => ConfirmPolicy::Delivered,
            Confirm::Journaled => ConfirmPolicy::Journaled,
        },
        ..CaptureConfig::default()
    };
    let stored = state.checkpoints.list()?;
    let names: Vec<_> = config
        .emitters
        .iter()
        .map(|emitter| emitter.name.clone())
        .collect();
    let stored: Vec<_> = stored
        .into_iter()
        .filter(|(name, _)| names.contains(name))
        .collect();
    // Emitters without checkpoint begin at the journal's oldest event and ask nothing of the source.
    let slowest = stored
        .iter()
        .map(|(_, checkpoint)| checkpoint.position)
        .min();
    let captured = stored.first().map(|(_, checkpoint)| checkpoint.lineage);
    foreign.resume(captured, options.accept_gap);
    let (trigger, shutdown) = Shutdown::new();
    let (go, started) = oneshot::channel();
    let (tell, told) = oneshot::channel();
    let metrics = Arc::new(CaptureMetrics::default());
    let (watermark, accept_gap) = (watermark.clone(), options.accept_gap);
    let thread_metrics = metrics.clone();
    let thread = lanes::spawn("capture", move || {
        let run = || -> Result<(), SourceError> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = runtime.map_err(|cause| {
                SourceError::new(
                    SourceErrorKind::Io,
                    "start the runtime of the capture thread",
                )
                .with_cause(cause)
            })?;
            runtime.block_on(async move {
                let opened = open(foreign, journal, slowest, accept_gap).await;
                let (source, journal, server_end) = match opened {
                    Ok(opened) => opened,
                    Err(error) => {
                        // Nobody listens only if the main thread is gone.
                        drop(tell.send(Err(error)));
                        return Ok(());
                    }
                };
                drop(tell.send(Ok((
                    source.source().clone(),
                    journal.log().clone(),
                    server_end,
                ))));
                if started.await.is_err() {
                    return Ok(());
                }
                let mut capture = Capture {
                    source,
                    journal,
                    config: capture_config,
                    watermark,
                    clock: Arc::new(SystemClock::new()),
                    metrics: thread_metrics,
                    shutdown,
                };
                let outcome = capture.run().await;
                // Delivers the last confirmation: without it a short run would leave the slot behind.
                let closed = capture.source.close().await;
                outcome.and(closed)
            })
        };
        let outcome = run();
        drop(ended.send(Ended::Capture));
        outcome
    })?;
    let (source, log, server_end) = match told.await {
        Ok(opened) => opened?,
        Err(_) => {
            return Err(CliError::new(
                Exit::Runtime,
                "start capture: its thread ended before it began",
            ));
        }
    };
    let view = LogView::Open(log.clone());
    let start = match &options.from {
        from @ Start::Time(_) => view.locate(from)?,
        from => {
            let extent = view.extent().map_err(SourceError::from)?;
            // The journal may not have yet what is at the server.
            let end = server_end.max(extent.end);
            let refused = |refusal| CliError::from_error(Exit::Position, refusal);
            Extent { end, ..extent }.position(from).map_err(refused)?
        }
    };
    let stop_at = stop_position(&options.until, &source.lineage, server_end)?;
    let capture = CaptureThread {
        go,
        metrics,
        trigger,
        thread,
    };
    Ok(Ready {
        source,
        start,
        stop_at,
        feed: Feed::Journal { log, capture },
    })
}

/// Connects and opens the journal; checks that nothing is missing between what we have and what
/// the source will send.
async fn open(
    foreign: ForeignConfig,
    mut journal: JournalConfig,
    slowest: Option<Position>,
    accept_gap: bool,
) -> Result<(Foreign, FileJournal, Position), SourceError> {
    let source = foreign.connect(&journal.dir).await?;
    let info = source.source().clone();
    journal.start = source.start();
    let existed = journal.dir.join("control").exists();
    let mut journal = FileJournal::open(journal, &info)?;
    // Every emitter has what is at or below its checkpoint, and the journal has what is at or below
    // its end: together they must reach to where the source begins.
    let held = journal.end().max(slowest.unwrap_or(Position::ZERO));
    if (existed || slowest.is_some()) && held.confirmable() < source.start().confirmable() {
        let what = format!(
            "events after {held} up to {} are gone at the source: it was confirmed further than this state directory knows, as after restoring an old copy of it or using the slot from elsewhere",
            source.start()
        );
        if !accept_gap {
            return Err(SourceError::new(
                SourceErrorKind::Gap,
                format!(
                    "resume capture: {what}; accept the loss with --accept-gap, or begin anew with a new slot and state directory"
                ),
            ));
        }
        error!("gap accepted: {what}");
        // Behind what the journal has, before all that will come: so it is there once.
        let now = wall_micros();
        journal.append(&accepted_gap(info.clone(), held, source.start(), now))?;
    }
    if journal.end() < source.start() {
        journal.append(&EventBatch::heartbeat(info, source.start()))?;
    }
    let end = source.end_at_start();
    Ok((source, journal, end))
}

async fn supervise(
    parts: Parts<'_>,
    ready: Ready,
    mut signals: Signals,
    ended: mpsc::UnboundedSender<Ended>,
    mut events: mpsc::UnboundedReceiver<Ended>,
) -> Result<Exit, CliError> {
    let Parts {
        config,
        source,
        state,
        dlq,
        watermark,
        http,
    } = parts;
    let bounded = ready.stop_at.is_some();
    let log_view = match &ready.feed {
        Feed::Journal { log, .. } => LogView::Open(log.clone()),
        Feed::Wal(dir) => LogView::Directory(dir.clone()),
    };
    let (trigger, shutdown) = Shutdown::new();
    let shared = Shared {
        source: ready.source.clone(),
        checkpoints: state.checkpoints.clone(),
        dlq,
        shutdown,
        ended,
    };
    let mut running = Vec::new();
    let mut stored = Vec::new();
    for emitter in &config.emitters {
        let at = state.checkpoints.load(&emitter.name)?;
        let at = at.map(|checkpoint| checkpoint.position);
        stored.push((emitter.name.as_str(), at));
    }
    let handles = watermark.register_all(stored);
    for (emitter, handle) in config.emitters.iter().zip(handles) {
        let range = Range {
            start: ready.start,
            stop_at: ready.stop_at,
        };
        let started = match &ready.feed {
            Feed::Journal { log, .. } => {
                let log = log.clone();
                let open =
                    move |after| Ok(log.tail(StartAt::After(after), Arc::new(SystemClock::new()))?);
                lanes::start(config, emitter, shared.clone(), handle, range, open)?
            }
            Feed::Wal(dir) => {
                let dir = dir.clone();
                let open = move |after| source::wal_tail(&dir, after);
                lanes::start(config, emitter, shared.clone(), handle, range, open)?
            }
        };
        running.push(started);
    }
    let readings: Vec<LaneReading> = running
        .iter()
        .map(|lane| lane.controlled.reading.clone())
        .collect();
    let (capture_metrics, mut capture) = match ready.feed {
        Feed::Journal { capture, .. } => {
            let CaptureThread {
                go,
                metrics,
                trigger,
                thread,
            } = capture;
            if go.send(()).is_err() {
                return Err(CliError::new(
                    Exit::Runtime,
                    "start capture: its thread has ended",
                ));
            }
            (Some(metrics), Some((trigger, thread)))
        }
        Feed::Wal(_) => (None, None),
    };
    info!(source = %source, emitters = running.len(), "running");
    let controlled: Vec<ControlledLane> =
        running.iter().map(|lane| lane.controlled.clone()).collect();
    let lineage = ready.source.lineage;
    let source_text = source.to_string();
    let address = http.as_ref().map(|http| http.address);
    let status = Arc::new({
        let capture = capture_metrics.clone();
        move || {
            PipelineStatus::running(
                source_text.clone(),
                &lineage,
                capture.as_deref(),
                &readings,
                address,
            )
        }
    });
    if let Some(http) = &http {
        let status = status.clone();
        http.live(Live {
            log: log_view,
            lanes: controlled.clone(),
            pulls: pulled(config, &running),
            capture: capture_metrics,
            status: Box::new(move || status()),
        });
    }
    let listener = control::listen(&state.paths.control());
    let serve = async move {
        match listener {
            Ok(listener) => control::serve(listener, controlled, move || status()).await,
            Err(error) => {
                warn!(error = %error, "no control socket: status and redrive cannot ask this process");
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::pin!(serve);
    let mut alive = running.len();
    let mut failed = None;
    while alive > 0 {
        tokio::select! {
            () = &mut serve => {}
            name = signals.next() => {
                if shared.shutdown.is_asked() {
                    return Err(CliError::new(Exit::Runtime, format!("{name} again: left at once; what was in flight is delivered again at the next start")));
                }
                info!(signal = name, "draining");
                trigger.trigger();
            }
            event = events.recv() => match event {
                Some(Ended::Lane(name)) => {
                    alive -= 1;
                    tracing::debug!(emitter = %name, lanes = alive, "lane thread ended");
                }
                Some(Ended::Capture) => {
                    // Capture ends before the lanes only by an error: what is captured is drained.
                    if let Some((_, thread)) = capture.take() {
                        failed = join(thread).err().map(CliError::from);
                    }
                    trigger.trigger();
                }
                None => break,
            },
        }
    }
    let (mut outcome, mut partly) = (failed, false);
    for Started {
        thread, printer, ..
    } in running
    {
        match thread.join() {
            // Asked to stop before the end that was asked for.
            Ok(Ok(LaneEnd::Drained)) => partly |= bounded,
            Ok(Ok(LaneEnd::Reached | LaneEnd::Finished)) => {}
            Ok(Err(error)) => {
                outcome.get_or_insert(lane_error(error));
            }
            Err(_) => {
                outcome.get_or_insert(CliError::new(
                    Exit::Runtime,
                    "run a lane: its thread panicked",
                ));
            }
        }
        if let Some(Ok(Err(cause))) = printer.map(JoinHandle::join) {
            outcome.get_or_insert(
                CliError::new(Exit::EmitterStopped, "write events to standard output")
                    .with_cause(cause),
            );
        }
    }
    // The lanes have drained: a consumer could acknowledge until here.
    if let Some(http) = http {
        http.stop().await;
    }
    // Capture last: it tells the source what the lanes have just checkpointed.
    if let Some((trigger, thread)) = capture {
        trigger.trigger();
        if let Err(error) = join(thread) {
            outcome.get_or_insert(error.into());
        }
    }
    drop(std::fs::remove_file(state.paths.control()));
    match outcome {
        Some(error) => Err(error),
        None if partly => Ok(Exit::Partly),
        None => Ok(Exit::Done),
    }
}

/// The windows of emitters whose consumers fetch.
fn pulled(config: &Config, running: &[Started]) -> Vec<Pulled> {
    let of = |started: &Started| {
        let name: &str = &started.controlled.reading.name;
        Some(Pulled {
            name: name.to_owned(),
            format: config.emitter(name)?.format,
            handle: started.pull.clone()?,
        })
    };
    running.iter().filter_map(of).collect()
}

fn join(thread: JoinHandle<Result<(), SourceError>>) -> Result<(), SourceError> {
    thread.join().unwrap_or_else(|_| {
        Err(SourceError::new(
            SourceErrorKind::Corrupt,
            "capture: its thread panicked",
        ))
    })
}

/// A lane's error with its exit code.
pub(crate) fn lane_error(error: LaneError) -> CliError {
    let code = match &error {
        LaneError::Source { cause, .. } => Exit::of_source(cause),
        LaneError::Emit { cause, .. } => Exit::of_emitter(cause.kind),
        LaneError::Dlq { cause, .. } => Exit::of_dead_letters(cause),
        LaneError::Checkpoint { cause, .. } => Exit::of_checkpoint(cause),
        LaneError::DeadKey { .. } => Exit::EmitterStopped,
        _ => Exit::Runtime,
    };
    CliError::from_error(code, error)
}

/// Ctrl-c and SIGTERM.
pub(crate) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    pub(crate) fn new() -> Result<Self, CliError> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| {
            signal(kind).map_err(|cause| {
                CliError::new(Exit::Runtime, "listen for signals").with_cause(cause)
            })
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
