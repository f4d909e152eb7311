//! The seam to the disk: everything this project keeps goes through it, so that tests can forget
//! unsynced writes, tear sectors and fail the n-th call.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Existing, for reading.
    Read,
    /// Existing, for reading and writing.
    ReadWrite,
    /// New, for reading and writing, mode 0600; an existing one is an error.
    CreateNew,
}

/// A directory tree on a disk.
///
/// Durability is what the calls say and no more: written bytes survive a crash after
/// [`StorageFile::sync_data`], created, renamed and removed names after [`Storage::sync_dir`] of
/// their directory.
pub trait Storage: Send + Sync + Debug {
    /// Creates a directory and its parents, mode 0700, if they are not there.
    ///
    /// # Errors
    /// From the operating system.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Opens a file.
    ///
    /// # Errors
    /// From the operating system.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn StorageFile>>;

    /// Replaces `to` by `from`, atomically.
    ///
    /// # Errors
    /// From the operating system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// From the operating system.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Names of the files in a directory, sorted; subdirectories are left out.
    ///
    /// # Errors
    /// From the operating system.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// From the operating system.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes an exclusive lock by a lock file, which is created if needed; dropping the guard, or
    /// the process's death, releases it.
    ///
    /// # Errors
    /// `WouldBlock` if another holder has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>>;

    /// True if there is a file or directory of this name. False also where it cannot be looked at, so
    /// what is made anew, or done without, when a file is absent is opened with [`open_if_there`].
    fn exists(&self, path: &Path) -> bool;
}

/// A held lock.
pub trait StorageLock: Send + Sync + Debug {}

/// An open file.
pub trait StorageFile: Send + Sync + Debug {
    /// Reads at most `buffer.len()` bytes at `offset`; 0 at the end of the file.
    ///
    /// # Errors
    /// From the operating system; interrupted reads are repeated.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all bytes at `offset`, growing the file as needed. After an error an unknown prefix
    /// is written.
    ///
    /// # Errors
    /// From the operating system.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Sets the length, zero-filling.
    ///
    /// # Errors
    /// From the operating system.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    /// From the operating system.
    fn len(&self) -> io::Result<u64>;

    /// True if the file has no bytes.
    ///
    /// # Errors
    /// From the operating system.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Makes the bytes durable. After an error nothing is known about what is on disk: the handle
    /// must not be used again.
    ///
    /// # Errors
    /// From the operating system.
    fn sync_data(&self) -> io::Result<()>;

    /// Says that what is in the file is being read: until this handle and every map of it are gone,
    /// nobody can [`claim`](Self::claim) it. False if somebody has claimed it, and is about to write
    /// something else into it. Whatever wraps another storage's file must hand this on, or the other
    /// storage takes the file for one that nobody reads.
    ///
    /// # Errors
    /// From the operating system.
    fn share(&self) -> io::Result<bool> {
        Ok(true)
    }

    /// Takes the file for something else, until [`release`](Self::release). False if a reader of
    /// this or another process shares it, it has a second name (a hard link), or the storage cannot
    /// tell: then it must be left as it is.
    ///
    /// # Errors
    /// From the operating system.
    fn claim(&self) -> io::Result<bool> {
        Ok(false)
    }

    /// Gives a claimed file back to readers.
    ///
    /// # Errors
    /// From the operating system.
    fn release(&self) -> io::Result<()> {
        Ok(())
    }

    /// The file of the operating system behind this, for memory mapping; `None` in simulations.
    fn as_std(&self) -> Option<&File> {
        None
    }
}

/// Opens an existing file; `None` only if there is none. One that cannot be looked at is an error, not
/// absent: on a mount that does not answer for a moment, an empty one would take its place.
///
/// # Errors
/// From the storage.
pub fn open_if_there(
    storage: &dyn Storage,
    path: &Path,
    mode: OpenMode,
) -> io::Result<Option<Box<dyn StorageFile>>> {
    match storage.open(path, mode) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        opened => opened.map(Some),
    }
}

