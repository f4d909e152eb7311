//! Full disks, failing syncs, other writers, events that cannot be encoded.

use cdc_core::testing::sim_storage::{Failure, SimStorage};
use cdc_core::{Delivery, EmitErrorKind, Emitter, EventBatch, Image, RowImage, testing};
use cdc_emit_file::{FileEmitter, Fsync};

use crate::{
    all, at, checkpoint, config, emit, flush, names, now, open, positions, resume, shared,
    transaction, verified,
};

const RETRY: EmitErrorKind = EmitErrorKind::EndpointRetry { retry_after: None };

/// Room runs out in every write in turn: lines, manifest, after a rotation inside a batch.
fn fill(fsync: Fsync, restarts: bool) {
    let several: Vec<_> = (2..6)
        .flat_map(|commit| transaction(commit, 2).into_events())
        .collect();
    let end = transaction(5, 2).end();
    let batches = [
        transaction(1, 2),
        EventBatch::new(testing::source(), several, end),
        transaction(6, 3),
    ];
    for capacity in (0..5000).step_by(37) {
        let disk = SimStorage::new();
        let mut config = config(&disk);
        config.rotate_bytes = 700;
        config.fsync = fsync;
        let mut emitter = open(config.clone(), None);
        disk.set_capacity(Some(capacity));
        for batch in &batches {
            let mut refused = 0;
            while let Err(error) = emit(&mut emitter, batch) {
                assert_eq!(error.kind, RETRY);
                assert!(error.to_string().contains("full"), "{error}");
                let mark = emitter.durable().unwrap().unwrap();
                assert!(mark.through < batch.events()[0].position);
                refused += 1;
                if refused > 2 {
                    disk.set_capacity(None);
                    if restarts {
                        // The checkpoint of a batch that is written in part lies before it.
                        drop(emitter);
                        emitter = open(config.clone(), Some(&checkpoint(&mark)));
                    }
                }
            }
        }
        flush(&mut emitter);
        let found = positions(&*shared(&disk));
        assert_eq!(found, all(&batches), "capacity {capacity}");
        let verified = verified(&*shared(&disk));
        assert!(verified.is_whole() && verified.files > 1, "{verified:?}");
    }
}

#[test]
fn a_full_disk_is_waited_for_without_loss_or_repeats() {
    for fsync in [Fsync::Batch, Fsync::None] {
        fill(fsync, false);
    }
}

#[test]
fn a_restart_on_a_full_disk_repeats_nothing() {
    for fsync in [Fsync::Batch, Fsync::None] {
        fill(fsync, true);
    }
}

/// While half a batch waits for room, an operator has a letter of an earlier event sent.
fn redrive_behind_half_a_batch(restarts: bool) {
    let mut first = transaction(1, 3).into_events();
    let letter = EventBatch::new(testing::source(), vec![first.remove(1)], at(1, 1));
    let first = EventBatch::new(testing::source(), first, transaction(1, 3).end());
    let several: Vec<_> = (2..6)
        .flat_map(|commit| transaction(commit, 2).into_events())
        .collect();
    let end = transaction(5, 2).end();
    let several = EventBatch::new(testing::source(), several, end);
    let mut went_back = 0;
    for capacity in (0..3000).step_by(37) {
        let disk = SimStorage::new();
        let mut config = config(&disk);
        config.rotate_bytes = 700;
        let mut emitter = open(config.clone(), None);
        emit(&mut emitter, &first).unwrap();
        let mut kept = flush(&mut emitter);
        disk.set_capacity(Some(disk.used() + capacity));
        let refused = emit(&mut emitter, &several).is_err();
        disk.set_capacity(None);
        emit(&mut emitter, &letter).unwrap();
        let told = now(emitter.flush());
        let due = told.is_err();
        match told {
            // The letter is closed, and the state stored with the position before the batch.
            Ok(mark) if refused => kept.state = mark.unwrap().state,
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind, RETRY);
                went_back += 1;
            }
        }
        if refused && restarts {
            drop(emitter);
            emitter = open(config.clone(), Some(&checkpoint(&kept)));
        } else if due {
            resume(&mut emitter, Some(&checkpoint(&kept))).unwrap();
        }
        if refused {
            emit(&mut emitter, &several).unwrap();
        }
        if due {
            emit(&mut emitter, &letter).unwrap();
        }
        flush(&mut emitter);
        let mut found = positions(&*shared(&disk));
        found.sort();
        let mut wanted = all(&[first.clone(), letter.clone(), several.clone()]);
        wanted.sort();
        assert_eq!(found, wanted, "capacity {capacity}");
        assert!(verified(&*shared(&disk)).is_whole());
    }
    assert!(went_back > 5, "{went_back}");
}

