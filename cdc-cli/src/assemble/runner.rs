//! A running pipeline: capture on one thread, each lane on its own, signals and control on the main
//! one.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use cdc_core::pipeline::{LaneEnd, LaneError, Shutdown, Watermark};
use cdc_core::{
    CheckpointStore, Lineage, Position, ResumeToken, SourceError, SourceErrorKind, SourceInfo,
    SystemClock, TokenRefusal,
};
use cdc_dlq::FileDlq;
use cdc_wal::Log;
use cdc_wal::lane::LaneTails;
use cdc_wal::postgres::PostgresConfig;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::capture::{self, CaptureThread, Opened};
use super::control::{self, ControlledLane};
use super::foreign::ForeignConfig;
use super::lanes::{self, Ended, Range, Shared, Started};
use super::rate::{self, Rates};
use super::start::{Extent, LocateError, LogView, Start};
use super::state::State;
use super::status::{Capturing, LaneReading, PipelineStatus, StatusSources};
use super::{dead_letters, source};
use crate::args::require_source;
use crate::config::{Config, Source};
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

impl Ready {
    /// True unless there is a database and it cannot be reached.
    fn is_connected(&self) -> bool {
        match &self.feed {
            Feed::Journal { capture, .. } => capture.link.read().connected,
            Feed::Wal(_) => true,
        }
    }
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
        Source::Postgres(_) | Source::Sqlite(_) | Source::RocksDb(_) => {
            let waits_for_end = !matches!(options.until, Until::Stopped);
            let foreign = source::foreign(config, &source, &state, waits_for_end)?;
            let looked_at = foreign.clone();
            let starting =
                start_capture(config, foreign, options, &state, &watermark, ended.clone());
            let ready = tokio::select! {
                ready = starting => ready?,
                name = signals.next() => {
                    info!(signal = name, "stopped before anything was captured");
                    // Of what a bound run was to deliver, nothing is.
                    return Ok(if waits_for_end { Exit::Partly } else { Exit::Done });
                }
            };
            if let ForeignConfig::Postgres(postgres) = &looked_at
                && ready.is_connected()
            {
                source::warn_unmatched(config, postgres).await;
            }
            ready
        }
        Source::Wal(dir) => open_wal(dir, options, all_begun(config, &state)?)?,
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
    dlq: Arc<Mutex<FileDlq>>,
    watermark: Watermark,
    http: Option<Http>,
}

