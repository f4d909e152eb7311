//! Segment files: names, creation, opening.

use std::path::{Path, PathBuf};

use cdc_core::storage::{OpenMode, Storage, StorageFile, read_exact_at};

use crate::format::HEADER_BYTES;
use crate::format::header::{HeaderError, SegmentHeader};
use crate::{LogError, LogErrorKind};

/// The next segment while it is being prepared.
pub(crate) const PREPARED: &str = "next.tmp";
/// A trimmed segment, to be written over with the next one.
pub(crate) const SPARE: &str = "spare.tmp";
/// How often a list of segments is taken anew when some of it is trimmed before it was looked at. A
/// writer trims far less often than a look takes.
pub(crate) const LOOKS: u32 = 16;
/// Zeros are written in pieces of this size: half a millisecond of a disk of 500 MB/s, which is what
/// a commit beside it may have to wait for one.
const ZERO_BYTES: usize = 256 << 10;

/// An open segment.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) seed: u32,
    pub(crate) path: PathBuf,
    pub(crate) file: Box<dyn StorageFile>,
}

impl Segment {
    pub(crate) fn base(&self) -> u64 {
        self.header.base
    }

    /// LSN of the first frame.
    pub(crate) fn first(&self) -> u64 {
        self.header.base + HEADER_BYTES
    }

    /// LSN behind the last byte.
    pub(crate) fn end(&self) -> u64 {
        self.header.base + u64::from(self.header.segment_bytes)
    }

    /// Opens a segment and reads its header.
    pub(crate) fn open(
        storage: &dyn Storage,
        dir: &Path,
        base: u64,
        mode: OpenMode,
    ) -> Result<Self, LogError> {
        let path = dir.join(file_name(base));
        let trimmed = || {
            LogError::new(
                LogErrorKind::Trimmed,
                format!(
                    "open the log segment {}: it was trimmed away; begin at a newer position",
                    path.display()
                ),
            )
        };
        let io = |cause: std::io::Error| match cause.kind() {
            std::io::ErrorKind::NotFound => trimmed(),
            _ => LogError::io("open the log segment", &path, cause),
        };
        let file = storage.open(&path, mode).map_err(io)?;
        // Trimmed between the two calls, the file may be on its way to be another segment; once it
        // is shared, it stays what it is.
        if mode == OpenMode::Read && !file.share().map_err(io)? {
            return Err(trimmed());
        }
        Self::read(base, &path, file).map_err(|error| {
            let again = mode == OpenMode::Read && error.kind == LogErrorKind::Corrupt;
            if again && !storage.exists(&path) {
                trimmed()
            } else {
                error
            }
        })
    }

    /// Reads the header of an open segment.
    fn read(base: u64, path: &Path, file: Box<dyn StorageFile>) -> Result<Self, LogError> {
        let mut bytes = vec![0; usize::try_from(HEADER_BYTES).unwrap_or_default()];
        match read_exact_at(file.as_ref(), &mut bytes, 0) {
            Err(cause) if cause.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Err(LogError::corrupt(path, 0, "the header is cut off"));
            }
            result => result.map_err(|cause| LogError::io("read the log segment", path, cause))?,
        }
        let header = SegmentHeader::decode(&bytes).map_err(|error| match error {
            HeaderError::Version(version) => LogError::new(
                LogErrorKind::Unsupported,
                format!(
                    "open the log segment {}: it has format version {version}, this build reads version 1; upgrade to use it",
                    path.display()
                ),
            ),
            HeaderError::Invalid(what) => LogError::corrupt(path, 0, what),
        })?;
        if header.base != base {
            return Err(LogError::corrupt(
                path,
                36,
                "the file's name and its base LSN differ",
            ));
        }
        let seed = header.seed();
        Ok(Self {
            header,
            seed,
            path: path.to_owned(),
            file,
        })
    }

    /// Gives a prepared file its header and its name; durably if `sync`.
    pub(crate) fn create(
        storage: &dyn Storage,
        dir: &Path,
        header: SegmentHeader,
        file: Box<dyn StorageFile>,
        sync: bool,
    ) -> Result<Self, LogError> {
        let path = dir.join(file_name(header.base));
        let io = |cause| LogError::io("create the log segment", &path, cause);
        let bytes = header.encode().map_err(|error| {
            LogError::new(LogErrorKind::TooLarge, format!("create a log: {error}"))
        })?;
        file.write_all_at(&bytes, 0).map_err(io)?;
        if sync {
            file.sync_data().map_err(io)?;
        }
        storage.rename(&dir.join(PREPARED), &path).map_err(io)?;
        if sync {
            storage.sync_dir(dir).map_err(io)?;
        }
        let seed = header.seed();
        Ok(Self {
            header,
            seed,
            path,
            file,
        })
    }
}

