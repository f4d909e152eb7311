//! The real stores, watched by the oracle.

use std::sync::Arc;

use super::{Oracle, Timeline};
use crate::{
    Checkpoint, CheckpointError, CheckpointStore, DeadLetter, DeadLetterQueue, DlqError, EventId,
    LetterState, Position,
};

/// Checkpoints whose every store is judged.
#[derive(Debug)]
pub struct WatchedCheckpoints {
    /// The real ones.
    pub inner: Arc<dyn CheckpointStore>,
    /// The judge.
    pub oracle: Oracle,
    /// The record.
    pub timeline: Timeline,
}

impl CheckpointStore for WatchedCheckpoints {
    fn load(&self, emitter: &str) -> Result<Option<Checkpoint>, CheckpointError> {
        self.inner.load(emitter)
    }

    fn advance(&self, emitter: &str, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
        let position = checkpoint.position;
        self.oracle.storing(emitter, position);
        let stored = self.inner.advance(emitter, checkpoint);
        self.timeline.stir(position.commit.0);
        self.timeline.note(emitter, || match &stored {
            Ok(()) => format!("checkpoint {position}"),
            Err(error) => format!("checkpoint {position} FAILS: {error}"),
        });
        if stored.is_ok() {
            self.oracle.stored(emitter, position);
        }
        stored
    }

    fn reset(&self, emitter: &str, checkpoint: Option<&Checkpoint>) -> Result<(), CheckpointError> {
        let position = checkpoint.map_or(Position::ZERO, |checkpoint| checkpoint.position);
        let stored = self.inner.reset(emitter, checkpoint);
        match &stored {
            Ok(()) => self.oracle.moved(emitter, position),
            // It may be on the disk, or not.
            Err(_) => self.oracle.maybe_moved(emitter, position),
        }
        stored
    }

    fn list(&self) -> Result<Vec<(String, Checkpoint)>, CheckpointError> {
        self.inner.list()
    }
}

/// A dead letter queue whose every change is judged.
#[derive(Debug)]
pub struct WatchedDlq<Q> {
    /// The real one.
    pub inner: Q,
    /// The judge.
    pub oracle: Oracle,
    /// The record.
    pub timeline: Timeline,
}

impl<Q: DeadLetterQueue> DeadLetterQueue for WatchedDlq<Q> {
    fn append(&mut self, letters: &[DeadLetter]) -> Result<(), DlqError> {
        let new = self.oracle.appending(letters);
        let appended = self.inner.append(letters);
        let refused = matches!(
            appended,
            Err(DlqError::Full { .. } | DlqError::NoSpace { .. })
        );
        if refused && let Some(letter) = letters.first() {
            let some = matches!(appended, Err(DlqError::NoSpace { .. }));
            self.oracle.not_appended(&letter.emitter, &new, some);
        }
        for letter in letters {
            self.timeline.stir(letter.event.position.commit.0);
            self.timeline.note(&letter.emitter, || {
                let failed = appended.as_ref().err();
                let failed = failed.map_or(String::new(), |error| format!(" FAILS: {error}"));
                format!(
                    "{} letter {}: {}{failed}",
                    letter.state.name(),
                    letter.event.position,
                    letter.failure.message
                )
            });
        }
        if appended.is_ok() {
            self.oracle.appended(letters);
        }
        appended
    }

    fn set_state(
        &mut self,
        emitter: &str,
        id: EventId,
        state: LetterState,
    ) -> Result<(), DlqError> {
        self.oracle.letter_changing(emitter, id, state);
        let set = self.inner.set_state(emitter, id, state);
        self.timeline.note(emitter, || {
            let failed = set.as_ref().err();
            let failed = failed.map_or(String::new(), |error| format!(" FAILS: {error}"));
            format!("letter {} is {}{failed}", id.position(), state.name())
        });
        if set.is_ok() {
            self.oracle.letter_changed(emitter, id);
            self.oracle.letter_state(emitter, id, state);
        }
        set
    }

    fn set_states(
        &mut self,
        emitter: &str,
        ids: &[EventId],
        state: LetterState,
    ) -> Result<(), DlqError> {
        for &id in ids {
            self.oracle.letter_changing(emitter, id, state);
        }
        let set = self.inner.set_states(emitter, ids, state);
        self.timeline.note(emitter, || {
            let failed = set.as_ref().err();
            let failed = failed.map_or(String::new(), |error| format!(" FAILS: {error}"));
            format!("{} letters are {}{failed}", ids.len(), state.name())
        });
        if set.is_ok() {
            for &id in ids {
                self.oracle.letter_changed(emitter, id);
                self.oracle.letter_state(emitter, id, state);
            }
        }
        set
    }

    fn open_letters(
        &mut self,
        emitter: &str,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, DlqError> {
        self.inner.open_letters(emitter, after, limit)
    }
}
