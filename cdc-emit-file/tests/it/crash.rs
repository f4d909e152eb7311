//! The crash matrix: every call to the disk fails once, or kills the process there.

use cdc_core::testing::sim_storage::{Failure, SimStorage};
use cdc_core::{Checkpoint, Emitter, EventBatch, Position, testing};
use cdc_emit_file::{Compress, FileConfig, FileEmitter, Fsync, OnRestart};

use crate::{all, checkpoint, config, emit, now, positions, resume, shared, transaction, verified};

/// Rotations inside and between batches, a transaction over several batches, single events.
fn workload() -> Vec<EventBatch> {
    let mut batches = vec![transaction(1, 2), transaction(2, 1), transaction(3, 4)];
    let long = transaction(5, 7);
    batches.extend([long.slice(0..3), long.slice(3..6), long.slice(6..7)]);
    let several: Vec<_> = (6..10)
        .flat_map(|commit| transaction(commit, 2).into_events())
        .collect();
    let end = Position::end_of(cdc_core::Lsn(10));
    batches.push(EventBatch::new(testing::source(), several, end));
    batches.extend((11..15).map(|commit| transaction(commit, 1)));
    batches
}

/// A lane in a few lines: emits, stores the mark every second batch, goes back when told to.
struct Lane {
    disk: SimStorage,
    config: FileConfig,
    checkpoint: Option<Checkpoint>,
    /// Stores the mark right after the first resume, as a lane may.
    eager: bool,
    failure: Failure,
    seed: u64,
    crashes: u32,
    /// A process died before any checkpoint had the emitter's state.
    early: bool,
}

impl Lane {
    /// True if the process is dead: then the power is cut too.
    fn died(&mut self) -> bool {
        if self.failure == Failure::Stop && self.disk.has_failed() && self.crashes == 0 {
            self.early |= self.checkpoint.as_ref().is_none_or(|c| c.state.is_empty());
            self.crashes += 1;
            return true;
        }
        false
    }

    fn run(&mut self, batches: &[EventBatch]) {
        for _process in 0..3 {
            let mut emitter = FileEmitter::new(self.config.clone()).unwrap();
            if self.process(&mut emitter, batches) {
                return;
            }
            drop(emitter);
            self.disk.crash(self.seed);
        }
        panic!("the lane does not come to its end");
    }

    /// False if the process died.
    fn process(&mut self, emitter: &mut FileEmitter, batches: &[EventBatch]) -> bool {
        'back: for _attempt in 0..10 {
            if let Err(error) = resume(emitter, self.checkpoint.as_ref()) {
                if self.died() {
                    return false;
                }
                assert_ne!(error.kind, cdc_core::EmitErrorKind::Fatal, "{error}");
                continue;
            }
            if self.eager {
                let mark = emitter.durable().unwrap().unwrap();
                self.checkpoint = Some(checkpoint(&mark));
            }
            let from = self
                .checkpoint
                .as_ref()
                .map_or(Position::ZERO, |c| c.position);
            for (index, batch) in batches.iter().enumerate() {
                if batch.end() <= from {
                    continue;
                }
                // A checkpoint inside a batch: the source gives only what lies behind it.
                let done = batch.events().iter().filter(|e| e.position <= from).count();
                let batch = batch.slice(done..batch.len());
                let mut attempts = 0;
                while let Err(error) = emit(emitter, &batch) {
                    if self.died() {
                        return false;
                    }
                    attempts += 1;
                    assert!(attempts < 5, "{error}");
                }
                let flushing = index % 4 == 3;
                let mark = if flushing {
                    now(emitter.flush())
                } else {
                    emitter.durable()
                };
                if self.config.compress == Compress::Gzip && mark.is_ok() {
                    // At once, so that every run makes the same calls in the same order.
                    emitter.finish_compression();
                    if self.died() {
                        return false;
                    }
                }
                match mark {
                    Ok(mark) if index % 2 == 1 => {
                        self.checkpoint = Some(checkpoint(&mark.unwrap()));
                    }
                    Ok(_) => {}
                    Err(_) if self.died() => return false,
                    Err(_) => continue 'back,
                }
            }
            match now(emitter.flush()) {
                Ok(mark) => {
                    let mark = mark.unwrap();
                    assert_eq!(mark.through, batches.last().unwrap().end());
                    self.checkpoint = Some(checkpoint(&mark));
                    emitter.finish_compression();
                    if self.died() {
                        return false;
                    }
                    return true;
                }
                Err(_) if self.died() => return false,
                Err(_) => {}
            }
        }
        panic!("the emitter does not come to its end");
    }
}

/// Fails every call of the workload in turn, and gives how many there were.
fn matrix(change: impl Fn(&mut FileConfig), eager: bool, failure: Failure, check: impl Fn(&Lane)) {
    let batches = workload();
    for n in 0.. {
        let mut probe = config(&SimStorage::new());
        change(&mut probe);
        // Without a crash the dice are not rolled; compressing takes its time.
        let seeds = match (failure, probe.compress) {
            (Failure::Stop, Compress::None) => 5,
            (Failure::Stop, Compress::Gzip) => 2,
            _ => 1,
        };
        for seed in 0..seeds {
            let disk = SimStorage::new();
            let mut config = config(&disk);
            config.rotate_bytes = 700;
            change(&mut config);
            disk.fail_after(n, failure);
            let mut lane = Lane {
                disk: disk.clone(),
                config,
                checkpoint: None,
                eager,
                failure,
                seed,
                crashes: 0,
                early: false,
            };
            lane.run(&batches);
            if !disk.has_failed() {
                assert!(n > 30, "the workload has {n} calls only");
                return;
            }
            let verified = verified(&*shared(&disk));
            assert!(verified.is_whole(), "call {n}: {:?}", verified.problems);
            assert!(verified.files > 2);
            check(&lane);
        }
    }
}

