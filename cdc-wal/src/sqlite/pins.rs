//! The locks we hold: SQLite's own, through SQLite.
//!
//! Two connections take turns in holding a read transaction, so that there always is one. While it
//! is there, nothing behind its mark is copied back into the database and the log does not begin
//! anew (or, if everything was copied back when it began, nothing at all is copied back). Three more
//! connections help the application's checkpoints; nothing is ever written.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cdc_core::{SourceError, SourceErrorKind};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::begin::{replaced, unopened};
use super::config::SqliteConfig;
use super::files::{self, FileId};
use super::log_file::io_error;

/// Pause between attempts to copy the log back while the application's checkpoint runs.
const RETRY: Duration = Duration::from_micros(500);

/// How long a file may be no database while another is copied over it. Its first page comes at once.
const COMING: Duration = Duration::from_secs(10);

/// Connections and the descriptors they share their locks with, dropped in this order.
#[derive(Debug)]
pub(crate) struct Pins {
    holder: Option<Connection>,
    other: Option<Connection>,
    writer: Option<Connection>,
    pub(crate) main: Arc<File>,
    pub(crate) index: Arc<File>,
    pub(crate) place: Place,
    coming: Coming,
    config: SqliteConfig,
}

/// The files that our locks and mappings are of. While a connection of ours is open nobody who keeps to
/// SQLite's locks gives their names to others or to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: FileId,
    log: FileId,
    index: FileId,
}

impl Place {
    fn of(config: &SqliteConfig) -> std::io::Result<Self> {
        Ok(Self {
            file: FileId::of(&config.path)?,
            log: FileId::of(&config.beside("-wal"))?,
            index: FileId::of(&config.beside("-shm"))?,
        })
    }

    /// # Errors
    /// [`SourceErrorKind::Gap`]: the database was replaced, or somebody restored it or removed its log
    /// while it was open. What is in the log that we have belongs to no file that has a name.
    pub(crate) fn check(&self, config: &SqliteConfig) -> Result<(), SourceError> {
        if FileId::of(&config.path).ok() != Some(self.file) {
            return Err(replaced(config));
        }
        if Self::of(config).ok() == Some(*self) {
            return Ok(());
        }
        Err(SourceError::new(
            SourceErrorKind::Gap,
            format!(
                "follow {}: its -wal and -shm files are gone or others now: it was restored, or its log removed, while it was open here; start again, and what changed comes as one merged transaction (without a state directory: take a new snapshot), and stop this before you restore a database in its place",
                config.shown()
            ),
        ))
    }
}

/// The error of a connection.
pub(crate) fn sqlite_error(attempted: &str, path: &str, cause: rusqlite::Error) -> SourceError {
    let code = cause.sqlite_error_code();
    let (kind, remedy) = match code {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
            SourceErrorKind::InUse,
            "another process holds it alone (locking_mode = EXCLUSIVE, or a change of the journal mode); let it use locking_mode = NORMAL",
        ),
        Some(ErrorCode::CannotOpen) => (
            SourceErrorKind::Unreachable,
            "check the path, and that its directory may be written",
        ),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => (
            SourceErrorKind::Configuration,
            "the database, its -wal and -shm files and their directory must be writable for this user",
        ),
        Some(ErrorCode::NotADatabase) => (
            SourceErrorKind::Unsupported,
            "it is encrypted or no SQLite database",
        ),
        Some(ErrorCode::DatabaseCorrupt) => {
            (SourceErrorKind::Corrupt, "run PRAGMA integrity_check on it")
        }
        _ => (SourceErrorKind::Io, "see the cause"),
    };
    SourceError::new(kind, format!("{attempted} {path}: {cause}; {remedy}")).with_cause(cause)
}

fn connect(config: &SqliteConfig) -> Result<Connection, SourceError> {
    let failed = |cause| sqlite_error("open the database", &config.shown(), cause);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&config.path, flags).map_err(failed)?;
    connection
        .busy_timeout(config.busy_timeout)
        .map_err(failed)?;
    // Closing the last connection must not take away the log we have not read.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(failed)?;
    connection
        .pragma_update(None, "wal_autocheckpoint", 0)
        .map_err(failed)?;
    Ok(connection)
}

