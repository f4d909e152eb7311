//! A redrive while no pipeline runs: a lane without a log, only for the letters.

use std::sync::{Arc, Mutex};

use cdc_core::pipeline::{RedriveRequest, Shutdown, Watermark};
use cdc_core::{
    BatchLimit, CheckpointStore, DeadLetterQueue, EventBatch, EventId, Position, SourceError,
    SourceInfo, WalSource,
};
use tokio::sync::mpsc;

use super::control::Redriven;
use super::lanes::{self, Range, Shared};
use super::state::State;
use super::{dead_letters, runner};
use crate::commands;
use crate::config::Config;
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

/// Sends letters of one emitter again, holding the locks of state and dead letters.
///
/// # Errors
/// Exit code 3 if the emitter is not configured, 7 if a pipeline holds the locks, the lane's
/// otherwise.
pub(crate) fn offline(
    config: &Config,
    name: &str,
    ids: Vec<EventId>,
    as_was: bool,
) -> Result<Redriven, CliError> {
    let emitter = config.emitter(name).ok_or_else(|| {
        CliError::new(
            Exit::Configuration,
            format!("redrive the letters of emitter {name}: the configuration has no emitter of this name"),
        )
    })?;
    let state = State::open(&config.state_path)?;
    let mut dlq = dead_letters::open(config)?;
    let Some(letter) = dlq.open_letters(name, None, 1)?.into_iter().next() else {
        return Ok(Redriven::default());
    };
    let stored = state.checkpoints.load(name)?;
    let mut source = SourceInfo::clone(&letter.source);
    if let Some(stored) = &stored {
        source.lineage = stored.lineage;
    }
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
    let control = lane.controlled.control.clone();
    let report = commands::block_on(control.redrive(RedriveRequest { ids, as_was }))?;
    trigger.trigger();
    let end = lane.thread.join();
    drop(state);
    match (report, end) {
        (_, Ok(Err(error))) => Err(runner::lane_error(error)),
        (Some(report), _) => Ok(report.into()),
        (None, _) => Err(CliError::new(
            Exit::Runtime,
            "redrive: the lane ended before it began",
        )),
    }
}
