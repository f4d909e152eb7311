//! What to follow, and how.

use std::path::PathBuf;
use std::time::Duration;

use cdc_core::{SourceError, SourceErrorKind};

/// How much we help the application's checkpoints, which a reader that is always there holds up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Assist {
    /// Not at all: under constant load the `-wal` file grows without bound.
    Off,
    /// When the application pauses: a passive checkpoint, which waits for nobody and holds nobody
    /// up.
    Soft,
    /// Also under constant load: whoever runs a checkpoint next, the application or we, finds about
    /// [`SqliteConfig::soft_frames`] to copy; and when the log is long, the write lock is held for a
    /// moment (some milliseconds, at most [`SqliteConfig::hard_time_max`]) while the rest of it is
    /// copied back, so that it begins anew. An application without a busy timeout may see
    /// `SQLITE_BUSY` then.
    #[default]
    Hard,
}

impl Assist {
    /// The name in configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Soft => "soft",
            Self::Hard => "hard",
        }
    }

    /// By its name in configuration.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Off, Self::Soft, Self::Hard]
            .into_iter()
            .find(|assist| assist.name() == name)
    }
}

/// How it is kept from happening that a checkpoint of the application takes away what is unread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// A read mark is held at all times: every transaction comes whole and alone.
    #[default]
    Pinned,
    /// No lock is ever taken, and nothing of the application's is written, not even to its `-shm`
    /// file. Transactions come whole and alone as long as reading keeps up with the log; when the
    /// log begins anew before all of it was read, the change since the last known state comes as
    /// one transaction marked `merged`. Needs [`SqliteConfig::state_dir`].
    LockFree,
}

impl Mode {
    /// The name in configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::LockFree => "lock-free",
        }
    }

    /// By its name in configuration.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Pinned, Self::LockFree]
            .into_iter()
            .find(|mode| mode.name() == name)
    }
}

/// Which database to follow, and how. Every field but the path has a default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteConfig {
    /// The database file. Its directory and its `-wal` and `-shm` files must be writable: a read
    /// mark is a lock in the `-shm` file.
    pub path: PathBuf,
    /// The name events carry as their source. Default: the file's name without extension.
    pub name: Option<String>,
    /// Where the lineage and the generation of the log are remembered, in one small file. The
    /// directory is created if it is not there; one source uses it at a time. Without it (the
    /// default) nothing is kept for a restart, and positions mean something to this value only.
    pub state_dir: Option<PathBuf>,
    /// Whether the log is held. Default [`Mode::Pinned`].
    pub mode: Mode,
    /// Give every existing row as a `read` before the first change. Default false.
    pub snapshot: bool,
    /// Help for the application's checkpoints, in [`Mode::Pinned`]. Default [`Assist::Hard`].
    pub assist: Assist,
    /// Frames in the log before a pause of the application is used for a checkpoint, and, with
    /// [`Assist::Hard`], how far the read mark may fall behind before it follows under load. Default
    /// 1000, SQLite's own threshold.
    pub soft_frames: u32,
    /// Frames in the log before the write lock is taken for a checkpoint of the rest; a quarter of
    /// [`log_bytes_max`](Self::log_bytes_max) if that is less. Default 16000: each such checkpoint
    /// makes the application wait for the disk.
    pub hard_frames: u32,
    /// Longest time the write lock is held for that. Default 100 ms.
    pub hard_time_max: Duration,
    /// Bytes of log above which the read mark is let go, so that the application's disk does not
    /// fill because of us: the changes until the log has begun anew then come as one merged
    /// transaction, or, without a state directory, capture ends with
    /// [`SourceErrorKind::Gap`]. It is looked at after each round and at least ten times a second
    /// while the consumer takes nothing. Default 1 GiB.
    pub log_bytes_max: u64,
    /// Bytes of pages archived and not confirmed above which nothing more is read until some are
    /// confirmed; one transaction may go beyond. Default 4 GiB.
    pub archive_bytes_max: u64,
    /// Also capture the tables in which virtual tables (FTS, R*Tree) keep their contents. Default
    /// false.
    pub include_shadow_tables: bool,
    /// Start anew, with a snapshot if that is asked for, if changes since the resume position are
    /// gone, or the database was replaced by another. Default false: an error.
    pub accept_gap: bool,
    /// How often the log is looked at while nothing happens. Default 5 ms.
    pub poll_interval: Duration,
    /// Longest wait for a lock of the application. Default 5 s.
    pub busy_timeout: Duration,
}

impl SqliteConfig {
    /// Defaults for a database file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            name: None,
            state_dir: None,
            mode: Mode::default(),
            snapshot: false,
            assist: Assist::default(),
            soft_frames: 1000,
            hard_frames: 16_000,
            hard_time_max: Duration::from_millis(100),
            log_bytes_max: 1 << 30,
            archive_bytes_max: 4 << 30,
            include_shadow_tables: false,
            accept_gap: false,
            poll_interval: Duration::from_millis(5),
            busy_timeout: Duration::from_secs(5),
        }
    }

    /// Reads `sqlite:PATH`, `sqlite://PATH` or a path. Nothing is unescaped; a `?` belongs to the
    /// path.
    ///
    /// # Errors
    /// [`SourceErrorKind::Configuration`] if there is no path, or it names no file
    /// (`:memory:` lives in another process's memory).
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        let path = text
            .strip_prefix("sqlite://")
            .or_else(|| text.strip_prefix("sqlite:"))
            .unwrap_or(text);
        if path.is_empty() || path == ":memory:" {
            return Err(SourceError::new(
                SourceErrorKind::Configuration,
                "read the SQLite source: name a database file, such as sqlite:app.db",
            ));
        }
        Ok(Self::new(path))
    }

    /// Frames of the log from which on the write lock is taken for a checkpoint.
    pub(crate) fn hard_frames(&self, page_size: u32) -> u32 {
        let quarter = self.log_bytes_max / 4 / (u64::from(page_size) + 24);
        self.hard_frames
            .min(u32::try_from(quarter).unwrap_or(u32::MAX))
    }

    /// The name events carry.
    pub(crate) fn source_name(&self) -> String {
        let stem = || self.path.file_stem().map(|name| name.to_string_lossy());
        match &self.name {
            Some(name) => name.clone(),
            None => stem().unwrap_or_default().into_owned(),
        }
    }

    /// The path with something appended to its name: `-wal`, `-shm`. As SQLite does, beside the file
    /// itself where the path is a link.
    pub(crate) fn beside(&self, suffix: &str) -> PathBuf {
        let path = std::fs::canonicalize(&self.path);
        let mut name = path.unwrap_or_else(|_| self.path.clone()).into_os_string();
        name.push(suffix);
        name.into()
    }

    pub(crate) fn shown(&self) -> String {
        self.path.display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_paths() {
        for (text, path) in [
            ("sqlite:app.db", "app.db"),
            ("sqlite:///var/lib/app.db", "/var/lib/app.db"),
            ("sqlite:/var/lib/a b?.db", "/var/lib/a b?.db"),
            ("app.db", "app.db"),
        ] {
            assert_eq!(SqliteConfig::parse(text).unwrap().path, PathBuf::from(path));
        }
        for text in ["sqlite:", "", "sqlite::memory:"] {
            let error = SqliteConfig::parse(text).unwrap_err();
            assert_eq!(error.kind, SourceErrorKind::Configuration, "{text}");
        }
        let named = SqliteConfig::new("/x/shop.db");
        assert_eq!(named.source_name(), "shop");
        assert_eq!(named.beside("-wal"), PathBuf::from("/x/shop.db-wal"));
    }
}
