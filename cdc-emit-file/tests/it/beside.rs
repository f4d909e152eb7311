//! Syncs that run beside the writer, on a real disk whose syncs a test holds back or fails.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cdc_core::storage::StdStorage;
use cdc_core::testing::{Syncs, SyncsDisk};
use cdc_core::{Emitter, Position};
use cdc_emit_file::{FileConfig, FileEmitter, Fsync};

use crate::{checkpoint, emit, flush, now, resume, transaction};

/// An emitter that syncs whenever it is asked, with one transaction durable: what comes next is
/// synced beside it.
fn begun(disk: &SyncsDisk, dir: &Path, change: impl FnOnce(&mut FileConfig)) -> FileEmitter {
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
    let (disk, dir) = (SyncsDisk::new(), tempfile::tempdir().unwrap());
    let mut emitter = begun(&disk, dir.path(), |_| {});
    disk.set(Syncs::Wait);
    for commit in 2..50 {
        emit(&mut emitter, &transaction(commit, 2)).unwrap();
        assert_eq!(through(&mut emitter), transaction(1, 2).end(), "{commit}");
    }
    disk.set(Syncs::Work);
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
    let (disk, dir) = (SyncsDisk::new(), tempfile::tempdir().unwrap());
    let mut emitter = begun(&disk, dir.path(), |_| {});
    let kept = emitter.durable().unwrap().unwrap();
    disk.set(Syncs::Wait);
    emit(&mut emitter, &transaction(2, 2)).unwrap();
    emit(&mut emitter, &transaction(3, 2)).unwrap();
    disk.set(Syncs::Fail);
    let error = loop {
        match emitter.durable() {
            Ok(mark) => assert_eq!(mark.unwrap().through, kept.through),
            Err(error) => break error,
        }
        std::thread::yield_now();
    };
    assert!(error.to_string().contains("sync a file in"), "{error}");
    disk.set(Syncs::Work);
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
    let (disk, dir) = (SyncsDisk::new(), tempfile::tempdir().unwrap());
    let mut emitter = begun(&disk, dir.path(), |_| {});
    disk.set(Syncs::Wait);
    emit(&mut emitter, &transaction(2, 2)).unwrap();
    disk.set(Syncs::Fail);
    let error = now(emitter.flush()).unwrap_err();
    assert!(error.to_string().contains("sync a file in"), "{error}");
}

#[test]
fn a_close_waits_for_the_sync_beside_the_writer_and_hears_of_its_failure() {
    let (disk, dir) = (SyncsDisk::new(), tempfile::tempdir().unwrap());
    let mut emitter = begun(&disk, dir.path(), |config| config.rotate_bytes = 1500);
    disk.set(Syncs::Wait);
    emit(&mut emitter, &transaction(2, 1)).unwrap();
    disk.set(Syncs::Fail);
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
