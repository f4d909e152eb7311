//! Order, acknowledgement, redelivery, closing.

use std::pin::pin;
use std::sync::Arc;

use cdc_core::{Checkpoint, Emitter, EventBatch, Position, Receipt, testing};
use cdc_emit_queue::{QueueConfig, QueueConfigError, QueueEmitter, TryRecvError};

use crate::{at, end, now, positions, queue};

#[tokio::test]
async fn a_batch_is_cut_and_its_end_follows_the_last_part() {
    let mut emitter = queue(1000, 2);
    let consumer = emitter.consumer();
    let receipt = emitter.emit(&testing::transaction(5, 1, 3)).await.unwrap();
    assert_eq!(receipt, Receipt::ACCEPTED);
    let first = consumer.recv().await.unwrap();
    assert_eq!(positions(&first), [at(5, 0), at(5, 1)]);
    let second = consumer.recv_blocking().unwrap();
    assert_eq!(positions(&second), [at(5, 2)]);
    assert_eq!(consumer.try_recv().unwrap_err(), TryRecvError::Empty);
    first.ack();
    assert_eq!(emitter.durable().unwrap().unwrap().through, at(5, 1));
    second.ack();
    assert_eq!(emitter.durable().unwrap().unwrap().through, end(5));
}

#[tokio::test]
async fn the_mark_is_the_unbroken_run_of_acks() {
    let mut emitter = queue(1000, 100);
    let consumer = emitter.consumer();
    let mut held = Vec::new();
    for commit in 1..=4 {
        emitter
            .emit(&testing::transaction(commit, 1, 2))
            .await
            .unwrap();
        held.push(consumer.recv().await.unwrap());
    }
    let through = |emitter: &mut QueueEmitter| emitter.durable().unwrap().unwrap().through;
    held.remove(3).ack();
    held.remove(1).ack();
    assert_eq!(through(&mut emitter), Position::ZERO);
    held.remove(0).ack();
    assert_eq!(through(&mut emitter), end(2));
    held.remove(0).ack();
    assert_eq!(through(&mut emitter), end(4));
}

#[tokio::test]
async fn a_dropped_batch_comes_again_first() {
    let mut emitter = queue(1000, 1);
    let consumer = emitter.consumer();
    emitter.emit(&testing::transaction(1, 1, 4)).await.unwrap();
    let first = consumer.recv().await.unwrap();
    let second = consumer.recv().await.unwrap();
    drop(second);
    drop(first);
    for (ordinal, delivery) in [(0, 2), (1, 2), (2, 1), (3, 1)] {
        let batch = consumer.recv().await.unwrap();
        assert_eq!(positions(&batch), [at(1, ordinal)]);
        assert_eq!(batch.delivery(), delivery);
        batch.ack();
    }
    assert_eq!(emitter.handle().stats().returned_total, 2);
    assert_eq!(emitter.durable().unwrap().unwrap().through, end(1));
}

#[tokio::test]
async fn a_dropped_consumer_gives_back_what_it_holds() {
    let mut emitter = queue(1000, 1);
    let handle = emitter.handle();
    let dying = handle.consumer();
    emitter.emit(&testing::transaction(1, 1, 3)).await.unwrap();
    let late = dying.recv().await.unwrap();
    let lost = dying.recv().await.unwrap();
    drop(dying);
    let heir = handle.consumer();
    let again = heir.recv().await.unwrap();
    assert_eq!(positions(&again), [at(1, 0)]);
    // The old hand-over no longer owns the events: dropping it must not give them out twice.
    drop(lost);
    let next = heir.recv().await.unwrap();
    assert_eq!(positions(&next), [at(1, 1)]);
    let last = heir.recv().await.unwrap();
    assert_eq!(positions(&last), [at(1, 2)]);
    assert_eq!(heir.try_recv().unwrap_err(), TryRecvError::Empty);
    // A late ack still counts: the work was done.
    late.ack();
    assert_eq!(emitter.durable().unwrap().unwrap().through, at(1, 0));
    next.ack();
    last.ack();
    drop(again);
    assert_eq!(heir.try_recv().unwrap_err(), TryRecvError::Empty);
    assert_eq!(emitter.durable().unwrap().unwrap().through, end(1));
}

