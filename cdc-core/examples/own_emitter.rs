//! An emitter of one's own, from the outside: `cargo run -p cdc-core --features testing --example own_emitter`.
//!
//! The destination is a table of a store that commits now and then. It shows the three things that
//! most destinations need: receipts are `Accepted` until a commit, the mark's state says how far
//! the table was then, and `resume` cuts the table back to it, so that nothing is there twice. The
//! suite at the end is what proves it.

use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cdc_core::envelope::{Encoder, Format};
use cdc_core::testing::conformance::{self, Subject};
use cdc_core::{
    Checkpoint, DurableMark, EmitError, EmitErrorKind, Emitter, EventBatch, Position, Receipt,
    Rejection,
};

/// A row of the table: the event's position and its JSON.
type Row = (Position, Vec<u8>);

/// The store: rows that are committed, and outlive the emitter.
#[derive(Clone, Debug, Default)]
struct Store(Arc<Mutex<Vec<Row>>>);

impl Store {
    fn rows(&self) -> MutexGuard<'_, Vec<Row>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes into the store, committing every few events.
#[derive(Debug)]
struct TableEmitter {
    store: Store,
    encoder: Encoder,
    /// Not committed yet; lost if the process dies.
    open: Vec<Row>,
    written: Position,
    mark: DurableMark,
}

/// Most events that wait for a commit: what an emitter holds is bounded (clause 2.6).
const OPEN_MAX: usize = 8;

impl TableEmitter {
    fn new(store: Store) -> Self {
        Self {
            store,
            encoder: Encoder::new(Format::Json),
            open: Vec::new(),
            written: Position::ZERO,
            mark: DurableMark::default(),
        }
    }

    fn commit(&mut self) {
        let mut rows = self.store.rows();
        rows.append(&mut self.open);
        // What the table holds at this position: eight bytes are enough here.
        let count = u64::try_from(rows.len()).unwrap_or(u64::MAX);
        self.mark = DurableMark {
            through: self.written,
            state: Bytes::copy_from_slice(&count.to_be_bytes()),
        };
    }
}

impl Emitter for TableEmitter {
    async fn resume(&mut self, from: Option<&Checkpoint>) -> Result<(), EmitError> {
        self.open.clear();
        self.written = from.map_or(Position::ZERO, |checkpoint| checkpoint.position);
        let state = from.map_or(&[][..], |checkpoint| &checkpoint.state);
        if !state.is_empty() {
            let count = <[u8; 8]>::try_from(state).map(u64::from_be_bytes);
            let count = count.ok().and_then(|count| usize::try_from(count).ok());
            let mut rows = self.store.rows();
            match count {
                // Everything behind it comes again.
                Some(count) if count <= rows.len() => rows.truncate(count),
                _ => {
                    return Err(EmitError::new(
                        EmitErrorKind::Fatal,
                        "continue at the checkpoint in the table: it knows more rows than there are; restore the table",
                    ));
                }
            }
        }
        self.commit();
        Ok(())
    }

    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        let mut rejected = Vec::new();
        for (index, event) in batch.events().iter().enumerate() {
            let mut document = Vec::new();
            match self.encoder.encode(batch.source(), event, &mut document) {
                Ok(()) => self.open.push((event.position, document)),
                // One bad event is a dead letter; the others go on (clause 2.4).
                Err(cause) => rejected.push(Rejection {
                    index,
                    message: cause.to_string(),
                    status: None,
                }),
            }
        }
        self.written = batch.end();
        if self.open.len() >= OPEN_MAX {
            self.commit();
        }
        Ok(Receipt {
            rejected,
            ..Receipt::ACCEPTED
        })
    }

    fn durable(&mut self) -> Result<Option<DurableMark>, EmitError> {
        Ok(Some(self.mark.clone()))
    }

    async fn flush(&mut self) -> Result<Option<DurableMark>, EmitError> {
        self.commit();
        self.durable()
    }
}

impl Subject for Store {
    type Emitter = TableEmitter;

    async fn open(&mut self) -> TableEmitter {
        TableEmitter::new(self.clone())
    }

    async fn taken(&mut self) -> Vec<Position> {
        self.rows().iter().map(|(position, _)| *position).collect()
    }
}

/// Runs the suite.
///
/// # Errors
/// If there is no runtime to be had.
pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().build()?;
    runtime.block_on(conformance::check(async || Store::default()));
    Ok(())
}
