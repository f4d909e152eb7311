//! Descriptors of the database and its `-shm` file.
//!
//! POSIX locks belong to a process and a file: closing *any* descriptor of a file drops all locks
//! the process has on it, those of SQLite's connections too. So each file is opened once in this
//! process, shared by all who follow it, and closed only when nobody does, after their connections
//! (see the order of fields in `pins`). The `-wal` file is never locked: it needs none of this.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A file's identity on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileId {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

impl FileId {
    /// The file that has this name now.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self {
            device: found.dev(),
            inode: found.ino(),
        })
    }
}

static OPEN: Mutex<Option<HashMap<FileId, Weak<File>>>> = Mutex::new(None);

/// Opens a file for reading, or shares the descriptor this process has of it.
pub(crate) fn open(path: &Path) -> io::Result<(FileId, Arc<File>)> {
    let mut guard = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let open = guard.get_or_insert_default();
    open.retain(|_, file| file.strong_count() > 0);
    let id = FileId::of(path)?;
    if let Some(file) = open.get(&id).and_then(Weak::upgrade) {
        return Ok((id, file));
    }
    let file = Arc::new(File::open(path)?);
    let found = file.metadata()?;
    // It may have been replaced between the two looks.
    let id = FileId {
        device: found.dev(),
        inode: found.ino(),
    };
    open.insert(id, Arc::downgrade(&file));
    Ok((id, file))
}
