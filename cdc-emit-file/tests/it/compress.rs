//! Compressed files: what is in them, and going back into one.

use cdc_core::storage::{OpenMode, Storage};
use cdc_core::testing::sim_storage::SimStorage;
use cdc_core::{EmitErrorKind, Emitter};
use cdc_emit_file::{Compress, FileConfig, FileEmitter, MANIFEST, OnRestart, Problem};

use crate::{
    all, checkpoint, config, content, dir, emit, names, open, positions, read, resume, shared,
    transaction, verified,
};

fn packing(disk: &SimStorage) -> FileConfig {
    let mut config = config(disk);
    config.rotate_bytes = 1;
    config.compress = Compress::Gzip;
    config
}

fn name(commit: u64) -> String {
    format!("shop-{commit:020}-0000000000.ndjson")
}

fn packed(commit: u64) -> String {
    format!("{}.gz", name(commit))
}

fn create(storage: &dyn Storage, name: &str, bytes: &[u8]) {
    let file = storage
        .open(&dir().join(name), OpenMode::CreateNew)
        .unwrap();
    file.write_all_at(bytes, 0).unwrap();
}

/// Five closed files, all compressed.
fn written() -> SimStorage {
    let disk = SimStorage::new();
    let mut emitter = open(packing(&disk), None);
    for commit in 1..6 {
        emit(&mut emitter, &transaction(commit, 2)).unwrap();
    }
    assert!(emitter.finish_compression());
    disk
}

/// An emitter whose one closed file found no room to be compressed; there is room again.
fn without_room(disk: &SimStorage) -> FileEmitter {
    let mut emitter = open(packing(disk), None);
    emit(&mut emitter, &transaction(1, 50)).unwrap();
    disk.set_capacity(Some(1));
    assert!(!emitter.finish_compression());
    disk.set_capacity(None);
    emitter
}

#[test]
fn closed_files_are_compressed_and_proven_as_before() {
    let plain = SimStorage::new();
    let mut config = config(&plain);
    config.rotate_bytes = 1;
    let mut emitter = open(config, None);
    for commit in 1..6 {
        emit(&mut emitter, &transaction(commit, 2)).unwrap();
    }
    let disk = written();
    let storage = shared(&disk);
    let mut expected = vec![MANIFEST.to_owned()];
    expected.extend((1..6).map(packed));
    assert_eq!(names(&*storage), expected);
    let manifest = dir().join(MANIFEST);
    assert_eq!(
        read(&*storage, &manifest),
        read(&*shared(&plain), &manifest),
        "the manifest speaks of what is inside"
    );
    for commit in 1..6 {
        let inside = content(&*storage, &packed(commit));
        assert_eq!(inside, content(&*shared(&plain), &name(commit)));
    }
    let found = verified(&*storage);
    assert!(found.is_whole(), "{:?}", found.problems);
    assert_eq!((found.files, found.compressed, found.events), (5, 5, 10));
    assert_eq!(found.chain, verified(&*shared(&plain)).chain);
}

#[test]
fn another_tool_may_decompress_and_compress_again() {
    let disk = written();
    let storage = shared(&disk);
    let inside = content(&*storage, &packed(2));
    storage.remove(&dir().join(packed(2))).unwrap();
    create(&*storage, &name(2), &inside);
    let level = flate2::Compression::best();
    let mut other = flate2::write::GzEncoder::new(Vec::new(), level);
    std::io::Write::write_all(&mut other, &content(&*storage, &packed(3))).unwrap();
    storage.remove(&dir().join(packed(3))).unwrap();
    create(&*storage, &packed(3), &other.finish().unwrap());
    let found = verified(&*storage);
    assert!(found.is_whole(), "{:?}", found.problems);
    assert_eq!(found.compressed, 4);
}

#[test]
fn damaged_compressed_files_are_found_without_reading_on() {
    let whole = read(&*shared(&written()), &dir().join(packed(2)));
    let bomb = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut encoder, &vec![b'x'; 50 << 20]).unwrap();
        encoder.finish().unwrap()
    };
    for bytes in [
        Vec::new(),
        whole[..whole.len() - 1].to_vec(),
        whole[..whole.len() / 2].to_vec(),
        [&whole[..], b"x"].concat(),
        [&whole[..], &whole].concat(),
        b"not gzip at all".to_vec(),
        bomb,
    ] {
        let disk = written();
        let storage = shared(&disk);
        storage.remove(&dir().join(packed(2))).unwrap();
        create(&*storage, &packed(2), &bytes);
        let found = verified(&*storage).problems;
        assert!(
            matches!(&found[..], [Problem::Length { name: n, .. } | Problem::Edited { name: n }] if *n == name(2)),
            "{} bytes: {found:?}",
            bytes.len()
        );
    }
}