#[tokio::test]
async fn a_late_ack_withdraws_what_was_given_back() {
    let mut emitter = queue(1000, 1);
    let dying = emitter.consumer();
    emitter.emit(&testing::transaction(1, 1, 1)).await.unwrap();
    let late = dying.recv().await.unwrap();
    let heir = dying.clone();
    drop(dying);
    late.ack();
    assert_eq!(heir.try_recv().unwrap_err(), TryRecvError::Empty);
    emitter.emit(&testing::transaction(2, 1, 1)).await.unwrap();
    assert_eq!(positions(&heir.recv().await.unwrap()), [at(2, 0)]);
}

#[tokio::test]
async fn cumulative_ack_covers_what_this_consumer_holds() {
    let mut emitter = queue(1000, 1);
    let (a, b) = (emitter.consumer(), emitter.consumer());
    emitter.emit(&testing::transaction(1, 1, 4)).await.unwrap();
    let _held = [a.recv().await.unwrap(), a.recv().await.unwrap()];
    let other = b.recv().await.unwrap();
    let _late = a.recv().await.unwrap();
    assert_eq!(a.ack_through(at(1, 2)), 2);
    assert_eq!(emitter.durable().unwrap().unwrap().through, at(1, 1));
    other.ack();
    assert_eq!(emitter.durable().unwrap().unwrap().through, at(1, 2));
    assert_eq!(a.ack_through(Position::MAX), 1);
    assert_eq!(emitter.durable().unwrap().unwrap().through, end(1));
}

/// A letter that is redriven lies behind what came before it. Who goes on acknowledging by position has
/// not handled it yet.
#[tokio::test]
async fn cumulative_ack_covers_a_redriven_letter_only_by_its_own_end() {
    let mut emitter = queue(1000, 10);
    let consumer = emitter.consumer();
    emitter
        .emit(&testing::transaction(200, 1, 1))
        .await
        .unwrap();
    let handled = consumer.recv().await.unwrap();
    for letter in [50, 60, 40] {
        let letter = testing::transaction(letter, 1, 1);
        emitter.emit(&letter).await.unwrap();
    }
    let letters = [
        consumer.recv().await.unwrap(),
        consumer.recv().await.unwrap(),
        consumer.recv().await.unwrap(),
    ];
    assert_eq!(consumer.ack_through(handled.end()), 1, "no letter");
    assert_eq!(consumer.ack_through(Position::MAX), 0);
    assert_eq!(consumer.ack_through(letters[1].end()), 2, "in their order");
    assert_eq!(emitter.handle().stats().held, 1, "the third is not handled");
    assert_eq!(consumer.ack_through(letters[2].end()), 1);
    assert_eq!(emitter.durable().unwrap().unwrap().through, end(200));
}

#[tokio::test]
async fn a_cancelled_recv_loses_nothing() {
    let mut emitter = queue(1000, 1);
    let consumer = emitter.consumer();
    for commit in 1..100 {
        {
            let mut waiting = pin!(consumer.recv());
            assert!(now(waiting.as_mut()).is_none());
            emitter
                .emit(&testing::transaction(commit, 1, 1))
                .await
                .unwrap();
            // Dropped after it was woken and before it was polled.
        }
        let batch = now(pin!(consumer.recv())).unwrap().unwrap();
        assert_eq!(positions(&batch), [at(commit, 0)]);
        batch.ack();
        // The runtime gives a task only so many steps before it makes it wait.
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_waiting_consumer_is_woken_by_a_batch_given_back() {
    let mut emitter = queue(1000, 1);
    let (a, b) = (emitter.consumer(), emitter.consumer());
    emitter.emit(&testing::transaction(1, 1, 1)).await.unwrap();
    let held = a.recv().await.unwrap();
    let waiting = tokio::spawn(async move { b.recv().await.map(|batch| positions(&batch)) });
    tokio::task::yield_now().await;
    drop(held);
    assert_eq!(waiting.await.unwrap(), Some(vec![at(1, 0)]));
}

#[tokio::test]
async fn closing_drains_then_ends_every_consumer() {
    let mut emitter = queue(1000, 1);
    let consumer = emitter.consumer();
    emitter.emit(&testing::transaction(1, 1, 1)).await.unwrap();
    let held = consumer.recv().await.unwrap();
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let consumer = emitter.consumer();
            tokio::spawn(async move {
                let mut count = 0;
                while let Some(batch) = consumer.recv().await {
                    batch.ack();
                    count += 1;
                }
                count
            })
        })
        .collect();
    tokio::task::yield_now().await;
    emitter.emit(&testing::transaction(2, 7, 2)).await.unwrap();
    let handle = emitter.handle();
    drop(emitter);
    let mut total = 0;
    for task in waiting {
        total += task.await.unwrap();
    }
    assert_eq!(total, 2);
    assert!(consumer.recv_blocking().is_none());
    assert_eq!(consumer.try_recv().unwrap_err(), TryRecvError::Closed);
    // What was held when the queue ended still comes back, to whoever asks.
    drop(held);
    handle.consumer().recv().await.unwrap().ack();
    assert!(consumer.recv().await.is_none());
    assert_eq!(handle.stats().through, end(2));
}

