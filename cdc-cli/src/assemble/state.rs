//! The state directory: lock, checkpoints, journal, control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cdc_core::checkpoint::FileCheckpoints;
use cdc_core::storage::{StdStorage, Storage, StorageLock, create_dir, replace_file};
use cdc_core::{Checkpoint, CheckpointError, CheckpointStore as _, wall_micros};

use crate::exit::Exit;
use crate::report::CliError;

/// Names inside a state directory.
const LOCK: &str = "lock";
const CHECKPOINTS: &str = "checkpoints";
const JOURNAL: &str = "journal";
const SQLITE: &str = "sqlite";
const ROCKSDB: &str = "rocksdb";
const CONTROL: &str = "control.sock";

/// Where the files of a pipeline are.
#[derive(Clone, Debug)]
pub(crate) struct StatePaths {
    dir: PathBuf,
}

impl StatePaths {
    pub(crate) fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.dir.join(CHECKPOINTS)
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.dir.join(JOURNAL)
    }

    /// What the SQLite reader remembers of the file it follows.
    pub(crate) fn sqlite(&self) -> PathBuf {
        self.dir.join(SQLITE)
    }

    /// What the RocksDB reader remembers of the log files it read.
    pub(crate) fn rocksdb(&self) -> PathBuf {
        self.dir.join(ROCKSDB)
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.dir.join(CONTROL)
    }
}

/// True if a file of the state is there. One that may not be looked at is not absent.
///
/// # Errors
/// Exit code 7 if the directory may not be looked into, or is none.
pub(crate) fn is_there(path: &Path) -> Result<bool, CliError> {
    path.try_exists().map_err(|cause| {
        CliError::new(
            Exit::State,
            format!(
                "look for {}; run this as the user the pipeline runs as, and let state_path be a directory",
                path.display()
            ),
        )
        .with_cause(cause)
    })
}

/// A state directory held by this process alone.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) paths: StatePaths,
    pub(crate) checkpoints: Arc<FileCheckpoints>,
    _lock: Box<dyn StorageLock>,
}

impl State {
    /// Creates the directory if needed, takes its lock and opens the checkpoints.
    ///
    /// # Errors
    /// Exit code 7 if another process holds it, the disk refuses it or the checkpoints are damaged.
    pub(crate) fn open(dir: &Path) -> Result<Self, CliError> {
        let storage: Arc<dyn Storage> = StdStorage::shared();
        let paths = StatePaths::new(dir);
        let lock = Self::lock(&storage, dir)?;
        let checkpoints = FileCheckpoints::open(&storage, paths.checkpoints())
            .map_err(|error| CliError::from_error(Exit::of_checkpoint(&error), error))?;
        Ok(Self {
            paths,
            checkpoints: Arc::new(checkpoints),
            _lock: lock,
        })
    }

    /// Puts a new file with these checkpoints in the place of a damaged one, and gives the name
    /// under which that is kept. After a crash the file is the old one or the new one, whole.
    ///
    /// # Errors
    /// As [`open`](Self::open); exit code 2 if the checkpoints can be read.
    pub(crate) fn replace_damaged(
        dir: &Path,
        entries: &[(String, Checkpoint)],
    ) -> Result<PathBuf, CliError> {
        let storage: Arc<dyn Storage> = StdStorage::shared();
        let paths = StatePaths::new(dir);
        let _lock = Self::lock(&storage, dir)?;
        let path = paths.checkpoints();
        match FileCheckpoints::peek(storage.as_ref(), &path) {
            Err(CheckpointError::Corrupt { .. }) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {
                return Err(CliError::new(
                    Exit::Usage,
                    format!(
                        "replace the checkpoints at {}: they are not damaged; leave out --replace-damaged",
                        path.display()
                    ),
                ));
            }
        }
        let io = |what: &'static str| {
            let path = path.display().to_string();
            move |cause| {
                CliError::new(Exit::State, format!("{what} the checkpoints at {path}"))
                    .with_cause(cause)
            }
        };
        let kept = dir.join(format!("{CHECKPOINTS}.damaged-{}", wall_micros()));
        let damaged = std::fs::read(&path).map_err(io("read"))?;
        replace_file(storage.as_ref(), &kept, &damaged).map_err(io("keep a copy of"))?;
        let fresh = dir.join(format!("{CHECKPOINTS}.new"));
        if storage.exists(&fresh) {
            storage.remove(&fresh).map_err(io("replace"))?;
        }
        let checkpoints = FileCheckpoints::open(&storage, &fresh)?;
        for (name, checkpoint) in entries {
            checkpoints.reset(name, Some(checkpoint))?;
        }
        drop(checkpoints);
        storage.rename(&fresh, &path).map_err(io("replace"))?;
        storage.sync_dir(dir).map_err(io("replace"))?;
        Ok(kept)
    }

    /// Creates the directory if needed and takes its lock.
    fn lock(storage: &Arc<dyn Storage>, dir: &Path) -> Result<Box<dyn StorageLock>, CliError> {
        let refuse = |cause: io::Error| {
            CliError::new(
                Exit::State,
                format!(
                    "open the state directory {}: create it, make it writable for this user, or set state_path to another one",
                    dir.display()
                ),
            )
            .with_cause(cause)
        };
        create_dir(storage.as_ref(), dir).map_err(refuse)?;
        storage.lock(&dir.join(LOCK)).map_err(|cause| match cause.kind() {
            io::ErrorKind::WouldBlock => CliError::new(
                Exit::State,
                format!(
                    "lock the state directory {}: another process is using it; stop that one, or set state_path to another directory",
                    dir.display()
                ),
            ),
            _ => refuse(cause),
        })
    }
}
