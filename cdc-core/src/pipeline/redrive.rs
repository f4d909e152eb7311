//! Redrive: dead letters back to their emitter, in order per key.

use std::collections::HashSet;
use std::sync::PoisonError;

use tracing::{error, info};

use super::LaneCommand;
use super::lane::LaneError;
use super::letters::is_full;
use super::metrics::Fate;
use super::parked::{Left, ParkedKeys, Scope};
use super::run::{Running, Settled};
use super::session::{FOR_ROOM, ROOM_WAIT};
use super::workers::Item;
use crate::{
    ChangeEvent, DeadLetter, Delivery, DlqError, EmitError, Emitter, EventBatch, EventId, Failure,
    FailureAction, LetterState, Stage, failure_action,
};

/// Letters handled between two looks at the queue.
const PAGE: usize = 256;
/// Attempts of one letter at a destination that is unwell, before the redrive gives up.
const ATTEMPTS_MAX: u32 = 5;

/// Why a redrive ended for the sake of another order.
const ORDERED: &str = "another order came while it waited for the consumer; letters that were given to it and that it has not acknowledged stay open, and are given again by the next redrive";
/// Why there is no second redrive at a time.
const ANOTHER: &str = "another redrive of this emitter has not ended; redrive when it has";

/// Which letters to send again. No filter is asked: what a letter is of was kept when it came, and only a
/// discard gives it up. A transform that drops an event by now closes its letter as delivered.
#[derive(Clone, Debug, Default)]
pub struct RedriveRequest {
    /// Only these; all open ones if empty. A letter that waits behind another of its key, or of its
    /// whole table, goes only after that one.
    pub ids: Vec<EventId>,
    /// Without transforms, as they were captured.
    pub as_was: bool,
}

/// What a redrive did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedriveReport {
    /// Letters delivered and closed.
    pub delivered: u64,
    /// Letters that failed again and stay.
    pub failed: u64,
    /// Letters left alone, up to the last that was asked for: not asked for, behind one that failed or was not asked for, or
    /// ahead of the lane's position, where earlier events of their key are still due (a lane that waits
    /// for room goes back to its checkpoint first, if its emitter could not tell otherwise what it has).
    pub skipped: u64,
    /// Why the redrive ended early, if it did.
    pub stopped: Option<String>,
}

impl Running {
    /// Carries out a redrive. No request is in flight and nothing is queued.
    pub(super) async fn obey_redrive(
        &mut self,
        request: &RedriveRequest,
    ) -> Result<(RedriveReport, Settled), LaneError> {
        let mut report = RedriveReport::default();
        let outcome = self.redrive(request, &mut report).await?;
        match outcome {
            Settled::Hindered => return Ok((report, outcome)),
            Settled::Interrupted => report.stopped = Some("shutdown".into()),
            Settled::Ordered => report.stopped = Some(ORDERED.into()),
            Settled::Done | Settled::Lost => {}
        }
        info!(
            emitter = %self.config.name,
            delivered = report.delivered,
            failed = report.failed,
            skipped = report.skipped,
            "redrive ended"
        );
        Ok((report, outcome))
    }

