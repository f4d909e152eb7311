//! What is kept for a restart, and how it advances.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cdc_core::storage::Storage;
use cdc_core::{Lsn, Position, SourceError};

use super::archive::{Archive, Archived, remove_all, write_fold};
use super::shadow::Shadow;
use super::state::{Known, Saver, StateDir};
use super::worker::Worker;

/// Shortest time between two advances of the shadow. Each makes the newest pages durable twice, and
/// the application's own syncs wait for the same disk.
const FOLD_INTERVAL: Duration = Duration::from_secs(5);
/// Bytes of archived pages that are worth an advance before that.
const FOLD_BYTES: u64 = 256 << 20;

/// What the thread is asked for: it waits for the disk.
#[derive(Debug)]
enum Job {
    /// Bring the shadow to the last of these.
    Fold { known: Known, folded: Vec<Archived> },
    /// Remove these segments of the archive.
    Remove(BTreeMap<u64, PathBuf>),
}

/// What is kept for a restart.
#[derive(Debug)]
pub(crate) struct Keep {
    folder: Worker<Job, Option<Known>>,
    pub(crate) dir: StateDir,
    pub(crate) known: Known,
    pub(crate) archive: Archive,
    /// What was handed over and is not folded into the shadow.
    waiting: VecDeque<Archived>,
    waiting_bytes: u64,
    /// How many of those, from the front, are being folded.
    folding: usize,
    /// Bytes that are worth an advance at once.
    fold_bytes: u64,
    last_fold: Instant,
}

impl Keep {
    /// With what an earlier run has left waiting; at most about `bytes_max` bytes of pages are to
    /// wait.
    pub(crate) fn new(
        dir: StateDir,
        known: Known,
        shadow: Shadow,
        archive: Archive,
        waiting: Vec<Archived>,
        bytes_max: u64,
    ) -> Result<Self, SourceError> {
        let place = Place {
            storage: dir.storage.clone(),
            dir: dir.dir.clone(),
            saver: dir.saver.clone(),
        };
        let folder = Worker::start("sqlite state", move |job| match job {
            Job::Fold { known, folded } => fold(&place, &shadow, known, &folded).map(Some),
            Job::Remove(files) => remove_all(place.storage.as_ref(), &files).map(|()| None),
        })?;
        let mut keep = Self {
            folder,
            dir,
            known,
            archive,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            folding: 0,
            fold_bytes: FOLD_BYTES.min(bytes_max / 2),
            last_fold: Instant::now(),
        };
        for archived in waiting {
            keep.add(archived);
        }
        Ok(keep)
    }

    /// A transaction was archived, and will be handed over.
    pub(crate) fn add(&mut self, archived: Archived) {
        self.waiting_bytes += archived.bytes(self.known.page_size);
        self.waiting.push_back(archived);
    }

    /// Bytes of pages that wait to be confirmed.
    pub(crate) const fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    /// Everything up to here is durable downstream. Advances now and then, in the background; with
    /// `last` at once, and waits for it. Gives the commit the shadow has come to, once.
    pub(crate) fn confirmed(
        &mut self,
        up_to: Position,
        last: bool,
    ) -> Result<Option<Lsn>, SourceError> {
        let done = if last {
            self.folder.wait()?
        } else {
            self.folder.poll()?
        };
        let mut folded = self.folded(done.flatten())?;
        let due = last
            || self.last_fold.elapsed() >= FOLD_INTERVAL
            || self.waiting_bytes >= self.fold_bytes;
        if due && !self.folder.is_busy() {
            self.last_fold = Instant::now();
            if self.known.snapshot && up_to >= Position::end_of(self.known.position) {
                self.known.snapshot = false;
                self.dir.saver.save(&self.known)?;
            }
            self.begin(up_to)?;
            if last {
                let done = self.folder.wait()?.flatten();
                folded = self.folded(done)?.or(folded);
                self.folder.wait()?;
            }
        }
        Ok(folded)
    }

    fn begin(&mut self, confirmed: Position) -> Result<(), SourceError> {
        let done = |transaction: &&Archived| Position::end_of(transaction.commit) <= confirmed;
        let count = self.waiting.iter().take_while(done).count();
        if count > 0 {
            self.folding = count;
            self.folder.submit(Job::Fold {
                known: self.known,
                folded: self.waiting.iter().take(count).cloned().collect(),
            })?;
        }
        Ok(())
    }

    fn folded(&mut self, known: Option<Known>) -> Result<Option<Lsn>, SourceError> {
        let Some(known) = known else {
            return Ok(None);
        };
        self.known = known;
        for archived in self.waiting.drain(..self.folding) {
            self.waiting_bytes -= archived.bytes(known.page_size);
        }
        self.folding = 0;
        let removed = self.archive.give_up(self.waiting.front())?;
        if !removed.is_empty() {
            self.folder.submit(Job::Remove(removed))?;
        }
        Ok(Some(known.position))
    }
}

/// Where the shadow and what belongs to it are.
#[derive(Clone, Debug)]
struct Place {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    saver: Saver,
}

/// Brings the shadow to the newest of some transactions. Before any page of it is written they all
/// stand beside it, durably: a crash at any point leaves the old one, or what leads to the new.
fn fold(
    place: &Place,
    shadow: &Shadow,
    known: Known,
    folded: &[Archived],
) -> Result<Known, SourceError> {
    let pages = write_fold(place.storage.as_ref(), &place.dir, known.page_size, folded)?;
    let Some(pages) = pages else {
        return Ok(known);
    };
    let known = apply(shadow, &known, &pages)?;
    place.saver.save(&known)?;
    Ok(known)
}

/// Writes some pages into the shadow, and gives what is known then.
pub(crate) fn apply(
    shadow: &Shadow,
    known: &Known,
    pages: &Archived,
) -> Result<Known, SourceError> {
    for &(page, offset) in pages.pages.iter() {
        shadow.write(page, &pages.read(offset, known.page_size)?)?;
    }
    shadow.sync()?;
    Ok(Known {
        position: pages.commit,
        salts: pages.salts,
        checksum: pages.checksum,
        count: pages.count,
        folding: Lsn::ZERO,
        snapshot: false,
        ..*known
    })
}
