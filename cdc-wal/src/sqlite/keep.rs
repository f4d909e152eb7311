//! What is kept for a restart, and how it advances.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use cdc_core::{Lsn, Position, SourceError};

use super::archive::{Archive, Archived};
use super::shadow::Shadow;
use super::state::{Known, StateDir};

/// What is kept for a restart.
#[derive(Debug)]
pub(crate) struct Keep {
    pub(crate) dir: StateDir,
    pub(crate) known: Known,
    pub(crate) shadow: Shadow,
    pub(crate) archive: Archive,
    /// What was handed over and is not folded into the shadow.
    pub(crate) waiting: VecDeque<Archived>,
    pub(crate) last_fold: Instant,
}

impl Keep {
    /// Brings the shadow to the newest confirmed transaction, so that a crash at any point leaves
    /// either the old one with the archive that leads from it, or a note which one was meant.
    pub(crate) fn fold(&mut self, confirmed: Position) -> Result<(), SourceError> {
        let done = |transaction: &&Archived| Position::end_of(transaction.commit) <= confirmed;
        let count = self.waiting.iter().take_while(done).count();
        let Some(last) = count
            .checked_sub(1)
            .and_then(|n| self.waiting.get(n))
            .cloned()
        else {
            return Ok(());
        };
        let mut synced = 0;
        for transaction in self.waiting.iter().take(count) {
            if transaction.segment_number() != synced {
                transaction.sync()?;
                synced = transaction.segment_number();
            }
        }
        self.known.folding = last.commit;
        self.dir.save(&self.known)?;
        let folded: Vec<Archived> = self.waiting.drain(..count).collect();
        self.known = apply(&self.shadow, &self.known, &folded)?;
        self.dir.save(&self.known)?;
        self.archive.trim(self.waiting.front())
    }

    /// Bytes that wait.
    pub(crate) fn waiting_pages(&self) -> usize {
        self.waiting.iter().map(|one| one.pages.len()).sum()
    }
}

/// Writes the newest version of each page of some transactions into the shadow, and gives what is
/// known then.
pub(crate) fn apply(
    shadow: &Shadow,
    known: &Known,
    folded: &[Archived],
) -> Result<Known, SourceError> {
    let mut newest: BTreeMap<u32, (usize, u64)> = BTreeMap::new();
    for (index, transaction) in folded.iter().enumerate() {
        for &(page, offset) in &transaction.pages {
            newest.insert(page, (index, offset));
        }
    }
    let Some(last) = folded.last() else {
        return Ok(*known);
    };
    for (page, (index, offset)) in newest {
        if let Some(transaction) = folded.get(index) {
            shadow.write(page, &transaction.read(offset, known.page_size)?)?;
        }
    }
    shadow.sync()?;
    Ok(Known {
        position: last.commit,
        salts: last.salts,
        checksum: last.checksum,
        count: last.count,
        folding: Lsn::ZERO,
        snapshot: false,
        ..*known
    })
}
