//! Several consumers, and each row in order.

use std::pin::pin;
use std::sync::{Arc, Mutex};

use cdc_core::{ChangeEvent, Emitter, EventBatch, Lsn, Op, Position, testing};
use cdc_emit_queue::{QueueEmitter, TryRecvError};

use crate::{at, now, positions, queue};

/// One hand-over of events of these rows.
fn rows(commit: u64, rows: &[i64]) -> EventBatch {
    let events: Vec<ChangeEvent> = (0..)
        .zip(rows)
        .map(|(ordinal, row)| testing::insert(commit, ordinal, *row))
        .collect();
    EventBatch::new(testing::source(), events, Position::end_of(Lsn(commit)))
}

fn filled(batches: &[&[i64]]) -> QueueEmitter {
    let mut emitter = queue(1000, 100);
    for (commit, ids) in (1..).zip(batches) {
        now(pin!(emitter.emit(&rows(commit, ids))))
            .unwrap()
            .unwrap();
    }
    emitter
}

#[test]
fn a_row_stays_with_its_consumer_and_other_rows_go_to_others() {
    let emitter = filled(&[&[1, 2], &[2, 3], &[3], &[4]]);
    let (one, two) = (emitter.consumer(), emitter.consumer());
    let first = one.try_recv().unwrap();
    // Row 2 is with the other consumer; row 3 has to wait for row 2's hand-over before it.
    let other = two.try_recv().unwrap();
    assert_eq!(positions(&other), [at(4, 0)]);
    assert_eq!(two.try_recv().unwrap_err(), TryRecvError::Empty);
    // The one that has row 2 gets its next event without waiting.
    let second = one.try_recv().unwrap();
    assert_eq!(positions(&second), [at(2, 0), at(2, 1)]);
    first.ack();
    assert_eq!(two.try_recv().unwrap_err(), TryRecvError::Empty, "row 3");
    second.ack();
    assert_eq!(positions(&two.try_recv().unwrap()), [at(3, 0)]);
}

#[test]
fn when_a_consumer_dies_its_rows_come_again_in_order() {
    let emitter = filled(&[&[1], &[1], &[1], &[2]]);
    let (one, two, three) = (emitter.consumer(), emitter.consumer(), emitter.consumer());
    let held = [one.try_recv().unwrap(), one.try_recv().unwrap()];
    let other = two.try_recv().unwrap();
    assert_eq!(positions(&other), [at(4, 0)]);
    drop(one);
    let again = two.try_recv().unwrap();
    assert_eq!((positions(&again), again.delivery()), (vec![at(1, 0)], 2));
    assert_eq!(three.try_recv().unwrap_err(), TryRecvError::Empty);
    let next = two.try_recv().unwrap();
    assert_eq!(positions(&next), [at(2, 0)]);
    // Dropped too: the next consumer begins with the first of them.
    drop((again, next));
    for commit in 1..=3 {
        let batch = three.try_recv().unwrap();
        assert_eq!(positions(&batch), [at(commit, 0)]);
        batch.ack();
    }
    drop(held);
}

#[test]
fn a_truncate_waits_for_all_before_it_and_all_after_wait_for_it() {
    let mut emitter = filled(&[&[1]]);
    let mut truncate = testing::insert(2, 0, 9);
    truncate.op = Op::Truncate;
    let batch = EventBatch::new(testing::source(), vec![truncate], Position::end_of(Lsn(2)));
    now(pin!(emitter.emit(&batch))).unwrap().unwrap();
    now(pin!(emitter.emit(&rows(3, &[5])))).unwrap().unwrap();
    let (one, two) = (emitter.consumer(), emitter.consumer());
    let first = one.try_recv().unwrap();
    assert_eq!(two.try_recv().unwrap_err(), TryRecvError::Empty);
    first.ack();
    let barrier = two.try_recv().unwrap();
    assert_eq!(positions(&barrier), [at(2, 0)]);
    assert_eq!(one.try_recv().unwrap_err(), TryRecvError::Empty);
    barrier.ack();
    assert_eq!(positions(&one.try_recv().unwrap()), [at(3, 0)]);
}

/// Threads and tasks that wait for a row hear of it, whoever lets it go, and each row arrives in order.
#[test]
fn consumers_that_wait_for_a_row_are_woken() {
    const COMMITS: u64 = 300;
    let mut emitter = queue(40, 3);
    let handle = emitter.handle();
    let seen: Arc<Mutex<Vec<(i64, Position)>>> = Arc::default();
    let row = |commit: u64, ordinal: u32| i64::from(ordinal) + i64::try_from(commit % 3).unwrap();
    let note = {
        let seen = seen.clone();
        move |batch: &cdc_emit_queue::QueueBatch| {
            let events = batch.events().iter().map(|event| event.position);
            let events = events.map(|at| (row(at.commit.0, at.ordinal), at));
            seen.lock().unwrap().extend(events);
        }
    };
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (consumer, note) = (handle.consumer(), note.clone());
            std::thread::spawn(move || {
                while let Some(batch) = consumer.recv_blocking() {
                    note(&batch);
                    std::thread::yield_now();
                    batch.ack();
                }
            })
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..3)
            .map(|_| {
                let (consumer, note) = (handle.consumer(), note.clone());
                tokio::spawn(async move {
                    while let Some(batch) = consumer.recv().await {
                        note(&batch);
                        tokio::task::yield_now().await;
                        batch.ack();
                    }
                })
            })
            .collect();
        for commit in 1..=COMMITS {
            let ids: Vec<i64> = (0..5).map(|ordinal| row(commit, ordinal)).collect();
            emitter.emit(&rows(commit, &ids)).await.unwrap();
        }
        emitter.flush().await.unwrap();
        drop(emitter);
        for task in tasks {
            task.await.unwrap();
        }
    });
    for thread in threads {
        thread.join().unwrap();
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len() as u64, COMMITS * 5, "each once");
    let mut last = std::collections::HashMap::new();
    for (row, position) in seen.iter() {
        let before = last.insert(*row, *position);
        assert!(
            before < Some(*position),
            "row {row}: {before:?}, then {position}"
        );
    }
}