    async fn redrive(
        &mut self,
        request: &RedriveRequest,
        report: &mut RedriveReport,
    ) -> Result<Settled, LaneError> {
        match self.settle().await? {
            Settled::Done => {}
            other => return Ok(other),
        }
        if self.is_hindered() {
            // Letters that the checkpoint covers are closed with one that has the emitter's state.
            if self.is_covered(request)? {
                return Ok(Settled::Hindered);
            }
        } else if self.window.position() > self.stored {
            // Whatever the letters wait for, what came before them is done.
            self.store_checkpoint()?;
        }
        let wanted: HashSet<EventId> = request.ids.iter().copied().collect();
        let mut left = Left::default();
        let due = self.due();
        let (mut after, mut met) = (None, 0);
        loop {
            // What stands behind the last letter that was asked for need not be looked at.
            if !wanted.is_empty() && met == wanted.len() {
                return Ok(Settled::Done);
            }
            let page = {
                let mut dlq = self.dlq.lock().unwrap_or_else(PoisonError::into_inner);
                dlq.open_letters(&self.config.name, after, PAGE)
            };
            let page = page.map_err(|cause| self.dlq_error(cause))?;
            let Some(last) = page.last() else {
                return Ok(Settled::Done);
            };
            after = Some(last.event.position);
            let mut done = Vec::new();
            for letter in page {
                let scope = Scope::of(&letter.event);
                let behind = scope.is_some_and(|scope| left.holds(scope));
                let asked = wanted.is_empty() || wanted.contains(&letter.event_id());
                met += usize::from(asked);
                let ahead = self.is_ahead(&letter, scope, &due);
                let here = self.window.position();
                if letter.event.position > here
                    && done
                        .first()
                        .is_some_and(|(id, _): &(EventId, _)| id.position() <= here)
                {
                    // While there is a checkpoint to be had: behind this one there may be none.
                    match self
                        .close_letters(std::mem::take(&mut done), report)
                        .await?
                    {
                        Settled::Done if report.stopped.is_none() => {}
                        other => return Ok(other),
                    }
                }
                let outcome = if behind || !asked || ahead {
                    report.skipped += 1;
                    Redriven::Left
                } else {
                    self.redrive_one(&letter, request.as_was).await?
                };
                match outcome {
                    Redriven::Taken => {
                        done.push((letter.event_id(), scope));
                        continue;
                    }
                    Redriven::Interrupted => return Ok(Settled::Interrupted),
                    Redriven::Ordered => return Ok(Settled::Ordered),
                    Redriven::Left => {}
                    Redriven::Failed(failure) => {
                        report.failed += 1;
                        self.fail_again(letter, failure)?;
                    }
                    Redriven::Unwell(cause) => {
                        report.stopped = Some(cause.to_string());
                        return self.close_letters(done, report).await;
                    }
                }
                if let Some(scope) = scope {
                    left.add(scope);
                }
            }
            match self.close_letters(done, report).await? {
                Settled::Done if report.stopped.is_none() => {}
                other => return Ok(other),
            }
        }
    }

    /// True if earlier events of the letter's key may still be due: after a crash or a replay the lane
    /// reads them once more; and while a worker is blocked, what it has waits. What another worker has
    /// stored meanwhile is not ahead of its own key: it can go, and make the room that is missing.
    fn is_ahead(&self, letter: &DeadLetter, scope: Option<Scope>, due: &ParkedKeys) -> bool {
        let position = letter.event.position;
        if position <= self.window.position() {
            return false;
        }
        position > self.window.read_through()
            || scope.is_none_or(|scope| due.holds(scope, position).is_some())
    }

    /// Events that were read and may not be done: some of them are, of what a worker is at.
    fn due(&self) -> ParkedKeys {
        let mut due = ParkedKeys::default();
        let mut add = |event: &ChangeEvent| {
            if let Some(scope) = Scope::of(event) {
                due.add(scope, event.position);
            }
        };
        for worker in &self.workers {
            if let Some(job) = &worker.job {
                let left = (0..job.batch.len()).filter(|&index| !job.is_gone(index));
                left.for_each(|index| add(job.original(index)));
            }
            for item in &worker.queue {
                if let Item::Work(pending) = item {
                    let captured = if pending.originals.is_empty() {
                        &pending.events
                    } else {
                        &pending.originals
                    };
                    captured.iter().for_each(&mut add);
                }
            }
        }
        let held = self.held.iter().flat_map(|held| &held.events);
        held.for_each(&mut add);
        let letters = self.parking.letters().iter();
        letters.for_each(|letter| add(&letter.event));
        due
    }

