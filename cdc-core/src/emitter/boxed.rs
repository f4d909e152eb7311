//! Run-time choice of emitter: `async fn` in a trait is not object safe, so a private twin is.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use super::{DurableMark, Emitter, Receipt};
use crate::{Checkpoint, EmitError, EventBatch};

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T, EmitError>> + Send + 'a>>;

trait ErasedEmitter: Send {
    fn resume<'a>(&'a mut self, from: Option<&'a Checkpoint>) -> Boxed<'a, ()>;
    fn emit<'a>(&'a mut self, batch: &'a EventBatch) -> Boxed<'a, Receipt>;
    fn durable(&mut self) -> Result<Option<DurableMark>, EmitError>;
    fn flush(&mut self) -> Boxed<'_, Option<DurableMark>>;
    fn batch_size(&self) -> usize;
    fn drains(&self) -> bool;
    fn waits_for_room(&self) -> bool;
    fn worker(&self) -> Option<Box<dyn ErasedEmitter>>;
}

impl<E: Emitter + 'static> ErasedEmitter for E {
    fn resume<'a>(&'a mut self, from: Option<&'a Checkpoint>) -> Boxed<'a, ()> {
        Box::pin(Emitter::resume(self, from))
    }
    fn emit<'a>(&'a mut self, batch: &'a EventBatch) -> Boxed<'a, Receipt> {
        Box::pin(Emitter::emit(self, batch))
    }
    fn durable(&mut self) -> Result<Option<DurableMark>, EmitError> {
        Emitter::durable(self)
    }
    fn flush(&mut self) -> Boxed<'_, Option<DurableMark>> {
        Box::pin(Emitter::flush(self))
    }
    fn batch_size(&self) -> usize {
        Emitter::batch_size(self)
    }
    fn drains(&self) -> bool {
        Emitter::drains(self)
    }
    fn waits_for_room(&self) -> bool {
        Emitter::waits_for_room(self)
    }
    fn worker(&self) -> Option<Box<dyn ErasedEmitter>> {
        Emitter::worker(self).map(|worker| Box::new(worker) as _)
    }
}

/// An emitter chosen at run time. Costs one allocation a batch.
pub struct BoxEmitter(Box<dyn ErasedEmitter>);

impl BoxEmitter {
    /// Boxes an emitter.
    pub fn new(emitter: impl Emitter + 'static) -> Self {
        Self(Box::new(emitter))
    }
}

impl fmt::Debug for BoxEmitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoxEmitter")
    }
}

impl Emitter for BoxEmitter {
    async fn resume(&mut self, from: Option<&Checkpoint>) -> Result<(), EmitError> {
        self.0.resume(from).await
    }
    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        self.0.emit(batch).await
    }
    fn durable(&mut self) -> Result<Option<DurableMark>, EmitError> {
        self.0.durable()
    }
    async fn flush(&mut self) -> Result<Option<DurableMark>, EmitError> {
        self.0.flush().await
    }
    fn batch_size(&self) -> usize {
        self.0.batch_size()
    }
    fn drains(&self) -> bool {
        self.0.drains()
    }
    fn waits_for_room(&self) -> bool {
        self.0.waits_for_room()
    }
    fn worker(&self) -> Option<Self> {
        self.0.worker().map(Self)
    }
}
