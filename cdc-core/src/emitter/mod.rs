//! The seam towards destinations.

mod boxed;

use std::future::Future;

use bytes::Bytes;

use crate::{Checkpoint, EmitError, EventBatch, Position};

pub use boxed::BoxEmitter;

/// How safe a batch is that an emitter has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Taken, but a crash could still lose it. [`Emitter::durable`] says later when it is safe.
    Accepted,
    /// Safe at the destination, and so is everything accepted before it.
    Durable,
}

/// One event of a batch that the destination refused; the others were taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Which event, counted from the batch's first.
    pub index: usize,
    /// Why, without row contents.
    pub message: String,
    /// The destination's status for it, if there is one.
    pub status: Option<u16>,
}

/// An emitter's answer for a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// How safe the batch is.
    pub delivery: Delivery,
    /// Events the destination refused: they become dead letters. Indices ascend.
    pub rejected: Vec<Rejection>,
}

impl Receipt {
    /// Everything is safe.
    pub const DURABLE: Self = Self {
        delivery: Delivery::Durable,
        rejected: Vec::new(),
    };
    /// Everything is taken, and not yet safe.
    pub const ACCEPTED: Self = Self {
        delivery: Delivery::Accepted,
        rejected: Vec::new(),
    };
}

/// How far an emitter's destination is safe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DurableMark {
    /// Every event given to [`Emitter::emit`] up to and including this position is safe.
    pub through: Position,
    /// The emitter's own state that belongs to that position (file name and length, ...), at most
    /// [`Checkpoint::STATE_MAX`] bytes. Stored in the checkpoint and given back to
    /// [`Emitter::resume`].
    pub state: Bytes,
}

/// Delivers batches to one destination. `docs/specs/emitter.md` is the contract in numbered
/// clauses; this is its short form.
///
/// The lane calls `resume` once, then `emit` with one batch at a time in position order, then
/// `flush` at shutdown. Retrying, dead-lettering and checkpoints are the lane's: an emitter tries
/// once and reports.
///
/// # Ordering
/// A batch given again after an error is the same batch. After a crash, batches start again
/// behind the checkpoint and may be cut differently.
///
/// # Durability
/// Only what is reported [`Delivery::Durable`], or covered by a [`DurableMark`], moves the
/// checkpoint.
///
/// # Cancel safety
/// A dropped `emit` leaves the outcome unknown: the batch is given again.
pub trait Emitter: Send {
    /// Called once before the first batch. `from` is the stored checkpoint, or `None` if this
    /// emitter has none. Connects, repairs a torn tail, cuts off what lies behind the checkpoint.
    ///
    /// # Errors
    /// As for [`emit`](Self::emit).
    fn resume(
        &mut self,
        from: Option<&Checkpoint>,
    ) -> impl Future<Output = Result<(), EmitError>> + Send {
        let _ = from;
        async { Ok(()) }
    }

    /// Delivers one batch, which is never empty.
    ///
    /// # Errors
    /// [`EmitError`] if the batch as a whole was not taken or its outcome is unknown. Refused
    /// single events are in the receipt.
    fn emit(
        &mut self,
        batch: &EventBatch,
    ) -> impl Future<Output = Result<Receipt, EmitError>> + Send;

    /// How far the destination is safe, without waiting. Called on the checkpoint cadence.
    /// `None` for emitters whose every receipt is [`Delivery::Durable`].
    ///
    /// # Errors
    /// [`EmitError`] if something accepted earlier was lost; the lane goes back to its checkpoint.
    fn durable(&mut self) -> Result<Option<DurableMark>, EmitError> {
        Ok(None)
    }

    /// A barrier: resolves when all accepted events are safe. Called at shutdown and when idle,
    /// with a time limit.
    ///
    /// # Errors
    /// As for [`durable`](Self::durable).
    fn flush(&mut self) -> impl Future<Output = Result<Option<DurableMark>, EmitError>> + Send {
        async { Ok(None) }
    }

    /// Another emitter to the same destination, so that a lane with `concurrency` above 1 has one
    /// request in flight on each. `None`, the default: one at a time is all there can be, and a
    /// lane that is to do more refuses to start.
    ///
    /// Called before [`resume`](Self::resume), which is then called on every worker with the same
    /// checkpoint. Each worker is an emitter of its own: one call at a time, positions that
    /// increase, its own receipts and marks. Between workers there is no order but that of the
    /// answers: events that depend on each other are given to one worker, or to another one only
    /// after the answer. Marks of workers carry no state: there is one checkpoint, and no position
    /// their states could belong to.
    fn worker(&self) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }

    /// Most events of one batch; the lane cuts batches accordingly.
    fn batch_size(&self) -> usize {
        usize::MAX
    }

    /// True if what was accepted becomes durable by itself, so that a shutdown waits for it. False if
    /// somebody has to come and take it, who may be away for days: then a shutdown takes the mark as
    /// it is, and the rest comes again at the next start. Asked once.
    fn drains(&self) -> bool {
        true
    }

    /// True if [`emit`](Self::emit) waits for nothing but room, which a consumer makes who may be away for
    /// days. What an operator orders then does not wait for it: the lane drops the call, and gives the same
    /// batch again. Asked once.
    fn waits_for_room(&self) -> bool {
        false
    }
}
