//! A lane: one emitter's way from the log to its destination.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::error;

use super::run::Running;
use super::{
    BreakerConfig, LaneCommand, LaneHealth, LaneMetrics, OrderScope, RetryConfig, Shutdown,
    WatermarkHandle,
};
use crate::{
    BatchLimit, BoxEmitter, CheckpointError, CheckpointStore, Clock, DeadLetterQueue, DlqError,
    EmitError, Filter, Lineage, Position, SourceError, Transform, WalSource,
};

/// What happens to later events of a key whose event was dead-lettered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDeadKey {
    /// They go behind it into the dead letter queue; other keys go on. Keeps order per key.
    #[default]
    Park,
    /// They pass: right for consumers that only want the last state.
    Pass,
    /// The lane halts before the failed event, which is not dead-lettered, once what comes before it is
    /// durable. Letters that are there already hold their keys back as with [`Park`](Self::Park).
    Stop,
}

/// Settings of a lane.
#[derive(Clone, Debug)]
pub struct LaneConfig {
    /// The emitter's name: of its checkpoint, dead letters and metrics.
    pub name: Arc<str>,
    /// The history the lane's positions belong to.
    pub lineage: Lineage,
    /// Where to begin if there is no checkpoint: events strictly after this are delivered.
    pub start: Position,
    /// Stop, drained, once everything up to this is done.
    pub stop_at: Option<Position>,
    /// Size of what is read from the log at once.
    pub limit: BatchLimit,
    /// How often the position is stored if it changed; default 200 ms.
    pub checkpoint_interval: Duration,
    /// How long shutdown waits for what is in flight; default 10 s.
    pub shutdown_timeout: Duration,
    /// Requests in flight at once, each on a worker of its own; default 1. Above 1 the emitter must
    /// have [workers](crate::Emitter::worker).
    pub concurrency: usize,
    /// What stays in order with more than one request in flight; default the key.
    pub order: OrderScope,
    /// Most events from the first that is not done to the last that was read; default 65 536. At
    /// the bound the lane reads no further until the destination moves.
    pub window_max: u64,
    /// Most bytes of row images that are read and that no emitter has taken yet; default 16 MiB.
    /// What is read at once may go beyond it.
    pub window_bytes_max: usize,
    /// When to stop asking a destination that is unwell.
    pub breaker: BreakerConfig,
    /// How long to wait for a destination that is unwell.
    pub retry: RetryConfig,
    /// Order behind dead letters.
    pub on_dead_key: OnDeadKey,
    /// Most keys that may wait behind dead letters, with [`OnDeadKey::Park`]; default 65 536. At
    /// the bound the lane blocks before the event, which is not dead-lettered, until letters are
    /// redriven or discarded.
    pub parked_keys_max: usize,
    /// Failures of single events in a row, with no success between them, that mean that the
    /// destination refuses everything; default 10.
    pub culprits_max: u32,
}

impl LaneConfig {
    /// Settings with every default, beginning at `start` if there is no checkpoint.
    pub fn new(name: impl Into<Arc<str>>, lineage: Lineage, start: Position) -> Self {
        Self {
            name: name.into(),
            lineage,
            start,
            stop_at: None,
            limit: BatchLimit::default(),
            checkpoint_interval: Duration::from_millis(200),
            shutdown_timeout: Duration::from_secs(10),
            concurrency: 1,
            order: OrderScope::default(),
            window_max: 65_536,
            window_bytes_max: 16 << 20,
            breaker: BreakerConfig::default(),
            retry: RetryConfig::default(),
            on_dead_key: OnDeadKey::default(),
            parked_keys_max: 65_536,
            culprits_max: 10,
        }
    }
}

/// How a lane ended without error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneEnd {
    /// Shutdown was asked for; what was in flight is checkpointed as far as it became durable.
    Drained,
    /// Everything up to `stop_at` is done and checkpointed.
    Reached,
    /// The log will never give more; everything in it is done and checkpointed.
    Finished,
}

