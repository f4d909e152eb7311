//! Fakes of the seams, in memory and scripted.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::{
    BatchLimit, ChangeEvent, Checkpoint, CheckpointError, CheckpointStore, DeadLetter,
    DeadLetterQueue, Delivery, DlqError, DurableMark, EmitError, EmitErrorKind, Emitter,
    EventBatch, EventId, LetterState, Position, Receipt, Rejection, SourceError, SourceInfo,
    WalSource,
};

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A log in memory: batches that tails read from any position.
#[derive(Clone, Debug)]
pub struct MemoryLog {
    source: Arc<SourceInfo>,
    batches: Arc<Mutex<Vec<EventBatch>>>,
    added: Arc<tokio::sync::Notify>,
    closed: Arc<Mutex<bool>>,
    confirmed: Arc<Mutex<Position>>,
}

impl MemoryLog {
    /// An empty log of [`source`](super::source).
    pub fn new() -> Self {
        Self {
            source: super::source(),
            batches: Arc::default(),
            added: Arc::default(),
            closed: Arc::default(),
            confirmed: Arc::default(),
        }
    }

    /// The furthest that was confirmed to any of its tails.
    pub fn confirmed(&self) -> Position {
        *locked(&self.confirmed)
    }

    /// Appends a batch.
    pub fn push(&self, batch: EventBatch) {
        locked(&self.batches).push(batch);
        self.added.notify_waiters();
    }

    /// Says that nothing more will come: tails finish at the end.
    pub fn close(&self) {
        *locked(&self.closed) = true;
        self.added.notify_waiters();
    }

    /// A tail strictly behind `after`.
    pub fn tail(&self, after: Position) -> MemoryTail {
        MemoryTail {
            log: self.clone(),
            after,
            next: 0,
            confirmed: Position::ZERO,
        }
    }
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::new()
    }
}

/// A tail of a [`MemoryLog`].
#[derive(Debug)]
pub struct MemoryTail {
    log: MemoryLog,
    after: Position,
    next: usize,
    /// What was confirmed last.
    pub confirmed: Position,
}

impl WalSource for MemoryTail {
    fn source(&self) -> &Arc<SourceInfo> {
        &self.log.source
    }

    async fn next_batch(&mut self, limit: BatchLimit) -> Result<Option<EventBatch>, SourceError> {
        let added = self.log.added.clone();
        let added = added.notified();
        tokio::pin!(added);
        added.as_mut().enable();
        let found = locked(&self.log.batches).get(self.next).cloned();
        if let Some(batch) = found {
            self.next += 1;
            let end = batch.end().max(self.after);
            let events: Vec<_> = batch
                .into_events()
                .into_iter()
                .filter(|e| e.position > self.after)
                .collect();
            return Ok(Some(EventBatch::new(self.log.source.clone(), events, end)));
        }
        if *locked(&self.log.closed) {
            return Ok(None);
        }
        // Nothing: an empty batch when the linger is over; a new one is found by the next call.
        drop(tokio::time::timeout(limit.linger, added).await);
        Ok(Some(EventBatch::heartbeat(
            self.log.source.clone(),
            self.after,
        )))
    }

    async fn confirm(&mut self, up_to: Position) -> Result<(), SourceError> {
        self.confirmed = self.confirmed.max(up_to);
        let mut furthest = locked(&self.log.confirmed);
        *furthest = up_to.max(*furthest);
        Ok(())
    }
}

/// One scripted answer of a [`ScriptedEmitter`].
#[derive(Clone, Debug)]
pub enum Answer {
    /// Take it; durable.
    Take,
    /// Take it; not yet durable.
    Accept,
    /// Refuse the batch with this kind and status.
    Fail(EmitErrorKind, Option<u16>),
    /// Take all but the events at these positions.
    Reject(Vec<Position>),
    /// Take it, then answer with an error all the same (a lost response).
    TakeAndFail,
    /// Never answer.
    Hang,
}