/// True if every emitter goes on from a checkpoint, so that `--from` is nobody's.
fn all_begun(config: &Config, state: &State) -> Result<bool, CliError> {
    for emitter in &config.emitters {
        if state.checkpoints.load(&emitter.name)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Where emitters without a checkpoint begin. What is no longer retained is refused, unless nobody begins
/// there: the command that once started a pipeline may stay in its unit file.
fn start_position(
    located: Result<Position, LocateError>,
    extent: &Extent,
    all_begun: bool,
) -> Result<Position, CliError> {
    match located {
        Err(LocateError::Refused(TokenRefusal::Expired { .. })) if all_begun => Ok(extent.oldest),
        located => Ok(located?),
    }
}

fn open_wal(dir: &Path, options: &RunOptions, all_begun: bool) -> Result<Ready, CliError> {
    let view = LogView::Directory(dir.to_path_buf());
    let extent = view
        .extent()
        .map_err(|error| source::wal_error(dir, error))?;
    let stop_at = stop_position(&options.until, extent.lineage(), extent.end)?;
    Ok(Ready {
        start: start_position(view.locate(&options.from), &extent, all_begun)?,
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
        Until::Token(token) => Err(of_another(token, lineage)),
    }
}

/// A token of another source is refused before a slot is made at this one, which nobody would miss. A server
/// that cannot be asked is for the start to report.
async fn refuse_foreign_tokens(
    postgres: &PostgresConfig,
    options: &RunOptions,
) -> Result<(), CliError> {
    let from = match &options.from {
        Start::Token(token) => Some(token),
        _ => None,
    };
    let until = match &options.until {
        Until::Token(token) => Some(token),
        _ => None,
    };
    let mut tokens = from.into_iter().chain(until).peekable();
    if tokens.peek().is_none() {
        return Ok(());
    }
    let Ok(found) = cdc_wal::postgres::look(postgres).await else {
        return Ok(());
    };
    match tokens.find(|token| !token.lineage().same_source(&found.lineage)) {
        None => Ok(()),
        Some(token) => Err(of_another(token, &found.lineage)),
    }
}

fn of_another(token: &ResumeToken, source: &Lineage) -> CliError {
    let refusal = TokenRefusal::OtherSource {
        token: token.position(),
        token_lineage: *token.lineage(),
        source_lineage: *source,
    };
    CliError::from_error(Exit::Position, refusal)
}

/// Starts capture, and says where lanes begin and end.
async fn start_capture(
    config: &Config,
    foreign: ForeignConfig,
    options: &RunOptions,
    state: &State,
    watermark: &Watermark,
    ended: mpsc::UnboundedSender<Ended>,
) -> Result<Ready, CliError> {
    if let ForeignConfig::Postgres(postgres) = &foreign {
        refuse_foreign_tokens(postgres, options).await?;
    }
    let catch_up = matches!(options.until, Until::CaughtUp);
    let asked = (options.accept_gap, catch_up);
    let (opened, capture) = capture::start(config, foreign, asked, state, watermark, ended).await?;
    let Opened {
        source,
        log,
        server_end,
    } = opened;
    let view = LogView::Open(log.clone());
    let extent = view.extent().map_err(SourceError::from)?;
    // The journal may not have yet what is at the server. Without the server it is all there is.
    let end = server_end.unwrap_or(extent.end);
    let located = match &options.from {
        from @ Start::Time(_) => view.locate(from),
        from => {
            let end = end.max(extent.end);
            let extent = Extent {
                end,
                ..extent.clone()
            };
            extent.position(from).map_err(LocateError::Refused)
        }
    };
    let start = start_position(located, &extent, all_begun(config, state)?)?;
    let stop_at = stop_position(&options.until, &source.lineage, end)?;
    Ok(Ready {
        source,
        start,
        stop_at,
        feed: Feed::Journal { log, capture },
    })
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
    let letters = dlq.clone();
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
    if let Feed::Journal { log, .. } = &ready.feed {
        let lanes = stored.iter();
        let lanes = lanes.map(|&(name, at)| (name, at.unwrap_or(ready.start)));
        LaneTails::new(log.clone())
            .hold(lanes)
            .map_err(SourceError::from)?;
    }
    let handles = watermark.register_all(stored);
    for (emitter, handle) in config.emitters.iter().zip(handles) {
        let range = Range {
            start: ready.start,
            stop_at: ready.stop_at,
        };
        let started = match &ready.feed {
            Feed::Journal { log, .. } => {
                let (tails, name) = (LaneTails::new(log.clone()), emitter.name.clone());
                let open =
                    move |after| Ok(tails.open(&name, after, Arc::new(SystemClock::new()))?);
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
    let (capturing, mut capture) = match ready.feed {
        Feed::Journal { capture, .. } => {
            let CaptureThread {
                go,
                metrics,
                link,
                trigger,
                thread,
            } = capture;
            if go.send(()).is_err() {
                return Err(CliError::new(
                    Exit::Runtime,
                    "start capture: its thread has ended",
                ));
            }
            (Some(Capturing { metrics, link }), Some((trigger, thread)))
        }
        Feed::Wal(_) => (None, None),
    };
    info!(source = %source, emitters = running.len(), "running");
    let controlled: Vec<ControlledLane> =
        running.iter().map(|lane| lane.controlled.clone()).collect();
    let rates = Arc::new(Rates::default());
    let sources = StatusSources {
        source: source.to_string(),
        lineage: ready.source.lineage,
        capture: capturing.clone(),
        lanes: readings.clone(),
        http: http.as_ref().map(|http| http.address),
        log: log_view.clone(),
        rates: rates.clone(),
        dlq: letters.clone(),
    };
    let status = Arc::new(move || PipelineStatus::running(&sources));
    if let Some(http) = &http {
        let status = status.clone();
        http.live(Live {
            log: log_view,
            lanes: controlled.clone(),
            pulls: pulled(config, &running),
            capture: capturing,
            status: Box::new(move || status()),
        });
    }
    let listener = control::listen(&state.paths.control());
    let serve = async move {
        match listener {
            Ok(listener) => control::serve(listener, controlled, letters, move || status()).await,
            Err(error) => {
                warn!(error = %error, "no control socket: status and redrive cannot ask this process");
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::pin!(serve);
    let mut looks = tokio::time::interval(rate::INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut alive = running.len();
    let mut failed = None;
    while alive > 0 {
        tokio::select! {
            () = &mut serve => {}
            _ = looks.tick() => {
                let delivered = readings.iter().map(|lane| lane.metrics.counts().delivered);
                rates.look(Instant::now(), delivered.collect());
            }
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
        let emitter = config.emitter(name)?;
        Some(Pulled {
            name: name.to_owned(),
            format: emitter.format,
            style: emitter.style,
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
        LaneError::OtherHistory { .. } => Exit::Position,
        LaneError::DeadKey { .. } => Exit::EmitterStopped,
        _ => Exit::Runtime,
    };
    CliError::from_error(code, error)
}

/// Ctrl-c, SIGTERM, and SIGHUP, as when a terminal is closed, unless whoever started this had it ignored
/// (`nohup`). A file that reaches the process's limit is an error of the write, not the
/// end of the process.
pub(crate) struct Signals {
    _file_size: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: Option<tokio::signal::unix::Signal>,
}

/// True if SIGHUP is known to be heard: listening would undo that it is ignored.
fn hears_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 == 0)
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
            _file_size: listen(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?,
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: match hears_hangup() {
                true => Some(listen(SignalKind::hangup())?),
                false => None,
            },
        })
    }

    pub(crate) async fn next(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = hangup => "SIGHUP",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cdc_core::{Lsn, testing};

    /// `run --from TOKEN` in a unit file: one day the token is older than what is retained.
    #[test]
    fn a_start_that_nobody_needs_keeps_nobody_from_starting() {
        let at = |commit| Position::end_of(Lsn(commit));
        let extent = Extent {
            source: testing::source(),
            oldest: at(50),
            end: at(100),
        };
        let start = |from: Start, all_begun| {
            let located = extent.position(&from).map_err(LocateError::Refused);
            start_position(located, &extent, all_begun)
        };
        let old = || Start::Token(extent.token(at(10)));
        assert_eq!(start(old(), true).unwrap(), at(50));
        assert_eq!(start(old(), false).unwrap_err().code(), Exit::Position);
        // What was never there is a mistake all the same.
        let ahead = || Start::Token(extent.token(at(200)));
        assert_eq!(start(ahead(), true).unwrap_err().code(), Exit::Position);
        assert_eq!(start(Start::Latest, true).unwrap(), at(100));
    }
}
