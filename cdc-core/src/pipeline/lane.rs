//! A lane: one emitter's way from the log to its destination.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::deliver::Delivered;
use super::parked::ParkedKeys;
use super::progress::Progress;
use super::{
    Backoff, LaneCommand, LaneHealth, LaneMetrics, RetryConfig, Shutdown, WatermarkHandle,
};
use crate::{
    BatchLimit, BoxEmitter, Checkpoint, CheckpointError, CheckpointStore, Clock, DeadLetterQueue,
    DlqError, DurableMark, EmitError, Emitter, EventBatch, FailureAction, Filter, Lineage,
    Position, SourceError, Transform, WalSource, failure_action,
};

/// What happens to later events of a key whose event was dead-lettered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDeadKey {
    /// They go behind it into the dead letter queue; other keys go on. Keeps order per key.
    #[default]
    Park,
    /// They pass: right for consumers that only want the last state.
    Pass,
    /// The lane halts before the failed event, which is not dead-lettered.
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
    /// Most events taken by the emitter and not yet durable; default 65 536. At the bound the
    /// lane waits for the destination.
    pub window_max: u64,
    /// How long to wait for a destination that is unwell.
    pub retry: RetryConfig,
    /// Order behind dead letters.
    pub on_dead_key: OnDeadKey,
    /// Most keys that may wait behind dead letters, with [`OnDeadKey::Park`]; default 65 536. At
    /// the bound the lane halts before the event, which is not dead-lettered.
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
            window_max: 65_536,
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
    /// A dead letter could not be stored.
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
/// One batch is in flight at a time, so order holds over all events of the lane.
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
        let mut open = self.open;
        let mut running = Running {
            progress: Progress::new(self.config.start),
            stored: self.config.start,
            state: Bytes::new(),
            state_changed: false,
            due: Duration::ZERO,
            backoff: Backoff::new(
                self.config.retry.base,
                self.config.retry.cap,
                self.config.retry.seed,
            ),
            culprits: 0,
            unwell: false,
            parked: ParkedKeys::default(),
            config: self.config,
            filter: self.filter,
            transforms: self.transforms,
            emitter: self.emitter,
            dlq: self.dlq,
            checkpoints: self.checkpoints,
            watermark: self.watermark,
            clock: self.clock,
            metrics: self.metrics,
            control: self.control,
            shutdown: self.shutdown,
        };
        let end = running.run(&mut open).await;
        let reason = match &end {
            Ok(_) => None,
            Err(error) => {
                let cause = std::error::Error::source(error).map(ToString::to_string);
                error!(emitter = %name, error = %error, cause, "lane halted");
                Some(cause.unwrap_or_else(|| error.to_string()))
            }
        };
        metrics.set_health(LaneHealth::Stopped { reason });
        end
    }
}

/// Why a session with the destination ended.
enum SessionEnd {
    Lane(LaneEnd),
    /// The emitter lost something it had accepted: back to the checkpoint.
    Rewind,
}

pub(super) struct Running {
    pub(super) config: LaneConfig,
    pub(super) filter: Box<dyn Filter>,
    pub(super) transforms: Vec<Box<dyn Transform>>,
    pub(super) emitter: BoxEmitter,
    pub(super) dlq: Arc<Mutex<dyn DeadLetterQueue>>,
    pub(super) checkpoints: Arc<dyn CheckpointStore>,
    pub(super) watermark: WatermarkHandle,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<LaneMetrics>,
    pub(super) control: mpsc::Receiver<LaneCommand>,
    pub(super) shutdown: Shutdown,
    pub(super) progress: Progress,
    /// The position of the stored checkpoint.
    pub(super) stored: Position,
    /// The emitter's state at the last durable mark.
    pub(super) state: Bytes,
    /// The state differs from the stored one although the position does not (redrive).
    pub(super) state_changed: bool,
    /// When the next checkpoint is due, if anything changed.
    pub(super) due: Duration,
    pub(super) backoff: Backoff,
    /// Events refused in a row, with no success between them.
    pub(super) culprits: u32,
    /// True while health says something other than running.
    pub(super) unwell: bool,
    pub(super) parked: ParkedKeys,
}