/// Makes the file of a next segment: of full size, so that a sync of what is written into it needs
/// no metadata; zeros are really written if `zero`, since unwritten extents cost a journal commit
/// at every first sync. A trimmed segment is written over if there is one, since a new file costs
/// the file system's journal commits that every other sync waits for. Between two pieces of zeros
/// `between` is called with the file and the bytes that are written.
pub(crate) fn prepare(
    storage: &dyn Storage,
    dir: &Path,
    segment_bytes: u32,
    zero: bool,
    mut between: impl FnMut(&dyn StorageFile, u64) -> std::io::Result<()>,
) -> Result<Box<dyn StorageFile>, LogError> {
    let path = dir.join(PREPARED);
    let io = |cause| LogError::io("prepare the log segment", &path, cause);
    if storage.exists(&path) {
        storage.remove(&path).map_err(io)?;
    }
    let spare = dir.join(SPARE);
    let used = match storage.exists(&spare) {
        true => spare_file(storage, dir, segment_bytes, zero).unwrap_or_else(|cause| {
            tracing::warn!(%cause, file = %spare.display(), "trimmed log segment not used again");
            // If it cannot be removed either, it stays, and what is trimmed later is removed.
            _ = storage.remove(&spare);
            None
        }),
        false => None,
    };
    let file = match used {
        Some(file) => file,
        None => storage.open(&path, OpenMode::CreateNew).map_err(io)?,
    };
    if zero {
        let total = u64::from(segment_bytes);
        let zeros = vec![0; ZERO_BYTES.min(segment_bytes as usize)];
        let mut at = 0;
        while at < total {
            let n = zeros
                .len()
                .min(usize::try_from(total - at).unwrap_or(usize::MAX));
            file.write_all_at(&zeros[..n], at).map_err(io)?;
            at += n as u64;
            if at < total {
                between(file.as_ref(), at).map_err(io)?;
            }
        }
        file.sync_data().map_err(io)?;
    } else {
        file.set_len(u64::from(segment_bytes)).map_err(io)?;
    }
    Ok(file)
}

/// Gives a trimmed segment's file up to be the next one, unless another one waits for that. Whoever
/// reads it may go on: see [`spare_file`]. False if it must be removed.
pub(crate) fn set_aside(storage: &dyn Storage, dir: &Path, path: &Path) -> bool {
    let spare = dir.join(SPARE);
    !storage.exists(&spare) && storage.rename(path, &spare).is_ok()
}

/// The file that was set aside, as that of the next segment; `None` if it cannot be used, since it
/// is still read, say: then it goes away.
fn spare_file(
    storage: &dyn Storage,
    dir: &Path,
    segment_bytes: u32,
    zero: bool,
) -> std::io::Result<Option<Box<dyn StorageFile>>> {
    let spare = dir.join(SPARE);
    // Nothing is written into it before its old name is gone for good: after a crash it would be
    // a segment again.
    storage.sync_dir(dir)?;
    let file = storage.open(&spare, OpenMode::ReadWrite)?;
    if !zero || file.len()? != u64::from(segment_bytes) || !file.claim()? {
        storage.remove(&spare)?;
        return Ok(None);
    }
    // Who opened it by its old name and comes to read only now sees that it is no segment.
    let none = vec![0; usize::try_from(HEADER_BYTES).unwrap_or_default()];
    file.write_all_at(&none, 0)?;
    file.release()?;
    storage.rename(&spare, &dir.join(PREPARED))?;
    Ok(Some(file))
}

/// The name of the segment with this base.
pub(crate) fn file_name(base: u64) -> String {
    format!("{base:016x}.wal")
}

/// Looks at the segments of a log that another process may write: what it trims meanwhile is looked
/// for again, in a new list.
pub(crate) fn untrimmed<T>(mut look: impl FnMut() -> Result<T, LogError>) -> Result<T, LogError> {
    for _ in 1..LOOKS {
        match look() {
            Err(error) if error.kind == LogErrorKind::Trimmed => {}
            looked => return looked,
        }
    }
    look()
}

/// Bases of the segments in a directory, ascending.
pub(crate) fn list(storage: &dyn Storage, dir: &Path) -> Result<Vec<u64>, LogError> {
    let names = storage.list(dir).map_err(|cause| match cause.kind() {
        std::io::ErrorKind::NotFound => LogError::new(
            LogErrorKind::NotFound,
            format!("open the log {}: there is no such directory", dir.display()),
        ),
        _ => LogError::io("list the log directory", dir, cause),
    })?;
    let mut bases: Vec<u64> = names
        .iter()
        .filter_map(|name| {
            let digits = name.strip_suffix(".wal")?;
            let plain = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u64::from_str_radix(digits, 16).ok())?
        })
        .collect();
    bases.sort_unstable();
    Ok(bases)
}
