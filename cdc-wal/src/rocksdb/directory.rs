//! The log files of a database, one after the other.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use cdc_core::storage::{OpenMode, Storage};

use super::records::{FileRecords, ReadError};
use super::{Batch, gap, read_error, refused};
use crate::LogError;

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

/// What follows a damaged end of a file.
enum Behind {
    /// What is wanted: it was never more than the end.
    GoesOn,
    /// Later files without a change: the database took it for the end, and wrote nothing since.
    Nothing,
    /// No later file, or one that begins elsewhere.
    Other,
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
    /// [`LogErrorKind::Trimmed`](crate::LogErrorKind::Trimmed) if the next sequence number is in no file any
    /// more, `Corrupt`, `Unsupported`, `Io`. `Corrupt` may be a record that is just being written over
    /// an older one, in a file that is used again: [`look_again`](Self::look_again) a little later.
    pub fn next_batch(&mut self) -> Result<Option<Vec<u8>>, LogError> {
        loop {
            if self.open.is_none() && !self.open_first()? {
                return Ok(None);
            }
            let Some((number, records)) = &mut self.open else {
                return Ok(None);
            };
            let number = *number;
            let read = records.next();
            let at = records.at();
            let bytes = match read {
                Ok(Some(bytes)) => bytes,
                Ok(None) => {
                    // The end of this file; if a newer one is there, nothing more comes into it.
                    if !self.advance(number)? {
                        return Ok(None);
                    }
                    continue;
                }
                Err(error) => {
                    // What a crash may leave; the next file goes on in front of it.
                    match error {
                        ReadError::Corrupt(_) => match self.behind(number)? {
                            Behind::GoesOn => continue,
                            Behind::Nothing => return Ok(None),
                            Behind::Other => {}
                        },
                        ReadError::Io(_) | ReadError::Unsupported(_) => {}
                    }
                    return Err(read_error(&self.path(number), at, error));
                }
            };
            let batch = Batch::decode(&bytes);
            let batch = batch.map_err(|error| refused(&self.path(number), at, &error))?;
            if batch.count() == 0 || batch.next_sequence() <= self.next {
                continue;
            }
            if batch.sequence() > self.next || (!self.first && batch.sequence() < self.next) {
                let before = batch.sequence().saturating_sub(1);
                return Err(gap(&self.dir, self.next, before));
            }
            self.next = batch.next_sequence();
            self.first = false;
            return Ok(Some(bytes));
        }
    }

    /// Forgets what was read of the file: the next call reads it anew.
    pub fn look_again(&mut self) {
        self.open = None;
    }

    /// The first and last sequence number that the files have; `None` if they have none.
    pub(super) fn extent(&self) -> Result<Option<(u64, u64)>, LogError> {
        let numbers = self.numbers()?;
        let mut first = None;
        for &number in &numbers {
            first = self.first_sequence(number)?;
            if first.is_some() {
                break;
            }
        }
        let Some(first) = first else {
            return Ok(None);
        };
        let mut last = first;
        for &number in numbers.iter().rev() {
            let Some(mut records) = self.file(number)? else {
                continue;
            };
            let mut any = false;
            // Where it is damaged is found when it is read.
            while let Ok(Some(bytes)) = records.next() {
                if let Ok(batch) = Batch::decode(&bytes)
                    && batch.count() > 0
                {
                    last = last.max(batch.next_sequence().saturating_sub(1));
                    any = true;
                }
            }
            if any {
                break;
            }
        }
        Ok(Some((first, last)))
    }

    /// Opens the newest file that begins at or below what is wanted, or the oldest one.
    fn open_first(&mut self) -> Result<bool, LogError> {
        let numbers = self.numbers()?;
        let mut chosen = numbers.first().copied();
        for &number in numbers.iter().rev() {
            if self
                .first_sequence(number)?
                .is_some_and(|first| first <= self.next)
            {
                chosen = Some(number);
                break;
            }
        }
        let Some(number) = chosen else {
            return Ok(false);
        };
        self.open = self.file(number)?.map(|records| (number, records));
        Ok(self.open.is_some())
    }

    /// Sequence number of the first batch with changes in a file; `None` if it has none, or is gone.
    fn first_sequence(&self, number: u64) -> Result<Option<u64>, LogError> {
        let Some(mut records) = self.file(number)? else {
            return Ok(None);
        };
        while let Ok(Some(bytes)) = records.next() {
            if let Ok(batch) = Batch::decode(&bytes)
                && batch.count() > 0
            {
                return Ok(Some(batch.sequence()));
            }
        }
        Ok(None)
    }

    /// Moves on to the file behind this one; false if there is none.
    fn advance(&mut self, number: u64) -> Result<bool, LogError> {
        let numbers = self.numbers()?;
        let Some(&next) = numbers.range(number.saturating_add(1)..).next() else {
            return Ok(false);
        };
        // Its writer may have appended between the read that found its end and this look.
        let last = self.open.as_mut().map(|(_, records)| records.next());
        let opened = if let Some(Ok(Some(_))) = last {
            self.file(number)?.map(|records| (number, records))
        } else {
            self.file(next)?.map(|records| (next, records))
        };
        // One that was purged meanwhile: what is missing is found by its sequence numbers.
        self.open = opened;
        Ok(true)
    }

    /// Moves on behind a damaged end, if a later file begins with just what is wanted.
    fn behind(&mut self, number: u64) -> Result<Behind, LogError> {
        let numbers = self.numbers()?;
        let mut found = Behind::Other;
        for &later in numbers.range(number.saturating_add(1)..) {
            found = Behind::Nothing;
            if let Some(first) = self.first_sequence(later)? {
                if first != self.next {
                    return Ok(Behind::Other);
                }
                self.open = self.file(later)?.map(|records| (later, records));
                return Ok(Behind::GoesOn);
            }
        }
        Ok(found)
    }

    /// Opens a file, where it is: it is moved to the archive when its changes are in tables, and deleted
    /// from there. `None` if it is gone.
    fn file(&self, number: u64) -> Result<Option<FileRecords>, LogError> {
        for path in [self.path(number), self.archived(number)] {
            match self.storage.open(&path, OpenMode::Read) {
                Ok(file) => return Ok(Some(FileRecords::new(file, number))),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(cause) => return Err(LogError::io("open the RocksDB log", &path, cause)),
            }
        }
        Ok(None)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:06}.log"))
    }

    fn archived(&self, number: u64) -> PathBuf {
        self.dir.join("archive").join(format!("{number:06}.log"))
    }

    /// Numbers of the log files, archived ones too.
    fn numbers(&self) -> Result<BTreeSet<u64>, LogError> {
        let mut numbers = BTreeSet::new();
        // In this order: a file that is moved meanwhile is seen in one of them.
        for dir in [self.dir.clone(), self.dir.join("archive")] {
            let names = match self.storage.list(&dir) {
                Ok(names) => names,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(cause) => return Err(LogError::io("list the RocksDB logs in", &dir, cause)),
            };
            numbers.extend(names.iter().filter_map(|name| {
                let digits = name.strip_suffix(".log")?;
                digits.parse::<u64>().ok()
            }));
        }
        Ok(numbers)
    }
}
