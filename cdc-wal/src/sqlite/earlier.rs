//! What an earlier run has left in the state directory.

use cdc_core::{Lineage, Lsn, Position, SourceError, SourceErrorKind, SourceKind};

use super::archive::{Archive, Archived, read_fold, write_fold};
use super::begin::gap;
use super::config::SqliteConfig;
use super::downstream::Downstream;
use super::files::FileId;
use super::format::{Checksum, Salts};
use super::keep::apply;
use super::shadow::Shadow;
use super::state::{Known, StateDir, boot_id, commit_at, next_generation, parts};

/// What an earlier run has left, brought to one state.
#[derive(Debug)]
pub(crate) struct Earlier {
    pub(crate) known: Known,
    pub(crate) shadow: Shadow,
    pub(crate) archive: Archive,
    /// What it handed over and was not told to be durable.
    pub(crate) archived: Vec<Archived>,
    /// The generation and the frame it had come to.
    pub(crate) at: (u32, u32),
    /// Of that frame.
    pub(crate) salts: Salts,
    pub(crate) checksum: Checksum,
    /// Pages of the database then.
    pub(crate) count: u32,
    /// The log may go on there: it is the same file, and the consumer knows of nothing later.
    pub(crate) may_go_on: bool,
    /// The newest generation anybody knows of.
    pub(crate) newest: u32,
}

impl Earlier {
    /// Reads it. `None` if nothing can be made of it for this database, and that is accepted.
    pub(crate) fn open(
        config: &SqliteConfig,
        dir: &StateDir,
        mut known: Known,
        (file, page_size): (FileId, u32),
        downstream: &mut dyn Downstream,
    ) -> Result<Option<Self>, SourceError> {
        let accept = |why: &str| {
            if !config.accept_gap {
                return Err(gap(config, why));
            }
            tracing::error!(database = %config.shown(), %why, "gap accepted");
            Ok(())
        };
        let resume = downstream.end();
        if known.file != file {
            accept(
                "the file is not the one that was followed: it was replaced, or restored from a copy",
            )?;
        }
        if known.page_size != page_size {
            accept("its pages have another size: the file was replaced by another")?;
            return Ok(None);
        }
        let durable = Position::end_of(known.position);
        if !known.snapshot && resume.is_some_and(|resume| resume < durable) {
            accept(
                "the source was told that more is durable than there is: an old copy of the journal or of a checkpoint is in use",
            )?;
        }
        // The snapshot is whole downstream, only we were not told any more.
        known.snapshot &= resume.is_none_or(|resume| resume < durable);
        let shadow = Shadow::open(dir.storage.as_ref(), &dir.dir, page_size)?;
        let (mut archive, mut archived) = Archive::open(&dir.storage, &dir.dir, page_size)?;
        let fold = read_fold(dir.storage.as_ref(), &dir.dir, page_size)?;
        // A crash came between: some of its pages may be in the copy.
        if let Some(fold) = fold.filter(|fold| fold.commit > known.position) {
            known = apply(&shadow, &known, &fold)?;
            dir.saver.save(&known)?;
        }
        archived.retain(|transaction| transaction.commit > known.position);
        if known.folding > known.position {
            // Of a version that had the pages in the archive alone.
            let meant = archived.partition_point(|one| one.commit <= known.folding);
            let folded: Vec<Archived> = archived.drain(..meant).collect();
            let last = folded.last().map(|one| one.commit);
            let pages = write_fold(dir.storage.as_ref(), &dir.dir, page_size, &folded)?;
            let Some(pages) = pages.filter(|_| last == Some(known.folding)) else {
                return Err(SourceError::new(
                    SourceErrorKind::Corrupt,
                    "read the archive of the source: what its copy of the database was to be brought to is gone; begin anew with an empty state and a snapshot",
                ));
            };
            known = apply(&shadow, &known, &pages)?;
            dir.saver.save(&known)?;
        }
        // After a loss of power the oldest may be missing. What is written next follows what is known,
        // and may not come to stand behind anything else.
        let follows = |first: &Archived| [known.position, Lsn::ZERO].contains(&first.before);
        if !archived.first().is_some_and(follows) {
            archived.clear();
            archive.clear()?;
        }
        let newest = archived.last().map_or(known.position, |last| last.commit);
        archive.comes_after(newest);
        let (last, salts, checksum, count) = match archived.last() {
            Some(last) => (last.commit, last.salts, last.checksum, last.count),
            None => (known.position, known.salts, known.checksum, known.count),
        };
        let here = Position::end_of(last);
        let furthest = downstream.furthest().max(resume);
        let ahead = resume.is_some_and(|resume| resume > here);
        // Positions that were given to other transactions are not given again.
        let mut seen = furthest.map_or(0, |furthest| parts(furthest.commit).0);
        if ahead {
            // After a loss of power, most often. Which rows those transactions changed is known downstream
            // alone: a difference to what is known here would miss those that are as they were
            // before. The log may hold others in their place.
            seen = next_generation(seen)?;
            let commit = commit_at(seen, 0);
            let lineage = Lineage::new(SourceKind::Sqlite, known.id, 1);
            if downstream.take_back(lineage, here, commit)? {
                tracing::warn!(
                    database = %config.shown(),
                    from = %here,
                    position = %commit,
                    "more was delivered than the state knows of, as after a loss of power: it is taken back, and what the database holds now comes as one transaction, both marked merged"
                );
            } else {
                accept(
                    "more is durable downstream than the state knows of: the machine lost power, or an old copy of the state is in use",
                )?;
            }
        }
        let may_go_on = known.file == file && !ahead;
        // Delivered, and lost with the end of the journal: the log goes on under another number.
        let lost = !ahead && furthest.is_some_and(|furthest| furthest > here);
        known.file = file;
        known.boot = boot_id();
        dir.saver.save(&known)?;
        let (generation, frame) = parts(last);
        let at = if lost {
            seen = next_generation(seen.max(generation))?;
            (seen, frame)
        } else {
            (generation, frame)
        };
        Ok(Some(Self {
            known,
            shadow,
            archive,
            archived,
            at,
            salts,
            checksum,
            count,
            may_go_on,
            newest: at.0.max(seen),
        }))
    }

    /// The position before what comes.
    pub(crate) fn floor(&self) -> Position {
        if self.known.snapshot {
            Position::before(self.known.position)
        } else {
            Position::end_of(self.known.position)
        }
    }
}