/// Why a lane halted. Its checkpoint stands before everything that is not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaneError {
    /// The log could not be read.
    #[error("read the log for emitter {emitter}")]
    Source {
        /// The emitter.
        emitter: Arc<str>,
        /// Why.
        #[source]
        cause: SourceError,
    },
    /// The emitter is broken, or its destination disabled it.
    #[error("deliver to emitter {emitter}")]
    Emit {
        /// The emitter.
        emitter: Arc<str>,
        /// Why.
        #[source]
        cause: EmitError,
    },
    /// A dead letter could not be stored, for another reason than lack of room.
    #[error("store dead letters of emitter {emitter}")]
    Dlq {
        /// The emitter.
        emitter: Arc<str>,
        /// Why.
        #[source]
        cause: DlqError,
    },
    /// A checkpoint could not be stored.
    #[error("store the checkpoint of emitter {emitter}")]
    Checkpoint {
        /// The emitter.
        emitter: Arc<str>,
        /// Why.
        #[source]
        cause: CheckpointError,
    },
    /// The dead letter queue has letters of the emitter that belong to another history: it outlived the state
    /// they were of. Positions say which letters wait for which events, so nothing can be told of these.
    #[error(
        "start emitter {emitter}: open dead letters such as {event} belong to {found}, this is {lineage}, whose positions they say nothing of; \
         redrive or discard them first (`dlq redrive`, `dlq discard`), or take another dlq_path"
    )]
    OtherHistory {
        /// The emitter.
        emitter: Arc<str>,
        /// The id of the first such letter's event.
        event: String,
        /// The history it belongs to.
        found: Lineage,
        /// The lane's.
        lineage: Lineage,
    },
    /// More than one request at a time is asked for, and that is not to be had.
    #[error("start emitter {emitter} with concurrency {asked}: {reason}; set concurrency = 1")]
    Concurrency {
        /// The emitter.
        emitter: Arc<str>,
        /// What was asked for.
        asked: usize,
        /// Why not.
        reason: &'static str,
    },
    /// An event failed and the lane is configured to stop then.
    #[error(
        "deliver event {event} of emitter {emitter}: {reason}; on_dead_key is \"stop\", so the lane halts before it"
    )]
    DeadKey {
        /// The emitter.
        emitter: Arc<str>,
        /// The event's id.
        event: String,
        /// Why it failed.
        reason: String,
    },
}

/// One emitter's way from the log to its destination: tail, filter, transform, deliver,
/// dead-letter, checkpoint.
///
/// With [`LaneConfig::concurrency`] 1, one request is in flight at a time and order holds over all
/// events of the lane. Above, events are spread over as many workers, each with one request in
/// flight, so that a slow or poisoned key holds up its own worker alone; order holds within
/// [`LaneConfig::order`]. The checkpoint is the end of the contiguous prefix that is done.
pub struct Lane<O> {
    /// Settings.
    pub config: LaneConfig,
    /// Opens the log strictly behind a position; called again after the emitter lost something.
    pub open: O,
    /// What to keep.
    pub filter: Box<dyn Filter>,
    /// What to change, in order.
    pub transforms: Vec<Box<dyn Transform>>,
    /// Where to.
    pub emitter: BoxEmitter,
    /// Where failed events go.
    pub dlq: Arc<Mutex<dyn DeadLetterQueue>>,
    /// Where the position is kept.
    pub checkpoints: Arc<dyn CheckpointStore>,
    /// This lane's entry in the minimum.
    pub watermark: WatermarkHandle,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Counters.
    pub metrics: Arc<LaneMetrics>,
    /// Orders of an operator.
    pub control: mpsc::Receiver<LaneCommand>,
    /// When to stop.
    pub shutdown: Shutdown,
}

impl<O> fmt::Debug for Lane<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl<O, S> Lane<O>
where
    O: FnMut(Position) -> Result<S, SourceError> + Send,
    S: WalSource,
{
    /// Runs until shutdown, the end of the log, `stop_at`, or an error that only a person can mend.
    ///
    /// # Errors
    /// [`LaneError`]. Nothing is lost: the next run begins at the checkpoint.
    ///
    /// # Cancel safety
    /// Dropping the future is like a crash: the next run repeats at most what was not checkpointed.
    pub async fn run(self) -> Result<LaneEnd, LaneError> {
        let metrics = self.metrics.clone();
        let name = self.config.name.clone();
        let (mut running, mut open) = Running::new(self);
        let end = running.run(&mut open).await;
        let reason = match &end {
            Ok(_) => None,
            Err(error) => {
                let cause = std::error::Error::source(error).map(ToString::to_string);
                error!(emitter = %name, error = %error, cause, "lane halted");
                Some(cause.unwrap_or_else(|| error.to_string()))
            }
        };
        let breaker = metrics.counts().breaker;
        metrics.set_health(LaneHealth::Stopped { reason }, breaker);
        end
    }
}
