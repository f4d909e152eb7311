//! The seams between log and emitter: keep or drop, and change.

use crate::{ChangeEvent, TransformError};

/// Decides whether an event goes on. Pure: no I/O, no clock; called once an event and lane.
pub trait Filter: Send + Sync {
    /// True to keep the event. Filters cost per event: look at the relation and op first.
    fn keep(&self, event: &ChangeEvent) -> bool;
}

/// Changes an event before delivery. Pure, like [`Filter`].
///
/// The position must stay; table and columns may change.
pub trait Transform: Send + Sync {
    /// The changed event, `None` to drop it, or why it could not be changed (then it is
    /// dead-lettered in its original form and the stream goes on).
    fn apply(&self, event: ChangeEvent) -> Result<Option<ChangeEvent>, TransformError>;
}

impl<F: Fn(&ChangeEvent) -> bool + Send + Sync> Filter for F {
    fn keep(&self, event: &ChangeEvent) -> bool {
        self(event)
    }
}
