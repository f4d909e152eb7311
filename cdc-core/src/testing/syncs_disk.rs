//! A real disk whose syncs a test holds back or fails: for what is done beside a sync.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::storage::{OpenMode, StdStorage, Storage, StorageFile, StorageLock};

/// What syncs of files do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syncs {
    /// What they should.
    Work,
    /// Wait until they do something else.
    Wait,
    /// Give an error.
    Fail,
}

/// A real disk whose syncs a test holds back or fails.
#[derive(Clone, Debug)]
pub struct SyncsDisk(Arc<(Mutex<Syncs>, Condvar)>);

impl Default for SyncsDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SyncsDisk {
    /// A disk whose syncs work.
    pub fn new() -> Self {
        Self(Arc::new((Mutex::new(Syncs::Work), Condvar::new())))
    }

    /// Says what syncs do from now on; those that wait go on.
    pub fn set(&self, syncs: Syncs) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = syncs;
        self.0.1.notify_all();
    }
}

#[derive(Debug)]
struct SyncsFile(Box<dyn StorageFile>, SyncsDisk);

impl StorageFile for SyncsFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn sync_data(&self) -> io::Result<()> {
        let (syncs, changed) = &*self.1.0;
        let syncs = changed
            .wait_while(
                syncs.lock().unwrap_or_else(PoisonError::into_inner),
                |syncs| *syncs == Syncs::Wait,
            )
            .unwrap_or_else(PoisonError::into_inner);
        match *syncs {
            Syncs::Fail => Err(io::Error::other("the disk says no")),
            Syncs::Work | Syncs::Wait => self.0.sync_data(),
        }
    }
    fn as_std(&self) -> Option<&std::fs::File> {
        self.0.as_std()
    }
}

impl Storage for SyncsDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        StdStorage.create_dir_all(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn StorageFile>> {
        let file = StdStorage.open(path, mode)?;
        Ok(Box::new(SyncsFile(file, self.clone())))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        StdStorage.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        StdStorage.remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        StdStorage.list(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        StdStorage.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        StdStorage.lock(path)
    }
    fn exists(&self, path: &Path) -> bool {
        StdStorage.exists(path)
    }
}
