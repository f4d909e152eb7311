//! The bounds hold, and waiting for room is cancel safe.

use std::pin::pin;

use cdc_core::{Emitter, EventBatch, testing};
use cdc_emit_queue::{QueueConfig, QueueEmitter};

use crate::{at, end, now, positions, queue};

#[tokio::test]
async fn a_full_queue_makes_emit_wait_for_an_ack() {
    let mut emitter = queue(4, 2);
    let consumer = emitter.consumer();
    let handle = emitter.handle();
    let batch = testing::transaction(1, 1, 6);
    let mut emit = pin!(emitter.emit(&batch));
    assert!(now(emit.as_mut()).is_none());
    assert_eq!(handle.stats().events, 4);
    // Taking is not enough: until the ack the events are held for redelivery.
    let held = consumer.recv().await.unwrap();
    assert!(now(emit.as_mut()).is_none());
    held.ack();
    now(emit).expect("there is room now").unwrap();
    assert_eq!(handle.stats().events, 4);
}

#[tokio::test]
async fn a_cancelled_emit_goes_on_where_it_was() {
    let mut emitter = queue(4, 2);
    let consumer = emitter.consumer();
    let batch = testing::transaction(1, 1, 7);
    assert!(now(pin!(emitter.emit(&batch))).is_none());
    let mut seen = Vec::new();
    for _ in 0..2 {
        let batch = consumer.recv().await.unwrap();
        seen.extend(positions(&batch));
        batch.ack();
    }
    now(pin!(emitter.emit(&batch)))
        .expect("there is room")
        .unwrap();
    while let Ok(batch) = consumer.try_recv() {
        seen.extend(positions(&batch));
        batch.ack();
    }
    assert_eq!(seen, (0..7).map(|n| at(1, n)).collect::<Vec<_>>());
    assert_eq!(emitter.durable().unwrap().unwrap().through, end(1));
}

#[tokio::test]
async fn another_batch_after_a_cancelled_one_is_given_whole() {
    let mut emitter = queue(2, 2);
    let consumer = emitter.consumer();
    assert!(now(pin!(emitter.emit(&testing::transaction(1, 1, 4)))).is_none());
    consumer.recv().await.unwrap().ack();
    emitter.emit(&testing::transaction(2, 1, 2)).await.unwrap();
    assert_eq!(
        positions(&consumer.recv().await.unwrap()),
        [at(2, 0), at(2, 1)]
    );
}

#[tokio::test]
async fn bytes_are_bounded_and_one_oversize_event_passes_alone() {
    let mut emitter = QueueEmitter::new(QueueConfig {
        bytes_max: 64 << 10,
        ..QueueConfig::default()
    })
    .unwrap();
    let consumer = emitter.consumer();
    let handle = emitter.handle();
    let sized = |commit, bytes: usize| {
        let mut event = testing::insert(commit, 0, 1);
        event.after = cdc_core::Image::Full(testing::row(1, &"x".repeat(bytes), "1"));
        EventBatch::new(testing::source(), vec![event], end(commit))
    };
    let (small, large) = (sized(1, 1 << 10), sized(2, 1 << 20));
    emitter.emit(&small).await.unwrap();
    {
        let mut emit = pin!(emitter.emit(&large));
        assert!(now(emit.as_mut()).is_none(), "not beside another");
        consumer.recv().await.unwrap().ack();
        now(emit).expect("alone it passes").unwrap();
    }
    assert!(handle.stats().bytes > 1 << 20);
    let next = sized(3, 1);
    let mut emit = pin!(emitter.emit(&next));
    assert!(now(emit.as_mut()).is_none(), "nothing beside it");
    consumer.recv().await.unwrap().ack();
    now(emit).expect("there is room").unwrap();
    assert!(handle.stats().bytes < 2 << 10);
    consumer.recv().await.unwrap().ack();
    assert_eq!((handle.stats().bytes, handle.stats().events), (0, 0));
}

#[tokio::test]
async fn engine_extras_count() {
    let mut emitter = queue(10, 10);
    let mut event = testing::insert(1, 0, 1);
    let operand = cdc_core::Value::Bytes(vec![0; 100_000]);
    event.meta = Some(std::sync::Arc::new(cdc_core::Meta(vec![(
        "operand".into(),
        operand,
    )])));
    let batch = EventBatch::new(testing::source(), vec![event], end(1));
    emitter.emit(&batch).await.unwrap();
    assert!(emitter.handle().stats().bytes > 100_000);
}

#[tokio::test]
async fn the_window_behind_an_unacknowledged_batch_is_bounded() {
    let mut emitter = queue(3, 1);
    let consumer = emitter.consumer();
    emitter.emit(&testing::transaction(1, 1, 1)).await.unwrap();
    let head = consumer.recv().await.unwrap();
    for commit in 2..=3 {
        emitter
            .emit(&testing::transaction(commit, 1, 1))
            .await
            .unwrap();
        consumer.recv().await.unwrap().ack();
    }
    let batch = testing::transaction(4, 1, 1);
    let mut emit = pin!(emitter.emit(&batch));
    assert!(now(emit.as_mut()).is_none());
    head.ack();
    now(emit).expect("the window moved").unwrap();
}
