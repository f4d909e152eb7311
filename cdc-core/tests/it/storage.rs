//! Who may write over a file that others read: on the real disk and on the simulated one.

use std::path::Path;

use cdc_core::storage::{OpenMode, StdStorage, Storage, StorageFile};
use cdc_core::testing::sim_storage::SimStorage;

fn open(storage: &dyn Storage, path: &Path) -> Box<dyn StorageFile> {
    storage.open(path, OpenMode::ReadWrite).unwrap()
}

fn claims(storage: &dyn Storage, path: &Path) {
    let writer = storage.open(path, OpenMode::CreateNew).unwrap();
    let (one, two) = (open(storage, path), open(storage, path));
    assert!(one.share().unwrap() && two.share().unwrap());
    assert!(two.share().unwrap(), "twice is once");
    assert!(!writer.claim().unwrap(), "two read it");
    drop(one);
    assert!(!writer.claim().unwrap(), "one reads it");
    drop(two);
    assert!(writer.claim().unwrap(), "nobody reads it");
    let late = open(storage, path);
    assert!(!late.share().unwrap(), "it is claimed");
    writer.release().unwrap();
    assert!(late.share().unwrap(), "it is not claimed any more");
    assert!(!writer.claim().unwrap(), "a reader came back");
    drop(late);
    assert!(writer.claim().unwrap());
    drop(writer);
    assert!(
        open(storage, path).share().unwrap(),
        "a claim ends with its handle"
    );
}

#[test]
fn a_file_that_is_read_is_not_claimed_and_a_claimed_one_not_read() {
    let dir = tempfile::tempdir().unwrap();
    claims(&StdStorage, &dir.path().join("file"));
    claims(&SimStorage::new(), Path::new("/file"));
}

#[test]
fn a_file_with_a_second_name_is_not_claimed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("file"), dir.path().join("other"));
    let file = StdStorage.open(&path, OpenMode::CreateNew).unwrap();
    std::fs::hard_link(&path, &other).unwrap();
    assert!(!file.claim().unwrap());
    assert!(
        open(&StdStorage, &other).share().unwrap(),
        "and it is left to readers"
    );
    std::fs::remove_file(&other).unwrap();
    assert!(file.claim().unwrap());
}

#[test]
fn claims_and_shares_end_with_the_process() {
    let disk = SimStorage::new();
    let path = Path::new("/file");
    let before = disk.open(path, OpenMode::CreateNew).unwrap();
    assert!(before.share().unwrap());
    disk.kill();
    let after = open(&disk, path);
    assert!(after.claim().unwrap());
    drop(before);
    let late = open(&disk, path);
    assert!(!late.share().unwrap(), "what ended before releases nothing");
}
