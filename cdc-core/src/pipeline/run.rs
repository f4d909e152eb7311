//! A lane that runs: its state, starting, and what holds for every session.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::begin::Begun;
use super::breaker::Breaker;
use super::parked::{ParkedKeys, Parking};
use super::session::{FOR_THE_CONSUMER, SessionEnd};
use super::window::Window;
use super::workers::Worker;
use super::{
    Backoff, Lane, LaneCommand, LaneConfig, LaneEnd, LaneError, LaneHealth, LaneMetrics,
    OrderScope, Shutdown, WatermarkHandle,
};
use crate::crash;
use crate::{
    ChangeEvent, Checkpoint, CheckpointError, CheckpointStore, Clock, DeadLetterQueue, DlqError,
    DurableMark, EmitError, EmitErrorKind, Emitter, FailureAction, Filter, Position, SourceError,
    SourceInfo, Transform, WalSource, failure_action,
};

/// How waiting for the destination ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// Everything is durable.
    Done,
    /// Shutdown came first.
    Interrupted,
    /// The emitter lost something: back to the checkpoint.
    Lost,
    /// What is next needs a checkpoint with the emitter's state, and there is none to be had here: back to
    /// the last one.
    Hindered,
    /// An order came first, and is not to wait for a consumer that may be away for days.
    Ordered,
}

/// Events that were read and filtered, and that wait until their letters can be stored.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) source: Arc<SourceInfo>,
    pub(super) events: Vec<ChangeEvent>,
    pub(super) end: Position,
    pub(super) last_commit: Option<i64>,
}

impl Held {
    /// The first `count` events, at least one and not all, and the others.
    pub(super) fn split(mut self, count: usize) -> (Self, Self) {
        let events = self.events.split_off(count);
        let last = self.events.last();
        let first = Self {
            source: self.source.clone(),
            end: last.map_or(self.end, |event| event.position),
            last_commit: last.map(|event| event.transaction.commit_micros),
            events: self.events,
        };
        let rest = Self {
            source: self.source,
            events,
            end: self.end,
            last_commit: self.last_commit,
        };
        (first, rest)
    }

    /// What came behind it in the same read.
    pub(super) fn append(&mut self, rest: Self) {
        self.events.extend(rest.events);
        self.end = rest.end;
        self.last_commit = rest.last_commit;
    }
}

/// What is wrong with the destination.
#[derive(Debug)]
struct Trouble {
    refused: bool,
    reason: String,
}

pub(super) struct Running {
    pub(super) config: LaneConfig,
    pub(super) filter: Box<dyn Filter>,
    pub(super) transforms: Vec<Box<dyn Transform>>,
    pub(super) dlq: Arc<Mutex<dyn DeadLetterQueue>>,
    pub(super) checkpoints: Arc<dyn CheckpointStore>,
    pub(super) watermark: WatermarkHandle,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<LaneMetrics>,
    pub(super) control: mpsc::Receiver<LaneCommand>,
    pub(super) shutdown: Shutdown,

    pub(super) workers: Vec<Worker>,
    pub(super) window: Window,
    /// Fences some worker still stands before: how many have not come to it.
    pub(super) fences: HashMap<u64, usize>,
    pub(super) next_fence: u64,
    /// Events, and bytes of their rows, that are read and that no emitter has taken.
    pub(super) queued: usize,
    pub(super) queued_bytes: usize,
    /// Above every number that ever went out.
    pub(super) highest: u64,
    /// Requests in flight, as the counters say.
    pub(super) shown_requests: usize,

    /// The position of the stored checkpoint.
    pub(super) stored: Position,
    /// What of it the session's tail was told. What holds the log for this lane may stand further back.
    pub(super) told: Position,
    /// The emitter's state at the last durable mark.
    pub(super) state: Bytes,
    /// How far that state reaches. A redrive's marks are of old events, and take nothing back.
    pub(super) marked: Position,
    /// The state differs from the stored one although the position does not (redrive).
    pub(super) state_changed: bool,
    /// When the next checkpoint is due, if anything changed.
    pub(super) due: Duration,

