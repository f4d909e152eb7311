//! Files closed behind the checkpoint are taken back at the next start, and that is interrupted.

use cdc_core::testing::sim_storage::{Failure, SimStorage};
use cdc_core::{Checkpoint, Position};
use cdc_emit_file::{Compress, FileConfig, FileEmitter};

use crate::{
    all, checkpoint, config, emit, flush, open, positions, resume, shared, transaction, verified,
};

/// Two closed files up to the checkpoint; behind it one whose name sorts before its position, as of a redriven
/// letter, and two more.
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

const BEHIND: [u64; 3] = [3, 6, 7];

fn goes_on(disk: &SimStorage, emitter: &mut FileEmitter, commits: &[u64]) -> Vec<Position> {
    for commit in commits {
        emit(emitter, &transaction(*commit, 3)).unwrap();
    }
    flush(emitter);
    emitter.finish_compression();
    let verified = verified(&*shared(disk));
    assert!(verified.is_whole(), "{:?}", verified.problems);
    let mut found = positions(&*shared(disk));
    found.sort_unstable();
    found
}

/// Interrupts it at every call in turn, has `then` look, and says how often that was.
fn interrupted(failure: Failure, then: impl Fn(&SimStorage, FileConfig, &Checkpoint)) -> u64 {
    let mut calls = 0;
    for compress in [Compress::None, Compress::Gzip] {
        for call in 0.. {
            let mut ended = false;
            for seed in 0..4 {
                let disk = SimStorage::new();
                let config = FileConfig {
                    rotate_bytes: 1,
                    compress,
                    ..config(&disk)
                };
                let stored = closed_behind(&config);
                disk.crash(seed);
                disk.fail_after(call, failure);
                let mut emitter = FileEmitter::new(config.clone()).unwrap();
                ended = resume(&mut emitter, Some(&stored)).is_ok();
                drop(emitter);
                disk.clear_failure();
                disk.crash(seed);
                let looked = verified(&*shared(&disk));
                assert!(looked.is_whole(), "{:?}", looked.problems);
                then(&disk, config, &stored);
            }
            if ended {
                break;
            }
            calls += 1;
        }
    }
    calls
}

#[test]
fn the_same_checkpoint_repeats_nothing() {
    for failure in [Failure::Stop, Failure::Forget] {
        let calls = interrupted(failure, |disk, config, stored| {
            let mut emitter = open(config, Some(stored));
            let found = goes_on(disk, &mut emitter, &BEHIND);
            let expected = [1, 3, 5, 6, 7].map(|commit| transaction(commit, 3));
            assert_eq!(found, all(&expected));
        });
        assert!(calls > 10, "{calls}");
    }
}

/// The checkpoint is moved back meanwhile, and the state with it: what is there stays, and is explained.
#[test]
fn a_checkpoint_that_is_moved_finds_every_listed_file() {
    for failure in [Failure::Stop, Failure::Forget] {
        let calls = interrupted(failure, |disk, config, stored| {
            let moved = Checkpoint {
                position: transaction(1, 3).end(),
                state: bytes::Bytes::new(),
                ..stored.clone()
            };
            // Boundaries differ now, so what is missing is not made again by its name.
            let config = FileConfig {
                rotate_bytes: 1 << 20,
                ..config
            };
            let mut emitter = open(config, Some(&moved));
            let mut found = goes_on(disk, &mut emitter, &[5, 3, 6, 7]);
            found.dedup();
            let expected = [1, 3, 5, 6, 7].map(|commit| transaction(commit, 3));
            assert_eq!(found, all(&expected));
        });
        assert!(calls > 10, "{calls}");
    }
}