#[tokio::test]
async fn flush_waits_for_the_last_ack() {
    let mut emitter = queue(1000, 1);
    let consumer = emitter.consumer();
    emitter.emit(&testing::transaction(1, 1, 2)).await.unwrap();
    let (first, second) = (
        consumer.recv().await.unwrap(),
        consumer.recv().await.unwrap(),
    );
    let mut flush = pin!(emitter.flush());
    assert!(now(flush.as_mut()).is_none());
    second.ack();
    assert!(now(flush.as_mut()).is_none());
    first.ack();
    let mark = now(flush).expect("everything is acknowledged").unwrap();
    assert_eq!(mark.unwrap().through, end(1));
}

#[tokio::test]
async fn resume_starts_the_mark_at_the_checkpoint_and_forgets_the_queued() {
    let mut emitter = queue(1000, 1);
    let consumer = emitter.consumer();
    let checkpoint = Checkpoint {
        lineage: testing::source().lineage,
        position: end(4),
        state: bytes::Bytes::new(),
        stored_micros: 0,
    };
    emitter.resume(Some(&checkpoint)).await.unwrap();
    assert_eq!(emitter.durable().unwrap().unwrap().through, end(4));
    emitter.emit(&testing::transaction(5, 1, 2)).await.unwrap();
    let old = consumer.recv().await.unwrap();
    emitter.resume(Some(&checkpoint)).await.unwrap();
    old.ack();
    assert_eq!(emitter.durable().unwrap().unwrap().through, end(4));
    emitter.emit(&testing::transaction(5, 1, 2)).await.unwrap();
    for ordinal in 0..2 {
        let batch = consumer.recv().await.unwrap();
        assert_eq!(positions(&batch), [at(5, ordinal)]);
        batch.ack();
    }
    assert_eq!(consumer.try_recv().unwrap_err(), TryRecvError::Empty);
    assert_eq!(emitter.durable().unwrap().unwrap().through, end(5));
}

#[tokio::test]
async fn memory_is_free_after_the_ack() {
    let mut emitter = queue(1000, 100);
    let consumer = emitter.consumer();
    let mut event = testing::insert(1, 0, 1);
    let relation = testing::relation();
    event.relation = relation.clone();
    let batch = EventBatch::new(testing::source(), vec![event], end(1));
    emitter.emit(&batch).await.unwrap();
    drop(batch);
    assert_eq!(Arc::strong_count(&relation), 2);
    consumer.recv().await.unwrap().ack();
    assert_eq!(Arc::strong_count(&relation), 1);
}

#[test]
fn bounds_of_zero_are_refused_by_name() {
    let open = |config| QueueEmitter::new(config).unwrap_err();
    let base = QueueConfig::default();
    let zero = |key| QueueConfigError::Zero { key };
    assert_eq!(
        open(QueueConfig {
            capacity: 0,
            ..base
        }),
        zero("queue_capacity")
    );
    assert_eq!(
        open(QueueConfig {
            bytes_max: 0,
            ..base
        }),
        zero("queue_bytes_max")
    );
    assert_eq!(
        open(QueueConfig {
            batch_size: 0,
            ..base
        }),
        zero("batch_size")
    );
    let capacity = usize::MAX;
    assert!(matches!(
        open(QueueConfig { capacity, ..base }),
        QueueConfigError::TooLarge { .. }
    ));
}
