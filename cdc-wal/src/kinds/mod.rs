//! Typed logs of the eight kinds of engine: thin layers on [`Log`] and [`Transaction`] that map an
//! engine's mutations to events. The mapping is written down in `docs/kinds.md`.
//!
//! An engine makes a handle for each of its tables once ([`relational::Table`],
//! [`key_value::Family`], [`graph::Label`], ...), and calls the transaction of its kind where it
//! changes a row. Values are written straight into the transaction's buffer; nothing is allocated
//! for an event, and nothing is in the log before the transaction commits or fills a frame.
//!
//! ```
//! use cdc_wal::LogConfig;
//! use cdc_wal::kinds::{KeyValueLog, Old, key_value::Family};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let log = KeyValueLog::open(LogConfig::new(dir.path().join("wal")))?;
//! let sessions = Family::new("cache", "sessions");
//! let mut batch = log.begin(1);
//! batch
//!     .put(&sessions, b"k1", Old::Missing, b"v1")?
//!     .merge(&sessions, b"hits", "add", &1u64.to_le_bytes(), None)?
//!     .delete_range(&sessions, b"a", b"b")?;
//! batch.commit()?;
//! # Ok(())
//! # }
//! ```
//!
//! # What all kinds share
//! - The engine's own transaction (batch, request, MULTI) is the transaction: one
//!   [`KindTransaction`], committed as a whole, or dropped. Several may be open at once; consumers
//!   see them one after another, in the order of their commits.
//! - Call the transaction while the engine holds whatever orders its writes to a row (a lock, a
//!   latch, a single writer), and commit before it lets go: events of one row come in the order of
//!   the commits.
//! - What the engine knows of the row before is [`Old`]; it is never guessed.
//! - [`KindTransaction::set_actor`] says who; it stands in the event's `meta`.
//! - The forms of images follow from what was written: a row without gaps is full, one that has
//!   only its key is a key image, any other is partial.

pub mod document;
pub mod file_store;
pub mod graph;
pub mod in_memory;
pub mod key_value;
pub mod markdown;
pub mod relational;
pub mod vector;

mod encoding;
mod transaction;

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use cdc_core::Relation;

pub use encoding::Encoding;
pub use transaction::KindTransaction;

use crate::{Log, LogConfig, LogError};

pub use document::DocumentLog;
pub use file_store::FileStoreLog;
pub use graph::GraphLog;
pub use in_memory::InMemoryLog;
pub use key_value::KeyValueLog;
pub use markdown::MarkdownLog;
pub use relational::RelationalLog;
pub use vector::VectorLog;

/// What an engine knows of the row that a change replaces or takes away.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Old<T> {
    /// Nothing: it did not look (a write without a read). The event is an update without the old
    /// row, or a delete with the key only.
    #[default]
    Unknown,
    /// There was none. The event is an insert.
    Missing,
    /// This one. The event is an update or delete with the full old row.
    Known(T),
}

/// Prints which it is, not what: row contents belong to destinations, not to logs.
impl<T> fmt::Debug for Old<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "Unknown",
            Self::Missing => "Missing",
            Self::Known(_) => "Known",
        })
    }
}

impl<T> Old<T> {
    /// The old row, if it is known.
    pub fn known(self) -> Option<T> {
        match self {
            Self::Known(old) => Some(old),
            Self::Unknown | Self::Missing => None,
        }
    }
}

/// The result of a lookup: `None` means there was no row.
impl<T> From<Option<T>> for Old<T> {
    fn from(found: Option<T>) -> Self {
        found.map_or(Self::Missing, Self::Known)
    }
}

/// How a collection, bucket or table itself changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaChange<'a> {
    /// It was created.
    Create,
    /// Its shape or settings changed.
    Alter,
    /// It was dropped, with every row in it.
    Drop,
    /// It was renamed, with every row in it.
    Rename {
        /// Its new name, in the same schema.
        to: &'a str,
    },
}

impl SchemaChange<'_> {
    /// The name in the event's `meta.change`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Alter => "alter",
            Self::Drop => "drop",
            Self::Rename { .. } => "rename",
        }
    }
}

/// The log of an engine of one kind: a [`Log`], through `Deref`, whose transactions are typed.
///
/// Named by its aliases: [`RelationalLog`], [`DocumentLog`], [`GraphLog`], [`InMemoryLog`],
/// [`KeyValueLog`], [`VectorLog`], [`FileStoreLog`], [`MarkdownLog`]. Clones are handles to the
/// same log.
pub struct KindLog<K> {
    log: Log,
    kind: PhantomData<fn() -> K>,
}

impl<K> KindLog<K> {
    /// Opens the log in a directory, or creates one; as [`Log::open`].
    ///
    /// # Errors
    /// As for [`Log::open`].
    pub fn open(config: LogConfig) -> Result<Self, LogError> {
        Log::open(config).map(Self::from)
    }

    /// Begins a transaction. `id` is the engine's own number for it, as consumers will see it.
    pub fn begin(&self, id: u64) -> KindTransaction<K> {
        KindTransaction::new(self.log.begin(id))
    }
}

/// A log may hold changes of several kinds, if an engine is of several.
impl<K> From<Log> for KindLog<K> {
    fn from(log: Log) -> Self {
        Self {
            log,
            kind: PhantomData,
        }
    }
}

impl<K> Deref for KindLog<K> {
    type Target = Log;

    fn deref(&self) -> &Log {
        &self.log
    }
}

impl<K> Clone for KindLog<K> {
    fn clone(&self) -> Self {
        Self::from(self.log.clone())
    }
}

impl<K> fmt::Debug for KindLog<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.log.fmt(f)
    }
}

/// Two handles mean the same table without a comparison of their shapes.
fn same(a: &Arc<Relation>, b: &Arc<Relation>) -> bool {
    Arc::ptr_eq(a, b) || (a.schema == b.schema && a.table == b.table)
}
