//! RocksDB as an engine of keys and values: its write-ahead log as events. Feature `rocksdb`; pure
//! Rust, reads files and bytes, and neither links nor needs RocksDB.
//!
//! - [`Batch`] reads the bytes of a write batch: of a record of the log, or of
//!   `GetUpdatesSince` (`rocksdb_wal_iter_get_batch`, then `rocksdb_writebatch_data`).
//! - [`WalDirectory`] gives the batches of a database's log files after a sequence number, also
//!   while another process writes them. A number that is purged is an error of kind `Trimmed`.
//! - [`RocksDbSource`] is a [`WalSource`](cdc_core::WalSource) over these: a database that another process
//!   writes, followed while it does, with the names of its families and the identity of its history.
//! - [`Families`] makes events of a batch: one transaction, whose position is the sequence number of its
//!   first change and the change's place among them; where RocksDB gives numbers a second time
//!   ([`WalDirectory`]), the source adds to them. A put is an `update` without the old value,
//!   since the log does not say if there was one.
//!
//! The database must keep its log files long enough: `WAL_ttl_seconds` or `WAL_size_limit_MB`.
//! Writes with `disableWAL`, ingested files and what compactions drop are in no log; a file that was
//! ingested takes a sequence number and so shows as a gap. Not read: prepared (two-phase)
//! transactions, blob indexes, wide columns, user-defined timestamps, compressed logs; each is
//! refused by name.

mod batch;
mod directory;
mod entered;
#[cfg(any(
    feature = "fuzzing",
    all(test, feature = "postgres", feature = "rocksdb", feature = "sqlite")
))]
pub(crate) mod fuzzing;
mod manifest;
mod records;
mod source;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use cdc_core::{ChangeEvent, Image, Lsn, Meta, Op, Position, RowImage, Transaction, Value};

pub use batch::{Batch, BatchError, Record, Records};
pub use directory::WalDirectory;
pub use records::RECORD_BYTES_MAX;
pub use source::{RocksDbCheck, RocksDbConfig, RocksDbSource, RocksDbStart};

use crate::kinds::key_value::Family;
use crate::{LogError, LogErrorKind};
use records::ReadError;

/// Sequence numbers that no log file has.
fn gap(dir: &Path, from: u64, to: u64) -> LogError {
    LogError::new(
        LogErrorKind::Trimmed,
        format!(
            "read the RocksDB log {}: the changes from sequence number {from} to {to} are in no log file; \
             they were purged, ingested or written without the log. Copy the data again and \
             resume after {to}, and raise WAL_ttl_seconds or WAL_size_limit_MB",
            dir.display(),
        ),
    )
}

/// A file that begins below what was read, where the changes that were read are not in the files.
fn undone(dir: &Path, file: u64, sequence: u64, next: u64) -> LogError {
    LogError::new(
        LogErrorKind::Trimmed,
        format!(
            "read the RocksDB log {}: {file:06}.log begins with sequence number {sequence}, but the changes up to {} \
             were read before, and the log files do not have them any more. The database lost them (the machine \
             failed before they were synced), an older copy was restored, or the file was deleted. Copy \
             the data again and resume after it",
            dir.display(),
            next.saturating_sub(1),
        ),
    )
}

/// A sequence number that two files have, and nothing that says which was read.
fn ambiguous(dir: &Path, sequence: u64, one: u64, other: u64) -> LogError {
    LogError::new(
        LogErrorKind::Trimmed,
        format!(
            "read the RocksDB log {}: sequence number {sequence} is in {one:06}.log and, for other changes, in \
             {other:06}.log; RocksDB gave it twice, and the number does not say which was read. \
             Copy the data again and resume after it, and give the reader a state directory",
            dir.display(),
        ),
    )
}

fn read_error(path: &Path, at: u64, error: ReadError) -> LogError {
    match error {
        ReadError::Io(cause) => LogError::io("read the RocksDB log", path, cause),
        ReadError::Corrupt(what) => LogError::new(
            LogErrorKind::Corrupt,
            format!(
                "read the RocksDB log {}: {what} at byte {at}",
                path.display()
            ),
        ),
        ReadError::Unsupported(what) => unsupported(path, at, what),
    }
}

fn unsupported(path: &Path, at: u64, what: &str) -> LogError {
    LogError::new(
        LogErrorKind::Unsupported,
        format!(
            "read the RocksDB log {}: {what}, which is not read, at byte {at}; switch it off in the database",
            path.display()
        ),
    )
}

fn refused(path: &Path, at: u64, error: &BatchError) -> LogError {
    if error.unsupported {
        return unsupported(path, at, error.what);
    }
    LogError::new(
        LogErrorKind::Corrupt,
        format!(
            "read the RocksDB log {}: {error}, in the record that ends at byte {at}",
            path.display()
        ),
    )
}

