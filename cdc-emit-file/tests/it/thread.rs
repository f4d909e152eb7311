//! Large batches, which a thread beside the lane writes, on a real disk whose writes a test holds back or
//! fails.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cdc_core::storage::StdStorage;
use cdc_core::testing::{Syncs, SyncsDisk, Writes};
use cdc_core::{DurableMark, EmitErrorKind, Emitter, EventBatch, Position};
use cdc_emit_file::{FileConfig, FileEmitter, Fsync};

use crate::{all, checkpoint, emit, flush, now, resume, transaction};

/// Events of a batch: more bytes than the lane would write itself.
const LARGE: u32 = 700;

fn large(commits: std::ops::Range<u64>) -> Vec<EventBatch> {
    commits.map(|commit| transaction(commit, LARGE)).collect()
}

/// An emitter on a real disk with one transaction durable.
fn begun(disk: &SyncsDisk, dir: &Path, fsync: Fsync) -> (FileEmitter, DurableMark) {
    let mut config = FileConfig::new(dir, "shop");
    config.storage = Arc::new(disk.clone());
    config.fsync = fsync;
    config.rotate_bytes = 1 << 20;
    let mut emitter = FileEmitter::new(config).unwrap();
    resume(&mut emitter, None).unwrap();
    emit(&mut emitter, &transaction(1, LARGE)).unwrap();
    let kept = flush(&mut emitter);
    (emitter, kept)
}

/// Lets the disk work when a test ends, also by a failure, so that its thread can.
struct Works(SyncsDisk);

impl Drop for Works {
    fn drop(&mut self) {
        self.0.set(Syncs::Work);
        self.0.set_writes(Writes::Work);
    }
}

/// Every position in the files, which are whole by their manifest and the mark's state.
fn found(dir: &Path, mark: &DurableMark) -> Vec<Position> {
    let state = checkpoint(mark).state;
    let verified = cdc_emit_file::verify_against(&StdStorage, dir, "shop", &state).unwrap();
    assert!(verified.is_whole(), "{:?}", verified.problems);
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    names.sort();
    let mut found = Vec::new();
    for path in names {
        if path.to_string_lossy().contains(".ndjson") {
            for line in std::fs::read_to_string(path).unwrap().lines() {
                let (_, rest) = line.split_once("\"position\":\"").unwrap();
                found.push(rest.split_once('"').unwrap().0.parse().unwrap());
            }
        }
    }
    found
}

fn expected(batches: &[EventBatch]) -> Vec<Position> {
    let first = transaction(1, LARGE);
    all(&[std::slice::from_ref(&first), batches].concat())
}

#[test]
fn what_a_thread_writes_is_what_was_given() {
    for fsync in [
        Fsync::Interval(Duration::ZERO),
        Fsync::default(),
        Fsync::None,
        Fsync::Batch,
    ] {
        let (disk, dir) = (SyncsDisk::new(), tempfile::tempdir().unwrap());
        let (mut emitter, _) = begun(&disk, dir.path(), fsync);
        // Small ones between, which may not overtake.
        let batches: Vec<_> = (2..60)
            .map(|commit| transaction(commit, if commit % 5 == 0 { 1 } else { LARGE }))
            .collect();
        let mut through = Position::ZERO;
        for batch in &batches {
            emit(&mut emitter, batch).unwrap();
            let mark = emitter.durable().unwrap().unwrap();
            assert!(mark.through >= through && mark.through <= batch.end());
            through = mark.through;
        }
        let mark = flush(&mut emitter);
        assert_eq!(mark.through, batches.last().unwrap().end());
        drop(emitter);
        assert_eq!(found(dir.path(), &mark), expected(&batches), "{fsync:?}");
    }
}

