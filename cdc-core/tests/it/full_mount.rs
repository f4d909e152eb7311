//! A part of the simulated disk that runs full on its own, and several calls that fail.

use std::io::ErrorKind;
use std::path::Path;

use cdc_core::storage::{OpenMode, Storage, StorageFile};
use cdc_core::testing::sim_storage::{Failure, SimStorage};

fn create(disk: &SimStorage, path: &str) -> std::io::Result<Box<dyn StorageFile>> {
    disk.open(Path::new(path), OpenMode::CreateNew)
}

#[test]
fn a_write_that_does_not_fit_keeps_what_does_and_nobody_else_is_full() {
    let disk = SimStorage::new();
    let full = create(&disk, "/out/a").unwrap();
    let other = create(&disk, "/state/a").unwrap();
    full.write_all_at(b"0123456789", 0).unwrap();
    disk.fill_mount("/out", 4, false);

    let error = full.write_all_at(b"abcdefgh", 8).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!(full.len().unwrap(), 14, "what was there, and the room left");
    let mut kept = [0; 6];
    assert_eq!(full.read_at(&mut kept, 8).unwrap(), 6);
    assert_eq!(&kept, b"abcdef");
    full.write_all_at(b"again", 0).unwrap();
    assert_eq!(full.set_len(15).unwrap_err().kind(), ErrorKind::StorageFull);
    let error = create(&disk, "/out/b").err().map(|error| error.kind());
    assert_eq!(error, Some(ErrorKind::StorageFull));
    other.write_all_at(&[1; 100], 0).unwrap();
    create(&disk, "/state/b").unwrap();
    assert_eq!(disk.failures(), 3);

    disk.empty_mounts();
    full.write_all_at(b"abcdefgh", 8).unwrap();
    create(&disk, "/out/b").unwrap();
}

#[test]
fn several_calls_fail_each_at_its_place() {
    let disk = SimStorage::new();
    let file = create(&disk, "/a").unwrap();
    disk.fail_after(0, Failure::Once);
    disk.also_fail_after(2, Failure::Once);
    disk.also_fail_after(3, Failure::Forget);
    let failed = (0..5).map(|_| file.sync_data().is_err());
    assert_eq!(failed.collect::<Vec<_>>(), [true, false, true, true, false]);
    assert!(disk.has_failed());

    disk.also_fail_after(0, Failure::Once);
    disk.kill();
    let file = disk.open(Path::new("/a"), OpenMode::ReadWrite).unwrap();
    file.sync_data().unwrap();
}
