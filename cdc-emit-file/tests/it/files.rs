//! Names, rotation, permissions, formats.

use std::os::unix::fs::PermissionsExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cdc_core::envelope::{Encoder, Format};
use cdc_core::storage::StdStorage;
use cdc_core::testing::sim_storage::SimStorage;
use cdc_core::{Clock, Emitter, EventBatch, testing};
use cdc_emit_file::{FileConfig, FileConfigError, FileEmitter, MANIFEST};

use crate::{
    all, at, checkpoint, config, dir, emit, flush, names, open, positions, read, shared,
    transaction, verified,
};

/// A clock the test moves.
#[derive(Debug, Default)]
struct Hands(AtomicU64);

impl Hands {
    fn set(&self, seconds: u64) {
        self.0.store(seconds, Ordering::Relaxed);
    }
}

impl Clock for Hands {
    fn wall_micros(&self) -> i64 {
        i64::try_from(self.elapsed().as_micros()).unwrap() + 1_795_000_000_000_000
    }
    fn elapsed(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::Relaxed))
    }
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    }
}

#[test]
fn files_are_named_by_their_first_event_and_end_with_a_transaction() {
    let disk = SimStorage::new();
    let mut config = config(&disk);
    config.rotate_bytes = 1;
    let mut emitter = open(config, None);
    let long = transaction(7, 5);
    for part in [long.slice(0..2), long.slice(2..4)] {
        emit(&mut emitter, &part).unwrap();
    }
    let part = "shop-00000000000000000007-0000000000.ndjson.part";
    assert_eq!(
        names(&*shared(&disk)),
        [part],
        "a transaction is not divided"
    );
    emit(&mut emitter, &long.slice(4..5)).unwrap();
    emit(&mut emitter, &transaction(9, 1)).unwrap();
    let expected = [
        MANIFEST,
        "shop-00000000000000000007-0000000000.ndjson",
        "shop-00000000000000000009-0000000000.ndjson",
    ];
    assert_eq!(names(&*shared(&disk)), expected);
    assert_eq!(positions(&*shared(&disk)).len(), 6);
}

#[test]
fn a_transaction_whose_last_event_was_filtered_out_ends_too() {
    let disk = SimStorage::new();
    let mut config = config(&disk);
    config.rotate_bytes = 1;
    let mut emitter = open(config, None);
    // Neither event says that it is the last of its transaction.
    let batch = EventBatch::new(
        testing::source(),
        vec![testing::insert(1, 0, 1), testing::insert(2, 0, 1)],
        at(2, 0),
    );
    emit(&mut emitter, &batch).unwrap();
    assert_eq!(verified(&*shared(&disk)).files, 1);
    // Here the batch's end says it.
    let batch = EventBatch::new(
        testing::source(),
        vec![testing::insert(2, 1, 1)],
        transaction(2, 1).end(),
    );
    emit(&mut emitter, &batch).unwrap();
    assert_eq!(verified(&*shared(&disk)).files, 2);
    assert_eq!(positions(&*shared(&disk)), [at(1, 0), at(2, 0), at(2, 1)]);
}

#[test]
fn an_old_file_is_closed_at_the_next_chance_also_after_a_restart() {
    let disk = SimStorage::new();
    let clock = Arc::new(Hands::default());
    let mut config = config(&disk);
    config.rotate_age = Duration::from_secs(60);
    config.clock = clock.clone();
    let mut emitter = open(config.clone(), None);
    clock.set(1000);
    emit(&mut emitter, &transaction(1, 1)).unwrap();
    clock.set(1059);
    emit(&mut emitter, &transaction(2, 1)).unwrap();
    let mark = emitter.durable().unwrap().unwrap();
    assert_eq!(verified(&*shared(&disk)).files, 0);
    clock.set(1060);
    // Idle: the question for the mark is enough.
    emitter.durable().unwrap();
    assert_eq!(verified(&*shared(&disk)).files, 1);
    drop(emitter);

    clock.set(1050);
    let mut emitter = open(config, Some(&checkpoint(&mark)));
    assert_eq!(
        verified(&*shared(&disk)).files,
        0,
        "opened again by the checkpoint"
    );
    clock.set(1061);
    emit(&mut emitter, &transaction(3, 1)).unwrap();
    let found = verified(&*shared(&disk));
    assert_eq!((found.files, found.events, found.open.len()), (1, 2, 1));
}

/// Nothing more comes, or letters alone, each of which may be from the middle of a transaction.
#[test]
fn a_file_grows_old_behind_a_restart_though_nothing_of_the_stream_comes() {
    for letters in [0u32, 1, 2] {
        let disk = SimStorage::new();
        let clock = Arc::new(Hands::default());
        let mut config = config(&disk);
        config.rotate_age = Duration::from_secs(60);
        config.clock = clock.clone();
        clock.set(1000);
        let mut emitter = open(config.clone(), None);
        emit(&mut emitter, &transaction(5, 2)).unwrap();
        let mark = emitter.durable().unwrap().unwrap();
        drop(emitter);
        let mut emitter = open(config, Some(&checkpoint(&mark)));
        for ordinal in 0..letters {
            // Of an earlier transaction, or of the last one.
            let commit = 5 - 4 * u64::from(ordinal);
            let letter = transaction(commit, 3).slice(1..2);
            emit(&mut emitter, &letter).unwrap();
        }
        clock.set(1059);
        emitter.durable().unwrap();
        assert_eq!(verified(&*shared(&disk)).files, 0);
        clock.set(1060);
        emitter.durable().unwrap();
        let found = verified(&*shared(&disk));
        assert_eq!((found.files, found.open.len()), (1, 0), "{letters}");
        // A file of letters alone.
        let letter = transaction(1, 3).slice(0..1);
        emit(&mut emitter, &letter).unwrap();
        clock.set(1120);
        emitter.durable().unwrap();
        assert_eq!(verified(&*shared(&disk)).files, 2);
    }
}