impl Running {
    async fn run<O, S>(&mut self, open: &mut O) -> Result<LaneEnd, LaneError>
    where
        O: FnMut(Position) -> Result<S, SourceError> + Send,
        S: WalSource,
    {
        let mut checkpoint = match self.checkpoints.load(&self.config.name) {
            Ok(stored) => stored,
            Err(cause) => return Err(self.checkpoint_error(cause)),
        };
        if checkpoint.is_none() {
            // Before anything is read: a start at the end of the log must not move by a crash.
            self.progress = Progress::new(self.config.start);
            self.store_checkpoint()?;
        }
        self.rebuild_parked()?;
        loop {
            if let Some(checkpoint) = &checkpoint {
                let lost = self.progress.rewind(checkpoint.position);
                self.metrics.landed(lost);
                self.metrics
                    .rewound(usize::try_from(lost).unwrap_or(usize::MAX));
                self.stored = checkpoint.position;
                self.state = checkpoint.state.clone();
                self.watermark.advance(checkpoint.position);
                self.metrics.reach(checkpoint.position, None);
            }
            if !self.resume_emitter(checkpoint.as_ref()).await? {
                return Ok(LaneEnd::Drained);
            }
            // What the emitter has repaired or begun belongs into the checkpoint before anything
            // new: a crash must find a state to cut back to.
            match self.emitter.durable() {
                Ok(mark) => self.apply(mark),
                Err(cause) => {
                    self.lost(cause).await?;
                    if self.shutdown.is_asked() {
                        return Ok(LaneEnd::Drained);
                    }
                    continue;
                }
            }
            if self.state_changed {
                self.store_checkpoint()?;
            }
            let mut tail =
                open(self.progress.position()).map_err(|cause| self.source_error(cause))?;
            self.well();
            match self.session(&mut tail).await? {
                SessionEnd::Lane(end) => return Ok(end),
                SessionEnd::Rewind => {
                    checkpoint = match self.checkpoints.load(&self.config.name) {
                        Ok(stored) => stored,
                        Err(cause) => return Err(self.checkpoint_error(cause)),
                    };
                }
            }
        }
    }

    /// Reads and delivers until something ends the session.
    async fn session<S: WalSource>(&mut self, tail: &mut S) -> Result<SessionEnd, LaneError> {
        self.due = self.clock.elapsed() + self.config.checkpoint_interval;
        let limit = BatchLimit {
            linger: self
                .config
                .limit
                .linger
                .min(self.config.checkpoint_interval),
            ..self.config.limit
        };
        loop {
            if self
                .config
                .stop_at
                .is_some_and(|stop| self.progress.position() >= stop)
            {
                return self.finish(tail, LaneEnd::Reached).await;
            }
            let batch = tokio::select! {
                biased;
                () = self.shutdown.asked() => return self.finish(tail, LaneEnd::Drained).await,
                Some(command) = self.control.recv() => {
                    match self.obey(command).await? {
                        Delivered::Interrupted => return self.finish(tail, LaneEnd::Drained).await,
                        Delivered::Lost => return Ok(SessionEnd::Rewind),
                        Delivered::Done => continue,
                    }
                }
                batch = tail.next_batch(limit) => batch,
            };
            let batch = match batch {
                Ok(Some(batch)) => batch,
                Ok(None) => return self.finish(tail, LaneEnd::Finished).await,
                Err(cause) => return Err(self.source_error(cause)),
            };
            let reaches_stop = self.config.stop_at.is_some_and(|stop| batch.end() >= stop);
            let processed = self.process(batch).await;
            if !matches!(processed, Ok(Delivered::Done)) {
                self.metrics.broken_off();
            }
            match processed? {
                Delivered::Done => {}
                Delivered::Interrupted => return self.finish(tail, LaneEnd::Drained).await,
                Delivered::Lost => return Ok(SessionEnd::Rewind),
            }
            if reaches_stop {
                return self.finish(tail, LaneEnd::Reached).await;
            }
            if !self.poll_durable().await? {
                return Ok(SessionEnd::Rewind);
            }
            while self.progress.in_flight() >= self.config.window_max {
                match self.settle().await? {
                    Delivered::Done => {}
                    Delivered::Interrupted => return self.finish(tail, LaneEnd::Drained).await,
                    Delivered::Lost => return Ok(SessionEnd::Rewind),
                }
            }
            if self.clock.elapsed() >= self.due {
                self.checkpoint(tail).await?;
            }
        }
    }

