//! Reader of the `-wal` file of any SQLite application.
//!
//! [`SqliteSource`] is a [`WalSource`](cdc_core::WalSource) over a database in WAL mode that
//! somebody else's process writes: every committed insert, update and delete with full before and
//! after images, transaction by transaction. Nothing is installed, nothing is written, and the
//! application does not know. [`check()`] names what is in the way before anything is captured.
//!
//! ```no_run
//! use cdc_core::{BatchLimit, WalSource};
//! use cdc_wal::sqlite::{SqliteConfig, SqliteSource};
//!
//! # async fn example() -> Result<(), cdc_core::SourceError> {
//! let config = SqliteConfig::new("app.db");
//! let mut source = SqliteSource::connect(config, None).await?;
//! while let Some(batch) = source.next_batch(BatchLimit::default()).await? {
//!     for event in batch.events() {
//!         println!("{} {} {}", event.position, event.op, event.relation.qualified_name());
//!     }
//!     // Only when it is durable elsewhere: with a state directory the log is held until then.
//!     source.confirm(batch.end()).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! How: the log holds whole pages. The pages a transaction wrote are compared with those before it,
//! b-tree by b-tree, and what differs in a table's rows is what changed. The guide
//! `docs/sqlite.md` says what that promises and costs.
//!
//! Layers, from bytes upwards: `bytes`, `format`, `page`, `record`, `schema` and `layout` read what
//! SQLite stores, `catalog`, `tables` and `map` know which page belongs to which table, `walk`,
//! `rows`, `diff` and `decoder` compare; none of these does I/O or uses SQLite. `log_file`, `view`,
//! `wal_index` and `files` read the files, `pins` holds SQLite's locks, `state`, `shadow`,
//! `archive` and `keep` are what a restart needs, `downstream` what it asks of the journal, `earlier`, `begin`, `follow` and `turnover` are the
//! protocol that holds the log, `looks`, `kept`, `settle` and `free` the one without a lock,
//! `worker` waits for the disk, `collect` makes events and `source` ties all together.

mod archive;
mod begin;
mod bytes;
mod catalog;
mod check;
mod collect;
mod config;
mod decoder;
mod diff;
mod downstream;
mod earlier;
mod files;
mod follow;
mod format;
mod free;
#[cfg(any(
    feature = "fuzzing",
    all(test, feature = "postgres", feature = "rocksdb", feature = "sqlite")
))]
pub(crate) mod fuzzing;
mod keep;
mod kept;
mod layout;
mod log_file;
mod looks;
mod map;
mod page;
mod pages;
mod pins;
mod record;
mod rows;
mod schema;
mod settle;
mod shadow;
mod sink;
mod source;
mod state;
mod tables;
mod turnover;
mod view;
mod wal_index;
mod walk;
mod worker;

#[cfg(test)]
mod tests;

pub use check::{Finding, RESUME, STATE, Severity, check};
pub use config::{Assist, Mode, SqliteConfig};
pub use downstream::{Downstream, TakeBack};
pub use source::SqliteSource;
