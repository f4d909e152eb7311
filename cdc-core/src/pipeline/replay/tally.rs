//! Counting each event once, also where a destination loses what it took and the lane reads it again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{ChangeEvent, Filter, Position, Transform, TransformError};

/// How many events came to a stage, and how many of them it dropped.
#[derive(Clone, Debug)]
pub(super) struct Tally(Arc<Mutex<Counts>>);

#[derive(Debug)]
struct Counts {
    /// Events come in the order of their positions; what is up to this has been counted.
    through: Position,
    came: u64,
    dropped: u64,
}

impl Tally {
    /// Of events strictly behind a position.
    pub(super) fn behind(through: Position) -> Self {
        Self(Arc::new(Mutex::new(Counts {
            through,
            came: 0,
            dropped: 0,
        })))
    }

    /// How many came, and how many were dropped.
    pub(super) fn counts(&self) -> (u64, u64) {
        let counts = self.locked();
        (counts.came, counts.dropped)
    }

    fn count(&self, position: Position, dropped: bool) {
        let mut counts = self.locked();
        if position > counts.through {
            counts.through = position;
            counts.came += 1;
            counts.dropped += u64::from(dropped);
        }
    }

    fn locked(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A filter, or a transform, that keeps a tally.
pub(super) struct Counted<T>(pub(super) T, pub(super) Tally);

impl Filter for Counted<Box<dyn Filter>> {
    fn keep(&self, event: &ChangeEvent) -> bool {
        let kept = self.0.keep(event);
        self.1.count(event.position, !kept);
        kept
    }
}

impl Transform for Counted<Box<dyn Transform>> {
    fn apply(&self, event: ChangeEvent) -> Result<Option<ChangeEvent>, TransformError> {
        let position = event.position;
        let changed = self.0.apply(event);
        self.1.count(position, matches!(changed, Ok(None)));
        changed
    }
}
