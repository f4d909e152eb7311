//! What the answer to a request leads to.

use std::time::Duration;

use super::OnDeadKey;
use super::lane::LaneError;
use super::metrics::Fate;
use super::parked::{Left, Scope};
use super::run::Running;
use super::window::Numbers;
use super::workers::{Accepted, Slice};
use crate::crash;
use crate::{
    Delivery, EmitError, EmitErrorKind, Failure, FailureAction, LetterState, Receipt, Rejection,
    Stage, failure_action,
};

/// Status of a destination that wants no more events, ever.
const GONE: u16 = 410;

/// Shortest wait before a request goes out again.
const WAIT_MIN: Duration = Duration::from_millis(1);

impl Running {
    /// Handles the answer to the request of worker `w`.
    ///
    /// # Errors
    /// [`LaneError`] that halts the lane.
    pub(super) fn answered(
        &mut self,
        w: usize,
        slice: Slice,
        answer: Result<Receipt, EmitError>,
    ) -> Result<(), LaneError> {
        crash::point("sent");
        let cause = match answer {
            Ok(receipt) => return self.taken(w, slice, receipt),
            Err(cause) => cause,
        };
        match failure_action(cause.kind) {
            FailureAction::Halt => Err(self.emit_error(cause)),
            FailureAction::Probe if cause.status == Some(GONE) => Err(self.emit_error(cause)),
            FailureAction::Probe => {
                self.refuse(w, slice, &cause);
                Ok(())
            }
            FailureAction::Retry { floor } => {
                self.try_later(w, slice, &cause, floor);
                Ok(())
            }
            FailureAction::Isolate if slice.batch.len() > 1 => {
                // An answer, if not the wanted one. A probe goes on with the first half.
                if self.breaker.state() != super::BreakerState::HalfOpen {
                    self.breaker.answered();
                }
                let worker = &mut self.workers[w];
                worker.failures = 0;
                if let Some(job) = &mut worker.job {
                    job.split(&slice);
                }
                Ok(())
            }
            FailureAction::Isolate => self.culprit(w, slice, cause),
        }
    }

    /// The destination is unwell: the same request again, later.
    fn try_later(&mut self, w: usize, slice: Slice, cause: &EmitError, floor: Duration) {
        let now = self.clock.elapsed();
        let worker = &mut self.workers[w];
        let wait = self.backoff.wait_after(worker.failures, floor);
        worker.failures = worker.failures.saturating_add(1);
        worker.retry_at = now + wait.max(WAIT_MIN);
        worker.retry = Some(slice);
        worker.retry_class = Some(cause.kind.class());
        if !floor.is_zero() {
            // The destination's wish is not about this one request.
            self.hold_until = self.hold_until.max(now + floor);
        }
        if self.breaker.failed() {
            let wait = self.backoff.wait_after(self.breaker.exponent(), floor);
            self.breaker.open(now + wait.max(WAIT_MIN));
        }
        self.ill(cause);
    }

    /// The destination refuses everything: opens the breaker for long, and tells the operator.
    fn refuse(&mut self, w: usize, slice: Slice, cause: &EmitError) {
        let now = self.clock.elapsed();
        self.workers[w].retry = Some(slice);
        self.workers[w].retry_class = Some(cause.kind.class());
        self.breaker.failed();
        self.breaker
            .open(now + self.config.retry.probe_interval.max(WAIT_MIN));
        self.refused(cause);
    }

    /// A single event was refused.
    fn culprit(&mut self, w: usize, slice: Slice, cause: EmitError) -> Result<(), LaneError> {
        let new = self.new_culprits(w, &slice);
        self.culprits = self.culprits.saturating_add(new);
        if new > 0 && self.culprits >= self.config.culprits_max {
            // Nothing but refusals: the destination is broken, not the events.
            self.refuse(w, slice, &cause);
            return Ok(());
        }
        self.breaker.answered();
        self.show();
        self.workers[w].failures = 0;
        let failure = Failure {
            stage: Stage::Deliver,
            class: cause.kind.name().into(),
            message: cause.message().to_owned(),
            status: cause.status,
            response: cause.response,
        };
        let bytes = slice.batch.encoded_len();
        self.taken_off(1, bytes);
        self.bury(w, &slice, vec![(0, Some(failure))])
    }