#[test]
fn both_forms_must_say_the_same() {
    let disk = written();
    let storage = shared(&disk);
    let mut inside = content(&*storage, &packed(2));
    create(&*storage, &name(2), &inside);
    assert!(verified(&*storage).is_whole(), "a crash may leave both");
    // The next start makes one of them.
    let mut emitter = open(
        FileConfig {
            on_restart: OnRestart::Append,
            ..packing(&disk)
        },
        None,
    );
    assert!(emitter.finish_compression());
    assert!(!storage.exists(&dir().join(name(2))));
    drop(emitter);
    inside[5] ^= 1;
    create(&*storage, &name(2), &inside);
    assert_eq!(
        verified(&*storage).problems,
        [Problem::Edited { name: name(2) }]
    );
}

#[test]
fn a_restart_goes_back_into_a_compressed_file() {
    for unfinished in [false, true] {
        let disk = SimStorage::new();
        let mut config = packing(&disk);
        config.rotate_bytes = 700;
        let mut emitter = open(config.clone(), None);
        emit(&mut emitter, &transaction(1, 1)).unwrap();
        let mark = emitter.durable().unwrap().unwrap();
        for commit in 2..9 {
            emit(&mut emitter, &transaction(commit, 2)).unwrap();
            emitter.durable().unwrap();
        }
        assert!(emitter.finish_compression());
        drop(emitter);
        let storage = shared(&disk);
        let before = positions(&*storage);
        assert!(storage.exists(&dir().join(packed(1))));
        if unfinished {
            // A start that died while it was decompressing, and a compression that never ended.
            create(&*storage, &format!("{}.part", name(1)), b"{\"id\":\"half");
            create(&*storage, &format!("{}.gz.tmp", name(1)), b"half");
        }
        let mut emitter = open(config.clone(), Some(&checkpoint(&mark)));
        assert_eq!(positions(&*storage), all(&[transaction(1, 1)]));
        for commit in 2..9 {
            emit(&mut emitter, &transaction(commit, 2)).unwrap();
        }
        assert!(emitter.finish_compression());
        drop(emitter);
        assert_eq!(positions(&*storage), before);
        assert!(verified(&*storage).is_whole());
    }
}

#[test]
fn a_checkpoint_inside_a_damaged_compressed_file_is_refused() {
    let disk = SimStorage::new();
    let mut config = packing(&disk);
    config.rotate_bytes = 700;
    let mut emitter = open(config.clone(), None);
    emit(&mut emitter, &transaction(1, 1)).unwrap();
    let mark = emitter.durable().unwrap().unwrap();
    emit(&mut emitter, &transaction(2, 3)).unwrap();
    assert!(emitter.finish_compression());
    drop(emitter);
    disk.damage(&dir().join(packed(1)), 0, |byte| byte ^ 1)
        .unwrap();
    let mut emitter = FileEmitter::new(config).unwrap();
    let error = resume(&mut emitter, Some(&checkpoint(&mark))).unwrap_err();
    assert_eq!(error.kind, EmitErrorKind::Fatal, "{error}");
    assert!(error.to_string().contains("damaged"), "{error}");
}

#[test]
fn a_full_disk_leaves_files_as_they_are_and_tries_again() {
    let disk = SimStorage::new();
    let mut emitter = without_room(&disk);
    let storage = shared(&disk);
    assert_eq!(names(&*storage), [MANIFEST.to_owned(), name(1)]);
    assert!(verified(&*storage).is_whole());
    emit(&mut emitter, &transaction(2, 2)).unwrap();
    assert!(emitter.finish_compression());
    assert_eq!(
        names(&*storage),
        [MANIFEST.to_owned(), packed(1), packed(2)]
    );
}

/// It is nothing to do any more, and holds up nothing.
#[test]
fn a_closed_file_that_somebody_removed_is_forgotten() {
    let disk = SimStorage::new();
    let mut emitter = without_room(&disk);
    let storage = shared(&disk);
    storage.remove(&dir().join(name(1))).unwrap();
    emit(&mut emitter, &transaction(2, 2)).unwrap();
    assert!(emitter.finish_compression());
    assert_eq!(names(&*storage), [MANIFEST.to_owned(), packed(2)]);
}

#[test]
fn a_start_compresses_what_an_earlier_one_left() {
    let disk = SimStorage::new();
    let mut config = config(&disk);
    config.rotate_bytes = 1;
    let mut emitter = open(config, None);
    for commit in 1..4 {
        emit(&mut emitter, &transaction(commit, 2)).unwrap();
    }
    let mark = emitter.durable().unwrap().unwrap();
    drop(emitter);
    let mut emitter = open(packing(&disk), Some(&checkpoint(&mark)));
    assert!(emitter.finish_compression());
    assert_eq!(verified(&*shared(&disk)).compressed, 3);
}