impl Pins {
    /// Opens the database and begins to hold it.
    pub(crate) fn open(config: &SqliteConfig) -> Result<Self, SourceError> {
        let (_, main) = files::open(&config.path).map_err(|cause| unopened(config, cause))?;
        let holder = connect(config)?;
        let other = connect(config)?;
        let begun = begin(&holder).map_err(|e| sqlite_error("read", &config.shown(), e));
        begun?;
        let (_, index) = files::open(&config.beside("-shm")).map_err(|cause| {
            SourceError::new(
                SourceErrorKind::Configuration,
                format!(
                    "open the -shm file of {}: {cause}; the database must be in WAL mode and not be locked by one process (locking_mode = EXCLUSIVE keeps no -shm file)",
                    config.shown()
                ),
            )
            .with_cause(cause)
        })?;
        let place = Place::of(config).map_err(|cause| {
            io_error(&format!("look at the files of {}", config.shown()), cause)
        })?;
        Ok(Self {
            holder: Some(holder),
            other: Some(other),
            writer: None,
            main,
            index,
            place,
            coming: Coming::default(),
            config: config.clone(),
        })
    }

    fn failed(&self, cause: rusqlite::Error) -> SourceError {
        sqlite_error("hold the log of", &self.config.shown(), cause)
    }

    /// Begins a second read transaction beside the one that is held; false if that cannot be said yet, for
    /// another file is being copied over this one.
    pub(crate) fn begin_next(&mut self) -> Result<bool, SourceError> {
        let Some(other) = &self.other else {
            return Ok(true);
        };
        match begin(other) {
            Ok(()) => {
                self.coming.came();
                Ok(true)
            }
            Err(cause) if self.coming.explains(&cause) => {
                forget(other);
                Ok(false)
            }
            Err(cause) => Err(self.failed(cause)),
        }
    }

    /// Ends the older of the two read transactions.
    pub(crate) fn end_last(&mut self) -> Result<(), SourceError> {
        if let Some(holder) = &self.holder {
            holder
                .execute_batch("COMMIT")
                .map_err(|cause| self.failed(cause))?;
        }
        std::mem::swap(&mut self.holder, &mut self.other);
        Ok(())
    }

    /// Ends the newer of the two instead.
    pub(crate) fn end_next(&mut self) -> Result<(), SourceError> {
        match &self.other {
            Some(other) => other
                .execute_batch("COMMIT")
                .map_err(|cause| self.failed(cause)),
            None => Ok(()),
        }
    }

    /// The log, opened anew: a new generation may be in a new file.
    pub(crate) fn log(&self) -> Result<Option<Arc<File>>, SourceError> {
        match File::open(self.config.beside("-wal")) {
            Ok(file) => Ok(Some(Arc::new(file))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("open the -wal file", error)),
        }
    }

    /// Takes the write lock; false if somebody else has it: nobody is waited for.
    pub(crate) fn lock_writer(&mut self) -> Result<bool, SourceError> {
        if self.writer.is_none() {
            let writer = connect(&self.config)?;
            writer
                .busy_timeout(Duration::ZERO)
                .map_err(|cause| self.failed(cause))?;
            self.writer = Some(writer);
        }
        let locked = match &self.writer {
            Some(writer) => writer.execute_batch("BEGIN IMMEDIATE"),
            None => return Ok(false),
        };
        match locked {
            Ok(()) => Ok(true),
            Err(error) if is_busy(&error) => Ok(false),
            Err(error) if self.coming.explains(&error) => {
                self.writer.as_ref().inspect(|writer| forget(writer));
                Ok(false)
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Lets the write lock go. Nothing was written under it.
    pub(crate) fn unlock_writer(&mut self) -> Result<(), SourceError> {
        match &self.writer {
            Some(writer) => writer
                .execute_batch("ROLLBACK")
                .map_err(|cause| self.failed(cause)),
            None => Ok(()),
        }
    }
}

/// What a checkpoint came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copied {
    /// Another checkpoint was running.
    pub(crate) busy: bool,
    /// Frames that are in the database file.
    pub(crate) frames: u32,
    /// All of the log is.
    pub(crate) whole: bool,
}

/// A connection that copies the log back into the database.
#[derive(Debug)]
pub(crate) struct Checkpointer {
    config: SqliteConfig,
    place: Place,
    connection: Option<Connection>,
    coming: Coming,
}

impl Checkpointer {
    /// Opens nothing yet.
    pub(crate) fn new(config: &SqliteConfig, place: Place) -> Self {
        Self {
            config: config.clone(),
            place,
            connection: None,
            coming: Coming::default(),
        }
    }

    /// Copies back what nobody needs any more, waiting for nobody but the disk; into the file whose log
    /// it is only.
    pub(crate) fn passive(&mut self) -> Result<Copied, SourceError> {
        self.place.check(&self.config)?;
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.config)?,
        };
        let connection = self.connection.insert(connection);
        // A connection that has read nothing since the log began anew would do nothing.
        let read = begin(connection).and_then(|()| connection.execute_batch("COMMIT"));
        // As late as possible: a file that was restored must not get pages of the log it had before.
        self.place.check(&self.config)?;
        let outcome = read.and_then(|()| {
            connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
        });
        match outcome {
            Ok((busy, log, copied)) => {
                self.coming.came();
                let (busy, log, copied): (i64, i64, i64) = (busy, log, copied);
                Ok(Copied {
                    busy: busy != 0,
                    frames: u32::try_from(copied).unwrap_or(0),
                    whole: busy == 0 && log >= 0 && log == copied,
                })
            }
            Err(error) if is_busy(&error) || self.coming.explains(&error) => {
                forget(connection);
                Ok(Copied {
                    busy: true,
                    frames: 0,
                    whole: false,
                })
            }
            Err(error) => Err(sqlite_error("checkpoint", &self.config.shown(), error)),
        }
    }