/// Reads exactly `buffer.len()` bytes.
///
/// # Errors
/// `UnexpectedEof` if the file ends before.
pub fn read_exact_at(
    file: &dyn StorageFile,
    mut buffer: &mut [u8],
    mut offset: u64,
) -> io::Result<()> {
    while !buffer.is_empty() {
        match file.read_at(buffer, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                buffer = &mut buffer[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}

/// Bytes that [`write_again`] moves at once.
const AGAIN_BYTES: usize = 1 << 20;

/// Reads the bytes from `from` up to `to` and writes them again, for the caller to sync.
///
/// A process that finds what another has written cannot know that a sync will make it durable: if the
/// other one ended by a failed sync, the system may hold these bytes as clean and never write them.
///
/// # Errors
/// From the storage; `UnexpectedEof` if the file ends before `to`.
pub fn write_again(file: &dyn StorageFile, from: u64, to: u64) -> io::Result<()> {
    let length = usize::try_from(to.saturating_sub(from)).unwrap_or(AGAIN_BYTES);
    let mut bytes = vec![0; length.min(AGAIN_BYTES)];
    let mut at = from;
    while at < to {
        let n = usize::try_from(to - at).unwrap_or(AGAIN_BYTES);
        let part = &mut bytes[..n.min(AGAIN_BYTES)];
        read_exact_at(file, part, at)?;
        file.write_all_at(part, at)?;
        at += part.len() as u64;
    }
    Ok(())
}

/// The directory that has this path's name.
fn parent(path: &Path) -> &Path {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// Creates a directory and the missing ones above it, and makes their names durable: what is synced in
/// a directory whose own name a loss of power takes is gone with it.
///
/// One is made only when the name of the one above is durable, so that whoever dies in between leaves a
/// single name to luck. That of the lowest one that is there is made durable first for this reason; it
/// alone is passed over where the directory above may not be read or cannot be synced.
///
/// # Errors
/// From the storage.
pub fn create_dir(storage: &dyn Storage, path: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    let mut named = path.ancestors().filter(|path| path.file_name().is_some());
    let there = named.find(|path| {
        let there = storage.exists(path);
        if !there {
            missing.push(*path);
        }
        there
    });
    if missing.is_empty() {
        // Refuses what is no directory.
        storage.create_dir_all(path)?;
    }
    if let Some(there) = there {
        match storage.sync_dir(parent(there)) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied
                        | io::ErrorKind::ReadOnlyFilesystem
                        | io::ErrorKind::InvalidInput
                        | io::ErrorKind::Unsupported
                ) => {}
            synced => synced?,
        }
    }
    missing.into_iter().rev().try_for_each(|path| {
        storage.create_dir_all(path)?;
        storage.sync_dir(parent(path))
    })
}

/// Replaces a small file durably: write beside it, sync, rename, sync the directory.
///
/// # Errors
/// From the storage; the old file is then still whole.
pub fn replace_file(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let beside = dir.join(name);
    if storage.exists(&beside) {
        storage.remove(&beside)?;
    }
    let file = storage.open(&beside, OpenMode::CreateNew)?;
    file.write_all_at(bytes, 0)?;
    file.sync_data()?;
    storage.rename(&beside, path)?;
    storage.sync_dir(dir)
}

/// The machine's file system. Files are created with mode 0600, directories with 0700.
#[derive(Clone, Copy, Debug, Default)]
pub struct StdStorage;

impl StdStorage {
    /// The file system as a shared seam.
    pub fn shared() -> Arc<dyn Storage> {
        Arc::new(Self)
    }
}

#[derive(Debug)]
struct StdFile(File);

#[derive(Debug)]
struct StdLock {
    _file: File,
}

impl StorageLock for StdLock {}

impl Storage for StdStorage {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn StorageFile>> {
        let mut options = OpenOptions::new();
        options.read(true).mode(0o600);
        match mode {
            OpenMode::Read => &mut options,
            OpenMode::ReadWrite => options.write(true),
            OpenMode::CreateNew => options.write(true).create_new(true),
        };
        Ok(Box::new(StdFile(options.open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)?;
        file.try_lock()?;
        Ok(Box::new(StdLock { _file: file }))
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }
}

impl StorageFile for StdFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match self.0.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn share(&self) -> io::Result<bool> {
        match self.0.try_lock_shared() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            // A file system without locks: then nobody can claim the file either.
            Err(TryLockError::Error(cause)) if cause.kind() == io::ErrorKind::Unsupported => {
                Ok(true)
            }
            Err(TryLockError::Error(cause)) => Err(cause),
        }
    }

    fn claim(&self) -> io::Result<bool> {
        match self.0.try_lock() {
            Ok(()) if self.0.metadata()?.nlink() == 1 => Ok(true),
            Ok(()) => {
                self.0.unlock()?;
                Ok(false)
            }
            Err(_) => Ok(false),
        }
    }

    fn release(&self) -> io::Result<()> {
        self.0.unlock()
    }

    fn as_std(&self) -> Option<&File> {
        Some(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    /// Which directories were synced, and which a loss of power leaves.
    #[derive(Debug, Default)]
    struct Synced {
        dirs: Mutex<Vec<PathBuf>>,
        refuses: Option<io::ErrorKind>,
        /// Directories whose names are durable.
        durable: Mutex<BTreeSet<PathBuf>>,
        /// Calls until one fails; then the process is dead.
        lives: AtomicUsize,
    }

    impl Synced {
        fn take(&self) -> Vec<PathBuf> {
            std::mem::take(&mut *self.dirs.lock().unwrap())
        }

        fn call(&self) -> io::Result<()> {
            let left = |lives: usize| Some(lives.saturating_sub(1));
            let lives = self.lives.fetch_update(Relaxed, Relaxed, left);
            match lives {
                Ok(1) => Err(io::Error::other("the process is dead")),
                _ => Ok(()),
            }
        }
    }

    impl Storage for Synced {
        fn create_dir_all(&self, path: &Path) -> io::Result<()> {
            self.call()?;
            StdStorage.create_dir_all(path)
        }
        fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn StorageFile>> {
            StdStorage.open(path, mode)
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
            self.dirs.lock().unwrap().push(dir.to_owned());
            self.call()?;
            if let Some(kind) = self.refuses {
                return Err(kind.into());
            }
            let names = fs::read_dir(dir)?.map(|entry| Ok(entry?.path()));
            let names = names.collect::<io::Result<Vec<_>>>()?;
            self.durable.lock().unwrap().extend(names);
            Ok(())
        }
        fn lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
            StdStorage.lock(path)
        }
        fn exists(&self, path: &Path) -> bool {
            StdStorage.exists(path)
        }
    }

    #[test]
    fn a_directory_is_created_with_every_name_on_the_way_durable() {
        let dir = tempfile::tempdir().unwrap();
        let (root, storage) = (dir.path(), Synced::default());
        let path = root.join("a/b/c");
        create_dir(&storage, &path).unwrap();
        assert!(path.is_dir());
        let above = root.parent().unwrap().to_owned();
        let above = [above, root.to_owned(), root.join("a"), root.join("a/b")];
        assert_eq!(storage.take(), above);
        // There, and perhaps created by somebody who died.
        create_dir(&storage, &path).unwrap();
        assert_eq!(storage.take(), [root.join("a/b")]);
    }

    #[test]
    fn whoever_died_at_any_call_leaves_no_name_to_luck() {
        let mut died = 0;
        for at in 1.. {
            let dir = tempfile::tempdir().unwrap();
            let (root, storage) = (dir.path(), Synced::default());
            let path = root.join("a/b/c");
            storage.lives.store(at, Relaxed);
            let first = create_dir(&storage, &path);
            storage.lives.store(0, Relaxed);
            create_dir(&storage, &path).unwrap();
            let durable = storage.durable.lock().unwrap();
            for name in ["a", "a/b", "a/b/c"] {
                assert!(durable.contains(&root.join(name)), "{name}, call {at}");
            }
            if first.is_ok() {
                break;
            }
            died += 1;
        }
        assert!(died > 3, "{died}");
    }

    #[test]
    fn a_directory_above_that_may_not_be_read_matters_only_to_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let refuses = |kind| Synced {
            refuses: Some(kind),
            ..Synced::default()
        };
        let denied = refuses(io::ErrorKind::PermissionDenied);
        assert!(create_dir(&denied, &path).is_err(), "its name may be lost");
        assert!(path.is_dir());
        create_dir(&denied, &path).unwrap();
        let broken = refuses(io::ErrorKind::Other);
        assert!(create_dir(&broken, &path).is_err(), "the disk is broken");
    }
}