#[test]
fn a_letter_redriven_behind_half_a_batch_is_written_and_nothing_twice() {
    redrive_behind_half_a_batch(false);
    redrive_behind_half_a_batch(true);
}

/// A letter is taken, the next one, or a batch, only in part: what the barrier says then is stored, and the
/// letter is closed.
#[test]
fn a_barrier_behind_half_a_batch_does_not_leave_out_what_was_taken_before_it() {
    let hour = std::time::Duration::from_secs(3600);
    let letter = EventBatch::new(
        testing::source(),
        vec![transaction(1, 3).into_events().remove(1)],
        at(1, 1),
    );
    let several: Vec<_> = (2..6)
        .flat_map(|commit| transaction(commit, 2).into_events())
        .collect();
    let several = EventBatch::new(testing::source(), several, transaction(5, 2).end());
    let (mut closed, mut went_back) = (0, 0);
    for capacity in (0..3000).step_by(37) {
        let disk = SimStorage::new();
        let mut config = config(&disk);
        config.rotate_bytes = 700;
        config.fsync = Fsync::Interval(hour);
        let mut emitter = open(config.clone(), None);
        let mut kept = flush(&mut emitter);
        kept.through = transaction(1, 3).end();
        emit(&mut emitter, &letter).unwrap();
        disk.set_capacity(Some(disk.used() + capacity));
        if emit(&mut emitter, &several).is_ok() {
            break;
        }
        disk.set_capacity(None);
        match now(emitter.flush()) {
            Ok(mark) => {
                closed += 1;
                kept.state = mark.unwrap().state;
                drop(emitter);
                drop(open(config, Some(&checkpoint(&kept))));
                assert_eq!(positions(&*shared(&disk)), [at(1, 1)], "{capacity}");
            }
            Err(error) => {
                went_back += 1;
                assert_eq!(error.kind, RETRY);
                emitter.durable().unwrap_err();
                resume(&mut emitter, Some(&checkpoint(&kept))).unwrap();
                assert!(positions(&*shared(&disk)).is_empty(), "{capacity}");
            }
        }
    }
    assert!(closed > 3 && went_back > 3, "{closed} {went_back}");
}

/// A letter that cannot be encoded comes while a new file waits for room: its mark is one of that file.
#[test]
fn an_empty_file_that_a_mark_names_survives_a_power_cut() {
    for fsync in [
        Fsync::Batch,
        Fsync::Interval(std::time::Duration::from_secs(3600)),
    ] {
        for seed in 0..8 {
            let disk = SimStorage::new();
            let mut config = config(&disk);
            config.fsync = fsync;
            let mut emitter = open(config.clone(), None);
            disk.set_capacity(Some(0));
            emit(&mut emitter, &transaction(2, 2)).unwrap_err();
            let mut letter = transaction(1, 1).into_events();
            let bytes = bytes::Bytes::from_static(b"\xff\xff");
            letter[0].after = Image::Full(RowImage::from_bytes(bytes));
            let letter = EventBatch::new(testing::source(), letter, at(1, 0));
            assert_eq!(emit(&mut emitter, &letter).unwrap().rejected.len(), 1);
            let from = checkpoint(&flush(&mut emitter));
            assert!(!from.state.is_empty());
            disk.set_capacity(None);
            disk.crash(seed);
            drop(emitter);
            let mut emitter = open(config, Some(&from));
            emit(&mut emitter, &transaction(2, 2)).unwrap();
            flush(&mut emitter);
            assert_eq!(positions(&*shared(&disk)), all(&[transaction(2, 2)]));
        }
    }
}

#[test]
fn a_failed_sync_is_told_and_nothing_more_is_taken_until_the_lane_went_back() {
    let disk = SimStorage::new();
    let mut config = config(&disk);
    config.fsync = Fsync::Interval(std::time::Duration::from_secs(3600));
    let mut emitter = open(config, None);
    emit(&mut emitter, &transaction(1, 2)).unwrap();
    let kept = flush(&mut emitter);
    emit(&mut emitter, &transaction(2, 2)).unwrap();
    disk.fail_after(0, Failure::Once);
    assert_eq!(now(emitter.flush()).unwrap_err().kind, RETRY);
    // A lane in the middle of a batch must come out of it to hear of the loss.
    let receipt = emit(&mut emitter, &transaction(3, 2)).unwrap();
    assert_eq!(receipt.delivery, Delivery::Accepted);
    assert_eq!(emitter.durable().unwrap_err().kind, RETRY);
    assert_eq!(now(emitter.flush()).unwrap_err().kind, RETRY);
    resume(&mut emitter, Some(&checkpoint(&kept))).unwrap();
    assert_eq!(positions(&*shared(&disk)), [at(1, 0), at(1, 1)]);
    for commit in 2..4 {
        emit(&mut emitter, &transaction(commit, 2)).unwrap();
    }
    assert_eq!(flush(&mut emitter).through, transaction(3, 2).end());
    assert_eq!(positions(&*shared(&disk)).len(), 6);
}