    pub(super) fn discard(&mut self, ids: &[EventId]) -> Result<u64, LaneError> {
        let wanted: HashSet<EventId> = ids.iter().copied().collect();
        let (mut after, mut count) = (None, 0);
        loop {
            let mut dlq = self.dlq.lock().unwrap_or_else(PoisonError::into_inner);
            let page = dlq.open_letters(&self.config.name, after, PAGE);
            let page = page.map_err(|cause| self.dlq_error(cause))?;
            let Some(last) = page.last() else {
                return Ok(count);
            };
            after = Some(last.event.position);
            let wanted = |letter: &&DeadLetter| wanted.contains(&letter.event_id());
            let letters: Vec<_> = page.iter().filter(wanted).collect();
            let ids: Vec<_> = letters.iter().map(|letter| letter.event_id()).collect();
            let discarded = dlq
                .set_states(&self.config.name, &ids, LetterState::Discarded)
                .map_err(|cause| self.dlq_error(cause));
            drop(dlq);
            match discarded {
                Ok(()) => {}
                Err(error) if is_full(&error) => {
                    error!(emitter = %self.config.name, %error, "no room to say that letters are discarded; they stay open");
                    return Ok(count);
                }
                Err(error) => return Err(error),
            }
            let mut closed = HashSet::with_capacity(letters.len());
            for letter in letters {
                if let Some(scope) = Scope::of(&letter.event) {
                    self.parked.remove(scope, letter.event.position);
                }
                closed.insert(letter.event.position);
                count += 1;
            }
            // Read again after a crash, they wait for room once more: stored then, they would be new
            // letters that nothing waits behind.
            let numbers = self.parking.closed(&closed);
            self.done(&numbers, Fate::Parked);
        }
    }

    /// True if the redrive is of letters whose events the stored checkpoint covers: those are not read
    /// again after a crash.
    pub(super) fn is_covered(&self, request: &RedriveRequest) -> Result<bool, LaneError> {
        if !request.ids.is_empty() {
            let mut positions = request.ids.iter().map(|id| id.position());
            return Ok(positions.any(|position| position <= self.stored));
        }
        let mut dlq = self.dlq.lock().unwrap_or_else(PoisonError::into_inner);
        let first = dlq.open_letters(&self.config.name, None, 1);
        let first = first.map_err(|cause| self.dlq_error(cause))?;
        Ok(first
            .first()
            .is_some_and(|letter| letter.event.position <= self.stored))
    }

    /// Waits until redriven letters are durable, stores the emitter's state, then closes them: in
    /// this order, since a crash in between may repeat a letter and must not lose one. A state that is
    /// further than the window is not stored: such letters are ahead of the checkpoint, and a crash has
    /// their events read again, behind what the emitter cuts back to.
    async fn close_letters(
        &mut self,
        done: Vec<(EventId, Option<Scope>)>,
        report: &mut RedriveReport,
    ) -> Result<Settled, LaneError> {
        if done.is_empty() {
            return Ok(Settled::Done);
        }
        match self.settle().await? {
            Settled::Done => {}
            other => return Ok(other),
        }
        if !self.is_hindered() {
            self.store_checkpoint()?;
        } else if done.iter().any(|(id, _)| id.position() <= self.stored) {
            return Ok(Settled::Hindered);
        }
        let closed = {
            let ids: Vec<_> = done.iter().map(|(id, _)| *id).collect();
            let mut dlq = self.dlq.lock().unwrap_or_else(PoisonError::into_inner);
            dlq.set_states(&self.config.name, &ids, LetterState::Delivered)
                .map_err(|cause| self.dlq_error(cause))
        };
        match closed {
            Ok(()) => {}
            // They stay open, and are sent once more with the next redrive.
            Err(error) if is_full(&error) => {
                report.stopped = Some(format!("delivered, and not closed: {error}"));
                return Ok(Settled::Done);
            }
            Err(error) => return Err(error),
        }
        for (id, scope) in done {
            if let Some(scope) = scope {
                self.parked.remove(scope, id.position());
            }
            report.delivered += 1;
        }
        Ok(Settled::Done)
    }