    /// Filters, transforms and delivers one batch of the log.
    async fn process(&mut self, batch: EventBatch) -> Result<Delivered, LaneError> {
        let source = batch.source().clone();
        let mut end = batch.end();
        let mut events = batch.into_events();
        // A log that lost its unflushed tail begins again before this lane's checkpoint.
        let position = self.progress.position();
        if events
            .first()
            .is_some_and(|event| event.position <= position)
        {
            events.retain(|event| event.position > position);
            end = end.max(position);
        }
        if let Some(stop) = self.config.stop_at.filter(|stop| *stop < end) {
            events.retain(|event| event.position <= stop);
            end = stop;
        }
        if events.is_empty() {
            self.progress.done(end);
            self.metrics.reach(self.progress.position(), None);
            return Ok(Delivered::Done);
        }
        self.metrics.read(events.len());
        let last_commit = events.last().map(|event| event.transaction.commit_micros);
        let before = events.len();
        let filter = &self.filter;
        events.retain(|event| filter.keep(event));
        self.metrics.filtered(before - events.len());

        let mut letters = Vec::new();
        let mut originals = Vec::new();
        if !self.transforms.is_empty() || !self.parked.is_empty() {
            let mut kept = Vec::with_capacity(events.len());
            originals.reserve(events.len());
            for original in events {
                if let Some(letter) = self.park(&source, &original)? {
                    letters.push(letter);
                    continue;
                }
                match self.transform(original.clone()) {
                    Ok(Some(event)) => {
                        kept.push(event);
                        originals.push(original);
                    }
                    Ok(None) => self.metrics.filtered(1),
                    Err(failure) => letters.push(self.letter(&source, original, failure, 1)?),
                }
            }
            events = kept;
        }
        if !letters.is_empty() {
            self.store_letters(&letters)?;
        }
        if events.is_empty() {
            self.progress.done(end);
            self.metrics.reach(self.progress.position(), last_commit);
            return Ok(Delivered::Done);
        }
        self.deliver(&EventBatch::new(source, events, end), &originals)
            .await
    }

    /// Connects the emitter at the checkpoint; false if shutdown came first.
    async fn resume_emitter(&mut self, checkpoint: Option<&Checkpoint>) -> Result<bool, LaneError> {
        loop {
            let Err(cause) = self.emitter.resume(checkpoint).await else {
                return Ok(true);
            };
            let wait = match failure_action(cause.kind) {
                FailureAction::Retry { floor } => self.backoff.next_wait(floor),
                FailureAction::Probe => self.config.retry.probe_interval,
                FailureAction::Isolate | FailureAction::Halt => return Err(self.emit_error(cause)),
            };
            self.ill(&cause);
            if !self.wait(wait).await {
                return Ok(false);
            }
        }
    }

