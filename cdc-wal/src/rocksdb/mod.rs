//! RocksDB as an engine of keys and values: its write-ahead log as events. Feature `rocksdb`; pure
//! Rust, reads files and bytes, and neither links nor needs RocksDB.
//!
//! - [`Batch`] reads the bytes of a write batch: of a record of the log, or of
//!   `GetUpdatesSince` (`rocksdb_wal_iter_get_batch`, then `rocksdb_writebatch_data`).
//! - [`WalDirectory`] gives the batches of a database's log files after a sequence number, also
//!   while another process writes them. A number that is purged is an error of kind `Trimmed`.
//! - [`Families`] makes events of a batch: one transaction, whose position is the sequence number of its
//!   first change and the change's place among them. A put is an `update` without the old value,
//!   since the log does not say if there was one.
//!
//! The database must keep its log files long enough: `WAL_ttl_seconds` or `WAL_size_limit_MB`.
//! Writes with `disableWAL`, ingested files and what compactions drop are in no log; a file that was
//! ingested takes a sequence number and so shows as a gap. Not read: prepared (two-phase)
//! transactions, blob indexes, wide columns, user-defined timestamps, compressed logs; each is
//! refused by name.

mod batch;
mod records;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cdc_core::storage::{OpenMode, Storage};
use cdc_core::{ChangeEvent, Image, Lsn, Meta, Op, Position, RowImage, Transaction, Value};

pub use batch::{Batch, BatchError, Record, Records};
pub use records::RECORD_BYTES_MAX;

use crate::kinds::key_value::Family;
use crate::{LogError, LogErrorKind};
use records::{FileRecords, ReadError};

/// The log files of a database, read after a sequence number.
#[derive(Debug)]
pub struct WalDirectory {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    /// The next sequence number that is wanted.
    next: u64,
    /// Nothing was given yet: the first batch may begin below.
    first: bool,
    open: Option<(u64, FileRecords)>,
}

impl WalDirectory {
    /// The log of the database in `dir`, strictly after `sequence`: 0 for all of it. If the log
    /// files are elsewhere (`wal_dir`), give that folder.
    pub fn after(storage: Arc<dyn Storage>, dir: impl Into<PathBuf>, sequence: u64) -> Self {
        Self {
            storage,
            dir: dir.into(),
            next: sequence.saturating_add(1),
            first: true,
            open: None,
        }
    }

    /// The next sequence number that is wanted.
    pub const fn next_sequence(&self) -> u64 {
        self.next
    }

    /// Bytes of the next batch with changes, for [`Batch::decode`]; `None` if there is no whole
    /// one yet. The first may begin below what was asked for, if that was inside a batch: its
    /// events up to there were seen.
    ///
    /// # Errors
    /// [`LogErrorKind::Trimmed`] if the next sequence number is in no file any more,
    /// [`LogErrorKind::Corrupt`], [`LogErrorKind::Unsupported`], [`LogErrorKind::Io`].
    pub fn next_batch(&mut self) -> Result<Option<Vec<u8>>, LogError> {
        loop {
            let Some((number, path)) = self.current()? else {
                return Ok(None);
            };
            let Some((_, records)) = &mut self.open else {
                return Ok(None);
            };
            let read = records.next();
            let at = records.at();
            let Some(bytes) = read.map_err(|error| read_error(&path, at, error))? else {
                // The end of this file; if a newer one is there, nothing more comes into it.
                if !self.advance(number)? {
                    return Ok(None);
                }
                continue;
            };
            let batch = Batch::decode(&bytes).map_err(|error| refused(&path, at, &error))?;
            if batch.count() == 0 || batch.next_sequence() <= self.next {
                continue;
            }
            if batch.sequence() > self.next || (!self.first && batch.sequence() < self.next) {
                return Err(LogError::new(
                    LogErrorKind::Trimmed,
                    format!(
                        "read the RocksDB log {}: the changes from sequence number {} to {} are in no log file; \
                         they were purged, ingested or written without the log. Copy the data again and \
                         resume after {}, and raise WAL_ttl_seconds or WAL_size_limit_MB",
                        self.dir.display(),
                        self.next,
                        batch.sequence().saturating_sub(1),
                        batch.sequence().saturating_sub(1),
                    ),
                ));
            }
            self.next = batch.next_sequence();
            self.first = false;
            return Ok(Some(bytes));
        }
    }

    /// The file that is read, or the oldest one.
    fn current(&mut self) -> Result<Option<(u64, PathBuf)>, LogError> {
        if let Some((number, _)) = &self.open {
            return Ok(Some((*number, self.dir.join(name(*number)))));
        }
        let files = self.files()?;
        let Some((&number, path)) = files.first_key_value() else {
            return Ok(None);
        };
        self.open_file(number, path)?;
        Ok(Some((number, path.clone())))
    }

    /// Moves on to the file behind this one; false if there is none.
    fn advance(&mut self, number: u64) -> Result<bool, LogError> {
        let files = self.files()?;
        let Some((&next, path)) = files.range(number.saturating_add(1)..).next() else {
            return Ok(false);
        };
        // Its writer may have appended between the read that found its end and this look.
        let last = self.open.as_mut().map(|(_, records)| records.next());
        if let Some(Ok(Some(_))) = last {
            self.open = None;
            let path = files.get(&number).cloned();
            if let Some(path) = path {
                self.open_file(number, &path)?;
            }
            return Ok(true);
        }
        self.open_file(next, path)?;
        Ok(true)
    }

    fn open_file(&mut self, number: u64, path: &Path) -> Result<(), LogError> {
        let file = self.storage.open(path, OpenMode::Read);
        let file = file.map_err(|cause| LogError::io("open the RocksDB log", path, cause))?;
        self.open = Some((number, FileRecords::new(file, number)));
        Ok(())
    }

    /// Log files by number, archived ones too.
    fn files(&self) -> Result<BTreeMap<u64, PathBuf>, LogError> {
        let mut files = BTreeMap::new();
        for dir in [self.dir.join("archive"), self.dir.clone()] {
            let names = match self.storage.list(&dir) {
                Ok(names) => names,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(cause) => return Err(LogError::io("list the RocksDB logs in", &dir, cause)),
            };
            for name in names {
                let number = name
                    .strip_suffix(".log")
                    .and_then(|digits| digits.parse().ok());
                if let Some(number) = number {
                    files.insert(number, dir.join(&name));
                }
            }
        }
        Ok(files)
    }
}

fn name(number: u64) -> String {
    format!("{number:06}.log")
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
            id: batch.sequence(),
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
            let position = Position::new(Lsn(batch.sequence()), ordinal);
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