    pub(super) backoff: Backoff,
    pub(super) breaker: Breaker,
    /// The worker that probes while the breaker is half open.
    pub(super) probe: usize,
    /// The destination asked to be left alone until then.
    pub(super) hold_until: Duration,
    /// Failures of resuming in a row.
    pub(super) failures: u32,
    /// The emitter is left alone until then, and goes back to the checkpoint after that.
    pub(super) rest_until: Option<Duration>,
    /// Times in a row that the emitter lost what it had accepted, and where the checkpoint was then:
    /// until something behind that is durable, taking events is no sign that it is well.
    losses: u32,
    lost_at: Option<Position>,
    /// Events refused in a row, with no success between them.
    pub(super) culprits: u32,
    trouble: Option<Trouble>,
    /// The counters say that the lane is running.
    shown_running: bool,

    /// An operator said so.
    pub(super) paused: bool,
    /// No request may start: an order waits for those in flight.
    pub(super) quiet: bool,
    /// A shutdown waits for what is in flight.
    pub(super) drains: bool,
    /// Requests wait for room that a consumer makes, and may be taken back.
    pub(super) waits_for_room: bool,
    /// What the counters say it waits for.
    pub(super) shown_wait: Option<&'static str>,
    /// Shutdown was asked for; only gaps are filled, until then.
    pub(super) draining: Option<Duration>,
    /// What the lane ends with when everything read is delivered.
    pub(super) ending: Option<LaneEnd>,
    /// An order that waits for its moment.
    pub(super) pending: Option<LaneCommand>,

    pub(super) parked: ParkedKeys,
    /// Letters that are to be stored, and their events marked, with the next group.
    pub(super) parking: Parking,
    /// Why not everything goes on: letters do not fit into the dead letter queue.
    pub(super) blocked: Option<String>,
    /// While blocked: when to try again though nobody said that there is room.
    pub(super) look_again: Duration,
    /// What was read when a letter of it did not fit.
    pub(super) held: Option<Held>,
    /// Tables without key that were named.
    pub(super) keyless: HashSet<String>,
}

impl Running {
    pub(super) fn new<O>(lane: Lane<O>) -> (Self, O) {
        let config = lane.config;
        let running = Self {
            window: Window::new(config.start),
            fences: HashMap::new(),
            next_fence: 0,
            queued: 0,
            queued_bytes: 0,
            highest: 0,
            shown_requests: 0,
            stored: config.start,
            told: Position::ZERO,
            state: Bytes::new(),
            marked: Position::ZERO,
            state_changed: false,
            due: Duration::ZERO,
            backoff: Backoff::new(config.retry.base, config.retry.cap, config.retry.seed),
            breaker: Breaker::new(config.breaker),
            probe: 0,
            hold_until: Duration::ZERO,
            failures: 0,
            rest_until: None,
            losses: 0,
            lost_at: None,
            culprits: 0,
            trouble: None,
            shown_running: false,
            paused: false,
            quiet: false,
            drains: lane.emitter.drains(),
            waits_for_room: lane.emitter.waits_for_room(),
            shown_wait: None,
            workers: vec![Worker::new(lane.emitter)],
            draining: None,
            ending: None,
            pending: None,
            parked: ParkedKeys::default(),
            parking: Parking::default(),
            blocked: None,
            look_again: Duration::ZERO,
            held: None,
            keyless: HashSet::new(),
            config,
            filter: lane.filter,
            transforms: lane.transforms,
            dlq: lane.dlq,
            checkpoints: lane.checkpoints,
            watermark: lane.watermark,
            clock: lane.clock,
            metrics: lane.metrics,
            control: lane.control,
            shutdown: lane.shutdown,
        };
        (running, lane.open)
    }

    pub(super) async fn run<O, S>(&mut self, open: &mut O) -> Result<LaneEnd, LaneError>
    where
        O: FnMut(Position) -> Result<S, SourceError> + Send,
        S: WalSource,
    {
        let end = self.sessions(open).await;
        let accepted = self.workers.iter().map(Worker::accepted_events).sum();
        self.metrics.broken_off(accepted);
        self.show_wait(None);
        self.metrics.requests(0);
        end
    }