    /// As [`passive`](Self::passive), once no other checkpoint is running, or at the deadline: the
    /// application tries one at every commit.
    pub(crate) fn passive_after_others(
        &mut self,
        deadline: Instant,
    ) -> Result<Copied, SourceError> {
        loop {
            let copied = self.passive()?;
            if !copied.busy || Instant::now() >= deadline {
                return Ok(copied);
            }
            std::thread::sleep(RETRY);
        }
    }

    /// Copies the whole log back, trying until the deadline where another checkpoint is running.
    /// False if it is not done then, or somebody reads an older state.
    pub(crate) fn whole(&mut self, deadline: Instant) -> Result<bool, SourceError> {
        Ok(self.passive_after_others(deadline)?.whole)
    }
}

/// Since when the file has been no database: somebody may be copying another over it. Which one it is
/// then, the next looks say.
#[derive(Debug, Default)]
struct Coming(Option<Instant>);

impl Coming {
    /// True if an error comes from that, unless it has been coming for too long.
    fn explains(&mut self, error: &rusqlite::Error) -> bool {
        let odd = [ErrorCode::NotADatabase, ErrorCode::DatabaseCorrupt];
        let code = error.sqlite_error_code();
        code.is_some_and(|code| odd.contains(&code))
            && self.0.get_or_insert_with(Instant::now).elapsed() < COMING
    }

    /// It is one.
    const fn came(&mut self) {
        self.0 = None;
    }
}

/// Has a connection read its pages anew. To open another is no way: one that finds an empty file removes its
/// log.
fn forget(connection: &Connection) {
    // It has read nothing since, if it cannot.
    let _ = connection.execute_batch("PRAGMA shrink_memory");
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

/// Begins a read transaction; it holds its mark from the first read on.
fn begin(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("BEGIN")?;
    let read = || {
        let mut statement = connection.prepare("SELECT 1 FROM sqlite_schema LIMIT 1")?;
        statement.query([])?.next().map(|_| ())
    };
    let outcome = read();
    if outcome.is_err() {
        // The error matters, not that there is nothing to end.
        let _ = connection.execute_batch("ROLLBACK");
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `cp backup.db shop.db` while it is followed: that it is no database for a moment says nothing of what
    /// it will be.
    #[test]
    fn a_file_that_another_is_copied_over_is_looked_at_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shop.db");
        let application = Connection::open(&path).unwrap();
        let run = |sql| application.execute_batch(sql).unwrap();
        run("PRAGMA journal_mode = WAL; CREATE TABLE t (x); PRAGMA wal_checkpoint(TRUNCATE)");
        run("INSERT INTO t VALUES (1)");
        let whole = std::fs::read(&path).unwrap();
        let config = SqliteConfig::new(&path);
        let mut pins = Pins::open(&config).unwrap();
        let mut checkpointer = Checkpointer::new(&config, pins.place);
        assert!(pins.begin_next().unwrap());
        pins.end_next().unwrap();
        run("INSERT INTO t VALUES (2)");
        std::fs::write(&path, [0xff; 8192]).unwrap();
        assert!(!pins.begin_next().unwrap(), "it cannot be said yet");
        assert!(checkpointer.passive().unwrap().busy);
        std::fs::write(&path, whole).unwrap();
        assert!(pins.begin_next().unwrap());
        pins.end_next().unwrap();
        assert!(!checkpointer.passive().unwrap().busy);
    }
}
