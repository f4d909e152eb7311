//! Going back to a checkpoint, and what is refused.

use cdc_core::storage::{OpenMode, Storage};
use cdc_core::testing::sim_storage::SimStorage;
use cdc_core::{EmitErrorKind, Emitter};
use cdc_emit_file::{FileEmitter, Fsync, OnRestart};

use crate::{
    at, checkpoint, config, dir, emit, flush, names, open, positions, resume, shared, transaction,
    verified,
};

fn write(storage: &dyn Storage, name: &str, bytes: &[u8]) {
    let file = storage
        .open(&dir().join(name), OpenMode::CreateNew)
        .unwrap();
    file.write_all_at(bytes, 0).unwrap();
}

const CLOSED: &str = "shop-00000000000000000001-0000000000.ndjson";
const PART: &str = "shop-00000000000000000003-0000000000.ndjson.part";

type Damage = fn(&dyn Storage);

#[test]
fn a_restart_cuts_back_to_the_checkpoint_over_several_files() {
    let disk = SimStorage::new();
    let mut config = config(&disk);
    config.rotate_bytes = 700;
    let mut emitter = open(config.clone(), None);
    let mut stored = None;
    for commit in 1..20 {
        emit(&mut emitter, &transaction(commit, 1)).unwrap();
        if commit == 5 {
            stored = emitter.durable().unwrap();
        }
    }
    drop(emitter);
    let before = verified(&*shared(&disk));
    let mut emitter = open(config, Some(&checkpoint(&stored.unwrap())));
    let expected: Vec<_> = (1..6).map(|commit| at(commit, 0)).collect();
    assert_eq!(positions(&*shared(&disk)), expected);
    for commit in 6..20 {
        emit(&mut emitter, &transaction(commit, 1)).unwrap();
    }
    // The same events make the same files.
    assert_eq!(verified(&*shared(&disk)), before);
}

#[test]
fn files_that_are_not_ours_are_never_touched() {
    let disk = SimStorage::new();
    let storage = shared(&disk);
    let foreign = [
        "notes.txt",
        "other-00000000000000000099-0000000000.ndjson.part",
        "shop-99.ndjson",
        "shop-00000000000000000099-0000000000.ndjson.part.bak",
    ];
    for name in foreign {
        write(&*storage, name, b"torn");
    }
    let mut emitter = open(config(&disk), None);
    let mark = emitter.durable().unwrap().unwrap();
    emit(&mut emitter, &transaction(1, 1)).unwrap();
    drop(emitter);
    drop(open(config(&disk), Some(&checkpoint(&mark))));
    let mut expected = foreign.to_vec();
    expected.sort_unstable();
    assert_eq!(names(&*storage), expected);
}

#[test]
fn without_a_checkpoint_what_is_there_stays_and_a_new_file_begins() {
    let disk = SimStorage::new();
    let storage = shared(&disk);
    let mut emitter = open(config(&disk), None);
    emit(&mut emitter, &transaction(5, 2)).unwrap();
    drop(emitter);
    let name = "shop-00000000000000000005-0000000000.ndjson";
    let part = dir().join(format!("{name}.part"));
    let file = storage.open(&part, OpenMode::ReadWrite).unwrap();
    file.write_all_at(b"{\"torn", file.len().unwrap()).unwrap();
    let mut emitter = open(config(&disk), None);
    emit(&mut emitter, &transaction(5, 2)).unwrap();
    let found = verified(&*storage);
    assert!(found.is_whole(), "{:?}", found.problems);
    assert_eq!((found.files, found.events), (1, 2));
    assert_eq!(
        found.open,
        ["shop-00000000000000000005-0000000000.r0001.ndjson.part"]
    );
    assert_eq!(
        positions(&*storage),
        [at(5, 0), at(5, 1), at(5, 0), at(5, 1)]
    );
    // From here on there is a state, and the old files are safe from it.
    let mark = emitter.durable().unwrap().unwrap();
    drop(emitter);
    drop(open(config(&disk), Some(&checkpoint(&mark))));
    assert_eq!(positions(&*storage).len(), 4);
}

#[test]
fn files_of_an_older_history_with_higher_positions_survive_a_restart() {
    let disk = SimStorage::new();
    let mut emitter = open(config(&disk), None);
    emit(&mut emitter, &transaction(1000, 2)).unwrap();
    drop(emitter);
    // The database was made anew: positions begin again, and the checkpoint was reset.
    let mut emitter = open(config(&disk), None);
    emit(&mut emitter, &transaction(1, 1)).unwrap();
    let mark = flush(&mut emitter);
    emit(&mut emitter, &transaction(2, 1)).unwrap();
    drop(emitter);
    drop(open(config(&disk), Some(&checkpoint(&mark))));
    assert_eq!(
        positions(&*shared(&disk)),
        [at(1, 0), at(1000, 0), at(1000, 1)]
    );
}