    async fn sessions<O, S>(&mut self, open: &mut O) -> Result<LaneEnd, LaneError>
    where
        O: FnMut(Position) -> Result<S, SourceError> + Send,
        S: WalSource,
    {
        self.hire()?;
        let mut checkpoint = self.load()?;
        let behind = checkpoint
            .as_ref()
            .map_or(self.config.start, |checkpoint| checkpoint.position);
        self.rebuild_parked(Some(behind))?;
        if checkpoint.is_none() {
            // Before anything is read: a start at the end of the log must not move by a crash.
            self.store_checkpoint()?;
        }
        loop {
            if let Some(checkpoint) = &checkpoint {
                self.forget(checkpoint);
            }
            match self.resume_emitters(checkpoint.as_ref(), open).await? {
                Begun::Ready => {}
                Begun::Moved => {
                    checkpoint = self.load()?;
                    continue;
                }
                Begun::Drained => return Ok(LaneEnd::Drained),
            }
            // What the emitter has repaired or begun belongs into the checkpoint before anything
            // new: a crash must find a state to cut back to.
            if !self.poll_durable(true)? {
                if self.shutdown.is_asked() {
                    return Ok(LaneEnd::Drained);
                }
                continue;
            }
            if self.state_changed {
                self.store_checkpoint()?;
            }
            let mut tail =
                open(self.window.position()).map_err(|cause| self.source_error(cause))?;
            self.well();
            let ended = self.session(&mut tail, open).await;
            if ended.is_err() {
                self.store_done();
            }
            match ended? {
                SessionEnd::Lane(end) => return Ok(end),
                SessionEnd::Rewind => {
                    checkpoint = self.load()?;
                    self.parked.forget(self.parking.letters());
                    if self.parked.is_vague() {
                        self.parked.clear();
                        self.rebuild_parked(None)?;
                    }
                }
            }
        }
    }

    /// Makes the other workers.
    fn hire(&mut self) -> Result<(), LaneError> {
        let asked = self.config.concurrency;
        let refuse = |reason| {
            Err(LaneError::Concurrency {
                emitter: self.config.name.clone(),
                asked,
                reason,
            })
        };
        if asked > CONCURRENCY_MAX {
            return refuse("more than 256 requests at once are too many for one lane");
        }
        if asked > 1 && self.config.order == OrderScope::Global {
            return refuse("order = \"global\" means one request at a time");
        }
        for _ in 1..asked {
            let worker = self.workers[0]
                .emitter
                .try_lock()
                .ok()
                .and_then(|emitter| emitter.worker());
            let Some(worker) = worker else {
                return refuse("this emitter takes one batch at a time");
            };
            self.workers.push(Worker::new(worker));
        }
        Ok(())
    }

    /// Back to a checkpoint: whatever is in flight is dropped, and will be read again.
    fn forget(&mut self, checkpoint: &Checkpoint) {
        for worker in &mut self.workers {
            worker.clear();
        }
        self.fences.clear();
        self.queued = 0;
        self.queued_bytes = 0;
        self.blocked = None;
        self.held = None;
        self.parking = Parking::default();
        self.window.rewind(checkpoint.position);
        self.marked = checkpoint.position;
        self.lost_at = self.lost_at.map(|at| at.min(checkpoint.position));
        self.metrics.broken_off(0);
        self.stored = checkpoint.position;
        self.state = checkpoint.state.clone();
        self.watermark.advance(checkpoint.position);
        self.metrics.reach(checkpoint.position, None);
    }

    /// Until when a drain that begins now waits for what is in flight.
    pub(super) fn drain_until(&self) -> Duration {
        let timeout = self.config.shutdown_timeout;
        self.clock.elapsed() + if self.drains { timeout } else { Duration::ZERO }
    }

