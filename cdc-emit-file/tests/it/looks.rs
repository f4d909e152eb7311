//! A mount that does not answer for a moment, at any look at a name: no file is taken for gone, and no name
//! for free.

use cdc_core::testing::sim_storage::SimStorage;
use cdc_core::{Checkpoint, EmitErrorKind, Emitter, EventBatch, Position};
use cdc_emit_file::{Compress, FileConfig, FileEmitter, Fsync, OnRestart};

use crate::{
    all, checkpoint, config, dir, emit, flush, now, open, positions, resume, shared, transaction,
    verified,
};

fn batches() -> Vec<EventBatch> {
    (1..9).map(|commit| transaction(commit, 2)).collect()
}

/// A process that wrote and closed all batches, and was killed; the checkpoints behind the first and
/// behind the last of them.
fn written(config: &FileConfig) -> [Checkpoint; 2] {
    let mut emitter = open(config.clone(), None);
    let marks = batches().into_iter().map(|batch| {
        emit(&mut emitter, &batch).unwrap();
        checkpoint(&flush(&mut emitter))
    });
    let marks: Vec<_> = marks.collect();
    assert!(emitter.finish_compression());
    [marks[0].clone(), marks[marks.len() - 1].clone()]
}

/// Goes on from a checkpoint as a lane does, until these batches are flushed.
fn go_on(config: &FileConfig, from: Option<&Checkpoint>, batches: &[EventBatch]) {
    let mut emitter = FileEmitter::new(config.clone()).unwrap();
    'back: for _attempt in 0..5 {
        if let Err(error) = resume(&mut emitter, from) {
            assert_ne!(error.kind, EmitErrorKind::Fatal, "{error}");
            continue;
        }
        for batch in batches {
            let mut tries = 0;
            while let Err(error) = emit(&mut emitter, batch) {
                assert_ne!(error.kind, EmitErrorKind::Fatal, "{error}");
                tries += 1;
                if tries > 1 {
                    continue 'back;
                }
            }
        }
        if now(emitter.flush()).is_ok() {
            emitter.finish_compression();
            return;
        }
    }
    panic!("the emitter does not come to its end");
}

/// Does it with every look failing in turn, after `written`; `check` is given what is there then.
fn each_look(
    config: impl Fn(&SimStorage) -> FileConfig,
    what: &str,
    go_on: impl Fn(&SimStorage, &FileConfig, [Checkpoint; 2], u64),
    check: impl Fn(Vec<Position>),
) {
    for look in 0.. {
        let disk = SimStorage::new();
        let config = config(&disk);
        let marks = written(&config);
        disk.kill();
        let failures = disk.failures();
        go_on(&disk, &config, marks, look);
        let failed = disk.failures() > failures;
        disk.clear_failure();
        let found = verified(&*shared(&disk));
        assert!(found.is_whole(), "{what}, look {look}: {found:?}");
        check(positions(&*shared(&disk)));
        if !failed {
            assert!(look > 3, "{what}: {look}");
            return;
        }
    }
}

fn sorted(mut positions: Vec<Position>) -> Vec<Position> {
    positions.sort_unstable();
    positions
}

fn without_repeats(positions: Vec<Position>) -> Vec<Position> {
    let mut positions = sorted(positions);
    positions.dedup();
    positions
}

/// Every mode, with a few words for it.
fn each_mode(run: impl Fn(&dyn Fn(&SimStorage) -> FileConfig, bool, &str)) {
    for fsync in [Fsync::Batch, Fsync::None] {
        for compress in [Compress::None, Compress::Gzip] {
            for on_restart in [OnRestart::Truncate, OnRestart::Append] {
                let of = |disk: &SimStorage| FileConfig {
                    fsync,
                    compress,
                    on_restart,
                    rotate_bytes: 700,
                    ..config(disk)
                };
                let what = format!("{fsync:?}, {compress:?}, {on_restart:?}");
                run(&of, on_restart == OnRestart::Truncate, &what);
            }
        }
    }
}

#[test]
fn a_start_loses_nothing_that_it_cannot_look_at() {
    each_mode(|config, truncates, what| {
        // The start alone, and with what it sends again.
        for again in [&[][..], &batches()[1..]] {
            each_look(
                config,
                what,
                |disk, config, [first, _], look| {
                    disk.fail_look_after(look);
                    go_on(config, Some(&first), again);
                },
                |found| match (truncates, again.is_empty()) {
                    (true, true) => assert_eq!(found, all(&batches()[..1]), "{what}"),
                    (true, false) => assert_eq!(found, all(&batches()), "{what}"),
                    (false, _) => assert_eq!(without_repeats(found), all(&batches()), "{what}"),
                },
            );
        }
    });
}

#[test]
fn a_closed_file_gets_its_name_although_it_cannot_be_looked_at() {
    each_mode(|config, truncates, what| {
        each_look(
            config,
            what,
            |disk, config, [_, last], look| {
                // As a death between the manifest and the rename leaves it.
                let names = shared(disk).list(&dir()).unwrap();
                if let Some(closed) = names.iter().rfind(|name| name.ends_with(".ndjson")) {
                    let part = dir().join(format!("{closed}.part"));
                    shared(disk).rename(&dir().join(closed), &part).unwrap();
                }
                disk.fail_look_after(look);
                go_on(config, Some(&last), &[transaction(9, 2)]);
            },
            |found| {
                let expected = all(&[batches(), vec![transaction(9, 2)]].concat());
                if truncates {
                    assert_eq!(found, expected, "{what}");
                } else {
                    assert_eq!(without_repeats(found), expected, "{what}");
                }
            },
        );
    });
}

#[test]
fn a_new_file_takes_no_name_that_it_cannot_look_at() {
    each_mode(|config, truncates, what| {
        each_look(
            config,
            what,
            |disk, config, _, look| {
                disk.fail_look_after(look);
                // The position was set back: the same events again, beside those that are there.
                go_on(config, None, &batches());
            },
            |found| {
                let twice = sorted([all(&batches()), all(&batches())].concat());
                let found = sorted(found);
                if truncates {
                    assert_eq!(found, twice, "{what}");
                } else {
                    let least = twice.chunk_by(|a, b| a == b);
                    let found: Vec<_> = found.chunk_by(|a, b| a == b).collect();
                    assert_eq!(found.len(), batches().len() * 2, "{what}");
                    let all = found.iter().zip(least).all(|(a, b)| a.len() >= b.len());
                    assert!(all, "{what}: {found:?}");
                }
            },
        );
    });
}