fn exactly_once(lane: &Lane) {
    assert_eq!(positions(&*shared(&lane.disk)), all(&workload()));
}

/// Every event is there, and each file is in order but for where a repeat begins.
fn no_hole(lane: &Lane) {
    let mut found = positions(&*shared(&lane.disk));
    found.sort_unstable();
    found.dedup();
    assert_eq!(found, all(&workload()));
}

#[test]
fn truncate_repeats_nothing_wherever_the_process_dies() {
    for fsync in [
        Fsync::Batch,
        Fsync::Interval(std::time::Duration::from_secs(3600)),
    ] {
        matrix(
            |config| config.fsync = fsync,
            true,
            Failure::Stop,
            exactly_once,
        );
    }
}

#[test]
fn truncate_repeats_nothing_whatever_call_fails() {
    for fsync in [
        Fsync::Batch,
        Fsync::Interval(std::time::Duration::from_secs(3600)),
    ] {
        for eager in [true, false] {
            matrix(
                |config| config.fsync = fsync,
                eager,
                Failure::Once,
                exactly_once,
            );
        }
    }
}

#[test]
fn before_the_first_stored_state_a_death_repeats_and_loses_nothing() {
    matrix(
        |_| {},
        false,
        Failure::Stop,
        |lane| {
            if lane.early {
                no_hole(lane);
            } else {
                exactly_once(lane);
            }
        },
    );
}

#[test]
fn compressing_repeats_and_loses_nothing_wherever_the_process_dies_or_a_call_fails() {
    for failure in [Failure::Stop, Failure::Once] {
        matrix(
            |config| {
                config.compress = Compress::Gzip;
                config.rotate_bytes = 1500;
            },
            true,
            failure,
            |lane| {
                exactly_once(lane);
                let verified = verified(&*shared(&lane.disk));
                // A file whose compression failed waits for the next one to be closed.
                assert!(verified.compressed + 1 >= verified.files, "{verified:?}");
            },
        );
    }
}

#[test]
fn append_leaves_no_hole() {
    for failure in [Failure::Stop, Failure::Once] {
        for eager in [true, false] {
            let append = |config: &mut FileConfig| config.on_restart = OnRestart::Append;
            matrix(append, eager, failure, no_hole);
        }
        let packed = |config: &mut FileConfig| {
            config.on_restart = OnRestart::Append;
            config.compress = Compress::Gzip;
        };
        matrix(packed, true, failure, no_hole);
    }
}

/// Emits what the checkpoint lacks, until something fails.
fn emit_all(emitter: &mut FileEmitter, from: &mut Option<Checkpoint>, keep: bool) -> bool {
    if resume(emitter, from.as_ref()).is_err() {
        return false;
    }
    for batch in workload() {
        if from
            .as_ref()
            .is_some_and(|from| batch.end() <= from.position)
        {
            continue;
        }
        match emit(emitter, &batch).map(|_| now(emitter.flush())) {
            Ok(Ok(mark)) if keep => *from = mark.as_ref().map(checkpoint),
            Ok(Ok(_)) => {}
            _ => return false,
        }
    }
    true
}

/// Linux calls the bytes of a failed sync clean. A process that finds them, and promises more behind
/// them, has to write them again.
#[test]
fn a_failed_sync_takes_nothing_that_a_later_process_promises() {
    for keep in [true, false] {
        for n in 0.. {
            let mut failed = true;
            for seed in 0..5 {
                let disk = SimStorage::new();
                let config = FileConfig {
                    on_restart: OnRestart::Append,
                    rotate_bytes: 700,
                    ..config(&disk)
                };
                let mut checkpoint = None;
                disk.fail_after(n, Failure::Forget);
                let mut emitter = FileEmitter::new(config.clone()).unwrap();
                emit_all(&mut emitter, &mut checkpoint, keep);
                failed = disk.has_failed();
                disk.kill();
                drop(emitter);
                let mut emitter = FileEmitter::new(config.clone()).unwrap();
                assert!(emit_all(&mut emitter, &mut checkpoint, true), "call {n}");
                disk.stop();
                drop(emitter);
                disk.crash(seed);
                let mut emitter = FileEmitter::new(config.clone()).unwrap();
                resume(&mut emitter, checkpoint.as_ref()).unwrap();
                let verified = verified(&*shared(&disk));
                assert!(verified.is_whole(), "call {n}: {:?}", verified.problems);
                let mut found = positions(&*shared(&disk));
                found.sort_unstable();
                found.dedup();
                assert_eq!(found, all(&workload()), "call {n}");
            }
            if !failed {
                assert!(n > 30, "the workload has {n} calls only");
                break;
            }
        }
    }
}

#[test]
fn without_fsync_a_failing_call_loses_nothing() {
    let change = |config: &mut FileConfig| config.fsync = Fsync::None;
    matrix(change, true, Failure::Once, exactly_once);
}

#[test]
fn the_compact_form_survives_as_lines_do() {
    let batches = workload();
    let change = |config: &mut FileConfig| {
        config.encoder = cdc_core::envelope::Encoder::new(cdc_core::envelope::Format::Bincode);
        config.rotate_bytes = 300;
    };
    matrix(change, true, Failure::Stop, |lane| {
        let open: Vec<_> = verified(&*shared(&lane.disk)).open;
        assert!(open.len() <= 1, "{open:?}");
        let events = batches.iter().map(EventBatch::len).sum::<usize>() as u64;
        // The rest is in the open file, whose length the last mark knows.
        assert!(verified(&*shared(&lane.disk)).events <= events);
    });
}
