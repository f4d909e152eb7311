//! The state directory: lock, checkpoints, journal, control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cdc_core::checkpoint::FileCheckpoints;
use cdc_core::storage::{StdStorage, Storage, StorageLock};

use crate::exit::Exit;
use crate::report::CliError;

/// Names inside a state directory.
const LOCK: &str = "lock";
const CHECKPOINTS: &str = "checkpoints";
const JOURNAL: &str = "journal";
const SQLITE: &str = "sqlite";
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

    pub(crate) fn control(&self) -> PathBuf {
        self.dir.join(CONTROL)
    }
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
    /// Exit code 7 if another process holds it or the checkpoints are damaged, 1 if the disk
    /// refuses.
    pub(crate) fn open(dir: &Path) -> Result<Self, CliError> {
        let storage: Arc<dyn Storage> = StdStorage::shared();
        let paths = StatePaths::new(dir);
        let refuse = |cause: io::Error| {
            CliError::new(
                Exit::Runtime,
                format!(
                    "open the state directory {}: create it, make it writable for this user, or set state_path to another one",
                    dir.display()
                ),
            )
            .with_cause(cause)
        };
        storage.create_dir_all(dir).map_err(refuse)?;
        let lock = storage.lock(&dir.join(LOCK)).map_err(|cause| match cause.kind() {
            io::ErrorKind::WouldBlock => CliError::new(
                Exit::State,
                format!(
                    "lock the state directory {}: another process is using it; stop that one, or set state_path to another directory",
                    dir.display()
                ),
            ),
            _ => refuse(cause),
        })?;
        let checkpoints = FileCheckpoints::open(&storage, paths.checkpoints())
            .map_err(|error| CliError::from_error(Exit::of_checkpoint(&error), error))?;
        Ok(Self {
            paths,
            checkpoints: Arc::new(checkpoints),
            _lock: lock,
        })
    }
}
