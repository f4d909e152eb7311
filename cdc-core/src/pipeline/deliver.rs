//! Delivering one batch: attempts, isolation of the culprit, dead letters.

use std::time::Duration;

use tracing::error;

use super::lane::{LaneError, Running};
use super::{LaneHealth, OnDeadKey};
use crate::{
    ChangeEvent, DeadLetter, Delivery, EmitError, EmitErrorKind, Emitter, EventBatch, Failure,
    FailureAction, Receipt, Stage, failure_action,
};

/// How handing over a batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivered {
    /// Every event is taken, dead-lettered or parked.
    Done,
    /// Shutdown came first; what is not done is given again at the next start.
    Interrupted,
    /// The emitter lost something: back to the checkpoint.
    Lost,
}

/// How one hand-over ended.
enum Handed {
    Taken(Receipt),
    Refused(EmitError),
    Interrupted,
}

/// Status of a destination that wants no more events, ever.
const GONE: u16 = 410;

impl Running {
    /// Delivers a batch in slices of the emitter's size. `originals` are the events before
    /// transforms, one an event, or empty if there are no transforms.
    pub(super) async fn deliver(
        &mut self,
        batch: &EventBatch,
        originals: &[ChangeEvent],
    ) -> Result<Delivered, LaneError> {
        let size = self.emitter.batch_size().clamp(1, batch.len());
        // A stack of ranges, first on top; a refused one is replaced by its halves.
        let mut ranges: Vec<_> = (0..batch.len())
            .step_by(size)
            .map(|start| start..(start + size).min(batch.len()))
            .rev()
            .collect();
        // Events of this batch that were parked because one before them died.
        let mut gone: Vec<bool> = Vec::new();
        while let Some(range) = ranges.pop() {
            let whole = batch.slice(range.clone());
            let slice = if gone.is_empty() {
                whole
            } else {
                let alive = range
                    .clone()
                    .zip(whole.events())
                    .filter(|(index, _)| !gone[*index]);
                let events: Vec<_> = alive.map(|(_, event)| event.clone()).collect();
                if events.is_empty() {
                    self.progress.done(whole.end());
                    continue;
                }
                EventBatch::new(whole.source().clone(), events, whole.end())
            };
            let indices: Vec<usize> = if gone.is_empty() {
                range.clone().collect()
            } else {
                range.clone().filter(|index| !gone[*index]).collect()
            };
            match self.hand_over(&slice).await? {
                Handed::Interrupted => return Ok(Delivered::Interrupted),
                Handed::Taken(receipt) => {
                    let rejected: Vec<_> = receipt
                        .rejected
                        .iter()
                        .filter_map(|rejection| {
                            let failure = Failure {
                                stage: Stage::Deliver,
                                class: EmitErrorKind::Event.name().into(),
                                message: rejection.message.clone(),
                                status: rejection.status,
                                response: None,
                            };
                            Some((*indices.get(rejection.index)?, failure))
                        })
                        .collect();
                    self.bury(batch, originals, rejected, &mut gone)?;
                    self.mark(&slice, &receipt);
                }
                Handed::Refused(_) if slice.len() > 1 => {
                    let middle = indices[indices.len() / 2];
                    ranges.push(middle..range.end);
                    ranges.push(range.start..middle);
                }
                Handed::Refused(cause) => {
                    let failure = Failure {
                        stage: Stage::Deliver,
                        class: cause.kind.name().into(),
                        message: cause.message().to_owned(),
                        status: cause.status,
                        response: cause.response,
                    };
                    self.bury(batch, originals, vec![(indices[0], failure)], &mut gone)?;
                    self.progress.done(slice.end());
                    self.metrics.reach(self.progress.position(), None);
                }
            }
        }
        Ok(Delivered::Done)
    }