    /// The emitter took a slice, but for what it rejected.
    fn taken(&mut self, w: usize, slice: Slice, receipt: Receipt) -> Result<(), LaneError> {
        let Receipt {
            delivery,
            mut rejected,
        } = receipt;
        rejected.retain(|rejection| rejection.index < slice.batch.len());
        rejected.sort_by_key(|rejection| rejection.index);
        rejected.dedup_by_key(|rejection| rejection.index);
        if rejected.len() == slice.batch.len() {
            return self.all_rejected(w, slice, rejected);
        }
        self.well();
        self.workers[w].failures = 0;
        self.workers[w].retry_at = Duration::ZERO;
        self.taken_off(slice.batch.len(), slice.batch.encoded_len());
        let Some(numbers) = self.workers[w].job.as_ref().map(|job| slice.numbers(job)) else {
            return Ok(());
        };
        let events = slice.batch.events();
        let Some(last) = events.last() else {
            return Ok(());
        };
        let (numbers, taken) = if rejected.is_empty() {
            (numbers, Some(last))
        } else {
            let buried = self.behind_rejected(w, &slice, rejected);
            let mut left = buried.iter().map(|(index, _)| *index).peekable();
            let mut taken = None;
            let list = numbers.iter().enumerate().filter_map(|(index, number)| {
                if left.next_if_eq(&index).is_some() {
                    return None;
                }
                taken = events.get(index);
                Some(number)
            });
            let numbers = Numbers::List(list.collect());
            self.bury(w, &slice, buried)?;
            (numbers, taken)
        };
        // All that was taken may wait behind what was refused. Of what was refused a mark need not speak.
        if let Some(taken) = taken {
            self.workers[w].accepted.push_back(Accepted {
                last: taken.position,
                commit_micros: taken.transaction.commit_micros,
                numbers,
            });
        }
        if delivery == Delivery::Durable {
            self.durable_through(w, last.position, true);
        }
        Ok(())
    }

    /// What of a slice is to have a letter: the rejected events, and those that the destination took
    /// although it rejected an earlier one of the same key. These wait behind it all the same: they are
    /// delivered once more in their order when it is redriven, with the same ids (decision 0020).
    fn behind_rejected(
        &self,
        w: usize,
        slice: &Slice,
        rejected: Vec<Rejection>,
    ) -> Vec<(usize, Option<Failure>)> {
        let parks = self.config.on_dead_key == OnDeadKey::Park;
        let Some(job) = self.workers[w].job.as_ref().filter(|_| parks) else {
            return failures(rejected);
        };
        let mut left = Left::default();
        let mut buried = Vec::with_capacity(rejected.len());
        let mut rejected = failures(rejected).into_iter().peekable();
        let Some(&(first, _)) = rejected.peek() else {
            return buried;
        };
        for nth in first..slice.batch.len() {
            let scope = slice.index(nth).and_then(|at| Scope::of(job.original(at)));
            let found = rejected.next_if(|(index, _)| *index == nth);
            if let Some(found) = found {
                buried.push(found);
            } else if scope.is_some_and(|scope| left.holds(scope)) {
                buried.push((nth, None));
            } else {
                continue;
            }
            if let Some(scope) = scope {
                left.add(scope);
            }
        }
        buried
    }

    /// Every event of a slice was rejected one by one: as many culprits in a row.
    fn all_rejected(
        &mut self,
        w: usize,
        slice: Slice,
        rejected: Vec<Rejection>,
    ) -> Result<(), LaneError> {
        let room = self
            .config
            .culprits_max
            .saturating_sub(1)
            .saturating_sub(self.culprits);
        let new = self.new_culprits(w, &slice);
        self.culprits = self.culprits.saturating_add(new);
        if new <= room {
            self.breaker.answered();
            self.show();
            self.workers[w].failures = 0;
            self.taken_off(slice.batch.len(), slice.batch.encoded_len());
            return self.bury(w, &slice, failures(rejected));
        }
        let mut cause = EmitError::new(
            EmitErrorKind::Event,
            format!(
                "deliver a batch: the destination rejected every event of it; the first with: {}",
                rejected
                    .first()
                    .map_or("no reason", |first| first.message.as_str())
            ),
        );
        cause.status = rejected.first().and_then(|first| first.status);
        self.refuse(w, slice, &cause);
        Ok(())
    }

