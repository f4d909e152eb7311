//! A file emitter that tells the judge when it has mended its files.

use std::sync::{Arc, Mutex, PoisonError};

use cdc_core::{Checkpoint, DurableMark, EmitError, Emitter, EventBatch, Receipt};
use cdc_emit_file::FileEmitter;

use super::process::Seen;

pub(crate) struct Resumed {
    pub(crate) inner: FileEmitter,
    pub(crate) name: String,
    pub(crate) seen: Arc<Mutex<Seen>>,
}

impl Emitter for Resumed {
    async fn resume(&mut self, from: Option<&Checkpoint>) -> Result<(), EmitError> {
        self.inner.resume(from).await?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.resumed.insert(self.name.clone());
        Ok(())
    }

    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        self.inner.emit(batch).await
    }

    fn durable(&mut self) -> Result<Option<DurableMark>, EmitError> {
        self.inner.durable()
    }

    async fn flush(&mut self) -> Result<Option<DurableMark>, EmitError> {
        self.inner.flush().await
    }

    fn batch_size(&self) -> usize {
        self.inner.batch_size()
    }

    fn drains(&self) -> bool {
        self.inner.drains()
    }

    fn waits_for_room(&self) -> bool {
        self.inner.waits_for_room()
    }
}
