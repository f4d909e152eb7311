//! Dead letter queue of WeftKit CDC: events that an emitter could not deliver, kept on disk until
//! they are redriven or discarded.
//!
//! [`FileDlq`] is the one writer of a directory and the pipeline's
//! [`DeadLetterQueue`](cdc_core::DeadLetterQueue). [`DlqReader`] reads the same directory beside
//! it, for listings. The bytes are written down in `docs/formats/dlq.md`. This crate stores and
//! finds letters; when to dead-letter, park or redrive is decided in the pipeline.
//!
//! # Guarantees
//! - What is acknowledged is synced, and survives a crash at any moment.
//! - A letter is kept once an emitter and event, however often it fails; its first failure stays.
//! - An append cut short by a crash disappears; damage to what was acknowledged is refused by
//!   file and offset, never skipped.
//! - Letters and bytes are bounded; at the bound nothing is dropped, the append is refused.
//!
//! ```
//! use cdc_core::storage::StdStorage;
//! use cdc_core::{DeadLetterQueue, LetterState};
//! use cdc_dlq::{DlqOptions, FileDlq, LetterFilter};
//!
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("dlq");
//! let mut dlq = FileDlq::open(StdStorage::shared(), path, DlqOptions::default())?;
//! dlq.append(&[])?;
//! for letter in dlq.open_letters("webhook", None, 100)? {
//!     dlq.set_state("webhook", letter.event_id(), LetterState::Discarded)?;
//! }
//! let mut lines = Vec::new();
//! dlq.reader().export(&LetterFilter::emitter("webhook"), &mut lines)?;
//! # Ok::<_, cdc_core::DlqError>(())
//! ```

mod export;
mod filter;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod import;
mod index;
mod key;
mod queue;
mod reader;
mod record;
mod sidecar;
mod walk;

pub use export::{letter_json, letter_line};
pub use filter::LetterFilter;
pub use import::{ImportError, Imported, parse_line};
pub use key::{KeyFilter, KeyFilterError};
pub use queue::{DlqOptions, FileDlq};
pub use reader::{DlqCount, DlqGroup, DlqPage, DlqReader, DlqStats};
