//! The capture thread: from a database into the journal, and what happens while the database is
//! away.
//!
//! A database that cannot be reached at the start does not keep what the journal holds from being
//! delivered: lanes run, and the thread connects with backoff. What waiting cannot mend (a wrong
//! password, a gap, a slot in use) ends the run with its name, after what is captured is drained.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use cdc_core::pipeline::{
    Backoff, Capture, CaptureConfig, CaptureMetrics, ConfirmPolicy, Shutdown, ShutdownTrigger,
    Watermark,
};
use cdc_core::{
    CheckpointStore as _, EventBatch, Journal as _, Lineage, Position, SourceError,
    SourceErrorKind, SourceInfo, SystemClock, WalSource as _, accepted_gap, wall_micros,
};
use cdc_wal::{FileJournal, JournalConfig, Log};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use super::foreign::{Foreign, ForeignConfig};
use super::lanes::{self, Ended, Tell};
use super::link::SourceLink;
use super::record::{Record, holds_journal};
use super::start::LogView;
use super::state::State;
use crate::config::{Config, Confirm};
use crate::exit::Exit;
use crate::report::CliError;

/// Longest first wait between attempts to reach a database that was away at the start; it doubles.
const RECONNECT_BASE: Duration = Duration::from_millis(200);
/// Longest wait between them.
const RECONNECT_MAX: Duration = Duration::from_secs(30);

/// The thread that captures; it waits for its watermark before it moves anything.
pub(crate) struct CaptureThread {
    pub(crate) go: oneshot::Sender<()>,
    pub(crate) metrics: Arc<CaptureMetrics>,
    pub(crate) link: Arc<SourceLink>,
    pub(crate) trigger: ShutdownTrigger,
    pub(crate) thread: JoinHandle<Result<(), SourceError>>,
}

/// What the lanes need to know of the source.
pub(crate) struct Opened {
    pub(crate) source: Arc<SourceInfo>,
    pub(crate) log: Log,
    /// Where what is committed at the source ended; `None` if it was not reached.
    pub(crate) server_end: Option<Position>,
}

/// What the thread works with.
struct Job {
    foreign: ForeignConfig,
    journal: JournalConfig,
    /// The lowest checkpoint.
    slowest: Option<Position>,
    /// The highest one.
    furthest: Option<Position>,
    accept_gap: bool,
    /// Why the source was not reached at the start.
    away: Option<SourceError>,
    /// What is at the source now was asked for, not only what the journal holds.
    catch_up: bool,
    capture: CaptureConfig,
    watermark: Watermark,
    metrics: Arc<CaptureMetrics>,
    link: Arc<SourceLink>,
    shutdown: Shutdown,
}

/// Settings of the journal in a state directory.
pub(crate) fn journal_config(config: &Config, dir: &Path) -> JournalConfig {
    let mut journal = JournalConfig::new(dir);
    journal.retain_bytes = config.retain_bytes;
    journal.retain_bytes_max = config.retain_bytes_max;
    journal.retain_age = config.retain_age;
    journal
}

/// Connects on the capture thread, opens the journal, and waits there for the lanes to register.
/// Without a connection, the journal alone is enough, if there is one.
///
/// # Errors
/// The source's or the journal's.
pub(crate) async fn start(
    config: &Config,
    mut foreign: ForeignConfig,
    (accept_gap, catch_up): (bool, bool),
    state: &State,
    watermark: &Watermark,
    ended: mpsc::UnboundedSender<Ended>,
) -> Result<(Opened, CaptureThread), CliError> {
    let stored = state.checkpoints.list()?;
    let stored: Vec<_> = stored
        .into_iter()
        .filter(|(name, _)| config.emitter(name).is_some())
        .collect();
    // Emitters without checkpoint begin at the journal's oldest event and ask nothing of the source.
    let slowest = stored
        .iter()
        .map(|(_, checkpoint)| checkpoint.position)
        .min();
    let furthest = stored
        .iter()
        .map(|(_, checkpoint)| checkpoint.position)
        .max();
    let captured = match stored.first() {
        Some((_, checkpoint)) => Some(checkpoint.lineage),
        // The emitters are all new; what is there belongs to its source all the same.
        None => journal_lineage(&state.paths.journal())?,
    };
    foreign.resume(captured, accept_gap);
    let mut journal = journal_config(config, &state.paths.journal());
    journal.lanes = stored
        .iter()
        .map(|(name, checkpoint)| (name.clone(), checkpoint.position))
        .collect();
    let (trigger, shutdown) = Shutdown::new();
    let (go, started) = oneshot::channel();
    let (tell, told) = oneshot::channel();
    let job = Job {
        foreign,
        journal,
        slowest,
        furthest,
        accept_gap,
        away: None,
        catch_up,
        capture: CaptureConfig {
            confirm: match config.confirm {
                Confirm::Delivered => ConfirmPolicy::Delivered,
                Confirm::Journaled => ConfirmPolicy::Journaled,
            },
            ..CaptureConfig::default()
        },
        watermark: watermark.clone(),
        metrics: Arc::new(CaptureMetrics::default()),
        link: Arc::new(SourceLink::default()),
        shutdown,
    };
    let (metrics, link) = (job.metrics.clone(), job.link.clone());
    let tell_end = Tell::new(Ended::Capture, ended);
    let thread = lanes::spawn("capture", move || {
        // Also when it panics.
        let _tell_end = tell_end;
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
            runtime.block_on(job.run(tell, started))
        };
        run()
    })?;
    let opened = match told.await {
        Ok(opened) => opened?,
        Err(_) => {
            return Err(CliError::new(
                Exit::Runtime,
                "start capture: its thread ended before it began",
            ));
        }
    };
    let thread = CaptureThread {
        go,
        metrics,
        link,
        trigger,
        thread,
    };
    Ok((opened, thread))
}