#[test]
fn a_slow_disk_holds_the_lane_back_when_so_much_is_on_its_way() {
    let (disk, dir) = (SyncsDisk::new(), tempfile::tempdir().unwrap());
    let (mut emitter, kept) = begun(&disk, dir.path(), Fsync::default());
    let batches = large(2..80);
    let _works = Works(disk.clone());
    disk.set_writes(Writes::Wait);
    // The first ones are taken though nothing is written.
    for batch in &batches[..8] {
        emit(&mut emitter, batch).unwrap();
        let mark = emitter.durable().unwrap().unwrap();
        assert_eq!(mark.through, kept.through);
    }
    // Far more than may be on its way (asserted inside): this waits until the disk works.
    let mark = std::thread::scope(|scope| {
        let (said, done) = std::sync::mpsc::channel();
        let lane = scope.spawn(move || {
            for batch in &large(2..80)[8..] {
                emit(&mut emitter, batch).unwrap();
            }
            said.send(()).unwrap();
            flush(&mut emitter)
        });
        while done.try_recv().is_err() {
            disk.set_writes(Writes::Work);
            std::thread::yield_now();
            disk.set_writes(Writes::Wait);
        }
        disk.set_writes(Writes::Work);
        lane.join().unwrap()
    });
    assert_eq!(found(dir.path(), &mark), expected(&batches));
}

#[test]
fn a_disk_that_fills_up_under_the_thread_is_waited_for() {
    let (disk, dir) = (SyncsDisk::new(), tempfile::tempdir().unwrap());
    let (mut emitter, _) = begun(&disk, dir.path(), Fsync::default());
    disk.set_writes(Writes::Full);
    let batches = large(2..20);
    let mut refused = 0;
    for batch in &batches {
        while let Err(error) = emit(&mut emitter, batch) {
            assert_eq!(
                error.kind,
                EmitErrorKind::EndpointRetry { retry_after: None }
            );
            assert!(error.to_string().contains("full"), "{error}");
            let told = emitter.durable().unwrap_err();
            assert!(told.to_string().contains("full"), "{told}");
            refused += 1;
            if refused == 3 {
                let error = now(emitter.flush()).unwrap_err();
                assert!(error.to_string().contains("full"), "{error}");
                disk.set_writes(Writes::Work);
            }
        }
    }
    assert_eq!(refused, 3, "the lane heard of it");
    let mark = flush(&mut emitter);
    assert_eq!(mark.through, batches.last().unwrap().end());
    drop(emitter);
    assert_eq!(found(dir.path(), &mark), expected(&batches));
}

#[test]
fn room_that_comes_back_while_the_lane_is_idle_is_used() {
    let (disk, dir) = (SyncsDisk::new(), tempfile::tempdir().unwrap());
    let (mut emitter, kept) = begun(&disk, dir.path(), Fsync::Interval(Duration::ZERO));
    disk.set_writes(Writes::Full);
    let batch = transaction(2, LARGE);
    // The thread may have met the full disk before the batch was given to its end.
    let taken = emit(&mut emitter, &batch).is_ok();
    assert!(now(emitter.flush()).is_err());
    let told = emitter.durable().unwrap_err();
    assert!(told.to_string().contains("full"), "{told}");
    assert!(kept.through < batch.end());
    disk.set_writes(Writes::Work);
    if !taken {
        emit(&mut emitter, &batch).unwrap();
    }
    // Nothing more comes: the lane only asks for the mark.
    let mark = loop {
        let mark = emitter.durable().unwrap().unwrap();
        if mark.through == batch.end() {
            break mark;
        }
        std::thread::yield_now();
    };
    drop(emitter);
    assert_eq!(found(dir.path(), &mark), expected(&[batch]));
}

#[test]
fn a_lane_that_goes_back_before_a_full_disk_hears_of_it_with_the_first_batch() {
    let (disk, dir) = (SyncsDisk::new(), tempfile::tempdir().unwrap());
    let (mut emitter, kept) = begun(&disk, dir.path(), Fsync::default());
    disk.set_writes(Writes::Full);
    let batches = large(2..4);
    // Whether or not the thread was that quick: nothing more comes, and the lane asks.
    let taken = emit(&mut emitter, &batches[0]);
    assert!(now(emitter.flush()).is_err(), "{taken:?}");
    assert!(emitter.durable().is_err());
    for _ in 0..3 {
        resume(&mut emitter, Some(&checkpoint(&kept))).unwrap();
        let error = emit(&mut emitter, &batches[0]).unwrap_err();
        assert!(error.to_string().contains("full"), "{error}");
    }
    disk.set_writes(Writes::Work);
    for batch in &batches {
        emit(&mut emitter, batch).unwrap();
    }
    let mark = flush(&mut emitter);
    drop(emitter);
    assert_eq!(found(dir.path(), &mark), expected(&batches));
}

