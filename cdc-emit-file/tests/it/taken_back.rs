//! Files closed behind the checkpoint are taken back at the next start, and that is interrupted.

use cdc_core::storage::OpenMode;
use cdc_core::testing::sim_storage::{Failure, SimStorage};
use cdc_core::{Checkpoint, Position};
use cdc_emit_file::{Compress, FileConfig, FileEmitter, Problem};

use crate::{
    all, checkpoint, config, content, dir, emit, flush, names, open, positions, resume, shared,
    transaction, verified,
};

/// Behind the checkpoint: one whose name sorts before its position, as of a redriven letter, and more.
const BEHIND: [u64; 4] = [3, 6, 7, 8];

/// Each transaction closes a file, or two and a half do: then one is open at the checkpoint and closed later.
const ROTATIONS: [u64; 2] = [1, 2500];

/// Files up to the checkpoint, and behind it.
fn closed_behind(config: &FileConfig) -> Checkpoint {
    let mut emitter = open(config.clone(), None);
    for commit in [1, 5] {
        emit(&mut emitter, &transaction(commit, 3)).unwrap();
    }
    let stored = checkpoint(&flush(&mut emitter));
    for commit in BEHIND {
        emit(&mut emitter, &transaction(commit, 3)).unwrap();
    }
    flush(&mut emitter);
    emitter.finish_compression();
    stored
}

/// Where an operator has moved the emitter: to the end of a transaction, without a state.
fn moved_to(commit: u64) -> Checkpoint {
    Checkpoint {
        lineage: cdc_core::testing::source().lineage,
        position: transaction(commit, 3).end(),
        state: bytes::Bytes::new(),
        stored_micros: 0,
    }
}

/// Nothing is wrong but for a line that the power took while it was written.
fn whole(disk: &SimStorage) {
    let mut problems = verified(&*shared(disk)).problems;
    problems.retain(|problem| *problem != Problem::TornManifest);
    assert_eq!(problems, []);
}

fn goes_on(disk: &SimStorage, emitter: &mut FileEmitter, commits: &[u64]) -> Vec<Position> {
    for commit in commits {
        emit(emitter, &transaction(*commit, 3)).unwrap();
    }
    flush(emitter);
    emitter.finish_compression();
    assert!(verified(&*shared(disk)).is_whole());
    let mut found = positions(&*shared(disk));
    found.sort_unstable();
    found
}

/// A start from `from` whose call number `call` fails; true if it came to its end. Then the power goes.
fn starts(
    disk: &SimStorage,
    config: &FileConfig,
    from: &Checkpoint,
    (call, failure, seed): (u64, Failure, u64),
) -> bool {
    disk.fail_after(call, failure);
    let mut emitter = FileEmitter::new(config.clone()).unwrap();
    let ended = resume(&mut emitter, Some(from)).is_ok();
    drop(emitter);
    disk.clear_failure();
    disk.crash(seed);
    whole(disk);
    ended
}

/// Interrupts a first start at every call in turn, and a second one from `second` at every call; then a third one,
/// from there as well, delivers `commits` and has every event, each once unless it `repeats`.
fn interrupted(second: impl Fn(&Checkpoint) -> Checkpoint, commits: &[u64], repeats: bool) {
    let cases = [Compress::None, Compress::Gzip]
        .into_iter()
        .flat_map(|compress| ROTATIONS.map(|rotate_bytes| (compress, rotate_bytes)))
        .flat_map(|case| [Failure::Stop, Failure::Forget].map(|failure| (case, failure)));
    for ((compress, rotate_bytes), failure) in cases {
        let mut calls = 0;
        let mut first_ends = false;
        while !first_ends {
            let mut again = 0;
            let mut second_ends = false;
            while !second_ends {
                // Both ways of power to go, but where it takes long.
                let seeds = if failure == Failure::Stop && compress == Compress::None {
                    2
                } else {
                    1
                };
                for seed in 0..seeds {
                    let disk = SimStorage::new();
                    let mut config = FileConfig {
                        rotate_bytes,
                        compress,
                        ..config(&disk)
                    };
                    let stored = closed_behind(&config);
                    disk.crash(seed);
                    first_ends = starts(&disk, &config, &stored, (calls, failure, seed));
                    let from = second(&stored);
                    second_ends = starts(&disk, &config, &from, (again, failure, seed + 7));
                    // Boundaries differ now, so what is missing is not made again by its name.
                    config.rotate_bytes = 1 << 20;
                    let mut emitter = open(config, Some(&from));
                    let mut found = goes_on(&disk, &mut emitter, commits);
                    if repeats {
                        found.dedup();
                    }
                    let expected = [1, 3, 5, 6, 7, 8].map(|commit| transaction(commit, 3));
                    assert_eq!(
                        found,
                        all(&expected),
                        "{compress:?} {rotate_bytes} {failure:?} {calls} {again} {seed}"
                    );
                }
                again += 1;
            }
            calls += 1;
        }
        assert!(calls > 6, "{calls}");
    }
}

