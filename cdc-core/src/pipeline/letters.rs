//! Dead letters of a lane: making them, parking the keys behind them, storing them.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tracing::{error, warn};

use super::OnDeadKey;
use super::lane::LaneError;
use super::metrics::Fate;
use super::parked::{Behind, KeyHashes, Scope, key_hashes};
use super::run::Running;
use super::window::Numbers;
use crate::crash;
use crate::{
    ChangeEvent, DeadLetter, DlqError, EventId, Failure, LetterState, Position, SourceInfo, Stage,
};

/// Shortest wait before a full queue is looked at again by itself.
const LOOK_MIN: Duration = Duration::from_millis(1);

/// True if letters were refused for lack of room.
pub(super) const fn is_full(error: &LaneError) -> bool {
    matches!(
        error,
        LaneError::Dlq {
            cause: DlqError::Full { .. } | DlqError::NoSpace { .. },
            ..
        }
    )
}

/// Letters of events that wait, and the hashes of the keys of those that do not.
type Taken = (Vec<DeadLetter>, Vec<KeyHashes>);

impl Running {
    /// The event as its transforms leave it, `None` if one drops it, or why one failed.
    pub(super) fn transform(&self, event: ChangeEvent) -> Result<Option<ChangeEvent>, Failure> {
        let mut event = event;
        for transform in &self.transforms {
            match transform.apply(event) {
                Ok(Some(changed)) => event = changed,
                Ok(None) => return Ok(None),
                Err(error) => {
                    return Err(Failure {
                        stage: Stage::Transform,
                        class: "transform".into(),
                        message: error.to_string(),
                        status: None,
                        response: None,
                    });
                }
            }
        }
        Ok(Some(event))
    }

    /// A letter for an event that waits behind a dead one, if it does; `hashes` are those of its key.
    ///
    /// # Errors
    /// [`LaneError::Dlq`] if no further key may wait.
    pub(super) fn park(
        &mut self,
        source: &Arc<SourceInfo>,
        event: &ChangeEvent,
        hashes: KeyHashes,
    ) -> Result<Option<DeadLetter>, LaneError> {
        if self.parked.is_empty() {
            return Ok(None);
        }
        let Some((scope, behind)) = self.parked.behind_of(event, hashes) else {
            return Ok(None);
        };
        self.room_for_key(scope)?;
        self.parked.add(scope, event.position);
        Ok(Some(self.parked_letter(source, event.clone(), behind)))
    }

    /// Takes out the events that wait behind a letter: their letters, and the hashes of the keys of
    /// the others. If one finds no room, how many are before it; then the events are as they were.
    pub(super) fn take_waiting(
        &mut self,
        source: &Arc<SourceInfo>,
        events: &mut Vec<ChangeEvent>,
    ) -> Result<Taken, Box<(usize, LaneError)>> {
        let (mut letters, mut gone) = (Vec::new(), Vec::new());
        let mut hashes = Vec::with_capacity(events.len());
        for (index, event) in events.iter().enumerate() {
            // Once for both questions: who waits, and whose it is.
            let of_key = key_hashes(event).ok().flatten();
            match self.park(source, event, of_key) {
                Ok(Some(letter)) => {
                    letters.push(letter);
                    gone.push(index);
                }
                Ok(None) => hashes.push(of_key),
                Err(error) => return Err(Box::new((index, error))),
            }
        }
        let (mut index, mut gone) = (0, gone.into_iter().peekable());
        events.retain(|_| {
            let waits = gone.next_if_eq(&index).is_some();
            index += 1;
            !waits
        });
        Ok((letters, hashes))
    }

    /// Refuses one more key, or whole table, than may wait.
    pub(super) fn room_for_key(&self, scope: Scope) -> Result<(), LaneError> {
        let max = self.config.parked_keys_max;
        if self.parked.len() < max || self.parked.knows(scope) {
            return Ok(());
        }
        Err(self.dlq_error(DlqError::Full {
            path: format!("emitter {}", self.config.name),
            used: self.parked.len() as u64,
            max: max as u64,
            unit: "keys",
            key: "dlq_keys_max",
        }))
    }

    pub(super) fn parked_letter(
        &self,
        source: &Arc<SourceInfo>,
        event: ChangeEvent,
        behind: Behind,
    ) -> DeadLetter {
        let failure = Failure {
            stage: Stage::Deliver,
            class: "parked".into(),
            message: behind.reason().into(),
            status: None,
            response: None,
        };
        self.new_letter(source, event, failure, 0, LetterState::Parked)
    }