#[test]
fn the_mark_waits_for_the_sync() {
    let disk = SimStorage::new();
    let mut config = config(&disk);
    config.fsync = Fsync::Interval(std::time::Duration::from_secs(3600));
    let mut emitter = open(config.clone(), None);
    emit(&mut emitter, &transaction(1, 2)).unwrap();
    let before = emitter.durable().unwrap().unwrap();
    assert_eq!(before.through, cdc_core::Position::ZERO);
    assert_eq!(flush(&mut emitter).through, transaction(1, 2).end());
    emit(&mut emitter, &transaction(2, 2)).unwrap();
    assert_eq!(
        emitter.durable().unwrap().unwrap().through,
        transaction(1, 2).end()
    );
    drop(emitter);

    config.fsync = Fsync::Interval(std::time::Duration::ZERO);
    let mut emitter = open(config.clone(), None);
    emit(&mut emitter, &transaction(3, 2)).unwrap();
    assert_eq!(
        emitter.durable().unwrap().unwrap().through,
        transaction(3, 2).end()
    );
    drop(emitter);

    config.fsync = Fsync::None;
    let mut emitter = open(config, None);
    let calls = disk.calls();
    emit(&mut emitter, &transaction(4, 2)).unwrap();
    assert_eq!(
        emitter.durable().unwrap().unwrap().through,
        transaction(4, 2).end()
    );
    assert_eq!(disk.calls() - calls, 2, "one create, one write, no sync");
    flush(&mut emitter);
    disk.crash(1);
    let kept = positions(&*shared(&disk));
    assert!(kept.contains(&at(4, 1)), "a flush syncs");
}

#[test]
fn one_batch_is_one_write_and_one_sync() {
    let disk = SimStorage::new();
    let mut emitter = open(config(&disk), None);
    emit(&mut emitter, &transaction(1, 100)).unwrap();
    let calls = disk.calls();
    emit(&mut emitter, &transaction(2, 1000)).unwrap();
    assert_eq!(disk.calls() - calls, 2);
}

#[test]
fn a_directory_has_one_writer() {
    let dir = tempfile::tempdir().unwrap();
    let config = || cdc_emit_file::FileConfig::new(dir.path(), "shop");
    let first = open(config(), None);
    let mut second = FileEmitter::new(config()).unwrap();
    let error = resume(&mut second, None).unwrap_err();
    assert_eq!(error.kind, EmitErrorKind::EndpointStop);
    assert!(error.to_string().contains("another process"), "{error}");
    drop(first);
    resume(&mut second, None).unwrap();
}

#[test]
fn an_event_that_cannot_be_encoded_is_rejected_and_the_others_are_written() {
    let disk = SimStorage::new();
    let mut emitter = open(config(&disk), None);
    let mut events = transaction(1, 4).into_events();
    events[2].after = Image::Full(RowImage::from_bytes(bytes::Bytes::from_static(b"\xff\xff")));
    let batch = EventBatch::new(testing::source(), events, transaction(1, 4).end());
    let receipt = emit(&mut emitter, &batch).unwrap();
    let rejected: Vec<_> = receipt.rejected.iter().map(|r| r.index).collect();
    assert_eq!(rejected, [2]);
    assert!(receipt.rejected[0].message.contains("public.orders"));
    assert_eq!(flush(&mut emitter).through, batch.end());
    assert_eq!(positions(&*shared(&disk)), [at(1, 0), at(1, 1), at(1, 3)]);
    // A batch of nothing else leaves no file.
    let other = SimStorage::new();
    let mut emitter = open(config(&other), None);
    let alone = EventBatch::new(
        testing::source(),
        vec![batch.events()[2].clone()],
        batch.end(),
    );
    assert_eq!(emit(&mut emitter, &alone).unwrap().rejected.len(), 1);
    assert_eq!(flush(&mut emitter).through, batch.end());
    assert!(names(&*shared(&other)).is_empty());
}
