//! A disk in memory that forgets unsynced writes, tears them at sectors, fails the n-th call and
//! runs full, whole or in a part.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::storage::{OpenMode, Storage, StorageFile, StorageLock};

const SECTOR: usize = 512;

/// A simulated disk. Clones are the same disk.
///
/// What a crash leaves is decided by its seed alone: of each file, what was synced, and of what
/// was written since any subset of sectors, in any order; of the names in a directory, what was
/// synced, and a prefix of what was changed since. Files opened before a crash fail afterwards.
///
/// ```
/// use cdc_core::storage::{OpenMode, Storage};
/// use cdc_core::testing::sim_storage::SimStorage;
/// let disk = SimStorage::new();
/// let path = std::path::Path::new("/a");
/// let file = disk.open(path, OpenMode::CreateNew).unwrap();
/// file.write_all_at(b"kept", 0).unwrap();
/// file.sync_data().unwrap();
/// disk.sync_dir(std::path::Path::new("/")).unwrap();
/// disk.crash(7);
/// assert_eq!(disk.open(path, OpenMode::Read).unwrap().len().unwrap(), 4);
/// ```
#[derive(Clone, Debug, Default)]
pub struct SimStorage {
    disk: Arc<Mutex<Disk>>,
}

/// What a failing call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It fails; later calls work.
    Once,
    /// It and every call after it fail until the next crash: the process was killed there. A
    /// failing write may leave a prefix.
    Stop,
    /// As [`Failure::Once`], and if it is a sync, the system calls the bytes clean all the same,
    /// as Linux does: a later sync succeeds without them, and the next power cut takes them.
    Forget,
    /// The disk is full from it on, until the next crash or [`SimStorage::clear_failure`]: whatever
    /// needs room fails with `StorageFull`, a write after what fits the file, all else works.
    Full,
}

/// Everything under a path is full, as a file system of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FullMount {
    /// Names that begin so are on it.
    prefix: String,
    /// Bytes its files may have together.
    bytes_max: u64,
    /// New files can be made.
    creates: bool,
}

impl FullMount {
    fn holds(&self, path: &Path) -> bool {
        path.to_str()
            .is_some_and(|path| path.starts_with(&self.prefix))
    }
}

/// A call that changes the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskCall {
    /// A file is created.
    Create,
    /// A name changes.
    Rename,
    /// A name goes away.
    Remove,
    /// A directory is synced.
    SyncDir,
    /// Bytes are written.
    Write,
    /// A length is set.
    SetLen,
    /// A file is synced.
    Sync,
}

/// Sees every changing call of a disk, before it is carried out; a slow disk advances the
/// simulation's clock here. It must not call the disk.
pub trait DiskWatch: Send + Sync + std::fmt::Debug {
    /// `bytes` are written, or the length that is set.
    fn called(&self, call: DiskCall, path: &Path, bytes: usize, fails: bool);
}

#[derive(Debug, Default)]
struct Disk {
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    renames: Vec<NameOp>,
    files: Vec<Node>,
    locks: HashSet<PathBuf>,
    generation: u64,
    calls: u64,
    fail_at: Option<(u64, Failure)>,
    /// Calls that fail beside that one.
    fail_also: BTreeMap<u64, Failure>,
    stopped: bool,
    capacity: Option<u64>,
    failures: u64,
    /// Nothing may grow.
    full: bool,
    mounts: Vec<FullMount>,
    /// Look-ups until one fails.
    blind_at: Option<u64>,
    watch: Option<Arc<dyn DiskWatch>>,
}

#[derive(Clone, Debug)]
enum NameOp {
    Set(PathBuf, usize),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl NameOp {
    fn dir(&self) -> Option<&Path> {
        match self {
            Self::Set(path, _) | Self::Remove(path) | Self::Rename(path, _) => path.parent(),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Set(path, node) => {
                names.insert(path.clone(), *node);
            }
            Self::Remove(path) => {
                names.remove(path);
            }
            Self::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
        }
    }
}

#[derive(Debug, Default)]
struct Node {
    data: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Write>,
    /// Handles that share it.
    shares: usize,
    claimed: bool,
}

#[derive(Debug)]
enum Write {
    Bytes(usize, Vec<u8>),
    Len(usize),
}

/// splitmix64: the crash's own dice.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn put(data: &mut Vec<u8>, bytes: &[u8], at: usize) {
    if data.len() < at + bytes.len() {
        data.resize(at + bytes.len(), 0);
    }
    data[at..at + bytes.len()].copy_from_slice(bytes);
}

