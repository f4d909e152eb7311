//! Cutting a torn tail, so that nothing of it ever comes back.
//!
//! After a sync that failed the system may hold as clean what never came to the disk: zeros, where the
//! disk still has whole frames. Whoever opens the log then sees nothing to cut, and a power cut shows
//! the frames again, behind new ones. So a mark says that a cut was begun, until its zeros are durable:
//! who finds it trusts no zeros behind the end.
//!
//! The segment's file is not replaced instead: tails of other processes have it open.

use std::path::Path;

use cdc_core::storage::{OpenMode, Storage, open_if_there};

use super::recover::SEARCH_BYTES;
use crate::LogError;
use crate::segment::Segment;

/// The mark: there while a torn tail is being cut.
const CUT: &str = "cut.tmp";

/// True if a cut was begun, and nobody knows whether its zeros are on the disk.
pub(super) fn is_begun(storage: &dyn Storage, dir: &Path) -> Result<bool, LogError> {
    let path = dir.join(CUT);
    let mark = open_if_there(storage, &path, OpenMode::Read);
    mark.map(|mark| mark.is_some())
        .map_err(|cause| LogError::io("look for the mark of a cut", &path, cause))
}

/// Sets the mark.
pub(super) fn begin(storage: &dyn Storage, dir: &Path) -> Result<(), LogError> {
    let path = dir.join(CUT);
    let io = |cause| LogError::io("begin to cut the torn tail: create", &path, cause);
    storage.open(&path, OpenMode::CreateNew).map_err(io)?;
    storage.sync_dir(dir).map_err(io)
}

/// Takes the mark away: what was cut is durable. The caller syncs the directory; should the mark come
/// back all the same, zeros are written where zeros are.
pub(super) fn end(storage: &dyn Storage, dir: &Path) -> Result<(), LogError> {
    let path = dir.join(CUT);
    storage
        .remove(&path)
        .map_err(|cause| LogError::io("end the cut of the torn tail: remove", &path, cause))
}

/// Overwrites a torn tail with zeros, durably.
pub(super) fn zero(segment: &Segment, from: u64, to: u64) -> Result<(), LogError> {
    let io = |cause| LogError::io("cut the torn tail of", &segment.path, cause);
    let zeros = vec![0; SEARCH_BYTES];
    let mut at = from;
    while at < to {
        let n = usize::try_from(to - at)
            .unwrap_or(usize::MAX)
            .min(zeros.len());
        segment
            .file
            .write_all_at(&zeros[..n], at - segment.base())
            .map_err(io)?;
        at += n as u64;
    }
    segment.file.sync_data().map_err(io)
}
