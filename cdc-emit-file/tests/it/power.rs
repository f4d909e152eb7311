//! Starts that are interrupted, by a failing call or a loss of power, and what the next one finds.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use cdc_core::storage::{OpenMode, Storage, StorageFile, StorageLock};
use cdc_core::testing::sim_storage::{Failure, SimStorage};
use cdc_core::{Checkpoint, EmitErrorKind, Emitter, Position};
use cdc_emit_file::{FileConfig, FileEmitter, Fsync, MANIFEST, OnRestart};

use crate::{
    all, checkpoint, config, emit, flush, names, open, positions, resume, shared, transaction,
    verified,
};

/// Three transactions, a checkpoint, and a closed file of older events behind it, as redriven letters
/// leave one.
fn letters_behind(disk: &SimStorage, config: &FileConfig) -> (Checkpoint, Vec<Position>) {
    let mut emitter = open(config.clone(), None);
    for commit in [11, 12, 13] {
        emit(&mut emitter, &transaction(commit, 1)).unwrap();
    }
    let mark = flush(&mut emitter);
    let before = positions(&*shared(disk));
    for commit in 1..=4 {
        emit(&mut emitter, &transaction(commit, 1)).unwrap();
    }
    let begun = "shop-00000000000000000001-0000000000.ndjson".to_owned();
    assert!(names(&*shared(disk)).contains(&begun));
    (checkpoint(&mark), before)
}

#[test]
fn a_start_whose_power_goes_leaves_no_file_that_the_manifest_has_forgotten() {
    for failure in [Failure::Stop, Failure::Once] {
        for (n, seed) in (0..).flat_map(|n| (0..8).map(move |seed| (n, seed))) {
            let disk = SimStorage::new();
            let mut config = config(&disk);
            config.rotate_bytes = 700;
            let (from, before) = letters_behind(&disk, &config);
            disk.kill();
            disk.fail_after(n, failure);
            let mut emitter = FileEmitter::new(config.clone()).unwrap();
            // A lane tries it again.
            let started = (0..3).any(|_| resume(&mut emitter, Some(&from)).is_ok());
            assert!(started || failure == Failure::Stop);
            if !disk.has_failed() {
                assert!(n > 3, "a start has {n} calls only");
                break;
            }
            disk.crash(seed);
            drop(emitter);
            drop(open(config, Some(&from)));
            let storage = shared(&disk);
            assert_eq!(positions(&*storage), before, "call {n}, seed {seed}");
            let found = verified(&*storage);
            assert!(found.is_whole(), "call {n}, seed {seed}: {found:?}");
        }
    }
}

/// A disk on which the manifest cannot be opened once.
#[derive(Debug)]
struct Unreadable {
    disk: SimStorage,
    /// Opens of the manifest until then.
    opens: AtomicI32,
}

impl Storage for Unreadable {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn StorageFile>> {
        if path.ends_with(MANIFEST) && self.opens.fetch_sub(1, Ordering::Relaxed) == 0 {
            return Err(io::Error::other("simulated failure"));
        }
        self.disk.open(path, mode)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        self.disk.lock(path)
    }

    fn exists(&self, path: &Path) -> bool {
        self.disk.exists(path)
    }
}

#[test]
fn a_manifest_that_cannot_be_read_now_is_not_an_empty_one() {
    for opens in 0..3 {
        let disk = SimStorage::new();
        let mut config = config(&disk);
        config.rotate_bytes = 700;
        let (from, before) = letters_behind(&disk, &config);
        disk.kill();
        let opens = AtomicI32::new(opens);
        config.storage = Arc::new(Unreadable {
            disk: disk.clone(),
            opens,
        });
        let mut emitter = FileEmitter::new(config).unwrap();
        let error = resume(&mut emitter, Some(&from)).unwrap_err();
        let retry = EmitErrorKind::EndpointRetry { retry_after: None };
        assert_eq!(error.kind, retry, "{error}");
        resume(&mut emitter, Some(&from)).unwrap();
        assert_eq!(positions(&*shared(&disk)), before);
        assert!(verified(&*shared(&disk)).is_whole());
    }
}

#[test]
fn a_line_cut_off_the_manifest_does_not_come_back_with_the_power() {
    for failure in [Failure::Once, Failure::Forget, Failure::Stop] {
        for (n, seed) in (0..).flat_map(|n| (0..8).map(move |seed| (n, seed))) {
            let disk = SimStorage::new();
            let mut config = config(&disk);
            config.rotate_bytes = 700;
            let mut emitter = open(config.clone(), None);
            emit(&mut emitter, &transaction(1, 1)).unwrap();
            let from = checkpoint(&flush(&mut emitter));
            emit(&mut emitter, &transaction(2, 2)).unwrap();
            assert_eq!(verified(&*shared(&disk)).files, 1);
            disk.kill();
            disk.fail_after(n, failure);
            let mut emitter = FileEmitter::new(config.clone()).unwrap();
            if resume(&mut emitter, Some(&from)).is_err() {
                disk.kill();
                emitter = open(config.clone(), Some(&from));
            }
            if !disk.has_failed() {
                assert!(n > 3, "a start has {n} calls only");
                break;
            }
            // The file goes on in another way than before.
            emit(&mut emitter, &transaction(2, 1)).unwrap();
            flush(&mut emitter);
            disk.crash(seed);
            drop(emitter);
            // An operator has set the position: there is no state any more that knows better.
            drop(open(config, None));
            let storage = shared(&disk);
            let expected = all(&[transaction(1, 1), transaction(2, 1)]);
            assert_eq!(positions(&*storage), expected, "call {n}, seed {seed}");
            let found = verified(&*storage);
            assert!(found.is_whole(), "call {n}, seed {seed}: {found:?}");
        }
    }
}

/// Marks run ahead of the sync then, and what they cover is in no sync's care until the file is closed.
#[test]
fn without_fsync_a_closed_file_is_whole_whatever_sync_failed_before() {
    for mode in [OnRestart::Truncate, OnRestart::Append] {
        for killed in [false, true] {
            for (n, seed) in (0..).flat_map(|n| (0..4).map(move |seed| (n, seed))) {
                let disk = SimStorage::new();
                let mut config = config(&disk);
                config.fsync = Fsync::None;
                config.on_restart = mode;
                config.rotate_bytes = 700;
                let mut emitter = open(config.clone(), None);
                let mut from = checkpoint(&emitter.durable().unwrap().unwrap());
                disk.fail_after(n, Failure::Forget);
                let mut commit = 0;
                while commit < 9 {
                    commit += 1;
                    let mark = emit(&mut emitter, &transaction(commit, 2));
                    match mark.and_then(|_| emitter.durable()) {
                        Ok(mark) => from = checkpoint(&mark.unwrap()),
                        Err(_) => {
                            if killed {
                                disk.kill();
                                emitter = FileEmitter::new(config.clone()).unwrap();
                            }
                            resume(&mut emitter, Some(&from)).unwrap();
                            commit = from.position.commit.0;
                        }
                    }
                }
                let failed = disk.has_failed();
                disk.crash(seed);
                drop(emitter);
                drop(open(config, Some(&from)));
                let found = verified(&*shared(&disk));
                assert!(found.is_whole(), "{mode:?}, call {n}: {found:?}");
                assert!(found.files > 2);
                if !failed {
                    assert!(n > 15, "the workload has {n} calls only");
                    break;
                }
            }
        }
    }
}
