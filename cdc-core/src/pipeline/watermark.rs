//! The low watermark: the minimum of all lanes' checkpoints.

use std::collections::BTreeMap;
#[cfg(not(feature = "model"))]
use std::sync::Mutex;
use std::sync::{Arc, PoisonError};

#[cfg(feature = "model")]
use shuttle::sync::Mutex;
use tokio::sync::watch;

use crate::Position;

/// The minimum over the durable checkpoints of all registered lanes: everything up to it is done
/// everywhere, so a source may be told and a log may be trimmed. It never goes back.
#[derive(Clone, Debug)]
pub struct Watermark(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    lanes: Mutex<BTreeMap<Arc<str>, Option<Position>>>,
    minimum: watch::Sender<Position>,
}

/// One lane's entry. Dropping it keeps the entry: a lane that died still holds the source.
#[derive(Debug)]
pub struct WatermarkHandle {
    name: Arc<str>,
    shared: Arc<Shared>,
}

impl Watermark {
    /// No lanes yet; the minimum is [`Position::ZERO`].
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            lanes: Mutex::default(),
            minimum: watch::channel(Position::ZERO).0,
        }))
    }

    /// Registers all lanes of a pipeline before anything is read, in one step: between two single
    /// registrations the minimum would be that of the lanes so far, and it never goes back. Each
    /// comes with its stored checkpoint; without one the minimum cannot move until the lane has
    /// stored its first.
    pub fn register_all<N: Into<Arc<str>>>(
        &self,
        lanes: impl IntoIterator<Item = (N, Option<Position>)>,
    ) -> Vec<WatermarkHandle> {
        let mut known = self.0.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let handles = lanes
            .into_iter()
            .map(|(name, at)| {
                let name = name.into();
                known.insert(name.clone(), at);
                WatermarkHandle {
                    name,
                    shared: self.0.clone(),
                }
            })
            .collect();
        self.0.publish(&known);
        handles
    }

    /// Registers one more lane. Of lanes that start together, see
    /// [`register_all`](Self::register_all). `at` is its stored checkpoint; without one the
    /// minimum cannot move until it has stored its first.
    pub fn register(&self, name: impl Into<Arc<str>>, at: Option<Position>) -> WatermarkHandle {
        let handle = WatermarkHandle {
            name: name.into(),
            shared: self.0.clone(),
        };
        handle.set(at);
        handle
    }

    /// Takes a lane out: it no longer holds anything back. Only for emitters that an operator
    /// removed or disabled.
    pub fn remove(&self, name: &str) {
        let mut lanes = self.0.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.remove(name);
        self.0.publish(&lanes);
    }

    /// The minimum, now and as it moves.
    pub fn subscribe(&self) -> watch::Receiver<Position> {
        self.0.minimum.subscribe()
    }

    /// The minimum now.
    pub fn minimum(&self) -> Position {
        *self.0.minimum.borrow()
    }
}

impl Default for Watermark {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    fn publish(&self, lanes: &BTreeMap<Arc<str>, Option<Position>>) {
        let Some(minimum) = lanes.values().map(|at| at.unwrap_or(Position::ZERO)).min() else {
            return;
        };
        self.minimum.send_if_modified(|current| {
            let moves = minimum > *current;
            if moves {
                *current = minimum;
            }
            moves
        });
    }
}

impl WatermarkHandle {
    fn set(&self, at: Option<Position>) {
        let mut lanes = self
            .shared
            .lanes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        lanes.insert(self.name.clone(), at);
        self.shared.publish(&lanes);
    }

    /// The lane's checkpoint at `position` is durable.
    pub fn advance(&self, position: Position) {
        self.set(Some(position));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lsn;

    #[test]
    fn lanes_that_start_together_count_together() {
        let at = |n| Position::end_of(Lsn(n));
        let watermark = Watermark::new();
        let lanes = [("fast", Some(at(9))), ("slow", Some(at(4)))];
        let handles = watermark.register_all(lanes);
        assert_eq!(watermark.minimum(), at(4));
        let [_, slow] = handles.as_slice() else {
            panic!("two handles")
        };
        slow.advance(at(7));
        assert_eq!(watermark.minimum(), at(7));
    }

    #[test]
    fn the_slowest_lane_holds_it_and_it_never_goes_back() {
        let at = |n| Position::end_of(Lsn(n));
        let watermark = Watermark::new();
        let fast = watermark.register("fast", Some(at(9)));
        assert_eq!(watermark.minimum(), at(9));
        // A lane without checkpoint joins late: the minimum stays, and moves with the slower one.
        let slow = watermark.register("slow", None);
        fast.advance(at(20));
        assert_eq!(watermark.minimum(), at(9));
        slow.advance(at(12));
        assert_eq!(watermark.minimum(), at(12));
        drop(slow);
        fast.advance(at(30));
        assert_eq!(
            watermark.minimum(),
            at(12),
            "a dead lane still holds the source"
        );
        watermark.remove("slow");
        assert_eq!(watermark.minimum(), at(30));
    }
}