/// What a [`ScriptedEmitter`] has seen and does.
#[derive(Debug, Default)]
pub struct EmitterState {
    /// Answers to the next batches; [`Answer::Take`] when they run out.
    pub script: VecDeque<Answer>,
    /// Events whose presence makes a batch fail with [`EmitErrorKind::Event`].
    pub poison: Vec<Position>,
    /// Positions taken, in order, repeats included.
    pub taken: Vec<Position>,
    /// Events taken, in order, repeats included.
    pub events: Vec<ChangeEvent>,
    /// Calls of `emit`.
    pub calls: usize,
    /// Answer [`Delivery::Accepted`] to everything, durable up to here.
    pub accept_until: Option<Position>,
    /// `durable` fails once with this, when something was taken.
    pub lose: Option<EmitErrorKind>,
    /// Checkpoints it was resumed from.
    pub resumed: Vec<Option<Position>>,
    /// State in its marks.
    pub mark_state: &'static [u8],
    /// Batch size it asks for.
    pub batch_size: Option<usize>,
}

/// An emitter that does what it is told and records what it gets.
#[derive(Clone, Debug, Default)]
pub struct ScriptedEmitter {
    state: Arc<Mutex<EmitterState>>,
}

impl ScriptedEmitter {
    /// The script and the record.
    pub fn state(&self) -> MutexGuard<'_, EmitterState> {
        locked(&self.state)
    }

    /// Positions taken, in order.
    pub fn taken(&self) -> Vec<Position> {
        self.state().taken.clone()
    }
}