/// The history the journal is of, if there is one.
fn journal_lineage(dir: &Path) -> Result<Option<Lineage>, SourceError> {
    if !holds_journal(dir)? {
        return Ok(None);
    }
    let extent = LogView::Directory(dir.to_owned()).extent()?;
    Ok(Some(extent.source.lineage))
}

impl Job {
    async fn run(
        mut self,
        tell: oneshot::Sender<Result<Opened, SourceError>>,
        started: oneshot::Receiver<()>,
    ) -> Result<(), SourceError> {
        let (source, journal) = match self.open().await {
            Ok(opened) => opened,
            Err(error) => {
                // Nobody listens only if the main thread is gone.
                drop(tell.send(Err(error)));
                return Ok(());
            }
        };
        let opened = Opened {
            source: journal.log().source().clone(),
            log: journal.log().clone(),
            // What stands in the journal already, such as word of an accepted gap, is before the end.
            server_end: source
                .as_ref()
                .map(|source| source.end_at_start().max(journal.end())),
        };
        drop(tell.send(Ok(opened)));
        if started.await.is_err() {
            return Ok(());
        }
        let mut journal = journal;
        let source = match source {
            Some(source) => source,
            None => match self.reach(&mut journal).await? {
                Some(source) => source,
                None => return Ok(()),
            },
        };
        self.link.reached(source.is_up());
        let mut capture = Capture {
            source,
            journal,
            config: self.capture,
            watermark: self.watermark,
            clock: Arc::new(SystemClock::new()),
            metrics: self.metrics,
            shutdown: self.shutdown,
        };
        let outcome = capture.run().await;
        // Delivers the last confirmation: without it a short run would leave the slot behind.
        let closed = capture.source.close().await;
        outcome.and(closed)
    }

    /// Connects and opens the journal; only the journal, if there is one and the source is away.
    async fn open(&mut self) -> Result<(Option<Foreign>, FileJournal), SourceError> {
        let existed = holds_journal(&self.journal.dir)?;
        match self
            .foreign
            .clone()
            .connect(Record::of(&self.journal, self.furthest)?)
            .await
        {
            Ok(source) => {
                self.link.reached(source.is_up());
                let info = source.source().clone();
                self.journal.start = source.start();
                let mut journal = FileJournal::open(self.journal.clone(), &info)?;
                self.fit(&source, &mut journal, existed)?;
                Ok((Some(source), journal))
            }
            Err(error) if existed && self.foreign.may_come_back(&error).await => {
                let held = LogView::Directory(self.journal.dir.clone()).extent()?;
                let journal = FileJournal::open(self.journal.clone(), &held.source)?;
                warn!(
                    error = %error,
                    journal_ends_at = %journal.end(),
                    "the source cannot be reached: delivering what the journal holds, connecting meanwhile"
                );
                self.link.failed(error.to_string());
                self.away = Some(error);
                Ok((None, journal))
            }
            Err(error) => Err(error),
        }
    }

    /// Connects, for as long as it takes; `None` when told to end. Nothing was captured meanwhile,
    /// so the journal is what it was.
    async fn reach(&mut self, journal: &mut FileJournal) -> Result<Option<Foreign>, SourceError> {
        let seed = wall_micros().unsigned_abs() ^ u64::from(std::process::id()) << 40;
        let mut backoff = Backoff::new(RECONNECT_BASE, RECONNECT_MAX, seed);
        let mut last = self.away.take();
        for failures in 0u32.. {
            let wait = backoff.next_wait(Duration::ZERO);
            tokio::select! {
                biased;
                () = self.shutdown.asked() => break,
                () = tokio::time::sleep(wait) => {}
            }
            let record = Record::of(&self.journal, self.furthest)?;
            let connecting = self.foreign.clone().connect(record);
            let connected = tokio::select! {
                biased;
                () = self.shutdown.asked() => break,
                connected = connecting => connected,
            };
            match connected {
                Ok(source) => {
                    let (now, held) = (source.source().lineage, journal.log().source().lineage);
                    if now != held {
                        return Err(SourceError::new(
                            SourceErrorKind::Transient,
                            format!(
                                "resume capture: the source came back as {now}, the journal holds changes of {held}; start again and let the position be checked"
                            ),
                        ));
                    }
                    self.fit(&source, journal, true)?;
                    info!(attempts = failures + 1, "the source is reached");
                    return Ok(Some(source));
                }
                Err(error) if self.foreign.may_come_back(&error).await => {
                    warn!(error = %error, attempts = failures + 1, "the source cannot be reached");
                    self.link.failed(error.to_string());
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        if !self.catch_up {
            return Ok(None);
        }
        let what = SourceError::new(
            SourceErrorKind::Unreachable,
            format!(
                "reach the source: what the journal holds, up to {}, is delivered; what was committed since is not",
                journal.end()
            ),
        );
        Err(match last {
            Some(cause) => what.with_cause(cause),
            None => what,
        })
    }

    /// Checks that nothing is missing between what we have and what the source will send.
    fn fit(
        &self,
        source: &Foreign,
        journal: &mut FileJournal,
        existed: bool,
    ) -> Result<(), SourceError> {
        let info = source.source().clone();
        // Every emitter has what is at or below its checkpoint, and the journal has what is at or
        // below its end: together they must reach to where the source begins.
        let held = journal.end().max(self.slowest.unwrap_or(Position::ZERO));
        if (existed || self.slowest.is_some()) && held.confirmable() < source.start().confirmable()
        {
            let what = format!(
                "events after {held} up to {} are gone at the source: {}",
                source.start(),
                source.why_gone()
            );
            if !self.accept_gap {
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
        Ok(())
    }
}
