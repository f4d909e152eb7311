//! The log of WeftKit CDC: a write-ahead log an engine embeds, and the journal of a database that
//! has a log of its own.
//!
//! - [`Log`] is written by one process and many threads, with one sync for all commits that wait.
//! - [`WalTail`] gives committed transactions, whole and in commit order, as a
//!   [`WalSource`](cdc_core::WalSource): in the writer's process, woken by it, or in another one.
//! - [`FileJournal`] is a log whose positions are a foreign source's.
//! - [`kinds`] are typed logs for the eight kinds of engine: rows, documents, graphs, structures in
//!   memory, keys and values, vectors, objects, Markdown.
//! - [`inspect`] looks at a log without being its writer, [`repair`] saves what can be read of a
//!   damaged one.
//!
//! What stands where is in `docs/formats/wal.md`. This crate neither filters nor delivers.
//!
//! # Guarantees
//! - A commit that [`SyncPolicy::Always`] acknowledged survives; one that was not acknowledged is
//!   there whole or not at all; an aborted one never appears.
//! - A tail sees only what is durable ([`Visibility::Flushed`]), so it never delivers what a crash
//!   could take back. Resuming after a position gives exactly what is strictly after it.
//! - A torn tail is cut when the log is opened; damage of what was durable is refused, naming file
//!   and offset. After a failed write or sync the handle is dead, and opening again recovers.
//! - Memory is bounded whatever the size of a transaction: neither the writer nor a tail holds
//!   more than a few megabytes of one ([`TAIL_MEMORY_BYTES`]).
//!
//! # An engine that embeds the log
//! ```
//! use std::sync::Arc;
//! use cdc_core::{BatchLimit, Column, EngineKind, Image, Lsn, Relation, ThreadClock, WalHook};
//! use cdc_wal::{Log, LogConfig, StartAt};
//!
//! struct Wake;
//! impl WalHook for Wake {
//!     fn on_commit(&self, _durable_end: Lsn) { /* unpark whoever waits for durability */ }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! // Open: creates, or recovers what a crash left.
//! let log = Log::open(LogConfig::new(dir.path().join("wal")))?;
//! log.add_hook(Arc::new(Wake));
//!
//! // Commit: from any thread; waits for the sync it shares with all others.
//! let columns = vec![Column::new("id", "int8"), Column::new("total", "numeric")];
//! let orders = Relation::new(EngineKind::Relational, "public", "orders", columns, vec![0]);
//! let orders = Arc::new(orders);
//! let mut tx = log.begin(742);
//! tx.insert_with(&orders, |row| {
//!     row.int(7);
//!     row.decimal("19.90");
//! })?;
//! let position = tx.commit()?;
//!
//! // Tail: under a name, so that nothing it has not confirmed is trimmed.
//! let clock = Arc::new(ThreadClock::new());
//! let mut tail = log.tail_cursor("search-index", StartAt::Earliest, clock)?;
//! let batch = tail.poll_batch(&BatchLimit::default())?.ok_or("nothing committed")?;
//! let event = &batch.events()[0];
//! assert_eq!(event.transaction.id, 742);
//! assert!(matches!(&event.after, Image::Full(row) if row.column_count()? == 2));
//! assert_eq!(batch.end(), position);
//! log.confirm("search-index", batch.end())?;
//! # Ok(())
//! # }
//! ```
//! On an executor, any one, [`next_batch`](cdc_core::WalSource::next_batch) waits for the next
//! commit. [`ThreadClock`](cdc_core::ThreadClock) needs no runtime; the `SystemClock` of
//! `cdc_core`'s feature `runtime` waits with tokio's timer, on tokio alone.
//!
//! # Features
//! - `postgres`: the reader of PostgreSQL's logical replication.
//! - `tls`: TLS on its connection.
//! - `rocksdb`: RocksDB's write-ahead log as events, read from its files.
//! - `testing`: the conformance kit for engines of the eight [`kinds`].
//! - `fuzzing`: what the fuzz targets call; no part of the interface.
//! - `model`: locks and threads whose turns a test chooses; never in a build for users.
//! - `sqlite`: the reader of any SQLite database in WAL mode.

mod control;
mod error;
pub mod format;
#[cfg(any(
    feature = "fuzzing",
    all(test, feature = "postgres", feature = "rocksdb", feature = "sqlite")
))]
#[doc(hidden)]
pub mod fuzzing;
pub mod inspect;
pub mod journal;
pub mod kinds;
pub mod lane;
mod log;
mod mmap;
mod notify;
#[cfg(feature = "postgres")]
pub mod postgres;
mod read;
pub mod repair;
#[cfg(feature = "rocksdb")]
pub mod rocksdb;
mod segment;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod tail;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod threads;

pub use error::{LogError, LogErrorKind};
pub use journal::{FileJournal, JournalConfig};
pub use log::{
    CommitAt, Cursor, Log, LogConfig, OnLimit, Recovery, Savepoint, SyncPolicy, Transaction,
    Visibility,
};
pub use tail::{StartAt, TAIL_MEMORY_BYTES, WalTail};
