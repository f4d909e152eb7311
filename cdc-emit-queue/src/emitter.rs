//! The lane's end of the queue.

use std::sync::Arc;

use bytes::Bytes;
use cdc_core::{Checkpoint, DurableMark, EmitError, Emitter, EventBatch, Position, Receipt};

use crate::size::event_bytes;
use crate::state::Shared;
use crate::{QueueConfig, QueueConfigError, QueueConsumer, QueueStats};

/// Puts events into a bounded queue in memory.
///
/// Every receipt is [`Receipt::ACCEPTED`]: [`durable`](Emitter::durable) follows the consumer's
/// acks. Dropping the emitter closes the queue; its consumers get what is left and then `None`.
/// Without any consumer the queue fills up and `emit` waits.
///
/// # Cancel safety
/// A dropped `emit` may have queued a part of its batch. When the same batch is given again, as
/// the contract says, it goes on behind that part.
#[derive(Debug)]
pub struct QueueEmitter {
    shared: Arc<Shared>,
    partial: Option<Partial>,
}

/// A batch that was queued in part when its future was dropped.
#[derive(Debug)]
struct Partial {
    first: Option<Position>,
    end: Position,
    len: usize,
    pushed: usize,
}

impl Partial {
    fn of(batch: &EventBatch, pushed: usize) -> Self {
        Self {
            first: batch.events().first().map(|event| event.position),
            end: batch.end(),
            len: batch.len(),
            pushed,
        }
    }

    fn is_of(&self, batch: &EventBatch) -> bool {
        let other = Self::of(batch, 0);
        (self.first, self.end, self.len) == (other.first, other.end, other.len)
    }
}

impl QueueEmitter {
    /// Opens an empty queue.
    ///
    /// # Errors
    /// [`QueueConfigError`] if a bound is zero or too large.
    pub fn new(config: QueueConfig) -> Result<Self, QueueConfigError> {
        config.validate()?;
        Ok(Self {
            shared: Arc::new(Shared::new(config)),
            partial: None,
        })
    }

    /// A consumer of this queue. There may be several; each event goes to one of them.
    pub fn consumer(&self) -> QueueConsumer {
        QueueConsumer::new(self.shared.clone())
    }

    /// A handle that stays when the emitter has gone into a lane.
    pub fn handle(&self) -> QueueHandle {
        QueueHandle {
            shared: self.shared.clone(),
        }
    }
}

impl Drop for QueueEmitter {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Emitter for QueueEmitter {
    /// Forgets what is queued and not yet acknowledged: the lane gives it again. Acks of batches
    /// handed over before are then without effect.
    async fn resume(&mut self, from: Option<&Checkpoint>) -> Result<(), EmitError> {
        self.partial = None;
        self.shared
            .restart(from.map_or(Position::ZERO, |checkpoint| checkpoint.position));
        self.shared.freed.notify_one();
        Ok(())
    }

    /// Queues the batch in hand-overs of at most `batch_size`, waiting for room.
    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        let mut pushed = match self.partial.take() {
            Some(partial) if partial.is_of(batch) => partial.pushed,
            _ => 0,
        };
        let most = self
            .shared
            .config
            .batch_size
            .min(self.shared.config.capacity);
        while pushed < batch.len() {
            let next = pushed.saturating_add(most).min(batch.len());
            let part = batch.slice(pushed..next);
            let bytes = part
                .events()
                .iter()
                .map(event_bytes)
                .fold(0, usize::saturating_add);
            if !self.shared.push(&part, bytes) {
                self.partial = Some(Partial::of(batch, pushed));
                // An ack between the failed push and the wait is kept by `Notify`.
                self.shared.freed.notified().await;
                continue;
            }
            pushed = next;
        }
        self.partial = None;
        Ok(Receipt::ACCEPTED)
    }

    /// One hand-over: a lane learns between two of them how far consumers are, also while the queue
    /// is full the whole time.
    fn batch_size(&self) -> usize {
        let config = &self.shared.config;
        config.batch_size.min(config.capacity)
    }

    fn durable(&mut self) -> Result<Option<DurableMark>, EmitError> {
        let (through, _) = self.shared.through();
        Ok(Some(mark(through)))
    }

    /// Waits until every batch is acknowledged. Without a consumer that acks it waits for ever:
    /// the lane sets the limit.
    async fn flush(&mut self) -> Result<Option<DurableMark>, EmitError> {
        loop {
            let (through, all) = self.shared.through();
            if all {
                return Ok(Some(mark(through)));
            }
            self.shared.freed.notified().await;
        }
    }

    fn waits_for_room(&self) -> bool {
        true
    }
}

const fn mark(through: Position) -> DurableMark {
    DurableMark {
        through,
        state: Bytes::new(),
    }
}

/// Makes consumers and tells how full the queue is. Cheap to clone; does not keep the queue open.
#[derive(Clone, Debug)]
pub struct QueueHandle {
    shared: Arc<Shared>,
}

impl QueueHandle {
    /// A consumer of this queue.
    pub fn consumer(&self) -> QueueConsumer {
        QueueConsumer::new(self.shared.clone())
    }

    /// How full the queue is.
    pub fn stats(&self) -> QueueStats {
        self.shared.stats()
    }
}