/// The column families of a database by their numbers, and the events of batches.
#[derive(Clone, Debug, Default)]
pub struct Families {
    families: HashMap<u32, (Family, Arc<str>)>,
}

impl Families {
    /// None: each must be added before a batch that has it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the family with this number (`ColumnFamilyHandle::GetID`; 0 is `default`), whose keys
    /// are one byte string, and the name of its merge operator for `meta.merge`.
    #[must_use]
    pub fn with(mut self, number: u32, family: &Family, merge_operator: &str) -> Self {
        self.families
            .insert(number, (family.clone(), merge_operator.into()));
        self
    }

    /// The events of a batch, as one transaction. The log keeps no times: `micros` is when it was
    /// read.
    ///
    /// # Errors
    /// [`LogErrorKind::Corrupt`] if the batch is malformed, [`LogErrorKind::NotFound`] for a family
    /// that was not added, [`LogErrorKind::Unsupported`] for a prepared transaction and what
    /// [`Batch`] refuses.
    pub fn events(&self, batch: &Batch<'_>, micros: i64) -> Result<Vec<ChangeEvent>, LogError> {
        self.events_at(batch, batch.sequence(), micros)
    }

    /// The events of a batch whose place in the stream is not its sequence number.
    fn events_at(
        &self,
        batch: &Batch<'_>,
        at: u64,
        micros: i64,
    ) -> Result<Vec<ChangeEvent>, LogError> {
        let refuse = |kind, what: &str| {
            Err(LogError::new(
                kind,
                format!(
                    "read the RocksDB batch at sequence number {}: {what}",
                    batch.sequence()
                ),
            ))
        };
        let mut events: Vec<ChangeEvent> = Vec::new();
        let transaction = Transaction {
            id: at,
            commit_micros: micros,
        };
        for record in batch.records() {
            let record = match record {
                Ok(record) => record,
                Err(error) if error.unsupported => {
                    return refuse(
                        LogErrorKind::Unsupported,
                        &format!("{} is not read", error.what),
                    );
                }
                Err(error) => return refuse(LogErrorKind::Corrupt, &error.to_string()),
            };
            let (number, op) = match record {
                Record::Put { family, .. } => (family, Op::Update),
                Record::Delete { family, .. }
                | Record::SingleDelete { family, .. }
                | Record::DeleteRange { family, .. } => (family, Op::Delete),
                Record::Merge { family, .. } => (family, Op::Merge),
                Record::LogData(_) | Record::Noop => continue,
                Record::BeginPrepare
                | Record::EndPrepare(_)
                | Record::Commit(_)
                | Record::Rollback(_) => {
                    return refuse(
                        LogErrorKind::Unsupported,
                        "a prepared transaction is not read; commit without two phases",
                    );
                }
            };
            let Some((family, operator)) = self.families.get(&number) else {
                return refuse(
                    LogErrorKind::NotFound,
                    &format!(
                        "the column family with number {number} has no name; add it to the families"
                    ),
                );
            };
            let ordinal = u32::try_from(events.len()).unwrap_or(u32::MAX);
            let position = Position::new(Lsn(at), ordinal);
            let mut event = ChangeEvent::new(position, family.relation().clone(), transaction, op);
            match record {
                Record::Put { key, value, .. } => event.after = Image::Full(family.row(key, value)),
                Record::Delete { key, .. } | Record::SingleDelete { key, .. } => {
                    event.before = Image::Key(key_row(key));
                }
                Record::Merge { key, operand, .. } => {
                    event.after = Image::Key(key_row(key));
                    event.meta = Some(pair_meta(
                        "merge",
                        [
                            ("operator", Value::Text(operator.to_string())),
                            ("operand", Value::Bytes(operand.to_vec())),
                        ],
                    ));
                }
                Record::DeleteRange { start, end, .. } => {
                    event.meta = Some(pair_meta(
                        "range",
                        [
                            ("start", Value::Bytes(start.to_vec())),
                            ("end", Value::Bytes(end.to_vec())),
                        ],
                    ));
                }
                _ => {}
            }
            events.push(event);
        }
        if let Some(last) = events.last_mut() {
            last.last = true;
        }
        Ok(events)
    }
}

/// The key image of a family of bytes.
fn key_row(key: &[u8]) -> RowImage {
    RowImage::from_values(&[
        Value::Bytes(key.to_vec()),
        Value::Unavailable,
        Value::Unavailable,
    ])
}

fn pair_meta(name: &str, pairs: [(&str, Value); 2]) -> Arc<Meta> {
    let pairs = pairs.map(|(name, value)| (name.to_owned(), value));
    Arc::new(Meta(vec![(name.into(), Value::Map(pairs.into()))]))
}