#[test]
fn a_write_that_fails_under_the_thread_is_a_loss() {
    let (disk, dir) = (SyncsDisk::new(), tempfile::tempdir().unwrap());
    let (mut emitter, kept) = begun(&disk, dir.path(), Fsync::default());
    let batches = large(2..20);
    disk.set_writes(Writes::Fail);
    for batch in &batches {
        emit(&mut emitter, batch).unwrap();
    }
    let error = loop {
        match emitter.durable() {
            Ok(mark) => assert_eq!(mark.unwrap().through, kept.through),
            Err(error) => break error,
        }
        std::thread::yield_now();
    };
    assert!(error.to_string().contains("write to"), "{error}");
    disk.set_writes(Writes::Work);
    emit(&mut emitter, &batches[0]).unwrap();
    assert!(now(emitter.flush()).is_err(), "until the lane went back");
    resume(&mut emitter, Some(&checkpoint(&kept))).unwrap();
    for batch in &batches {
        emit(&mut emitter, batch).unwrap();
    }
    let mark = flush(&mut emitter);
    drop(emitter);
    assert_eq!(found(dir.path(), &mark), expected(&batches));
}

#[test]
fn what_is_on_its_way_when_the_lane_goes_back_or_ends_is_written_once() {
    for ends in [false, true] {
        let (disk, dir) = (SyncsDisk::new(), tempfile::tempdir().unwrap());
        let (mut emitter, kept) = begun(&disk, dir.path(), Fsync::default());
        let batches = large(2..20);
        let _works = Works(disk.clone());
        disk.set_writes(Writes::Wait);
        for batch in &batches[..8] {
            emit(&mut emitter, batch).unwrap();
        }
        let mut emitter = std::thread::scope(|scope| {
            scope.spawn(|| disk.set_writes(Writes::Work));
            if ends {
                drop(emitter);
                let mut config = FileConfig::new(dir.path(), "shop");
                config.storage = Arc::new(disk.clone());
                emitter = FileEmitter::new(config).unwrap();
            }
            resume(&mut emitter, Some(&checkpoint(&kept))).unwrap();
            emitter
        });
        for batch in &batches {
            emit(&mut emitter, batch).unwrap();
        }
        let mark = flush(&mut emitter);
        drop(emitter);
        assert_eq!(found(dir.path(), &mark), expected(&batches));
    }
}

/// A lane with a moody disk: everything arrives once, in order, and marks only cover what stays.
#[test]
fn any_moods_of_the_disk_lose_and_repeat_nothing() {
    for seed in 1..=6_u64 {
        let (disk, dir) = (SyncsDisk::new(), tempfile::tempdir().unwrap());
        let (mut emitter, mut kept) = begun(&disk, dir.path(), Fsync::Interval(Duration::ZERO));
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut dice = |sides: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % sides
        };
        let batches: Vec<_> = (2..30)
            .map(|commit| transaction(commit, if commit % 3 == 0 { 2 } else { LARGE }))
            .collect();
        let mut next = 0;
        let mut bad = 0;
        while next < batches.len() || kept.through < batches.last().unwrap().end() {
            // Bad times end.
            bad = if bad > 20 { 0 } else { bad + 1 };
            disk.set_writes(match dice(8) {
                0 if bad > 0 => Writes::Full,
                1 if bad > 0 && dice(3) == 0 => Writes::Fail,
                _ => Writes::Work,
            });
            disk.set(if bad > 0 && dice(12) == 0 {
                Syncs::Fail
            } else {
                Syncs::Work
            });
            let lost = if next < batches.len() && dice(4) > 0 {
                next += usize::from(emit(&mut emitter, &batches[next]).is_ok());
                false
            } else if dice(3) == 0 {
                match now(emitter.flush()) {
                    Ok(mark) => {
                        kept = mark.unwrap();
                        false
                    }
                    Err(_) => true,
                }
            } else {
                match emitter.durable() {
                    Ok(mark) => {
                        kept = mark.unwrap();
                        false
                    }
                    Err(_) => true,
                }
            };
            if lost {
                disk.set_writes(Writes::Work);
                disk.set(Syncs::Work);
                resume(&mut emitter, Some(&checkpoint(&kept))).unwrap();
                next = batches
                    .iter()
                    .position(|b| b.end() > kept.through)
                    .unwrap_or(batches.len());
            }
        }
        drop(emitter);
        assert_eq!(found(dir.path(), &kept), expected(&batches), "seed {seed}");
    }
}
