//! The log files of a database, one after the other.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use cdc_core::storage::{OpenMode, Storage};

use super::entered::Entered;
use super::records::{FileRecords, ReadError};
use super::{Batch, ambiguous, gap, read_error, refused, undone};
use crate::LogError;

/// The log files of a database, read after a sequence number.
///
/// # Numbers that are given twice
/// RocksDB, when it is opened, goes on behind the last sequence number that it finds in its tables and
/// in the log files that it still needs. Changes that a flush dropped because they undo each other (a
/// put and the `SingleDelete` of it, or what a compaction filter removes) leave no number in a table, so
/// the new log file may begin below the end of the one before: the same numbers stand for other
/// changes. Both are read, in the order of the files, if the file before still has all that was
/// read of it; [`shift`](Self::shift) is what to add to the numbers so that they rise. If it has less,
/// or is gone, the database lost or undid changes that were read, which is an error.
#[derive(Debug)]
pub struct WalDirectory {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    /// The next sequence number that is wanted.
    next: u64,
    shift: u64,
    /// Nothing was given yet: the first batch may begin below.
    first: bool,
    /// The file to begin with; if there is none any more, the next one.
    begin: Option<u64>,
    /// The file that the last batch was in.
    home: Option<Entered>,
    open: Option<(u64, FileRecords)>,
}