    /// Waits; false if shutdown came first.
    pub(super) async fn wait(&mut self, duration: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.shutdown.asked() => false,
            () = self.clock.sleep(duration) => true,
        }
    }

    /// Takes in how far the destination is durable; false if it lost something. Idle emitters are
    /// asked on the checkpoint cadence: their state may change by itself (a file that grew old).
    async fn poll_durable(&mut self) -> Result<bool, LaneError> {
        if !self.progress.is_waiting() && self.clock.elapsed() < self.due {
            return Ok(true);
        }
        match self.emitter.durable() {
            Ok(mark) => {
                self.apply(mark);
                Ok(true)
            }
            Err(cause) => self.lost(cause).await,
        }
    }

    /// Waits until everything in flight is durable.
    pub(super) async fn settle(&mut self) -> Result<Delivered, LaneError> {
        let flushed = tokio::select! {
            biased;
            flushed = self.emitter.flush() => flushed,
            () = self.shutdown.asked() => return Ok(Delivered::Interrupted),
        };
        match flushed {
            Ok(mark) => {
                self.apply(mark);
                Ok(Delivered::Done)
            }
            Err(cause) => {
                self.lost(cause).await?;
                Ok(Delivered::Lost)
            }
        }
    }

    /// The emitter lost what it had accepted: waits, then the session goes back to the checkpoint.
    async fn lost(&mut self, cause: EmitError) -> Result<bool, LaneError> {
        let wait = match failure_action(cause.kind) {
            FailureAction::Halt => return Err(self.emit_error(cause)),
            FailureAction::Probe => self.config.retry.probe_interval,
            FailureAction::Retry { floor } => self.backoff.next_wait(floor),
            FailureAction::Isolate => self.backoff.next_wait(Duration::ZERO),
        };
        warn!(emitter = %self.config.name, error = %cause, "emitter lost what it had accepted; back to the checkpoint");
        self.ill(&cause);
        self.wait(wait).await;
        Ok(false)
    }

    pub(super) fn apply(&mut self, mark: Option<DurableMark>) {
        let Some(mark) = mark else { return };
        let released = self.progress.durable_through(mark.through);
        self.metrics.landed(released.events);
        self.metrics
            .delivered(usize::try_from(released.events).unwrap_or(usize::MAX));
        if let Some(committed) = released.commit_micros {
            let now = self.clock.wall_micros();
            self.metrics
                .latency()
                .observe(released.events, committed, now);
        }
        self.metrics
            .reach(self.progress.position(), released.commit_micros);
        if self.state != mark.state {
            self.state = mark.state;
            self.state_changed = true;
        }
    }

    /// Stores the position if it changed, then tells the log.
    async fn checkpoint<S: WalSource>(&mut self, tail: &mut S) -> Result<(), LaneError> {
        self.due = self.clock.elapsed() + self.config.checkpoint_interval;
        if self.progress.position() == self.stored && !self.state_changed {
            return Ok(());
        }
        self.store_checkpoint()?;
        tail.confirm(self.stored)
            .await
            .map_err(|cause| self.source_error(cause))
    }

    /// deliver → mark → checkpoint durable → confirm: this is the third step, and the watermark
    /// the door to the fourth.
    pub(super) fn store_checkpoint(&mut self) -> Result<(), LaneError> {
        let checkpoint = Checkpoint {
            lineage: self.config.lineage,
            position: self.progress.position(),
            state: self.state.clone(),
            stored_micros: self.clock.wall_micros(),
        };
        let stored = self.checkpoints.advance(&self.config.name, &checkpoint);
        stored.map_err(|cause| self.checkpoint_error(cause))?;
        self.stored = checkpoint.position;
        self.state_changed = false;
        self.metrics.checkpointed(checkpoint.stored_micros);
        self.watermark.advance(checkpoint.position);
        Ok(())
    }

    /// Flushes within the time limit, stores the last checkpoint, ends.
    async fn finish<S: WalSource>(
        &mut self,
        tail: &mut S,
        end: LaneEnd,
    ) -> Result<SessionEnd, LaneError> {
        // A drain is bounded; an end that was asked for by position waits for the destination
        // unless shutdown is asked for.
        let mut shutdown = self.shutdown.clone();
        let (clock, timeout) = (self.clock.clone(), self.config.shutdown_timeout);
        let limit = async move {
            shutdown.asked().await;
            clock.sleep(timeout).await;
        };
        let flushed = tokio::select! {
            biased;
            flushed = self.emitter.flush() => Some(flushed),
            () = limit => None,
        };
        match flushed {
            Some(Ok(mark)) => self.apply(mark),
            Some(Err(cause)) => {
                let drained = end == LaneEnd::Drained;
                self.lost(cause).await?;
                if !drained {
                    return Ok(SessionEnd::Rewind);
                }
            }
            None => warn!(
                emitter = %self.config.name,
                in_flight = self.progress.in_flight(),
                "shutdown did not wait longer for the destination; these events are delivered again at the next start"
            ),
        }
        self.checkpoint(tail).await?;
        if end != LaneEnd::Drained && self.progress.is_waiting() {
            // Shutdown overtook the end that was asked for.
            return Ok(SessionEnd::Lane(LaneEnd::Drained));
        }
        info!(emitter = %self.config.name, position = %self.stored, "lane ended");
        Ok(SessionEnd::Lane(end))
    }

    pub(super) fn well(&mut self) {
        self.backoff.reset();
        self.culprits = 0;
        if std::mem::take(&mut self.unwell) {
            info!(emitter = %self.config.name, "destination takes events again");
        }
        self.metrics.set_health(LaneHealth::Running);
    }

    pub(super) fn ill(&mut self, cause: &EmitError) {
        let reason = cause.to_string();
        let refused = cause.kind == crate::EmitErrorKind::EndpointStop;
        if !self.unwell {
            warn!(emitter = %self.config.name, error = %cause, kind = cause.kind.name(), "destination is unwell; waiting for it");
        }
        self.unwell = true;
        self.metrics.set_health(if refused {
            LaneHealth::Refused { reason }
        } else {
            LaneHealth::Retrying { reason }
        });
    }

    pub(super) fn emit_error(&self, cause: EmitError) -> LaneError {
        LaneError::Emit {
            emitter: self.config.name.clone(),
            cause,
        }
    }

    pub(super) fn dlq_error(&self, cause: DlqError) -> LaneError {
        LaneError::Dlq {
            emitter: self.config.name.clone(),
            cause,
        }
    }

    fn checkpoint_error(&self, cause: CheckpointError) -> LaneError {
        LaneError::Checkpoint {
            emitter: self.config.name.clone(),
            cause,
        }
    }

    fn source_error(&self, cause: SourceError) -> LaneError {
        LaneError::Source {
            emitter: self.config.name.clone(),
            cause,
        }
    }
}