fn index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl SimStorage {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// The disk as a shared seam.
    pub fn shared(&self) -> Arc<dyn Storage> {
        Arc::new(self.clone())
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls so far that change the disk (writes, syncs, names, lengths).
    pub fn calls(&self) -> u64 {
        self.disk().calls
    }

    /// Makes the `n`-th changing call from now on fail, counted from 0.
    pub fn fail_after(&self, n: u64, failure: Failure) {
        let mut disk = self.disk();
        disk.fail_at = Some((disk.calls + n, failure));
    }

    /// As [`fail_after`](Self::fail_after), beside the calls that are to fail already.
    pub fn also_fail_after(&self, n: u64, failure: Failure) {
        let mut disk = self.disk();
        let at = disk.calls + n;
        disk.fail_also.insert(at, failure);
    }

    /// The process is dead: every changing call fails until the next crash or kill.
    pub fn stop(&self) {
        self.disk().stopped = true;
    }

    /// True from [`Failure::Stop`] or [`stop`](Self::stop) to the next crash or kill.
    pub fn is_stopped(&self) -> bool {
        self.disk().stopped
    }

    /// Calls that failed so far: as planned, or for lack of room.
    pub fn failures(&self) -> u64 {
        self.disk().failures
    }

    /// Bytes in all files together.
    pub fn used(&self) -> u64 {
        self.disk().used()
    }

    /// Shows every changing call to `watch`.
    pub fn set_watch(&self, watch: Arc<dyn DiskWatch>) {
        self.disk().watch = Some(watch);
    }

    /// Makes the `n`-th look at a name from now on fail, counted from 0, as a mount that does not answer
    /// for a moment does: [`Storage::exists`] is false, [`Storage::open`] of what should be there an
    /// error. Later ones work.
    pub fn fail_look_after(&self, n: u64) {
        self.disk().blind_at = Some(n);
    }

    /// No call is to fail any more.
    pub fn clear_failure(&self) {
        let mut disk = self.disk();
        disk.forget_failures();
        disk.blind_at = None;
        disk.full = false;
    }

    /// True if a call has failed as planned.
    pub fn has_failed(&self) -> bool {
        let disk = self.disk();
        disk.fail_at.is_none() && disk.fail_also.is_empty()
    }

    /// Bytes all files together may have; beyond it writes fail with `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk().capacity = bytes;
    }

    /// The names that begin with `prefix` are on a file system of their own, which has room for `slack`
    /// more bytes. A write that does not fit keeps what does, and fails with `StorageFull`; so does making a
    /// file unless it `creates` them. [`empty_mounts`](Self::empty_mounts) ends it.
    pub fn fill_mount(&self, prefix: &str, slack: u64, creates: bool) {
        let mut disk = self.disk();
        disk.mounts.retain(|mount| mount.prefix != prefix);
        let mut mount = FullMount {
            prefix: prefix.to_owned(),
            bytes_max: 0,
            creates,
        };
        mount.bytes_max = disk.used_on(&mount).saturating_add(slack);
        disk.mounts.push(mount);
    }

    /// Every file system has room again.
    pub fn empty_mounts(&self) {
        self.disk().mounts.clear();
    }

    /// The power goes: see the type. Locks are released, open files fail from now on.
    pub fn crash(&self, seed: u64) {
        let mut disk = self.disk();
        let disk = &mut *disk;
        let mut dice = Dice(seed);
        disk.generation += 1;
        disk.stopped = false;
        disk.full = false;
        disk.forget_failures();
        disk.blind_at = None;
        disk.unlock();
        let kept = usize::try_from(dice.roll() % (disk.renames.len() as u64 + 1)).unwrap_or(0);
        for op in disk.renames.drain(..).take(kept) {
            op.apply(&mut disk.durable_names);
        }
        disk.names = disk.durable_names.clone();
        let live: HashSet<usize> = disk.names.values().copied().collect();
        for (index, node) in disk.files.iter_mut().enumerate() {
            if !live.contains(&index) {
                *node = Node::default();
                continue;
            }
            // Nothing, everything, or any sectors of what was not synced.
            let mode = dice.roll() % 4;
            for write in std::mem::take(&mut node.unsynced) {
                match write {
                    Write::Len(len) => {
                        if mode == 1 || (mode > 1 && dice.roll().is_multiple_of(2)) {
                            node.durable.resize(len, 0);
                        }
                    }
                    Write::Bytes(at, bytes) => {
                        let mut from = 0;
                        while from < bytes.len() {
                            let sector_end = ((at + from) / SECTOR + 1) * SECTOR - at;
                            let to = sector_end.min(bytes.len());
                            if mode == 1 || (mode > 1 && dice.roll().is_multiple_of(2)) {
                                put(&mut node.durable, &bytes[from..to], at + from);
                            }
                            from = to;
                        }
                    }
                }
            }
            node.data.clone_from(&node.durable);
        }
    }

    /// The process is killed, the machine goes on: what was written stays, synced or not. Locks
    /// are released, open files fail from now on.
    pub fn kill(&self) {
        let mut disk = self.disk();
        disk.generation += 1;
        disk.stopped = false;
        disk.full = false;
        disk.forget_failures();
        disk.blind_at = None;
        disk.unlock();
    }

    /// Changes one byte of a file behind everybody's back, durably.
    ///
    /// # Errors
    /// If there is no such file or byte.
    pub fn damage(
        &self,
        path: &Path,
        offset: u64,
        change: impl FnOnce(u8) -> u8,
    ) -> io::Result<()> {
        let mut disk = self.disk();
        let node = *disk.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let at = index(offset)?;
        let node = &mut disk.files[node];
        let byte = node.data.get_mut(at).ok_or(io::ErrorKind::UnexpectedEof)?;
        *byte = change(*byte);
        let changed = *byte;
        put(&mut node.durable, &[changed], at);
        Ok(())
    }
}