/// The first and last sequence numbers of log files, and which files they are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) oldest: u64,
    pub(super) first: u64,
    pub(super) newest: u64,
    pub(super) last: u64,
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
            shift: 0,
            first: true,
            begin: None,
            home: None,
            open: None,
        }
    }

    /// Begins with this file, and with this addition to its numbers.
    #[must_use]
    pub(super) const fn beginning_in(mut self, file: Option<u64>, shift: u64) -> Self {
        self.begin = file;
        self.shift = shift;
        self
    }

    /// What to add to the sequence numbers of the last batch, so that no number stands for two changes.
    pub const fn shift(&self) -> u64 {
        self.shift
    }

    /// The file that the last batch was in.
    pub(super) const fn entered(&self) -> Option<Entered> {
        self.home
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
            if batch.count() == 0 {
                continue;
            }
            let (sequence, next) = (batch.sequence(), batch.next_sequence());
            if sequence > self.next && self.go_back(number)? {
                continue;
            }
            if self.home.is_none_or(|home| home.number != number) {
                self.enter(number, sequence)?;
            }
            if next <= self.next {
                continue;
            }
            if sequence > self.next || (!self.first && sequence < self.next) {
                let before = sequence.saturating_sub(1);
                return Err(gap(&self.dir, self.next, before));
            }
            self.next = next;
            self.first = false;
            return Ok(Some(bytes));
        }
    }

    /// Forgets what was read of the file: the next call reads it anew.
    pub fn look_again(&mut self) {
        self.open = None;
    }

    /// Comes to the first batch of a file.
    fn enter(&mut self, number: u64, sequence: u64) -> Result<(), LogError> {
        let stepped_back = match self.home {
            Some(home) if sequence < self.next => {
                // Nothing that was read may be missing: the file has it, and RocksDB read the
                // file before it began another one.
                let held = self.bounds(home.number)?;
                if held.is_none_or(|(_, last)| last.saturating_add(1) < self.next) {
                    return Err(undone(&self.dir, number, sequence, self.next));
                }
                true
            }
            Some(_) => false,
            // The file that it was to begin with is gone.
            None if self.begin.is_some_and(|begin| begin != number) && sequence < self.next => {
                return Err(undone(&self.dir, number, sequence, self.next));
            }
            None => false,
        };
        if stepped_back {
            self.shift = self.shift.saturating_add(self.next - sequence);
            tracing::info!(
                dir = %self.dir.display(), file = number, sequence, read_up_to = self.next.saturating_sub(1),
                "RocksDB gives sequence numbers again whose changes left nothing in its tables"
            );
            self.next = sequence;
            self.first = false;
        }
        self.home = Some(Entered {
            number,
            first: sequence.saturating_add(self.shift),
            shift: self.shift,
        });
        Ok(())
    }

    /// The first and last sequence number that the files have; `None` if they have none.
    pub(super) fn extent(&self) -> Result<Option<Extent>, LogError> {
        let numbers = self.numbers()?;
        let mut begin = None;
        for &number in &numbers {
            if let Some(first) = self.first_sequence(number)? {
                begin = Some((number, first));
                break;
            }
        }
        let Some((oldest, first)) = begin else {
            return Ok(None);
        };
        let (mut newest, mut last) = (oldest, first);
        for &number in numbers.iter().rev() {
            if let Some((_, found)) = self.bounds(number)? {
                (newest, last) = (number, found);
                break;
            }
        }
        Ok(Some(Extent {
            oldest,
            first,
            newest,
            last,
        }))
    }

    /// The first and last sequence number of a file; `None` if it has none, or is gone. Where it is
    /// damaged is found when it is read.
    pub(super) fn bounds(&self, number: u64) -> Result<Option<(u64, u64)>, LogError> {
        let Some(mut records) = self.file(number)? else {
            return Ok(None);
        };
        let mut found = None;
        while let Ok(Some(bytes)) = records.next() {
            if let Ok(batch) = Batch::decode(&bytes)
                && batch.count() > 0
            {
                let (first, _) = found.unwrap_or((batch.sequence(), 0));
                found = Some((first, batch.next_sequence().saturating_sub(1)));
            }
        }
        Ok(found)
    }

    /// The last number of the stream, read from a file on, with this addition to its numbers.
    pub(super) fn end_from(&self, file: u64, mut shift: u64) -> Result<Option<u64>, LogError> {
        let mut end: Option<u64> = None;
        for &number in self.numbers()?.range(file..) {
            if let Some((first, last)) = self.bounds(number)? {
                let next = end.map_or(first, |end| end.saturating_add(1));
                shift += next.saturating_sub(first);
                end = Some(last);
            }
        }
        Ok(end.map(|end| end.saturating_add(shift)))
    }

    /// The oldest file behind this one, or of all, that has changes, and its first sequence number.
    pub(super) fn behind_file(&self, file: Option<u64>) -> Result<Option<(u64, u64)>, LogError> {
        let from = file.map_or(0, |file| file.saturating_add(1));
        for &number in self.numbers()?.range(from..) {
            if let Some(first) = self.first_sequence(number)? {
                return Ok(Some((number, first)));
            }
        }
        Ok(None)
    }

    /// Opens the file to begin with: the one that is named, or the next one if it is gone; without a name the
    /// newest file that has the last number that was read, or the oldest one.
    fn open_first(&mut self) -> Result<bool, LogError> {
        let numbers = self.numbers()?;
        if let Some(begin) = self.home.map(|home| home.number).or(self.begin) {
            for &number in numbers.range(begin..) {
                if let Some(records) = self.file(number)? {
                    self.open = Some((number, records));
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        let mut chosen = numbers.first().copied();
        let read = self.next.saturating_sub(1);
        for &number in numbers.iter().rev() {
            if self
                .first_sequence(number)?
                .is_some_and(|first| first <= read)
            {
                // The number alone does not say in which of two files it was.
                for &before in numbers.range(..number) {
                    if self.bounds(before)?.is_some_and(|(_, last)| last >= read) {
                        return Err(ambiguous(&self.dir, read, before, number));
                    }
                }
                chosen = Some(number);
                break;
            }
        }
        let Some(number) = chosen else {
            return Ok(false);
        };
        self.begin = Some(number);
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

    /// Goes back to a file before this one, if what is wanted is in it now; false if it is in none. With
    /// `manual_wal_flush` RocksDB makes a file first, and then writes to the one before what it held
    /// back of it; all of that is there before anything is in the new one.
    fn go_back(&mut self, number: u64) -> Result<bool, LogError> {
        let from = self.home.map(|home| home.number).or(self.begin);
        for &before in self.numbers()?.range(from.unwrap_or(0)..number) {
            let bounds = self.bounds(before)?;
            if bounds.is_some_and(|(_, last)| last >= self.next) {
                self.open = self.file(before)?.map(|records| (before, records));
                return Ok(self.open.is_some());
            }
        }
        Ok(false)
    }

    /// Moves on behind a damaged end, if a later file begins with just what is wanted, or below.
    fn behind(&mut self, number: u64) -> Result<Behind, LogError> {
        let numbers = self.numbers()?;
        let mut found = Behind::Other;
        for &later in numbers.range(number.saturating_add(1)..) {
            found = Behind::Nothing;
            if let Some(first) = self.first_sequence(later)? {
                if first > self.next {
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
    pub(super) fn numbers(&self) -> Result<BTreeSet<u64>, LogError> {
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
