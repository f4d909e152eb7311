//! The log of WeftKit CDC.

mod control;
mod error;
pub mod format;
pub mod journal;
mod log;
mod notify;
#[cfg(feature = "postgres")]
pub mod postgres;
mod read;
mod segment;
mod tail;

pub use error::{LogError, LogErrorKind};
pub use journal::{FileJournal, JournalConfig};
pub use log::{CommitAt, Cursor, Log, LogConfig, OnLimit, SyncPolicy, Transaction, Visibility};
pub use tail::{StartAt, TAIL_MEMORY_BYTES, WalTail};