impl Emitter for ScriptedEmitter {
    async fn resume(&mut self, from: Option<&Checkpoint>) -> Result<(), EmitError> {
        self.state().resumed.push(from.map(|c| c.position));
        Ok(())
    }

    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        let answer = {
            let mut state = self.state();
            state.calls += 1;
            let poisoned = batch
                .events()
                .iter()
                .any(|e| state.poison.contains(&e.position));
            match state.script.pop_front() {
                Some(answer) => answer,
                None if poisoned => Answer::Fail(EmitErrorKind::Event, Some(400)),
                None if state.accept_until.is_some() => Answer::Accept,
                None => Answer::Take,
            }
        };
        let failure = |kind, status: Option<u16>| {
            let mut error =
                EmitError::new(kind, "post a batch to the scripted destination: refused");
            error.status = status;
            error
        };
        let take = |except: &[Position]| {
            let mut state = self.state();
            for event in batch
                .events()
                .iter()
                .filter(|e| !except.contains(&e.position))
            {
                state.taken.push(event.position);
                state.events.push(event.clone());
            }
        };
        match answer {
            Answer::Take => take(&[]),
            Answer::Accept => {
                take(&[]);
                return Ok(Receipt::ACCEPTED);
            }
            Answer::Fail(kind, status) => return Err(failure(kind, status)),
            Answer::TakeAndFail => {
                take(&[]);
                return Err(failure(
                    EmitErrorKind::EndpointRetry { retry_after: None },
                    None,
                ));
            }
            Answer::Hang => std::future::pending().await,
            Answer::Reject(positions) => {
                take(&positions);
                let rejected = batch.events().iter().enumerate();
                let rejected = rejected.filter(|(_, e)| positions.contains(&e.position));
                let rejected = rejected.map(|(index, _)| Rejection {
                    index,
                    message: "the destination refused the item".into(),
                    status: Some(422),
                });
                return Ok(Receipt {
                    delivery: Delivery::Durable,
                    rejected: rejected.collect(),
                });
            }
        }
        Ok(Receipt::DURABLE)
    }

    fn durable(&mut self) -> Result<Option<DurableMark>, EmitError> {
        let mut state = self.state();
        if !state.taken.is_empty()
            && let Some(kind) = state.lose.take()
        {
            return Err(EmitError::new(
                kind,
                "sync the scripted destination: failed",
            ));
        }
        let mark_state = Bytes::from_static(state.mark_state);
        Ok(state.accept_until.map(|through| DurableMark {
            through,
            state: mark_state,
        }))
    }

    async fn flush(&mut self) -> Result<Option<DurableMark>, EmitError> {
        loop {
            let waiting = {
                let state = self.state();
                match (state.accept_until, state.taken.last()) {
                    (Some(until), Some(last)) => until < *last,
                    _ => false,
                }
            };
            if !waiting {
                return self.durable();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn batch_size(&self) -> usize {
        self.state().batch_size.unwrap_or(usize::MAX)
    }
}

/// Checkpoints in memory, with every store recorded.
#[derive(Debug, Default)]
pub struct MemoryCheckpoints {
    entries: Mutex<BTreeMap<String, Checkpoint>>,
    /// Positions stored, in order.
    pub history: Mutex<Vec<Position>>,
}

impl CheckpointStore for MemoryCheckpoints {
    fn load(&self, emitter: &str) -> Result<Option<Checkpoint>, CheckpointError> {
        Ok(locked(&self.entries).get(emitter).cloned())
    }

    fn advance(&self, emitter: &str, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
        let mut entries = locked(&self.entries);
        if let Some(stored) = entries.get(emitter)
            && stored.position > checkpoint.position
        {
            return Err(CheckpointError::Backwards {
                emitter: emitter.to_owned(),
                asked: checkpoint.position,
                stored: stored.position,
            });
        }
        locked(&self.history).push(checkpoint.position);
        entries.insert(emitter.to_owned(), checkpoint.clone());
        Ok(())
    }

    fn reset(&self, emitter: &str, checkpoint: Option<&Checkpoint>) -> Result<(), CheckpointError> {
        match checkpoint {
            Some(c) => locked(&self.entries).insert(emitter.to_owned(), c.clone()),
            None => locked(&self.entries).remove(emitter),
        };
        Ok(())
    }

    fn list(&self) -> Result<Vec<(String, Checkpoint)>, CheckpointError> {
        Ok(locked(&self.entries)
            .iter()
            .map(|(n, c)| (n.clone(), c.clone()))
            .collect())
    }
}

/// Dead letters in memory.
#[derive(Debug, Default)]
pub struct MemoryDlq {
    /// Letters in the order of their first arrival.
    pub letters: Vec<DeadLetter>,
    /// Appends fail from now on.
    pub full: bool,
    /// States of letters cannot be stored: its disk is full.
    pub states_full: bool,
    /// Most open letters.
    pub letters_max: Option<usize>,
    /// Appends that succeeded, each of which a real queue syncs.
    pub appends: u64,
}

impl DeadLetterQueue for MemoryDlq {
    fn append(&mut self, letters: &[DeadLetter]) -> Result<(), DlqError> {
        let open = |letter: &&DeadLetter| letter.state.is_open();
        let used = self.letters.iter().filter(open).count();
        let is_known = |letter: &DeadLetter| {
            self.letters
                .iter()
                .filter(open)
                .any(|l| l.emitter == letter.emitter && l.event_id() == letter.event_id())
        };
        let fresh = letters.iter().filter(|letter| !is_known(letter)).count();
        let max = self.letters_max.unwrap_or(usize::MAX);
        if self.full || used + fresh > max {
            return Err(DlqError::Full {
                path: "memory".into(),
                used: used as u64,
                max: if self.full { used } else { max } as u64,
                unit: "letters",
                key: "dlq_letters_max",
            });
        }
        self.appends += 1;
        for letter in letters {
            let same = |l: &&mut DeadLetter| {
                l.emitter == letter.emitter
                    && l.event_id() == letter.event_id()
                    && l.state.is_open()
            };
            match self.letters.iter_mut().find(same) {
                // Read again after a crash: it waits already, as what it was.
                Some(_) if letter.state == LetterState::Parked => {}
                Some(stored) => *stored = letter.clone(),
                None => self.letters.push(letter.clone()),
            }
        }
        Ok(())
    }

    fn set_state(
        &mut self,
        emitter: &str,
        id: EventId,
        state: LetterState,
    ) -> Result<(), DlqError> {
        if self.states_full {
            return Err(DlqError::NoSpace {
                path: "memory".into(),
                cause: std::io::ErrorKind::StorageFull.into(),
            });
        }
        for letter in &mut self.letters {
            if &*letter.emitter == emitter && letter.event_id() == id {
                letter.state = state;
            }
        }
        Ok(())
    }

    fn open_letters(
        &mut self,
        emitter: &str,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, DlqError> {
        let mut open: Vec<_> = self
            .letters
            .iter()
            .filter(|l| &*l.emitter == emitter && l.state.is_open())
            .filter(|l| after.is_none_or(|after| l.event.position > after))
            .cloned()
            .collect();
        open.sort_by_key(|l| l.event.position);
        open.truncate(limit);
        Ok(open)
    }
}