    /// A letter for an event that waits behind one that just failed.
    ///
    /// # Errors
    /// [`LaneError::Dlq`] if no further key may wait.
    pub(super) fn waiting_letter(
        &mut self,
        source: &Arc<SourceInfo>,
        event: &ChangeEvent,
    ) -> Result<DeadLetter, LaneError> {
        let behind = self.parked.behind(event);
        let (scope, behind) = match behind {
            Some((scope, behind)) => (Some(scope), behind),
            None => (Scope::of(event), Behind::Key),
        };
        if let Some(scope) = scope {
            self.room_for_key(scope)?;
            self.parked.add(scope, event.position);
        }
        Ok(self.parked_letter(source, event.clone(), behind))
    }

    /// A letter for a failed event; its key is parked.
    pub(super) fn letter(
        &mut self,
        source: &Arc<SourceInfo>,
        event: &ChangeEvent,
        failure: Failure,
        attempts: u32,
    ) -> Result<DeadLetter, LaneError> {
        if self.config.on_dead_key == OnDeadKey::Stop {
            return Err(LaneError::DeadKey {
                emitter: self.config.name.clone(),
                event: EventId::new(&source.lineage, event.position).to_string(),
                reason: failure.message,
            });
        }
        if self.config.on_dead_key == OnDeadKey::Park
            && let Some(scope) = Scope::of(event)
        {
            self.room_for_key(scope)?;
            self.parked.add(scope, event.position);
        }
        Ok(self.new_letter(
            source,
            event.clone(),
            failure,
            attempts,
            LetterState::Pending,
        ))
    }

    fn new_letter(
        &self,
        source: &Arc<SourceInfo>,
        event: ChangeEvent,
        failure: Failure,
        attempts: u32,
        state: LetterState,
    ) -> DeadLetter {
        let now = self.clock.wall_micros();
        DeadLetter {
            emitter: self.config.name.clone(),
            source: source.clone(),
            event,
            failure,
            attempts,
            first_failed_micros: now,
            last_failed_micros: now,
            state,
        }
    }

    pub(super) fn store_letters(&self, letters: &[DeadLetter]) -> Result<(), LaneError> {
        {
            let mut dlq = self.dlq.lock().unwrap_or_else(PoisonError::into_inner);
            dlq.append(letters).map_err(|cause| self.dlq_error(cause))?;
        }
        crash::point("letter");
        for letter in letters
            .iter()
            .filter(|letter| letter.state == LetterState::Pending)
        {
            warn!(
                emitter = %self.config.name,
                event = %letter.event_id(),
                stage = letter.failure.stage.name(),
                reason = %letter.failure.message,
                "event dead-lettered"
            );
        }
        Ok(())
    }

    /// Stores letters in their order, as many as there is room for: gives how many, and why not
    /// the next one.
    ///
    /// # Errors
    /// [`LaneError`] for any other reason than lack of room.
    pub(super) fn store_fitting(
        &self,
        letters: &[DeadLetter],
    ) -> Result<(usize, Option<LaneError>), LaneError> {
        let (mut stored, mut size, mut refused) = (0, letters.len(), None);
        // The queue takes a group whole or not at all: halves of what was refused find the limit.
        while stored < letters.len() {
            size = size.clamp(1, letters.len() - stored);
            match self.store_letters(&letters[stored..stored + size]) {
                Ok(()) => {
                    stored += size;
                    refused = None;
                }
                Err(error) if is_full(&error) && size > 1 => {
                    size /= 2;
                    refused = Some(error);
                }
                Err(error) if is_full(&error) => return Ok((stored, Some(error))),
                Err(error) => return Err(error),
            }
        }
        debug_assert!(refused.is_none());
        Ok((stored, None))
    }

    /// Numbers what was read, in order: the events to be delivered, whose numbers it gives, and those
    /// that wait behind a dead letter.
    pub(super) fn number(&mut self, events: &[ChangeEvent], parked: Vec<DeadLetter>) -> Numbers {
        if parked.is_empty() {
            return Numbers::Range(self.window.push(events));
        }
        let mut numbers = Vec::with_capacity(events.len());
        let mut parked = parked.into_iter().peekable();
        for event in events {
            while let Some(letter) = parked.next_if(|l| l.event.position < event.position) {
                let number = self.window.push_one(&letter.event);
                self.parking.push(number, letter);
            }
            numbers.push(self.window.push_one(event));
        }
        for letter in parked {
            let number = self.window.push_one(&letter.event);
            self.parking.push(number, letter);
        }
        Numbers::List(numbers)
    }

