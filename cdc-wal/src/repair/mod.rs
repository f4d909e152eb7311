//! Repairing a log whose durable part is damaged: what can be read stays, what cannot is named.
//!
//! [`plan`] looks and changes nothing; [`repair`] does what the plan says. The files it changes are
//! first copied as they are into a directory `damaged-<time>` beside the segments, with the report.
//! A repair that a crash interrupts can be done again.
//!
//! # What a repair does to positions
//! Nothing: what is kept keeps its LSNs, positions and event ids, and no LSN that was ever handed out
//! is used again. Where something is lost stands a gap. A tail that has not got past it ends there
//! with [`LogErrorKind::Lost`], which names the position behind it: nothing is skipped silently, and
//! tails that are beyond are not disturbed.
//!
//! A transaction is lost if any of its frames may be: one that was open at the gap, or whose
//! relation's definition was in it.

mod apply;
mod scan;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cdc_core::storage::{Storage, StorageLock};
use cdc_core::{Lsn, Position};

use crate::log::lock;
use crate::{LogError, LogErrorKind, segment};
use scan::Scan;

/// What becomes of what can be read behind damage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RepairMode {
    /// It stays; a gap marks the loss.
    #[default]
    Keep,
    /// The log ends in front of the first damage. For journals only: their source sends again what
    /// follows, if it still has it. A lost part of an engine's own log has nobody to send it.
    Cut,
}

/// A part of a log that is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The file.
    pub path: PathBuf,
    /// Offset in it, in bytes.
    pub offset: u64,
    /// Where that is in the log.
    pub lsn: Lsn,
    /// How much, in bytes.
    pub bytes: u64,
    /// Why.
    pub what: String,
    /// The last position in front of it.
    pub after: Position,
    /// The commit that is lost, where the loss is of one transaction alone.
    pub commit: Option<Position>,
}

/// What a repair finds and does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// What is lost, in log order; nothing is wrong with the log if this is empty.
    pub losses: Vec<Loss>,
    /// Committed transactions that are kept.
    pub commits: u64,
    /// Their events.
    pub events: u64,
    /// Segment headers that are written anew from what their neighbours say.
    pub headers: Vec<PathBuf>,
    /// The cursors' file is damaged: cursors have to be registered again.
    pub cursors_lost: bool,
    /// Where the files were copied to before they were changed; `None` of a plan.
    pub set_aside: Option<PathBuf>,
}

impl RepairReport {
    /// True if there is nothing to repair.
    pub fn is_clean(&self) -> bool {
        self.losses.is_empty() && self.headers.is_empty() && !self.cursors_lost
    }

    /// Bytes that are lost.
    pub fn lost_bytes(&self) -> u64 {
        self.losses.iter().map(|loss| loss.bytes).sum()
    }
}

impl fmt::Display for RepairReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for path in &self.headers {
            writeln!(f, "{}: the header is written anew", path.display())?;
        }
        if self.cursors_lost {
            writeln!(f, "the cursors are lost; register them again")?;
        }
        for loss in &self.losses {
            writeln!(
                f,
                "{} at byte {} (LSN {}): {} bytes lost, after position {}: {}",
                loss.path.display(),
                loss.offset,
                loss.lsn,
                loss.bytes,
                loss.after,
                loss.what
            )?;
            if let Some(commit) = loss.commit {
                writeln!(
                    f,
                    "  the transaction committed at {} is lost",
                    commit.commit
                )?;
            }
        }
        writeln!(
            f,
            "{} bytes in {} places are lost; {} transactions with {} events are kept",
            self.lost_bytes(),
            self.losses.len(),
            self.commits,
            self.events
        )
    }
}

/// Looks at a log, and says what a repair would do and what is lost.
///
/// # Errors
/// [`LogErrorKind::InUse`] beside a writer, [`LogErrorKind::NotFound`] without a log,
/// [`LogErrorKind::Corrupt`] if no segment's header can be read, so that nothing says what the files
/// are; [`LogErrorKind::Configuration`] for [`RepairMode::Cut`] of a log that is no journal.
pub fn plan(
    storage: &Arc<dyn Storage>,
    dir: impl AsRef<Path>,
    mode: RepairMode,
) -> Result<RepairReport, LogError> {
    let dir = dir.as_ref();
    let _lock = lock_of_log(storage.as_ref(), dir)?;
    Ok(Scan::run(storage.as_ref(), dir, mode)?.report)
}

/// Repairs a log. Without damage nothing is changed.
///
/// # Errors
/// As for [`plan`], and from the disk.
pub fn repair(
    storage: &Arc<dyn Storage>,
    dir: impl AsRef<Path>,
    mode: RepairMode,
) -> Result<RepairReport, LogError> {
    let dir = dir.as_ref();
    let _lock = lock_of_log(storage.as_ref(), dir)?;
    repair_locked(storage.as_ref(), dir, mode)
}

/// The lock of a log, if there is one: nothing is written to a directory of something else.
fn lock_of_log(storage: &dyn Storage, dir: &Path) -> Result<Box<dyn StorageLock>, LogError> {
    if segment::list(storage, dir)?.is_empty() {
        return Err(refuse(dir, LogErrorKind::NotFound, "there is none"));
    }
    lock(storage, dir)
}

/// As [`repair`], by who has the log's lock.
pub(crate) fn repair_locked(
    storage: &dyn Storage,
    dir: &Path,
    mode: RepairMode,
) -> Result<RepairReport, LogError> {
    let scan = Scan::run(storage, dir, mode)?;
    apply::apply(storage, dir, scan)
}

fn refuse(dir: &Path, kind: LogErrorKind, what: &str) -> LogError {
    LogError::new(kind, format!("repair the log {}: {what}", dir.display()))
}