    /// How many events of a refused slice are refused for the first time: what goes out again, because its
    /// letter had no room, says nothing new about the destination.
    fn new_culprits(&self, w: usize, slice: &Slice) -> u32 {
        let job = self.workers[w].job.as_ref();
        let new = job.map_or(slice.batch.len(), |job| job.not_refused(slice));
        u32::try_from(new).unwrap_or(u32::MAX)
    }

    /// Events that worker `w` gave away are safe through a position; after a `barrier` whatever it was given.
    pub(super) fn durable_through(&mut self, w: usize, through: crate::Position, barrier: bool) {
        let mut marked = 0;
        let worker = &mut self.workers[w];
        // A letter that was redriven ahead has moved the mark past what was sent after it.
        let tells = barrier || through > worker.ahead;
        while let Some(front) = worker.accepted.front()
            && tells
            && front.last <= through
        {
            let count = self.window.mark(&front.numbers);
            let now = self.clock.wall_micros();
            self.metrics
                .latency()
                .observe(count, front.commit_micros, now);
            marked += count;
            worker.accepted.pop_front();
        }
        if marked > 0 {
            self.metrics.settle(Fate::Delivered, marked);
            self.reached();
            crash::point("acknowledged");
        }
    }

    /// Gives events of a slice, by their index in it, letters: dead ones with their failure, and those
    /// that wait behind one. Durable on return; at the first there is no room for the worker blocks,
    /// and from that one on they go out again, one by one, when it goes on.
    fn bury(
        &mut self,
        w: usize,
        slice: &Slice,
        culprits: Vec<(usize, Option<Failure>)>,
    ) -> Result<(), LaneError> {
        if culprits.is_empty() {
            return Ok(());
        }
        let mut indices = Vec::with_capacity(culprits.len());
        let mut numbers = Vec::with_capacity(culprits.len());
        let mut found = Vec::with_capacity(culprits.len());
        for (nth, failure) in culprits {
            let Some(job) = &self.workers[w].job else {
                continue;
            };
            let Some(index) = slice.index(nth) else {
                continue;
            };
            indices.push(index);
            numbers.push(job.numbers.at(index));
            found.push((job.original(index).clone(), failure));
        }
        self.parked.begin();
        let source = slice.batch.source();
        let (mut letters, mut refused) = (Vec::with_capacity(found.len()), None);
        for (original, failure) in found {
            let letter = match failure {
                Some(failure) => self.letter(source, &original, failure, 1),
                None => self.waiting_letter(source, &original),
            };
            match letter {
                Ok(letter) => letters.push(letter),
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        let (stored, full) = self.store_fitting(&letters)?;
        let rest = numbers.split_off(stored);
        for (state, fate) in [
            (LetterState::Pending, Fate::DeadLettered),
            (LetterState::Parked, Fate::Parked),
        ] {
            let of = letters.iter().zip(&numbers);
            let of = of.filter(|(letter, _)| letter.state == state);
            let of = Numbers::List(of.map(|(_, number)| *number).collect());
            self.done(&of, fate);
        }
        let Some(error) = full.or(refused) else {
            return Ok(());
        };
        debug_assert!(!rest.is_empty());
        let kept = letters[..stored].iter();
        let kept: Vec<_> = kept.map(|letter| letter.event.position).collect();
        self.parked.undo(&kept);
        self.block(error)?;
        self.workers[w].blocked = true;
        indices.drain(..stored);
        // The emitter's mark may come to stand behind them, which it has refused.
        if let Some(last) = slice.batch.events().last() {
            let ahead = &mut self.workers[w].ahead;
            *ahead = last.position.max(*ahead);
        }
        let Some(job) = &mut self.workers[w].job else {
            return Ok(());
        };
        self.queued += indices.len();
        // They are refused once more when they are sent once more.
        job.refuse_again(&indices);
        for &index in indices.iter().rev() {
            self.queued_bytes += job.batch.events()[index].encoded_len();
            job.ranges.push(index..index + 1);
        }
        Ok(())
    }
}

fn failures(rejected: Vec<Rejection>) -> Vec<(usize, Option<Failure>)> {
    let failure = |rejection: Rejection| {
        let failure = Failure {
            stage: Stage::Deliver,
            class: EmitErrorKind::Event.name().into(),
            message: rejection.message,
            status: rejection.status,
            response: None,
        };
        (rejection.index, Some(failure))
    };
    rejected.into_iter().map(failure).collect()
}