    async fn redrive_one(
        &mut self,
        letter: &DeadLetter,
        as_was: bool,
    ) -> Result<Redriven, LaneError> {
        let event = if as_was {
            letter.event.clone()
        } else {
            match self.transform(letter.event.clone()) {
                Ok(Some(event)) => event,
                // A transform that now drops the event has dealt with it.
                Ok(None) => return Ok(Redriven::Taken),
                Err(failure) => return Ok(Redriven::Failed(failure)),
            }
        };
        let position = event.position;
        let batch = EventBatch::new(letter.source.clone(), vec![event], position);
        let emitter = self.workers[0].emitter.clone();
        if position > self.window.position() {
            // Taken, refused or unknown: its mark may come to be there.
            let ahead = &mut self.workers[0].ahead;
            *ahead = position.max(*ahead);
        }
        for attempt in 1.. {
            let emit = async { emitter.lock().await.emit(&batch).await };
            tokio::pin!(emit);
            let answer = loop {
                tokio::select! {
                    biased;
                    answer = &mut emit => break answer,
                    () = self.shutdown.asked() => return Ok(Redriven::Interrupted),
                    Some(order) = self.control.recv(), if self.hears() => {
                        if !self.is_for_later(order) {
                            return Ok(Redriven::Ordered);
                        }
                    }
                    () = self.clock.sleep(ROOM_WAIT), if self.waits_for_room && self.shown_wait.is_none() => {
                        self.show_wait(Some(FOR_ROOM));
                    }
                }
            };
            let cause = match answer {
                Ok(receipt) if receipt.rejected.is_empty() => {
                    debug_assert!(matches!(
                        receipt.delivery,
                        Delivery::Accepted | Delivery::Durable
                    ));
                    self.well();
                    return Ok(Redriven::Taken);
                }
                Ok(receipt) => {
                    let rejection = &receipt.rejected[0];
                    return Ok(Redriven::Failed(Failure {
                        stage: Stage::Deliver,
                        class: "event".into(),
                        message: rejection.message.clone(),
                        status: rejection.status,
                        response: None,
                    }));
                }
                Err(cause) => cause,
            };
            match failure_action(cause.kind) {
                FailureAction::Halt => return Err(self.emit_error(cause)),
                FailureAction::Isolate => {
                    return Ok(Redriven::Failed(Failure {
                        stage: Stage::Deliver,
                        class: cause.kind.name().into(),
                        message: cause.message().to_owned(),
                        status: cause.status,
                        response: cause.response,
                    }));
                }
                FailureAction::Retry { floor }
                    if attempt < ATTEMPTS_MAX && floor <= self.config.retry.cap =>
                {
                    let wait = self.backoff.wait_after(attempt - 1, floor);
                    if !self.wait(wait).await {
                        return Ok(Redriven::Interrupted);
                    }
                }
                // One that asks for longer may ask for an hour, each time: who redrives waits for the answer, and
                // no other order is heard meanwhile.
                FailureAction::Retry { .. } | FailureAction::Probe => {
                    return Ok(Redriven::Unwell(cause));
                }
            }
        }
        unreachable!("the loop above only ends by returning")
    }

    /// True if a redrive that waits hears orders meanwhile.
    pub(super) const fn hears(&self) -> bool {
        self.waits_for_room && self.pending.is_none()
    }

    /// Takes an order in the middle of a redrive; true if the redrive goes on.
    pub(super) fn is_for_later(&mut self, order: LaneCommand) -> bool {
        if let LaneCommand::Redrive { reply, .. } = order {
            drop(reply.send(RedriveReport {
                stopped: Some(ANOTHER.into()),
                ..RedriveReport::default()
            }));
            return true;
        }
        self.pending = Some(order);
        false
    }

    /// Records that a letter failed again.
    fn fail_again(&mut self, letter: DeadLetter, failure: Failure) -> Result<(), LaneError> {
        let letter = DeadLetter {
            failure,
            attempts: letter.attempts.saturating_add(1),
            last_failed_micros: self.clock.wall_micros(),
            state: LetterState::Pending,
            ..letter
        };
        match self.store_letters(std::slice::from_ref(&letter)) {
            // No room to say so: the letter stays as it was.
            Err(LaneError::Dlq {
                cause: DlqError::Full { .. } | DlqError::NoSpace { .. },
                ..
            }) => Ok(()),
            other => other,
        }
    }
}

enum Redriven {
    Taken,
    Left,
    Failed(Failure),
    Unwell(EmitError),
    Interrupted,
    Ordered,
}