/// What follows the restart may be the rest of a transaction.
#[test]
fn a_file_does_not_grow_old_inside_a_transaction_behind_a_restart() {
    let disk = SimStorage::new();
    let clock = Arc::new(Hands::default());
    let mut config = config(&disk);
    config.rotate_age = Duration::from_secs(60);
    config.clock = clock.clone();
    let long = transaction(5, 3);
    let mut emitter = open(config.clone(), None);
    emit(&mut emitter, &long.slice(0..2)).unwrap();
    let mark = emitter.durable().unwrap().unwrap();
    drop(emitter);
    let mut emitter = open(config, Some(&checkpoint(&mark)));
    clock.set(1000);
    emitter.durable().unwrap();
    assert_eq!(verified(&*shared(&disk)).files, 0);
    emit(&mut emitter, &long.slice(2..3)).unwrap();
    emitter.durable().unwrap();
    assert_eq!(verified(&*shared(&disk)).files, 1);
}

#[test]
fn every_format_has_its_extension_and_is_whole() {
    let cases = [
        (Format::Json, "ndjson"),
        (Format::Debezium, "debezium.ndjson"),
        (Format::CloudEvents, "cloudevents.ndjson"),
        (Format::Bincode, "bin"),
    ];
    for (format, extension) in cases {
        let disk = SimStorage::new();
        let mut config = config(&disk);
        config.encoder = Encoder::new(format);
        config.rotate_bytes = 1;
        let mut emitter = open(config, None);
        let batch = transaction(1, 3);
        emit(&mut emitter, &batch).unwrap();
        let name = format!("shop-00000000000000000001-0000000000.{extension}");
        let bytes = read(&*shared(&disk), &dir().join(name));
        let mut plain = Vec::new();
        let mut expected = Vec::new();
        for event in batch.events() {
            plain.clear();
            Encoder::new(format)
                .encode(batch.source(), event, &mut plain)
                .unwrap();
            if format == Format::Bincode {
                let length = u32::try_from(plain.len()).unwrap().to_le_bytes();
                expected.extend_from_slice(&length);
                let crc = crc32c::crc32c(&[&length[..], &plain].concat());
                expected.extend_from_slice(&crc.to_le_bytes());
                expected.extend_from_slice(&plain);
            } else {
                expected.extend_from_slice(&plain);
                expected.push(b'\n');
            }
        }
        assert_eq!(bytes, expected);
        let found = verified(&*shared(&disk));
        assert!(found.is_whole() && found.events == 3, "{found:?}");
    }
}

#[test]
fn another_format_begins_another_file() {
    let disk = SimStorage::new();
    let mut emitter = open(config(&disk), None);
    emit(&mut emitter, &transaction(1, 2)).unwrap();
    let mark = flush(&mut emitter);
    drop(emitter);
    let mut debezium = config(&disk);
    debezium.encoder = Encoder::new(Format::Debezium);
    let mut emitter = open(debezium, Some(&checkpoint(&mark)));
    emit(&mut emitter, &transaction(2, 2)).unwrap();
    let found = verified(&*shared(&disk));
    assert_eq!((found.files, found.events, found.open.len()), (1, 2, 1));
    assert!(found.open[0].ends_with(".debezium.ndjson.part"));
}

#[test]
fn files_on_a_real_disk_are_for_their_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b");
    let mut config = FileConfig::new(&path, "shop");
    config.rotate_bytes = 1;
    let mut emitter = open(config.clone(), None);
    emit(&mut emitter, &transaction(1, 2)).unwrap();
    config.rotate_bytes = 1 << 20;
    drop(emitter);
    let mut emitter = open(config, None);
    emit(&mut emitter, &transaction(2, 2)).unwrap();
    for entry in std::fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.file_name());
    }
    let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o700);
    let found = cdc_emit_file::verify(&StdStorage, &path, "shop").unwrap();
    assert_eq!((found.files, found.open.len()), (1, 1));
    assert_eq!(all(&[transaction(1, 2)]).len(), 2);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    for stream in ["", ".", "a/b", "a b", "é", "x.", &"x".repeat(65)] {
        let refused = FileEmitter::new(FileConfig::new("/x", stream)).unwrap_err();
        assert!(
            matches!(refused, FileConfigError::Stream { .. }),
            "{stream}"
        );
    }
    let mut config = FileConfig::new("/x", "s");
    config.rotate_bytes = 0;
    let zero = |key| FileConfigError::Zero { key };
    assert_eq!(config.validate(), Err(zero("rotate_bytes")));
    config.rotate_bytes = 1;
    config.rotate_age = Duration::ZERO;
    assert_eq!(config.validate(), Err(zero("rotate_age")));
}
