//! Words and seams of WeftKit CDC.
//!
//! Everything is a log; every emitter is a cursor over it. This crate names what flows
//! ([`ChangeEvent`], [`Position`], [`EventBatch`]), what it flows through ([`WalSource`],
//! [`Filter`], [`Transform`], [`Emitter`]) and what keeps the promise when something fails
//! ([`CheckpointStore`], [`DeadLetterQueue`], [`ResumeToken`]). It knows no database, no HTTP and
//! no file format but its own.
//!
//! # Guarantees
//! Every committed change that the filter keeps reaches every emitter at least once, in commit
//! order per key. A checkpoint never passes an event that is not durable at its destination,
//! dead-lettered or filtered out. After a crash a short suffix is repeated with the same
//! [`EventId`]s; there is never a hole.
//!
//! # A custom emitter
//! ```
//! use cdc_core::{EmitError, Emitter, EventBatch, Receipt};
//!
//! struct Count(u64);
//!
//! impl Emitter for Count {
//!     async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
//!         self.0 += batch.len() as u64;
//!         Ok(Receipt::DURABLE)
//!     }
//! }
//! # let _ = cdc_core::BoxEmitter::new(Count(0));
//! ```
//!
//! # Features
//! - `runtime` (default): the [`pipeline`] on tokio.
//! - `crash-points`: named points at which tests end the process ([`crash`]).
//! - `fuzzing`: what the fuzz targets call; no part of the interface.
//! - `model`: locks whose turns a test chooses; never in a build for users.
//! - `testing`: fakes and simulated storage for tests.

mod batch;
pub mod checkpoint;
mod clock;
pub mod crash;
mod dead_letter;
pub mod emitter;
pub mod envelope;
mod error;
mod event;
mod event_id;
mod filter;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod gap;
mod journal;
mod key;
mod lineage;
mod lsn;
#[cfg(feature = "runtime")]
pub mod pipeline;
mod position;
mod relation;
pub mod row;
mod source;
pub mod storage;
#[cfg(feature = "testing")]
pub mod testing;
mod timer;
mod token;

pub use batch::{BatchLimit, EventBatch};
pub use checkpoint::{Checkpoint, CheckpointStore};
#[cfg(feature = "runtime")]
pub use clock::SystemClock;
pub use clock::{Clock, wall_micros};
pub use dead_letter::{DeadLetter, DeadLetterQueue, Failure, LetterState, Stage};
pub use emitter::{BoxEmitter, Delivery, DurableMark, Emitter, Receipt, Rejection};
pub use error::{
    CheckpointError, DlqError, EmitError, EmitErrorKind, FailureAction, RETRY_AFTER_MAX,
    SourceError, SourceErrorKind, TransformError, failure_action,
};
pub use event::{Cause, ChangeEvent, Image, Meta, Op, Transaction};
pub use event_id::{EventId, ParseEventIdError};
pub use filter::{Filter, Transform};
pub use gap::{GAP_PREFIX, accepted_gap};
pub use journal::Journal;
pub use lineage::{Lineage, SourceInfo, SourceKind};
pub use lsn::{Lsn, ParseLsnError};
pub use position::{ParsePositionError, Position};
pub use relation::{Column, EngineKind, Relation};
pub use row::{RowImage, Value, ValueRef};
pub use source::{WalHook, WalSource};
pub use timer::ThreadClock;
pub use token::{ResumeToken, TokenError, TokenRefusal};

/// The seams that stay object safe, asserted by the compiler.
const _: () = {
    const fn object_safe<T: ?Sized>() {}
    object_safe::<dyn Filter>();
    object_safe::<dyn Transform>();
    object_safe::<dyn DeadLetterQueue>();
    object_safe::<dyn CheckpointStore>();
    object_safe::<dyn WalHook>();
    object_safe::<dyn Journal>();
    object_safe::<dyn storage::Storage>();
    object_safe::<dyn Clock>();
};
