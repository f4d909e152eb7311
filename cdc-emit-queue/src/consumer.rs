//! The user's end of the queue.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;

use cdc_core::{ChangeEvent, EventBatch, Position, SourceInfo};

use crate::state::{Redeemed, Shared, Taken};

/// Takes batches from a queue.
///
/// Dropping a consumer gives back everything it holds, even batches that are still being worked
/// on; a new one, from [`QueueEmitter::consumer`](crate::QueueEmitter::consumer),
/// [`QueueHandle::consumer`](crate::QueueHandle::consumer) or [`Clone`], gets it again.
#[derive(Debug)]
pub struct QueueConsumer {
    shared: Arc<Shared>,
    id: u64,
}

/// Why there is no batch right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TryRecvError {
    /// Nothing is ready.
    #[error("take a batch from the queue: nothing is ready, try again later")]
    Empty,
    /// The emitter is gone and nothing is ready. What other consumers hold may still come back.
    #[error("take a batch from the queue: the emitter is gone and the queue is empty")]
    Closed,
}

impl QueueConsumer {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let id = shared.next_consumer();
        Self { shared, id }
    }

    /// Waits for the oldest batch that nobody holds and that holds no event of a row of which another
    /// consumer has an earlier event that it has not acknowledged. `None` when the emitter is gone and nothing
    /// is ready.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing. A future that is neither polled nor dropped may keep
    /// other waiting consumers from their turn.
    pub async fn recv(&self) -> Option<QueueBatch> {
        loop {
            let turn = self.shared.turnstile.lock().await;
            self.shared.ticket_out.recv_async().await.ok()?;
            drop(turn);
            // Registered before the look, so that no change after it is missed.
            let mut changed = pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            // No await from here on: a drawn ticket is always redeemed.
            match self.shared.redeem(self.id) {
                Redeemed::Taken(taken) => return Some(self.hold(taken)),
                Redeemed::Finished => return None,
                Redeemed::Stale => {}
                Redeemed::Blocked(_) => changed.await,
            }
        }
    }

    /// As [`recv`](Self::recv), blocking the thread; not for async code.
    pub fn recv_blocking(&self) -> Option<QueueBatch> {
        loop {
            self.shared.ticket_out.recv().ok()?;
            match self.shared.redeem(self.id) {
                Redeemed::Taken(taken) => return Some(self.hold(taken)),
                Redeemed::Finished => return None,
                Redeemed::Stale => {}
                Redeemed::Blocked(since) => self.shared.wait_for_change(since),
            }
        }
    }

    /// Takes a batch if one is ready.
    ///
    /// # Errors
    /// [`TryRecvError`] says if waiting makes sense.
    pub fn try_recv(&self) -> Result<QueueBatch, TryRecvError> {
        loop {
            if self.shared.ticket_out.try_recv().is_err() {
                return Err(TryRecvError::Empty);
            }
            match self.shared.redeem(self.id) {
                Redeemed::Taken(taken) => return Ok(self.hold(taken)),
                Redeemed::Finished => return Err(TryRecvError::Closed),
                Redeemed::Stale => {}
                Redeemed::Blocked(_) => return Err(TryRecvError::Empty),
            }
        }
    }

    /// Acknowledges every batch this consumer holds that ends at or before `position`, and says
    /// how many those were. Their [`QueueBatch`]es need no ack of their own any more.
    ///
    /// A redriven letter comes after events of higher positions, so a position says nothing about it:
    /// it is covered only if `position` is the end of its batch, or of one that this consumer was
    /// handed after it and holds.
    pub fn ack_through(&self, position: Position) -> usize {
        self.shared.ack_through(self.id, position)
    }

    fn hold(&self, taken: Taken) -> QueueBatch {
        QueueBatch {
            shared: self.shared.clone(),
            taken,
        }
    }
}

impl Clone for QueueConsumer {
    /// Another consumer of the same queue, which holds nothing yet.
    fn clone(&self) -> Self {
        Self::new(self.shared.clone())
    }
}

impl Drop for QueueConsumer {
    fn drop(&mut self) {
        self.shared.give_back_all(self.id);
    }
}

/// Events handed over, to be acknowledged. Dropping it without [`ack`](Self::ack) gives the events
/// back: they come again first.
#[must_use = "dropping a batch without `ack` gives it back"]
pub struct QueueBatch {
    shared: Arc<Shared>,
    taken: Taken,
}

impl QueueBatch {
    /// The events, in position order; never empty.
    pub fn events(&self) -> &[ChangeEvent] {
        self.taken.batch.events()
    }

    /// The events as a batch, which is cheap to clone and may outlive the hand-over.
    pub const fn batch(&self) -> &EventBatch {
        &self.taken.batch
    }

    /// Where the events come from.
    pub const fn source(&self) -> &Arc<SourceInfo> {
        self.taken.batch.source()
    }

    /// Everything up to and including this is covered.
    pub const fn end(&self) -> Position {
        self.taken.batch.end()
    }

    /// Which hand-over of these events this is, counted from 1.
    pub const fn delivery(&self) -> u32 {
        self.taken.deliveries
    }

    /// Says that the events are safe with the consumer. In any order.
    ///
    /// The checkpoint passes them once everything before them is acknowledged too.
    pub fn ack(self) {
        self.shared.ack(self.taken.seq);
    }
}

impl Drop for QueueBatch {
    fn drop(&mut self) {
        // After an ack nobody holds it, so this changes nothing.
        self.shared.give_back(self.taken.seq, self.taken.hold);
    }
}

impl fmt::Debug for QueueBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueBatch")
            .field("events", &self.taken.batch.len())
            .field("end", &self.taken.batch.end())
            .field("delivery", &self.taken.deliveries)
            .finish_non_exhaustive()
    }
}
