//! The application's files, only looked at: no connection, no lock, nothing written.

use std::fs::{File, Metadata};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use cdc_core::SourceError;

use super::config::SqliteConfig;
use super::files::{self, FileId};
use super::log_file::io_error;
use super::wal_index::WalIndex;

/// Attempts to read the wal-index while somebody writes it.
const ATTEMPTS: u32 = 50;

/// What the wal-index shows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seen {
    Head(WalIndex),
    /// There is no file: nobody has the database open.
    Absent,
    /// It is being written or made, or was left by a crash in the middle of that.
    Unreadable,
}

/// A time of change that is younger than this may stay the same over another change.
const FRESH: Duration = Duration::from_millis(100);

/// When the database file and the log were changed, and their lengths; the log may not be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    main: (SystemTime, u64),
    log: Option<(SystemTime, u64)>,
}

/// The same of the wal-index: file systems of this machine count in ticks of at most 10 ms, some old
/// ones in seconds.
const FRESH_INDEX: Duration = Duration::from_millis(20);
const FRESH_INDEX_COARSE: Duration = Duration::from_secs(3);
/// A commit takes longer: it writes to a file.
const COMMIT_TIME: Duration = Duration::from_micros(1);

/// From when on the wal-index was read, to tell later whether it counted on since, or from 0 again.
///
/// It counts from 0 when it is made anew from the log: whoever opens a database that nobody has open
/// any more, the last one having been killed, cuts the file short first. Sums of commits that are
/// equal over that say nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    begun: Instant,
    /// When the file was changed other than through memory, mostly; `None` if that does not tell yet.
    changed: Option<SystemTime>,
}

/// The files of one database.
#[derive(Debug)]
pub(crate) struct Looks {
    pub(crate) main: Arc<File>,
    pub(crate) file: FileId,
    index: Option<(FileId, Arc<File>)>,
    index_path: PathBuf,
    log_path: PathBuf,
}

impl Looks {
    /// Opens the database file, and the wal-index if it is there.
    pub(crate) fn open(config: &SqliteConfig) -> Result<Self, SourceError> {
        let (file, main) = files::open(&config.path)
            .map_err(|cause| io_error(&format!("open the database {}", config.shown()), cause))?;
        let mut looks = Self {
            main,
            file,
            index: None,
            index_path: config.beside("-shm"),
            log_path: config.beside("-wal"),
        };
        looks.reopen()?;
        Ok(looks)
    }

    /// Opens the wal-index that has its name now.
    pub(crate) fn reopen(&mut self) -> Result<(), SourceError> {
        self.index = match files::open(&self.index_path) {
            Ok(found) => Some(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io_error("open the -shm file", error)),
        };
        Ok(())
    }

    /// Whether the wal-index's name means another file than the one that is open, or none.
    pub(crate) fn is_replaced(&self) -> bool {
        let now = FileId::of(&self.index_path).ok();
        now != self.index.as_ref().map(|(id, _)| *id)
    }

    /// Whether nobody had the database open when it was last looked for a wal-index.
    pub(crate) const fn is_closed(&self) -> bool {
        self.index.is_none()
    }

    /// What tells whether the files were changed; `None` while that is too fresh to tell. Where there is
    /// no wal-index, nothing else does: a program that holds the database alone
    /// (`locking_mode = EXCLUSIVE`) writes its log without one.
    pub(crate) fn stamp(&self) -> Result<Option<Stamp>, SourceError> {
        let failed = |cause| io_error("look at the files of the database", cause);
        let of = |found: Metadata| Ok((found.modified()?, found.len()));
        let main = self.main.metadata().and_then(of).map_err(failed)?;
        let log = match std::fs::metadata(&self.log_path).and_then(of) {
            Ok(log) => Some(log),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        // A time in the future says nothing either.
        let old = |(changed, _): (SystemTime, u64)| changed.elapsed().is_ok_and(|age| age >= FRESH);
        let settled = old(main) && log.is_none_or(old);
        Ok(settled.then_some(Stamp { main, log }))
    }

    /// To be taken before [`Self::index`] is asked.
    pub(crate) fn reading(&self) -> Result<Reading, SourceError> {
        let begun = Instant::now();
        let changed = self.index_changed()?.filter(|changed| {
            let coarse = changed
                .duration_since(SystemTime::UNIX_EPOCH)
                .is_ok_and(|since| since.subsec_nanos() == 0);
            let fresh = if coarse {
                FRESH_INDEX_COARSE
            } else {
                FRESH_INDEX
            };
            // A time in the future says nothing.
            changed.elapsed().is_ok_and(|age| age >= fresh)
        });
        Ok(Reading { begun, changed })
    }

    /// Whether the wal-index has counted on since a reading that gave `count`. To be asked after
    /// [`Self::index`]; false also where that is so, but cannot be shown.
    pub(crate) fn counts_on(&self, since: &Reading, count: u32) -> Result<bool, SourceError> {
        // From 0 again it cannot have come so far.
        if COMMIT_TIME.saturating_mul(count) > since.begun.elapsed() {
            return Ok(true);
        }
        Ok(since.changed.is_some() && since.changed == self.index_changed()?)
    }

    fn index_changed(&self) -> Result<Option<SystemTime>, SourceError> {
        let Some((_, file)) = &self.index else {
            return Ok(None);
        };
        let changed = file.metadata().and_then(|found| found.modified());
        changed
            .map(Some)
            .map_err(|cause| io_error("look at the -shm file", cause))
    }

    /// What the wal-index shows.
    pub(crate) fn index(&self) -> Result<Seen, SourceError> {
        let Some((_, file)) = &self.index else {
            return Ok(Seen::Absent);
        };
        for attempt in 0..ATTEMPTS {
            if let Some(head) = WalIndex::read(file)? {
                return Ok(Seen::Head(head));
            }
            if attempt > 10 {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        Ok(Seen::Unreadable)
    }

    /// The log that has its name now.
    pub(crate) fn log(&self) -> Result<Option<Arc<File>>, SourceError> {
        match File::open(&self.log_path) {
            Ok(file) => Ok(Some(Arc::new(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("open the -wal file", error)),
        }
    }
}