/// A call that failed, and how.
struct Failed {
    failure: Failure,
    error: io::Error,
}

impl From<Failed> for io::Error {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

impl Disk {
    /// No call is to fail any more.
    fn forget_failures(&mut self) {
        self.fail_at = None;
        self.fail_also.clear();
    }

    /// What is to become of the call of this number.
    fn due(&mut self, n: u64) -> Option<Failure> {
        if let Some((_, failure)) = self.fail_at.take_if(|(at, _)| n >= *at) {
            return Some(failure);
        }
        let first = self.fail_also.first_entry()?;
        (n >= *first.key()).then(|| first.remove())
    }

    /// The process is gone, and its locks with it.
    fn unlock(&mut self) {
        self.locks.clear();
        for node in &mut self.files {
            node.shares = 0;
            node.claimed = false;
        }
    }

    /// What a name stands for, unless it cannot be looked at just now.
    fn look(&mut self, path: &Path) -> io::Result<Option<usize>> {
        let left = self.blind_at.take();
        self.blind_at = left.and_then(|left| left.checked_sub(1));
        if left == Some(0) {
            self.failures += 1;
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(self.names.get(path).copied())
    }

    /// Counts a changing call; fails the one that is to fail.
    fn call(&mut self, call: DiskCall, path: &Path, bytes: usize) -> Result<(), Failed> {
        if self.stopped {
            return Err(Failed {
                failure: Failure::Stop,
                error: io::Error::other("the simulated process is dead"),
            });
        }
        let n = self.calls;
        self.calls += 1;
        let due = self.due(n);
        if let Some(watch) = &self.watch {
            watch.called(call, path, bytes, due.is_some());
        }
        if due == Some(Failure::Full) {
            self.full = true;
        } else if let Some(failure) = due {
            self.failures += 1;
            self.stopped = failure == Failure::Stop;
            return Err(Failed {
                failure,
                error: io::Error::other("simulated failure"),
            });
        }
        let mount = self.mounts.iter().find(|mount| mount.holds(path));
        let creates = !self.full && mount.is_none_or(|mount| mount.creates);
        if !creates && call == DiskCall::Create {
            self.failures += 1;
            return Err(Failed {
                failure: Failure::Full,
                error: io::ErrorKind::StorageFull.into(),
            });
        }
        Ok(())
    }

    fn used(&self) -> u64 {
        let files = self.names.values().map(|&node| &self.files[node]);
        files.map(|node| node.data.len() as u64).sum()
    }

    fn used_on(&self, mount: &FullMount) -> u64 {
        let names = self.names.iter().filter(|(path, _)| mount.holds(path));
        names
            .map(|(_, &node)| self.files[node].data.len() as u64)
            .sum()
    }

    /// The length that a file may have where it is, if it is to have `len` and may not.
    fn too_long(&mut self, node: usize, path: &Path, len: usize) -> Option<usize> {
        let mount = self.mounts.iter().find(|mount| mount.holds(path))?;
        let left = mount.bytes_max.saturating_sub(self.used_on(mount));
        let has = self.files[node].data.len();
        let may = has.saturating_add(usize::try_from(left).unwrap_or(usize::MAX));
        if len <= has.max(may) {
            return None;
        }
        self.failures += 1;
        Some(may)
    }

    fn room(&mut self, node: usize, len: usize) -> io::Result<()> {
        let grows = len.saturating_sub(self.files[node].data.len()) as u64;
        if self.full && grows > 0 {
            self.failures += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        match self.capacity {
            Some(capacity) if grows > 0 && self.used() + grows > capacity => {
                self.failures += 1;
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }
}

impl Storage for SimStorage {
    fn create_dir_all(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn StorageFile>> {
        let mut disk = self.disk();
        let known = match mode {
            OpenMode::CreateNew => disk.names.get(path).copied(),
            OpenMode::Read | OpenMode::ReadWrite => disk.look(path)?,
        };
        let node = match (mode, known) {
            (OpenMode::CreateNew, Some(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            (OpenMode::CreateNew, None) => {
                disk.call(DiskCall::Create, path, 0)?;
                disk.files.push(Node::default());
                let node = disk.files.len() - 1;
                disk.names.insert(path.to_owned(), node);
                disk.renames.push(NameOp::Set(path.to_owned(), node));
                node
            }
            (_, Some(node)) => node,
            (_, None) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Box::new(SimFile {
            disk: self.clone(),
            node,
            path: path.to_owned(),
            generation: disk.generation,
            shares: AtomicBool::new(false),
            claims: AtomicBool::new(false),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call(DiskCall::Rename, from, 0)?;
        if !disk.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let op = NameOp::Rename(from.to_owned(), to.to_owned());
        op.apply(&mut disk.names);
        disk.renames.push(op);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call(DiskCall::Remove, path, 0)?;
        if disk.names.remove(path).is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.renames.push(NameOp::Remove(path.to_owned()));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let disk = self.disk();
        let here = disk.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(here
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let disk = &mut *disk;
        disk.call(DiskCall::SyncDir, dir, 0)?;
        let (mine, others): (Vec<_>, Vec<_>) = std::mem::take(&mut disk.renames)
            .into_iter()
            .partition(|op| op.dir() == Some(dir));
        for op in mine {
            op.apply(&mut disk.durable_names);
        }
        disk.renames = others;
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        let mut disk = self.disk();
        if !disk.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock {
            disk: self.clone(),
            path: path.to_owned(),
            generation: disk.generation,
        }))
    }

    fn exists(&self, path: &Path) -> bool {
        self.disk().look(path).is_ok_and(|node| node.is_some())
    }
}

#[derive(Debug)]
struct SimLock {
    disk: SimStorage,
    path: PathBuf,
    generation: u64,
}

impl StorageLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut disk = self.disk.disk();
        if disk.generation == self.generation {
            disk.locks.remove(&self.path);
        }
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimStorage,
    node: usize,
    path: PathBuf,
    generation: u64,
    /// It shares the file.
    shares: AtomicBool,
    /// It has claimed the file.
    claims: AtomicBool,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut disk = self.disk.disk();
        if disk.generation == self.generation {
            let node = &mut disk.files[self.node];
            node.shares -= usize::from(self.shares.load(Ordering::Relaxed));
            node.claimed &= !self.claims.load(Ordering::Relaxed);
        }
    }
}

impl SimFile {
    fn disk(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let disk = self.disk.disk();
        if disk.generation != self.generation {
            return Err(io::Error::other(
                "the file was open before the simulated crash",
            ));
        }
        Ok(disk)
    }
}

impl StorageFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let disk = self.disk()?;
        let data = disk.files[self.node].data.get(index(offset)?..);
        let data = data.unwrap_or_default();
        let n = data.len().min(buffer.len());
        buffer[..n].copy_from_slice(&data[..n]);
        Ok(n)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut disk = self.disk()?;
        let at = index(offset)?;
        let end = at
            .checked_add(bytes.len())
            .ok_or(io::ErrorKind::InvalidInput)?;
        let mut keep = bytes.len();
        let stopped = disk.stopped;
        let called = disk.call(DiskCall::Write, &self.path, bytes.len());
        if stopped {
            return Ok(called?);
        }
        let mut result = called.map_err(io::Error::from);
        if result.is_err() {
            // A failed write may have been written in part.
            let dice = Dice(disk.calls).roll();
            keep = usize::try_from(dice % (bytes.len() as u64 + 1)).unwrap_or(0);
        } else if let Err(full) = disk.room(self.node, end) {
            // What fits the file as it is.
            let room = disk.files[self.node].data.len().saturating_sub(at);
            keep = if disk.full { room.min(keep) } else { 0 };
            result = Err(full);
        } else if let Some(may) = disk.too_long(self.node, &self.path, end) {
            keep = keep.min(may.saturating_sub(at));
            result = Err(io::ErrorKind::StorageFull.into());
        }
        if keep > 0 {
            let node = &mut disk.files[self.node];
            put(&mut node.data, &bytes[..keep], at);
            node.unsynced.push(Write::Bytes(at, bytes[..keep].to_vec()));
        }
        result
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.disk()?;
        let len = index(len)?;
        disk.call(DiskCall::SetLen, &self.path, len)?;
        disk.room(self.node, len)?;
        if disk.too_long(self.node, &self.path, len).is_some() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let node = &mut disk.files[self.node];
        node.data.resize(len, 0);
        node.unsynced.push(Write::Len(len));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk()?.files[self.node].data.len() as u64)
    }

    fn share(&self) -> io::Result<bool> {
        let node = &mut self.disk()?.files[self.node];
        if !node.claimed && !self.shares.swap(true, Ordering::Relaxed) {
            node.shares += 1;
        }
        Ok(!node.claimed)
    }

    fn claim(&self) -> io::Result<bool> {
        let node = &mut self.disk()?.files[self.node];
        let free = node.shares == 0 && !node.claimed;
        if free {
            node.claimed = true;
            self.claims.store(true, Ordering::Relaxed);
        }
        Ok(free)
    }

    fn release(&self) -> io::Result<()> {
        let node = &mut self.disk()?.files[self.node];
        node.claimed &= !self.claims.swap(false, Ordering::Relaxed);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.disk()?;
        let called = disk.call(DiskCall::Sync, &self.path, 0);
        let node = &mut disk.files[self.node];
        if let Err(failed) = called {
            if failed.failure == Failure::Forget {
                node.unsynced.clear();
            }
            return Err(failed.error);
        }
        for write in std::mem::take(&mut node.unsynced) {
            match write {
                Write::Bytes(at, bytes) => put(&mut node.durable, &bytes, at),
                Write::Len(len) => node.durable.resize(len, 0),
            }
        }
        Ok(())
    }
}
