//! Syncs that run beside the writer, on a real disk whose syncs a test holds back or fails.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use cdc_core::storage::{OpenMode, StdStorage, Storage, StorageFile, StorageLock};
use cdc_core::{Emitter, Position};
use cdc_emit_file::{FileConfig, FileEmitter, Fsync};

use crate::{checkpoint, emit, flush, now, resume, transaction};

/// What syncs of data files do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Works,
    /// Waits until the mood changes.
    Waits,
    Fails,
}

#[derive(Clone, Debug)]
struct Disk(Arc<(Mutex<Mood>, Condvar)>);

impl Disk {
    fn new() -> Self {
        Self(Arc::new((Mutex::new(Mood::Works), Condvar::new())))
    }

    fn set(&self, mood: Mood) {
        *self.0.0.lock().unwrap() = mood;
        self.0.1.notify_all();
    }
}

#[derive(Debug)]
struct DiskFile(Box<dyn StorageFile>, Disk);

impl StorageFile for DiskFile {
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
        let (mood, changed) = &*self.1.0;
        let mood = changed
            .wait_while(mood.lock().unwrap(), |mood| *mood == Mood::Waits)
            .unwrap();
        match *mood {
            Mood::Fails => Err(io::Error::other("the disk says no")),
            Mood::Works | Mood::Waits => self.0.sync_data(),
        }
    }
    fn as_std(&self) -> Option<&std::fs::File> {
        self.0.as_std()
    }
}

impl Storage for Disk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        StdStorage.create_dir_all(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn StorageFile>> {
        let file = StdStorage.open(path, mode)?;
        Ok(Box::new(DiskFile(file, self.clone())))
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

/// An emitter that syncs whenever it is asked, with one transaction durable: what comes next is
/// synced beside it.
fn begun(disk: &Disk, dir: &Path, change: impl FnOnce(&mut FileConfig)) -> FileEmitter {
    let mut config = FileConfig::new(dir, "shop");
    config.storage = Arc::new(disk.clone());
    config.fsync = Fsync::Interval(Duration::ZERO);
    change(&mut config);
    let mut emitter = FileEmitter::new(config).unwrap();
    resume(&mut emitter, None).unwrap();
    emit(&mut emitter, &transaction(1, 2)).unwrap();
    assert_eq!(flush(&mut emitter).through, transaction(1, 2).end());
    emitter
}

fn through(emitter: &mut FileEmitter) -> Position {
    emitter.durable().unwrap().unwrap().through
}

#[test]
fn a_slow_sync_holds_back_the_mark_and_not_the_writer() {
    let (disk, dir) = (Disk::new(), tempfile::tempdir().unwrap());
    let mut emitter = begun(&disk, dir.path(), |_| {});
    disk.set(Mood::Waits);
    for commit in 2..50 {
        emit(&mut emitter, &transaction(commit, 2)).unwrap();
        assert_eq!(through(&mut emitter), transaction(1, 2).end(), "{commit}");
    }
    disk.set(Mood::Works);
    // What the sync that waited stands for is only what was written before it.
    while through(&mut emitter) == transaction(1, 2).end() {
        std::thread::yield_now();
    }
    while through(&mut emitter) < transaction(49, 2).end() {
        std::thread::yield_now();
    }
    let mark = emitter.durable().unwrap().unwrap();
    drop(emitter);
    let state = checkpoint(&mark).state;
    let verified = cdc_emit_file::verify_against(&StdStorage, dir.path(), "shop", &state).unwrap();
    assert!(verified.is_whole(), "{:?}", verified.problems);
}

#[test]
fn a_sync_that_fails_beside_the_writer_is_a_loss() {
    let (disk, dir) = (Disk::new(), tempfile::tempdir().unwrap());
    let mut emitter = begun(&disk, dir.path(), |_| {});
    let kept = emitter.durable().unwrap().unwrap();
    disk.set(Mood::Waits);
    emit(&mut emitter, &transaction(2, 2)).unwrap();
    emit(&mut emitter, &transaction(3, 2)).unwrap();
    disk.set(Mood::Fails);
    let error = loop {
        match emitter.durable() {
            Ok(mark) => assert_eq!(mark.unwrap().through, kept.through),
            Err(error) => break error,
        }
        std::thread::yield_now();
    };
    assert!(error.to_string().contains("sync a file in"), "{error}");
    disk.set(Mood::Works);
    assert!(now(emitter.flush()).is_err(), "until the lane went back");
    resume(&mut emitter, Some(&checkpoint(&kept))).unwrap();
    for commit in 2..5 {
        emit(&mut emitter, &transaction(commit, 2)).unwrap();
    }
    assert_eq!(flush(&mut emitter).through, transaction(4, 2).end());
    let name = "shop-00000000000000000001-0000000000.ndjson.part";
    let text = std::fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(text.lines().count(), 8, "each once");
}

#[test]
fn a_flush_waits_for_the_sync_beside_the_writer_and_hears_of_its_failure() {
    let (disk, dir) = (Disk::new(), tempfile::tempdir().unwrap());
    let mut emitter = begun(&disk, dir.path(), |_| {});
    disk.set(Mood::Waits);
    emit(&mut emitter, &transaction(2, 2)).unwrap();
    disk.set(Mood::Fails);
    let error = now(emitter.flush()).unwrap_err();
    assert!(error.to_string().contains("sync a file in"), "{error}");
}

#[test]
fn a_close_waits_for_the_sync_beside_the_writer_and_hears_of_its_failure() {
    let (disk, dir) = (Disk::new(), tempfile::tempdir().unwrap());
    let mut emitter = begun(&disk, dir.path(), |config| config.rotate_bytes = 1500);
    disk.set(Mood::Waits);
    emit(&mut emitter, &transaction(2, 1)).unwrap();
    disk.set(Mood::Fails);
    // Long enough to be closed, and again.
    let mut commits = 3..;
    let error = loop {
        emit(&mut emitter, &transaction(commits.next().unwrap(), 3)).unwrap();
        if let Err(error) = emitter.durable() {
            break error;
        }
    };
    assert!(error.to_string().contains("sync"), "{error}");
    assert!(
        !dir.path().join(cdc_emit_file::MANIFEST).exists(),
        "nothing is closed that is not durable"
    );
}
