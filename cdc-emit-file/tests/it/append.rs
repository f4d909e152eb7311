//! Append mode: what a reader has seen stays, through losses and deaths at any call.

use cdc_core::storage::{OpenMode, Storage};
use cdc_core::testing::sim_storage::{Failure, SimStorage};
use cdc_core::{Checkpoint, EmitErrorKind, Emitter, Position};
use cdc_emit_file::{Compress, FileConfig, FileEmitter, OnRestart};

use crate::{
    all, checkpoint, config, dir, emit, flush, names, now, open, positions, resume, shared,
    transaction, verified,
};

const FIRST: &str = "shop-00000000000000000001-0000000000.ndjson";

fn appending(disk: &SimStorage, compress: Compress) -> FileConfig {
    FileConfig {
        on_restart: OnRestart::Append,
        rotate_bytes: 700,
        compress,
        ..config(disk)
    }
}

/// An emitter with a checkpoint inside its first file, which is closed behind it, and compressed if it
/// is to be; and a second one closed behind that.
fn closed_behind(config: &FileConfig) -> (FileEmitter, Checkpoint) {
    let mut emitter = open(config.clone(), None);
    emit(&mut emitter, &transaction(1, 2)).unwrap();
    let from = checkpoint(&flush(&mut emitter));
    for commit in 2..5 {
        emit(&mut emitter, &transaction(commit, 2)).unwrap();
    }
    flush(&mut emitter);
    assert!(emitter.finish_compression());
    (emitter, from)
}

/// Every position of `seen` is still there as often as it was.
fn holds(storage: &dyn Storage, seen: &[Position]) -> bool {
    let mut found = positions(storage);
    seen.iter().all(|position| {
        let at = found.iter().position(|found| found == position);
        at.map(|at| found.swap_remove(at)).is_some()
    })
}

#[test]
fn a_loss_and_a_death_behind_it_take_nothing_that_was_seen() {
    for compress in [Compress::None, Compress::Gzip] {
        for n in 0.. {
            let disk = SimStorage::new();
            let storage = shared(&disk);
            let config = appending(&disk, compress);
            let (mut emitter, from) = closed_behind(&config);
            let seen = positions(&*storage);
            // The write into a new file fails, the lane goes back to its checkpoint, and dies on the way.
            disk.fail_after(1, Failure::Once);
            emit(&mut emitter, &transaction(5, 2)).unwrap();
            now(emitter.flush()).unwrap_err();
            disk.fail_after(n, Failure::Stop);
            let died = resume(&mut emitter, Some(&from)).is_err();
            if died {
                disk.kill();
                emitter = open(config.clone(), Some(&from));
            }
            assert!(holds(&*storage, &seen), "{compress:?}, call {n}");
            disk.clear_failure();
            for commit in 2..9 {
                emit(&mut emitter, &transaction(commit, 2)).unwrap();
            }
            flush(&mut emitter);
            assert!(emitter.finish_compression());
            assert!(holds(&*storage, &seen), "{compress:?}, call {n}");
            let batches: Vec<_> = (1..9).map(|commit| transaction(commit, 2)).collect();
            assert!(holds(&*storage, &all(&batches)), "{compress:?}, call {n}");
            let found = verified(&*storage);
            assert!(found.is_whole(), "{compress:?}, call {n}: {found:?}");
            if !died {
                assert!(n > 1, "a start has {n} calls only");
                break;
            }
        }
    }
}

/// The mode is changed between a start that died and the next one, or the position is set.
#[test]
fn a_start_that_died_opening_a_compressed_file_again_costs_nothing_of_it() {
    for set in [false, true] {
        for n in 0.. {
            let disk = SimStorage::new();
            let storage = shared(&disk);
            let config = appending(&disk, Compress::Gzip);
            let (emitter, from) = closed_behind(&config);
            drop(emitter);
            let mut truncating = config.clone();
            truncating.on_restart = OnRestart::Truncate;
            disk.fail_after(n, Failure::Stop);
            let mut emitter = FileEmitter::new(truncating).unwrap();
            let died = resume(&mut emitter, Some(&from)).is_err();
            drop(emitter);
            disk.kill();
            let mut emitter = open(config.clone(), (!set).then_some(&from));
            let acknowledged = all(&[transaction(1, 2)]);
            assert!(holds(&*storage, &acknowledged), "call {n}");
            for commit in 2..9 {
                emit(&mut emitter, &transaction(commit, 2)).unwrap();
            }
            assert!(emitter.finish_compression());
            drop(emitter);
            drop(open(config.clone(), None));
            assert!(holds(&*storage, &acknowledged), "call {n}");
            if !died {
                assert!(n > 5, "a start has {n} calls only");
                break;
            }
        }
    }
}

#[test]
fn an_open_file_that_lacks_what_the_checkpoint_knows_is_refused() {
    type Damage = fn(&dyn Storage, &std::path::Path);
    let cases: [(&str, Damage); 2] = [
        ("shorter", |storage, path| {
            let file = storage.open(path, OpenMode::ReadWrite).unwrap();
            file.set_len(file.len().unwrap() - 1).unwrap();
        }),
        ("gone", |storage, path| storage.remove(path).unwrap()),
    ];
    for (what, damage) in cases {
        let disk = SimStorage::new();
        let storage = shared(&disk);
        let config = appending(&disk, Compress::None);
        let mut emitter = open(config.clone(), None);
        emit(&mut emitter, &transaction(1, 2)).unwrap();
        let from = checkpoint(&flush(&mut emitter));
        drop(emitter);
        damage(&*storage, &dir().join(format!("{FIRST}.part")));
        let before = lengths(&*storage);
        let mut emitter = FileEmitter::new(config.clone()).unwrap();
        let error = resume(&mut emitter, Some(&from)).unwrap_err();
        assert_eq!(error.kind, EmitErrorKind::Fatal, "{error}");
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(lengths(&*storage), before, "nothing is touched");
    }
}

/// Each file with its length.
fn lengths(storage: &dyn Storage) -> Vec<(String, u64)> {
    let length = |name: &str| {
        let file = storage.open(&dir().join(name), OpenMode::Read).unwrap();
        file.len().unwrap()
    };
    let names = names(storage).into_iter();
    names.map(|name| (name.clone(), length(&name))).collect()
}
