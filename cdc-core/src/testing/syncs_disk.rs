//! A real disk whose syncs and writes a test holds back or fails: for what is done beside them.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

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

/// What writes to files do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// What they should.
    Work,
    /// Wait until they do something else.
    Wait,
    /// Write half of it, and then there is no room.
    Full,
    /// Write half of it, and then give an error.
    Fail,
}

#[derive(Clone, Copy, Debug)]
struct Now {
    syncs: Syncs,
    writes: Writes,
}

/// A real disk whose syncs and writes a test holds back or fails.
#[derive(Clone, Debug)]
pub struct SyncsDisk(Arc<(Mutex<Now>, Condvar)>);

impl Default for SyncsDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SyncsDisk {
    /// A disk that works.
    pub fn new() -> Self {
        let now = Now {
            syncs: Syncs::Work,
            writes: Writes::Work,
        };
        Self(Arc::new((Mutex::new(now), Condvar::new())))
    }

    /// Says what syncs do from now on; those that wait go on.
    pub fn set(&self, syncs: Syncs) {
        self.now().syncs = syncs;
        self.0.1.notify_all();
    }

    /// Says what writes do from now on; those that wait go on.
    pub fn set_writes(&self, writes: Writes) {
        self.now().writes = writes;
        self.0.1.notify_all();
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits as long as it is to.
    fn after(&self, waits: impl Fn(&Now) -> bool) -> Now {
        let now = self.0.1.wait_while(self.now(), |now| waits(now));
        *now.unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct SyncsFile(Box<dyn StorageFile>, SyncsDisk);

impl StorageFile for SyncsFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let writes = self.1.after(|now| now.writes == Writes::Wait).writes;
        if matches!(writes, Writes::Work | Writes::Wait) {
            return self.0.write_all_at(bytes, offset);
        }
        self.0.write_all_at(&bytes[..bytes.len() / 2], offset)?;
        Err(match writes {
            Writes::Full => io::ErrorKind::StorageFull.into(),
            _ => io::Error::other("the disk says no"),
        })
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn sync_data(&self) -> io::Result<()> {
        match self.1.after(|now| now.syncs == Syncs::Wait).syncs {
            Syncs::Fail => Err(io::Error::other("the disk says no")),
            Syncs::Work | Syncs::Wait => self.0.sync_data(),
        }
    }
    fn share(&self) -> io::Result<bool> {
        self.0.share()
    }
    fn claim(&self) -> io::Result<bool> {
        self.0.claim()
    }
    fn release(&self) -> io::Result<()> {
        self.0.release()
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
