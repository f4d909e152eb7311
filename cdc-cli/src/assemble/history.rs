//! Dead letters of one history, of a queue that may hold those of several, and a place for their
//! positions: no checkpoint of another history says anything of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cdc_core::{
    Checkpoint, CheckpointError, CheckpointStore, DeadLetter, DeadLetterQueue, DlqError, EventId,
    LetterState, Lineage, Lsn, Position,
};
use cdc_dlq::FileDlq;

/// A history, and how far an emitter has come in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct History {
    pub(crate) lineage: Lineage,
    pub(crate) behind: Position,
}

impl History {
    /// One of which nothing is to come.
    pub(crate) const fn ended(lineage: Lineage) -> Self {
        Self {
            lineage,
            behind: Position::end_of(Lsn(u64::MAX)),
        }
    }

    /// The letter's own history, which is this one or has ended.
    pub(crate) fn of(self, letter: &DeadLetter) -> Self {
        if letter.is_of(&self.lineage, self.behind) {
            self
        } else {
            Self::ended(letter.source.lineage)
        }
    }
}

/// The letters of one history.
#[derive(Debug)]
pub(crate) struct OfHistory {
    pub(crate) queue: Arc<Mutex<FileDlq>>,
    /// That of the emitter's positions.
    pub(crate) ours: History,
    pub(crate) wanted: History,
}

impl OfHistory {
    fn queue(&self) -> MutexGuard<'_, FileDlq> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeadLetterQueue for OfHistory {
    fn append(&mut self, letters: &[DeadLetter]) -> Result<(), DlqError> {
        self.queue().append(letters)
    }

    fn set_state(
        &mut self,
        emitter: &str,
        id: EventId,
        state: LetterState,
    ) -> Result<(), DlqError> {
        self.queue().set_state(emitter, id, state)
    }

    fn set_states(
        &mut self,
        emitter: &str,
        ids: &[EventId],
        state: LetterState,
    ) -> Result<(), DlqError> {
        DeadLetterQueue::set_states(&mut *self.queue(), emitter, ids, state)
    }

    fn open_letters(
        &mut self,
        emitter: &str,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, DlqError> {
        let mut after = after;
        loop {
            let mut page = self.queue().open_letters(emitter, after, limit)?;
            let Some(last) = page.last() else {
                return Ok(page);
            };
            after = Some(last.event.position);
            page.retain(|letter| self.ours.of(letter) == self.wanted);
            if !page.is_empty() {
                return Ok(page);
            }
        }
    }
}

/// The end of a history, kept in memory: letters of it are behind that, and nothing is stored.
#[derive(Debug)]
pub(crate) struct Ended(pub(crate) History);

impl CheckpointStore for Ended {
    fn load(&self, _: &str) -> Result<Option<Checkpoint>, CheckpointError> {
        Ok(Some(Checkpoint {
            lineage: self.0.lineage,
            position: self.0.behind,
            state: Bytes::new(),
            stored_micros: 0,
        }))
    }

    fn advance(&self, _: &str, _: &Checkpoint) -> Result<(), CheckpointError> {
        Ok(())
    }

    fn reset(&self, _: &str, _: Option<&Checkpoint>) -> Result<(), CheckpointError> {
        Ok(())
    }

    fn list(&self) -> Result<Vec<(String, Checkpoint)>, CheckpointError> {
        Ok(Vec::new())
    }
}