    /// Dead-letters the culprits and parks what follows them in this batch, in one durable append.
    fn bury(
        &mut self,
        batch: &EventBatch,
        originals: &[ChangeEvent],
        culprits: Vec<(usize, Failure)>,
        gone: &mut Vec<bool>,
    ) -> Result<(), LaneError> {
        let Some((first, _)) = culprits.first() else {
            return Ok(());
        };
        let mut next = culprits
            .iter()
            .map(|(index, _)| *index)
            .max()
            .unwrap_or(*first)
            + 1;
        let original = |index: usize| {
            originals
                .get(index)
                .unwrap_or(&batch.events()[index])
                .clone()
        };
        let mut letters: Vec<DeadLetter> = Vec::with_capacity(culprits.len());
        for (index, failure) in culprits {
            letters.push(self.letter(batch.source(), original(index), failure, 1)?);
        }
        if self.config.on_dead_key == OnDeadKey::Park {
            gone.resize(batch.len(), false);
            while next < batch.len() {
                if !gone[next]
                    && let Some(letter) = self.park(batch.source(), &original(next))?
                {
                    letters.push(letter);
                    gone[next] = true;
                }
                next += 1;
            }
        }
        self.store_letters(&letters)
    }

    /// Accounts for a slice the emitter took.
    fn mark(&mut self, slice: &EventBatch, receipt: &Receipt) {
        let taken = slice.len() - receipt.rejected.len().min(slice.len());
        let Some(last) = slice.events().last() else {
            return;
        };
        let commit = Some(last.transaction.commit_micros);
        if taken == 0 {
            self.progress.done(slice.end());
        } else {
            self.progress
                .accepted(last.position, slice.end(), taken as u64, commit);
            self.metrics.in_flight(taken);
        }
        if receipt.delivery == Delivery::Durable {
            let released = self.progress.durable_through(last.position);
            self.metrics.landed(released.events);
            self.metrics
                .delivered(usize::try_from(released.events).unwrap_or(usize::MAX));
            self.metrics.latency().observe(
                released.events,
                last.transaction.commit_micros,
                self.clock.wall_micros(),
            );
            self.metrics.reach(self.progress.position(), commit);
        }
    }

    /// Gives one slice to the emitter until it takes it or refuses its content.
    async fn hand_over(&mut self, slice: &EventBatch) -> Result<Handed, LaneError> {
        loop {
            let mut shutdown = self.shutdown.clone();
            let (clock, timeout) = (self.clock.clone(), self.config.shutdown_timeout);
            let limit = async move {
                shutdown.asked().await;
                clock.sleep(timeout).await;
            };
            let answer = tokio::select! {
                biased;
                answer = self.emitter.emit(slice) => answer,
                () = limit => return Ok(Handed::Interrupted),
            };
            let cause = match answer {
                Ok(receipt) => {
                    if self.unwell || self.culprits > 0 || self.backoff.failures() > 0 {
                        self.well();
                    }
                    return Ok(Handed::Taken(receipt));
                }
                Err(cause) => cause,
            };
            let wait = match failure_action(cause.kind) {
                FailureAction::Halt => return Err(self.emit_error(cause)),
                FailureAction::Probe if cause.status == Some(GONE) => {
                    return Err(self.emit_error(cause));
                }
                FailureAction::Probe => {
                    self.refused(&cause);
                    self.config.retry.probe_interval
                }
                FailureAction::Retry { floor } => {
                    self.ill(&cause);
                    self.backoff.next_wait(floor)
                }
                FailureAction::Isolate if slice.len() > 1 => return Ok(Handed::Refused(cause)),
                FailureAction::Isolate => {
                    self.culprits = self.culprits.saturating_add(1);
                    if self.culprits < self.config.culprits_max {
                        return Ok(Handed::Refused(cause));
                    }
                    // Nothing but refusals: the destination is broken, not the events.
                    self.refused(&cause);
                    self.config.retry.probe_interval
                }
            };
            self.metrics.retries(1);
            if !self.wait(wait.max(Duration::from_millis(1))).await {
                return Ok(Handed::Interrupted);
            }
        }
    }

    /// The destination refuses everything: tells the operator, once.
    fn refused(&mut self, cause: &EmitError) {
        if !self.unwell {
            error!(
                emitter = %self.config.name,
                error = %cause,
                probe_seconds = self.config.retry.probe_interval.as_secs(),
                "destination refuses everything; the lane waits and probes until somebody mends it"
            );
        }
        self.unwell = true;
        self.metrics.set_health(LaneHealth::Refused {
            reason: cause.to_string(),
        });
    }
}