/// Redriven letters are older than the mark in front of them, and come again after a restart.
#[test]
fn files_begun_behind_the_checkpoint_with_an_older_event_go() {
    for redriven in [1, 4] {
        let disk = SimStorage::new();
        let mut config = config(&disk);
        config.rotate_bytes = 700;
        let mut emitter = open(config.clone(), None);
        for commit in [11, 12, 13] {
            emit(&mut emitter, &transaction(commit, 1)).unwrap();
        }
        let mark = flush(&mut emitter);
        let before = positions(&*shared(&disk));
        for commit in 1..=redriven {
            emit(&mut emitter, &transaction(commit, 1)).unwrap();
        }
        drop(emitter);
        let storage = shared(&disk);
        let begun = "shop-00000000000000000001-0000000000.ndjson";
        let begun = names(&*storage)
            .into_iter()
            .find(|name| name.starts_with(begun));
        let closed = begun.map(|name| !name.ends_with(".part"));
        assert_eq!(closed, Some(redriven > 1), "{:?}", names(&*storage));
        drop(open(config, Some(&checkpoint(&mark))));
        assert_eq!(positions(&*storage), before, "{:?}", names(&*storage));
    }
}

#[test]
fn append_keeps_whole_lines_and_cuts_a_torn_one() {
    let disk = SimStorage::new();
    let storage = shared(&disk);
    let mut config = config(&disk);
    config.on_restart = OnRestart::Append;
    let mut emitter = open(config.clone(), None);
    emit(&mut emitter, &transaction(1, 2)).unwrap();
    let mark = flush(&mut emitter);
    emit(&mut emitter, &transaction(2, 2)).unwrap();
    drop(emitter);
    let part = dir().join("shop-00000000000000000001-0000000000.ndjson.part");
    let file = storage.open(&part, OpenMode::ReadWrite).unwrap();
    file.set_len(file.len().unwrap() - 3).unwrap();
    let mut emitter = open(config, Some(&checkpoint(&mark)));
    emit(&mut emitter, &transaction(2, 2)).unwrap();
    let expected = [at(1, 0), at(1, 1), at(2, 0), at(2, 0), at(2, 1)];
    assert_eq!(positions(&*storage), expected);
}

#[test]
fn what_contradicts_the_checkpoint_is_refused_by_name() {
    let cases: [(&str, Damage); 6] = [
        ("shorter", |storage| {
            let file = storage
                .open(&dir().join(PART), OpenMode::ReadWrite)
                .unwrap();
            file.set_len(file.len().unwrap() - 1).unwrap();
        }),
        ("not those", |storage| {
            let file = storage
                .open(&dir().join(PART), OpenMode::ReadWrite)
                .unwrap();
            file.write_all_at(b"[", 0).unwrap();
        }),
        ("gone", |storage| {
            storage.remove(&dir().join(PART)).unwrap();
        }),
        ("closed and open", |storage| {
            write(storage, &PART[..PART.len() - 5], b"x\n");
        }),
        ("shorter", |storage| {
            let file = storage
                .open(&dir().join("MANIFEST.jsonl"), OpenMode::ReadWrite)
                .unwrap();
            file.set_len(file.len().unwrap() - 1).unwrap();
        }),
        ("damaged", |storage| {
            let file = storage
                .open(&dir().join("MANIFEST.jsonl"), OpenMode::ReadWrite)
                .unwrap();
            file.write_all_at(b"9", 20).unwrap();
        }),
    ];
    for (expected, damage) in cases {
        let disk = SimStorage::new();
        let mut config = config(&disk);
        config.rotate_bytes = 400;
        let mut emitter = open(config.clone(), None);
        for commit in 1..4 {
            emit(&mut emitter, &transaction(commit, 1)).unwrap();
        }
        let mark = flush(&mut emitter);
        assert_eq!(names(&*shared(&disk)), ["MANIFEST.jsonl", CLOSED, PART]);
        drop(emitter);
        damage(&*shared(&disk));
        let mut emitter = FileEmitter::new(config).unwrap();
        let error = resume(&mut emitter, Some(&checkpoint(&mark))).unwrap_err();
        assert_eq!(error.kind, EmitErrorKind::Fatal, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_state_that_is_not_ours_is_refused() {
    let disk = SimStorage::new();
    let mut mark = cdc_core::DurableMark::default();
    for state in [&b"\x01webhook"[..], &[9; 40]] {
        mark.state = bytes::Bytes::copy_from_slice(state);
        let mut emitter = FileEmitter::new(config(&disk)).unwrap();
        let error = resume(&mut emitter, Some(&checkpoint(&mark))).unwrap_err();
        assert_eq!(error.kind, EmitErrorKind::Fatal);
    }
}

#[test]
fn without_fsync_a_power_cut_costs_lines_but_not_the_start() {
    let disk = SimStorage::new();
    let mut config = config(&disk);
    config.fsync = Fsync::None;
    for seed in 0..40 {
        let mut emitter = open(config.clone(), None);
        let commit = seed * 10 + 1;
        emit(&mut emitter, &transaction(commit, 20)).unwrap();
        let mark = emitter.durable().unwrap().unwrap();
        drop(emitter);
        disk.crash(seed);
        let mut emitter = open(config.clone(), Some(&checkpoint(&mark)));
        emit(&mut emitter, &transaction(commit + 1, 1)).unwrap();
        flush(&mut emitter);
        assert_eq!(positions(&*shared(&disk)).last(), Some(&at(commit + 1, 0)));
    }
}
