//! Fuzz targets of RocksDB's files.

use std::path::Path;

use cdc_core::storage::{OpenMode, Storage};
use cdc_core::testing::sim_storage::SimStorage;

use super::manifest::{Manifest, kept, operators};
use super::{Batch, Families, Family, WalDirectory};

/// A write batch, and its events.
pub(crate) fn batch(data: &[u8]) {
    let Ok(batch) = Batch::decode(data) else {
        return;
    };
    let mut changes = 0;
    let mut whole = true;
    for record in batch.records() {
        match record {
            Ok(record) => changes += usize::from(record.is_change()),
            Err(_) => whole = false,
        }
    }
    assert!(!whole || changes == batch.count() as usize);
    let families = Families::new()
        .with(0, &Family::new("store", "default"), "uint64add")
        .with(1, &Family::new("store", "people"), "none");
    if let Ok(events) = families.events(&batch, 42) {
        for pair in events.windows(2) {
            assert!(pair[0].position < pair[1].position, "out of order");
        }
        for event in &events {
            if let Some(row) = event.after.row() {
                row.validate().expect("a row of ours");
            }
        }
    }
}

/// A log file: raw, or one whole record of the rest.
pub(crate) fn log(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else {
        return;
    };
    let mut bytes = Vec::new();
    if mode & 1 == 1 {
        let mut payload = rest;
        while let Some((length, after)) = payload.split_first_chunk::<2>() {
            let length = usize::from(u16::from_le_bytes(*length)).min(after.len());
            let (part, after) = after.split_at(length);
            payload = after;
            bytes.extend(whole(part));
        }
    } else {
        bytes.extend_from_slice(rest);
    }
    let disk = SimStorage::new();
    let dir = Path::new("/db");
    disk.create_dir_all(dir).expect("a directory");
    let file = disk.open(&dir.join("000005.log"), OpenMode::CreateNew);
    file.and_then(|file| file.write_all_at(&bytes, 0))
        .expect("room");
    let mut wal = WalDirectory::after(disk.shared(), dir, 0);
    while let Ok(Some(found)) = wal.next_batch() {
        batch(&found);
    }
}

/// One record that fits a block, under its checksum.
fn whole(payload: &[u8]) -> Vec<u8> {
    let covered = [&[1][..], payload].concat();
    let crc = crc32c::crc32c(&covered)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8);
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    [&crc.to_le_bytes()[..], &length.to_le_bytes(), &covered].concat()
}

/// An edit of the manifest, and the options.
pub(crate) fn manifest(data: &[u8]) {
    let mut manifest = Manifest::default();
    manifest.apply(data);
    let text = String::from_utf8_lossy(data);
    let _found = (operators(&text), kept(&text));
}

#[cfg(test)]
pub(crate) fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut batch = 1u64.to_le_bytes().to_vec();
    batch.extend(4u32.to_le_bytes());
    // A value, a deletion, a merge and a value of another family.
    batch.extend(b"\x01\x01k\x05value");
    batch.extend(b"\x00\x01k");
    batch.extend(b"\x02\x01c\x08\x01\x00\x00\x00\x00\x00\x00\x00");
    batch.extend(b"\x05\x01\x01k\x01v");
    let mut log = vec![1];
    log.extend(u16::try_from(batch.len()).expect("short").to_le_bytes());
    log.extend_from_slice(&batch);
    let raw = [&[0][..], &whole(&batch)].concat();
    let options = b"[CFOptions \"counters\"]\n  merge_operator={id=UInt64AddOperator;a=b}\nWAL_ttl_seconds=3600\n";
    vec![
        ("rocksdb-batch", "four".to_owned(), batch),
        ("rocksdb-log", "one".to_owned(), log),
        ("rocksdb-log", "raw".to_owned(), raw),
        ("rocksdb-manifest", "options".to_owned(), options.to_vec()),
        (
            "rocksdb-manifest",
            "edit".to_owned(),
            b"\xc9\x01\x06people\xcb\x01\x07\xc8\x01\x01".to_vec(),
        ),
    ]
}