    /// Waits; false if shutdown came first.
    pub(super) async fn wait(&mut self, duration: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.shutdown.asked() => false,
            () = self.clock.sleep(duration) => true,
        }
    }

    /// Takes in how far the destination is durable, as far as emitters have no request in flight;
    /// false if one lost something. `all` also asks those that have nothing to say: their state may
    /// change by itself (a file that grew old).
    pub(super) fn poll_durable(&mut self, all: bool) -> Result<bool, LaneError> {
        for w in 0..self.workers.len() {
            if let Some(cause) = self.workers[w].lost.take() {
                return self.lost(cause).map(|()| false);
            }
            let worker = &self.workers[w];
            if worker.is_busy() || (!all && worker.accepted.is_empty()) {
                continue;
            }
            let durable = match worker.emitter.try_lock() {
                Ok(mut emitter) => emitter.durable(),
                Err(_) => continue,
            };
            match durable {
                Ok(mark) => self.apply(w, mark, false)?,
                Err(cause) => return self.lost(cause).map(|()| false),
            }
        }
        Ok(true)
    }

    /// Waits until everything taken is durable. No request is in flight. A consumer may take its time:
    /// what it has done meanwhile is stored.
    pub(super) async fn settle(&mut self) -> Result<Settled, LaneError> {
        for w in 0..self.workers.len() {
            let emitter = self.workers[w].emitter.clone();
            loop {
                let flush = async { emitter.lock().await.flush().await };
                let flushed = tokio::select! {
                    biased;
                    flushed = flush => flushed,
                    () = self.shutdown.asked() => return Ok(Settled::Interrupted),
                    Some(order) = self.control.recv(), if self.hears() => {
                        if self.is_for_later(order) {
                            continue;
                        }
                        return Ok(Settled::Ordered);
                    }
                    () = self.clock.sleep(self.config.checkpoint_interval) => {
                        self.show_wait(self.waits_for_room.then_some(FOR_THE_CONSUMER));
                        if !self.poll_durable(false)? {
                            return Ok(Settled::Lost);
                        }
                        if !self.is_hindered() && self.window.position() > self.stored {
                            self.store_checkpoint()?;
                        }
                        continue;
                    }
                };
                match flushed {
                    Ok(mark) => self.apply_barrier(w, mark)?,
                    Err(cause) => {
                        self.lost(cause)?;
                        return Ok(Settled::Lost);
                    }
                }
                break;
            }
        }
        // All that was accepted is safe, letters too, which no mark tells of.
        if self.lost_at.is_some() {
            self.recovered();
        }
        Ok(Settled::Done)
    }

    /// What the emitter accepts is safe again.
    fn recovered(&mut self) {
        self.lost_at = None;
        self.losses = 0;
        self.well();
    }

    /// An emitter lost what it had accepted: the session goes back to the checkpoint, after a while.
    pub(super) fn lost(&mut self, cause: EmitError) -> Result<(), LaneError> {
        let losses = self.losses;
        self.losses = losses.saturating_add(1);
        self.lost_at = Some(self.stored);
        let wait = match failure_action(cause.kind) {
            FailureAction::Halt => return Err(self.emit_error(cause)),
            FailureAction::Probe => self.config.retry.probe_interval,
            FailureAction::Retry { floor } => self.backoff.wait_after(losses, floor),
            FailureAction::Isolate => self.backoff.wait_after(losses, Duration::ZERO),
        };
        warn!(emitter = %self.config.name, error = %cause, "what the emitter had accepted is not safe; back to the checkpoint");
        self.ill(&cause);
        self.rest_until = Some(self.clock.elapsed() + wait);
        Ok(())
    }

    /// Takes in a mark of worker `w`; after a `barrier` it covers, too, what was taken before an event that came
    /// again out of its order.
    pub(super) fn apply(
        &mut self,
        w: usize,
        mark: Option<DurableMark>,
        barrier: bool,
    ) -> Result<(), LaneError> {
        let Some(mark) = mark else { return Ok(()) };
        if self.workers.len() > 1 && !mark.state.is_empty() {
            return Err(self.emit_error(EmitError::new(
                EmitErrorKind::Fatal,
                "take in a mark: an emitter with several workers cannot have a state of its own; set concurrency = 1",
            )));
        }
        // What was refused and came again, or a letter, may have left the mark behind what was taken before it.
        let through = match barrier {
            true => mark.through.max(self.workers[w].ahead),
            false => mark.through,
        };
        self.durable_through(w, through, barrier);
        self.marked = self.marked.max(mark.through);
        if self.lost_at.is_some_and(|at| mark.through > at) {
            self.recovered();
        }
        if self.state != mark.state {
            self.state = mark.state;
            self.state_changed = true;
        }
        Ok(())
    }

    /// Takes in the mark that `flush` gave, with no request in flight. One that does not say that all is
    /// durable would not say so the next time either: whoever waits for it would wait for ever.
    pub(super) fn apply_barrier(
        &mut self,
        w: usize,
        mark: Option<DurableMark>,
    ) -> Result<(), LaneError> {
        let through = mark.as_ref().map(|mark| mark.through);
        self.apply(w, mark, true)?;
        let Some(taken) = self.workers[w].accepted.back() else {
            return Ok(());
        };
        let said = match through {
            Some(through) => format!("the mark of its flush ends at {through}"),
            None => "its flush gave no mark".to_owned(),
        };
        Err(self.emit_error(EmitError::new(
            EmitErrorKind::Fatal,
            format!(
                "wait until what was taken up to {} is durable: {said}; mend the emitter, whose flush returns when all it has taken is durable, with a mark that says so (clause 3.4 of the emitter contract)",
                taken.last
            ),
        )))
    }

    fn load(&self) -> Result<Option<Checkpoint>, LaneError> {
        self.checkpoints
            .load(&self.config.name)
            .map_err(|cause| self.checkpoint_error(cause))
    }

    /// deliver → mark → checkpoint durable → confirm: this is the third step, and the watermark
    /// the door to the fourth.
    pub(super) fn store_checkpoint(&mut self) -> Result<(), LaneError> {
        let checkpoint = self.checkpoint_at(self.window.position());
        let stored = self.checkpoints.advance(&self.config.name, &checkpoint);
        stored.map_err(|cause| self.checkpoint_error(cause))?;
        if checkpoint.position > self.stored {
            crash::point("checkpoint");
        }
        self.stored = checkpoint.position;
        self.state_changed = false;
        self.metrics.checkpointed(checkpoint.stored_micros);
        self.watermark.advance(checkpoint.position);
        Ok(())
    }

    /// The lane halts: what it has done need not come again with each start that halts for the same reason.
    fn store_done(&mut self) {
        if self.window.position() <= self.stored || self.is_hindered() {
            return;
        }
        if let Err(error) = self.store_checkpoint() {
            // Why the lane halts is said anyhow; this may be the same.
            warn!(emitter = %self.config.name, %error, "what was delivered last is not stored, and comes again");
        }
    }

    pub(super) fn checkpoint_at(&self, position: Position) -> Checkpoint {
        Checkpoint {
            lineage: self.config.lineage,
            position,
            state: self.state.clone(),
            stored_micros: self.clock.wall_micros(),
        }
    }

    /// The destination took something.
    pub(super) fn well(&mut self) {
        self.breaker.answered();
        self.culprits = 0;
        if self.lost_at.is_some() {
            return;
        }
        if self.trouble.take().is_some() {
            info!(emitter = %self.config.name, "destination takes events again");
            self.show();
        } else if !self.shown_running {
            self.show();
        }
    }

    pub(super) fn ill(&mut self, cause: &EmitError) {
        if self.trouble.is_none() {
            warn!(emitter = %self.config.name, error = %cause, kind = cause.kind.name(), "destination is unwell; waiting for it");
        }
        self.trouble = Some(Trouble {
            refused: cause.kind == EmitErrorKind::EndpointStop,
            reason: cause.to_string(),
        });
        self.show();
    }

    /// The destination refuses everything: tells the operator, once.
    pub(super) fn refused(&mut self, cause: &EmitError) {
        if !self.trouble.as_ref().is_some_and(|trouble| trouble.refused) {
            error!(
                emitter = %self.config.name,
                error = %cause,
                probe_seconds = self.config.retry.probe_interval.as_secs(),
                "destination refuses everything; the lane waits and probes until somebody mends it"
            );
        }
        self.trouble = Some(Trouble {
            refused: true,
            reason: cause.to_string(),
        });
        self.show();
    }

    /// Why the destination is unwell, if it is.
    pub(super) fn reason(&self) -> Option<&str> {
        self.trouble.as_ref().map(|trouble| &*trouble.reason)
    }

    /// Tells how the lane is doing.
    pub(super) fn show(&mut self) {
        let health = match &self.trouble {
            _ if self.paused => LaneHealth::Paused,
            _ if let Some(reason) = &self.blocked => LaneHealth::Blocked {
                reason: reason.clone(),
            },
            None => LaneHealth::Running,
            Some(Trouble {
                refused: true,
                reason,
            }) => LaneHealth::Refused {
                reason: reason.clone(),
            },
            Some(Trouble { reason, .. }) => LaneHealth::Retrying {
                reason: reason.clone(),
            },
        };
        self.shown_running = health == LaneHealth::Running;
        self.metrics.set_health(health, self.breaker.state());
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

    pub(super) fn checkpoint_error(&self, cause: CheckpointError) -> LaneError {
        LaneError::Checkpoint {
            emitter: self.config.name.clone(),
            cause,
        }
    }

    pub(super) fn source_error(&self, cause: SourceError) -> LaneError {
        LaneError::Source {
            emitter: self.config.name.clone(),
            cause,
        }
    }
}

/// Most requests of one lane at once.
const CONCURRENCY_MAX: usize = 256;