#[test]
fn the_same_checkpoint_repeats_nothing() {
    interrupted(Checkpoint::clone, &BEHIND, false);
}

/// The checkpoint is moved back meanwhile, and the state with it: what is there stays, and is explained.
#[test]
fn a_checkpoint_that_is_moved_finds_every_listed_file() {
    interrupted(|_| moved_to(1), &[5, 3, 6, 7, 8], true);
}

/// Nothing is known of it: it is nobody's to remove.
#[test]
fn a_compressed_file_that_no_line_explains_is_left_alone() {
    let disk = SimStorage::new();
    let config = FileConfig {
        rotate_bytes: 1,
        compress: Compress::Gzip,
        ..config(&disk)
    };
    drop(closed_behind(&config));
    let storage = shared(&disk);
    storage
        .remove(&dir().join(cdc_emit_file::MANIFEST))
        .unwrap();
    let before = positions(&*storage);
    let moved = moved_to(8);
    let mut emitter = open(config.clone(), Some(&moved));
    let stored = checkpoint(&flush(&mut emitter));
    drop(emitter);
    drop(open(config, Some(&stored)));
    assert_eq!(positions(&*storage), before);
}

/// Files are carried off by name: one of that name that is another would be taken for it.
#[test]
fn a_name_that_a_line_has_is_never_used_again() {
    for compress in [Compress::None, Compress::Gzip] {
        let disk = SimStorage::new();
        let config = FileConfig {
            rotate_bytes: 1,
            compress,
            ..config(&disk)
        };
        drop(closed_behind(&config));
        let storage = shared(&disk);
        let carried = names(&*storage)
            .into_iter()
            .find(|name| name.contains("-00000000000000000005-"))
            .unwrap();
        storage.remove(&dir().join(&carried)).unwrap();
        let moved = moved_to(1);
        let again = FileConfig {
            rotate_bytes: 1 << 20,
            ..config.clone()
        };
        let mut emitter = open(again.clone(), Some(&moved));
        emit(&mut emitter, &transaction(5, 3)).unwrap();
        let stored = checkpoint(&flush(&mut emitter));
        drop(emitter);
        assert!(!names(&*storage).contains(&carried));
        let mut emitter = open(again, Some(&stored));
        emit(&mut emitter, &transaction(6, 3)).unwrap();
        flush(&mut emitter);
        let name = carried.trim_end_matches(".gz").to_owned();
        assert_eq!(
            verified(&*storage).problems,
            [Problem::Missing { name }],
            "only what was carried off is missing"
        );
    }
}

/// Anybody may decompress a file, also between two starts that are interrupted.
#[test]
fn a_file_decompressed_by_hand_beside_its_mark_is_gone_on_with() {
    let disk = SimStorage::new();
    let config = FileConfig {
        rotate_bytes: 2500,
        compress: Compress::Gzip,
        ..config(&disk)
    };
    let stored = closed_behind(&config);
    let storage = shared(&disk);
    let packed = names(&*storage)
        .into_iter()
        .find(|name| name.contains("-00000000000000000001-") && name.ends_with(".gz"))
        .unwrap();
    let name = packed.trim_end_matches(".gz");
    let plain = content(&*storage, &packed);
    let make = |name: &str, bytes: &[u8]| {
        let file = storage.open(&dir().join(name), OpenMode::CreateNew);
        file.unwrap().write_all_at(bytes, 0).unwrap();
    };
    make(name, &plain);
    make(&format!("{name}.part"), &[]);
    storage.remove(&dir().join(&packed)).unwrap();
    let mut emitter = open(config, Some(&stored));
    let found = goes_on(&disk, &mut emitter, &BEHIND);
    let expected = [1, 3, 5, 6, 7, 8].map(|commit| transaction(commit, 3));
    assert_eq!(found, all(&expected));
}

/// Killed between the two steps that end compressing: both forms are there, and one cannot be read.
#[test]
fn a_whole_file_is_not_given_up_for_its_compressed_form() {
    for behind in [false, true] {
        let disk = SimStorage::new();
        let config = FileConfig {
            rotate_bytes: if behind { 1 } else { 2500 },
            ..config(&disk)
        };
        let stored = closed_behind(&config);
        let storage = shared(&disk);
        for name in names(&*storage) {
            if name.ends_with(".ndjson") {
                let packed = dir().join(format!("{name}.gz"));
                let file = storage.open(&packed, OpenMode::CreateNew).unwrap();
                file.write_all_at(b"damaged", 0).unwrap();
            }
        }
        let mut emitter = open(config, Some(&stored));
        for commit in BEHIND {
            emit(&mut emitter, &transaction(commit, 3)).unwrap();
        }
        flush(&mut emitter);
        drop(emitter);
        for name in names(&*storage) {
            if name.ends_with(".gz") {
                storage.remove(&dir().join(name)).unwrap();
            }
        }
        let mut found = positions(&*storage);
        found.sort_unstable();
        let expected = [1, 3, 5, 6, 7, 8].map(|commit| transaction(commit, 3));
        assert_eq!(found, all(&expected), "{behind}");
    }
}
