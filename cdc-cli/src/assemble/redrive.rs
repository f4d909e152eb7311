//! A redrive while no pipeline runs: a lane without a log, only for the letters.

use std::sync::{Arc, Mutex};

use cdc_core::pipeline::{RedriveRequest, Shutdown, ShutdownTrigger, Watermark};
use cdc_core::{
    BatchLimit, CheckpointStore, DeadLetterQueue, EventBatch, EventId, Position, SourceError,
    SourceInfo, WalSource,
};
use tokio::sync::mpsc;

use super::control::Redriven;
use super::lanes::{self, Range, Shared, Started};
use super::state::State;
use super::{dead_letters, runner};
use crate::commands;
use crate::config::{Config, Destination};
use crate::exit::Exit;
use crate::report::CliError;

/// A log that never gives anything.
#[derive(Debug)]
struct Silence(Arc<SourceInfo>);

impl WalSource for Silence {
    fn source(&self) -> &Arc<SourceInfo> {
        &self.0
    }

    async fn next_batch(&mut self, _: BatchLimit) -> Result<Option<EventBatch>, SourceError> {
        std::future::pending().await
    }

    async fn confirm(&mut self, _: Position) -> Result<(), SourceError> {
        Ok(())
    }
}

/// A lane that only sends letters, holding the locks of state and dead letters.
pub(crate) struct Offline {
    /// `None` once the emitter has no letters.
    lane: Option<(Started, ShutdownTrigger)>,
    _state: State,
}

impl Offline {
    /// Starts it for one emitter.
    ///
    /// # Errors
    /// Exit code 3 if the emitter is not configured, 2 if only its pipeline can do it, 7 if a
    /// pipeline holds the locks.
    pub(crate) fn open(config: &Config, name: &str) -> Result<Self, CliError> {
        let emitter = config.emitter(name).ok_or_else(|| {
            CliError::new(
                Exit::Configuration,
                format!("redrive the letters of emitter {name}: the configuration has no emitter of this name"),
            )
        })?;
        if let Destination::Pull(_) = emitter.destination {
            return Err(CliError::new(
                Exit::Usage,
                format!(
                    "redrive the letters of emitter {name}: its consumers fetch; start the pipeline first"
                ),
            ));
        }
        let state = State::open(&config.state_path)?;
        let mut dlq = dead_letters::open(config)?;
        let Some(letter) = dlq.open_letters(name, None, 1)?.into_iter().next() else {
            return Ok(Self {
                lane: None,
                _state: state,
            });
        };
        let Some(stored) = state.checkpoints.load(name)? else {
            // The lane would store one that nobody chose, before everything its log has.
            return Err(CliError::new(
                Exit::Usage,
                format!(
                    "redrive the letters of emitter {name}: it has no position yet, and a letter goes out once what comes before it is done; start the pipeline first"
                ),
            ));
        };
        let mut source = SourceInfo::clone(&letter.source);
        source.lineage = stored.lineage;
        let source = Arc::new(source);
        let (trigger, shutdown) = Shutdown::new();
        let (ended, _nobody) = mpsc::unbounded_channel();
        let shared = Shared {
            source: source.clone(),
            checkpoints: state.checkpoints.clone(),
            dlq: Arc::new(Mutex::new(dlq)),
            shutdown,
            ended,
        };
        let handle = Watermark::new().register(name, None);
        let range = Range {
            start: Position::ZERO,
            stop_at: None,
        };
        let open = move |_: Position| Ok(Silence(source.clone()));
        let lane = lanes::start(config, emitter, shared, handle, range, open)?;
        Ok(Self {
            lane: Some((lane, trigger)),
            _state: state,
        })
    }

    /// Sends these letters, all that are open if there are none of them.
    ///
    /// # Errors
    /// The lane's.
    pub(crate) fn redrive(&mut self, ids: &[EventId], as_was: bool) -> Result<Redriven, CliError> {
        let Some((lane, _)) = &self.lane else {
            return Ok(Redriven::default());
        };
        let control = lane.controlled.control.clone();
        let ids = ids.to_vec();
        match commands::block_on(control.redrive(RedriveRequest { ids, as_was }))? {
            Some(report) => Ok(report.into()),
            // It ended: the reason is its own.
            None => Err(self.end().err().unwrap_or_else(|| {
                CliError::new(Exit::Runtime, "redrive: the lane ended before it began")
            })),
        }
    }

    /// Ends the lane.
    ///
    /// # Errors
    /// The lane's.
    pub(crate) fn finish(mut self) -> Result<(), CliError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), CliError> {
        let Some((lane, trigger)) = self.lane.take() else {
            return Ok(());
        };
        trigger.trigger();
        let ended = lane.thread.join();
        // What a queue has taken is on standard output when its printer has ended.
        if let Some(Ok(Err(cause))) = lane.printer.map(std::thread::JoinHandle::join) {
            return Err(
                CliError::new(Exit::EmitterStopped, "write events to standard output")
                    .with_cause(cause),
            );
        }
        match ended {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(runner::lane_error(error)),
            Err(_) => Err(CliError::new(
                Exit::Runtime,
                "redrive: the lane's thread panicked",
            )),
        }
    }
}

impl Drop for Offline {
    fn drop(&mut self) {
        // Only after an error, which is what is said.
        drop(self.end());
    }
}