    /// True if the letters that wait to be stored as a group should not wait longer: they are many, or
    /// everything before the first of them is done and a checkpoint is due or the window fills up.
    pub(super) fn must_store(&self, due: bool) -> bool {
        let filling = self.window.len() as u64 >= self.config.window_max / 2;
        let hinders = self.parking.first() == Some(self.window.head());
        self.blocked.is_none() && (self.parking.is_large() || hinders && (due || filling))
    }

    /// Stores the letters of events that wait behind another one, and marks the events. False if there
    /// is no room for them: then the lane is blocked.
    ///
    /// # Errors
    /// [`LaneError`] that halts the lane.
    pub(super) fn store_parking(&mut self) -> Result<bool, LaneError> {
        if self.parking.is_empty() {
            return Ok(true);
        }
        if self.blocked.is_some() {
            return Ok(false);
        }
        let Some(error) = self.store_parked()? else {
            return Ok(true);
        };
        self.block(error)?;
        Ok(false)
    }

    /// Stores as many of the waiting events' letters as there is room for: why not the next one.
    fn store_parked(&mut self) -> Result<Option<LaneError>, LaneError> {
        let (stored, refused) = self.store_fitting(self.parking.letters())?;
        let numbers = self.parking.stored(stored);
        self.done(&numbers, Fate::Parked);
        Ok(refused)
    }

    /// Letters could not be stored. For lack of room the lane blocks until letters are redriven or
    /// discarded: nothing more goes out from the worker whose events they are. What other workers have goes
    /// on, and is read, as far as the window and what waits for room allow. Any other failure halts the
    /// lane.
    ///
    /// # Errors
    /// What it was given, if it is not for lack of room.
    pub(super) fn block(&mut self, error: LaneError) -> Result<(), LaneError> {
        let LaneError::Dlq {
            cause: cause @ (DlqError::Full { .. } | DlqError::NoSpace { .. }),
            ..
        } = error
        else {
            return Err(error);
        };
        // What has its place is to be seen and redriven while the lane waits.
        self.store_parked()?;
        let wait = self.config.retry.probe_interval.max(LOOK_MIN);
        self.look_again = self.clock.elapsed() + wait;
        let reason = cause.to_string();
        if self.blocked.as_deref() != Some(&*reason) {
            error!(
                emitter = %self.config.name,
                %reason,
                "no room for dead letters; the lane waits, nothing is lost: mend the destination and redrive, or discard letters, or make room"
            );
        }
        self.blocked = Some(reason);
        self.show();
        Ok(())
    }

    /// There may be room for letters again.
    ///
    /// # Errors
    /// [`LaneError`] that halts the lane.
    pub(super) fn unblock(&mut self) -> Result<(), LaneError> {
        if self.blocked.take().is_none() {
            return Ok(());
        }
        for worker in &mut self.workers {
            worker.blocked = false;
        }
        if self.store_parking()? {
            self.admit_held()?;
        }
        self.show();
        Ok(())
    }

    /// Finds the keys that wait, in the queue, before anything behind this position, if one is given, is read. Letters of
    /// another history are no use to the lane, nor it to them: a letter of its own at the position of one
    /// would be taken for stored.
    pub(super) fn rebuild_parked(&mut self, behind: Option<Position>) -> Result<(), LaneError> {
        let parks = self.config.on_dead_key != OnDeadKey::Pass;
        let mut after = None;
        loop {
            let page = {
                let mut dlq = self.dlq.lock().unwrap_or_else(PoisonError::into_inner);
                dlq.open_letters(&self.config.name, after, 1024)
            };
            let page = page.map_err(|cause| self.dlq_error(cause))?;
            let Some(last) = page.last() else {
                self.parked.found();
                return Ok(());
            };
            after = Some(last.event.position);
            for letter in &page {
                if behind.is_some_and(|behind| !letter.is_of(&self.config.lineage, behind)) {
                    return Err(LaneError::OtherHistory {
                        emitter: self.config.name.clone(),
                        event: letter.event_id().to_string(),
                        found: letter.source.lineage,
                        lineage: self.config.lineage,
                    });
                }
                if let Some(scope) = Scope::of(&letter.event).filter(|_| parks) {
                    self.parked.add(scope, letter.event.position);
                }
            }
        }
    }
}
