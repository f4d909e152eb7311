//! A copy of the database as of the last confirmation, and what was archived since.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use cdc_core::storage::{OpenMode, Storage, StorageFile, read_exact_at};
use cdc_core::{SourceError, SourceErrorKind};

use super::archive::Archived;
use super::format::stored_pages;
use super::log_file::io_error;
use super::pages::{Pages, Side};
use super::view::LogView;

const NAME: &str = "shadow.db";
/// What becomes the copy is written here first.
pub(crate) const BESIDE: &str = "shadow.db.tmp";

/// The copy: page n stands at (n - 1) times the page size. It is not a database to be opened.
#[derive(Debug)]
pub(crate) struct Shadow {
    file: Arc<dyn StorageFile>,
    page_size: u32,
}

fn failed(cause: io::Error) -> SourceError {
    io_error("write the source's copy of the database", cause)
}

impl Shadow {
    fn path(dir: &Path) -> PathBuf {
        dir.join(NAME)
    }

    /// An empty file in the state directory, to be filled.
    pub(crate) fn empty(
        storage: &dyn Storage,
        dir: &Path,
        name: &str,
        page_size: u32,
    ) -> Result<Self, SourceError> {
        let path = dir.join(name);
        if storage.exists(&path) {
            storage.remove(&path).map_err(failed)?;
        }
        let file = storage.open(&path, OpenMode::CreateNew).map_err(failed)?;
        Ok(Self {
            file: file.into(),
            page_size,
        })
    }

    /// Makes a filled file the copy, durably.
    pub(crate) fn install(
        self,
        storage: &dyn Storage,
        dir: &Path,
        name: &str,
    ) -> Result<Self, SourceError> {
        self.sync()?;
        storage
            .rename(&dir.join(name), &Self::path(dir))
            .and_then(|()| storage.sync_dir(dir))
            .map_err(failed)?;
        Ok(self)
    }

    /// Copies a database, durably.
    pub(crate) fn create(
        storage: &dyn Storage,
        dir: &Path,
        page_size: u32,
        pages: &dyn Pages,
    ) -> Result<Self, SourceError> {
        let shadow = Self::empty(storage, dir, BESIDE, page_size)?;
        for number in stored_pages(page_size, pages.count(Side::New)) {
            shadow.write(number, &pages.page(Side::New, number)?)?;
        }
        shadow.install(storage, dir, BESIDE)
    }

    /// Opens the copy.
    pub(crate) fn open(
        storage: &dyn Storage,
        dir: &Path,
        page_size: u32,
    ) -> Result<Self, SourceError> {
        let path = Self::path(dir);
        let file = storage.open(&path, OpenMode::ReadWrite);
        let file = file.map_err(|cause| {
            SourceError::new(
                SourceErrorKind::Io,
                format!(
                    "open {}: {cause}; without it begin anew with an empty state and a snapshot",
                    path.display()
                ),
            )
            .with_cause(cause)
        })?;
        Ok(Self {
            file: file.into(),
            page_size,
        })
    }

    pub(crate) fn write(&self, number: u32, page: &[u8]) -> Result<(), SourceError> {
        let offset = u64::from(number.saturating_sub(1)) * u64::from(self.page_size);
        self.file.write_all_at(page, offset).map_err(failed)
    }

    /// A page that was written.
    pub(crate) fn read(&self, number: u32) -> Result<Bytes, SourceError> {
        let mut page = vec![0; self.page_size as usize];
        let offset = u64::from(number.saturating_sub(1)) * u64::from(self.page_size);
        match read_exact_at(self.file.as_ref(), &mut page, offset) {
            Ok(()) => Ok(page.into()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(SourceError::new(
                SourceErrorKind::Corrupt,
                "read the source's copy of the database: it was cut short; begin anew with an empty state and a snapshot",
            )),
            Err(error) => Err(io_error("read the source's copy of the database", error)),
        }
    }

    /// The same file once more.
    pub(crate) fn again(&self) -> Self {
        Self {
            file: self.file.clone(),
            page_size: self.page_size,
        }
    }

    pub(crate) fn sync(&self) -> Result<(), SourceError> {
        self.file.sync_data().map_err(failed)
    }
}

/// The database as of the archive's transactions, one after the other.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) shadow: Shadow,
    page_size: u32,
    transactions: Vec<Archived>,
    /// The transaction and the offset of each page's newest version.
    pages: HashMap<u32, (usize, u64)>,
    count: u32,
    next: Option<usize>,
}

impl Replay {
    /// Before the first of the transactions. The database has `count` pages then.
    pub(crate) fn new(shadow: &Shadow, count: u32, transactions: Vec<Archived>) -> Self {
        Self {
            shadow: shadow.again(),
            page_size: shadow.page_size,
            transactions,
            pages: HashMap::new(),
            count,
            next: None,
        }
    }

    pub(crate) fn transactions(&self) -> &[Archived] {
        &self.transactions
    }

    /// Lays a transaction over what is there; in order, each once.
    pub(crate) fn begin(&mut self, index: usize) {
        self.next = Some(index);
    }

    /// It becomes part of what is there.
    pub(crate) fn finish(&mut self) {
        let Some(index) = self.next.take() else {
            return;
        };
        if let Some(transaction) = self.transactions.get(index) {
            for &(page, offset) in transaction.pages.iter() {
                self.pages.insert(page, (index, offset));
            }
            self.count = transaction.count;
        }
    }

    fn next(&self) -> Option<(usize, &Archived)> {
        let index = self.next?;
        Some((index, self.transactions.get(index)?))
    }
}

impl Pages for Replay {
    fn page(&self, side: Side, number: u32) -> Result<Bytes, SourceError> {
        if let Some((_, next)) = self.next().filter(|_| side == Side::New)
            && let Ok(at) = next.pages.binary_search_by_key(&number, |(page, _)| *page)
            && let Some((_, offset)) = next.pages.get(at)
        {
            return next.read(*offset, self.page_size);
        }
        if let Some((index, offset)) = self.pages.get(&number)
            && let Some(transaction) = self.transactions.get(*index)
        {
            return transaction.read(*offset, self.page_size);
        }
        self.shadow.read(number)
    }

    fn count(&self, side: Side) -> u32 {
        match (side, self.next()) {
            (Side::New, Some((_, next))) => next.count,
            _ => self.count,
        }
    }
}

/// Two states of the database with an unknown number of transactions between them.
#[derive(Debug)]
pub(crate) struct Between<'a> {
    pub(crate) old: &'a Replay,
    pub(crate) new: &'a LogView,
}

impl Between<'_> {
    /// The pages that differ, ascending.
    pub(crate) fn changed(&self) -> Result<Vec<u32>, SourceError> {
        let (old, new) = (self.count(Side::Old), self.count(Side::New));
        let mut changed = Vec::new();
        for number in stored_pages(self.new.page_size(), new) {
            let same =
                number <= old && self.page(Side::Old, number)? == self.page(Side::New, number)?;
            if !same {
                changed.push(number);
            }
        }
        // Pages that are no longer there belong to nothing, but did.
        changed.extend(new.saturating_add(1)..=old);
        Ok(changed)
    }
}

impl Pages for Between<'_> {
    fn page(&self, side: Side, number: u32) -> Result<Bytes, SourceError> {
        match side {
            Side::Old => self.old.page(Side::New, number),
            Side::New => self.new.page(Side::New, number),
        }
    }

    fn count(&self, side: Side) -> u32 {
        match side {
            Side::Old => self.old.count(Side::New),
            Side::New => self.new.count(Side::New),
        }
    }
}
