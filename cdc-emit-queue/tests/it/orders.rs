//! Orders of an operator to a lane whose queue is full.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cdc_core::pipeline::{
    Lane, LaneConfig, LaneControl, LaneMetrics, RedriveRequest, Shutdown, Watermark,
};
use cdc_core::testing::fakes::{MemoryCheckpoints, MemoryDlq, MemoryLog};
use cdc_core::testing::{source, transaction};
use cdc_core::{BoxEmitter, ChangeEvent, Position, SystemClock};

use crate::{end, positions, queue};

#[tokio::test(start_paused = true)]
async fn a_consumer_that_is_away_keeps_no_order_waiting_and_gets_each_event_once() {
    let log = MemoryLog::new();
    for commit in 1..5 {
        log.push(transaction(commit, 1, 1));
    }
    let emitter = queue(2, 1);
    let consumer = emitter.consumer();
    let (trigger, shutdown) = Shutdown::new();
    let (control, commands) = LaneControl::new();
    let metrics = Arc::new(LaneMetrics::default());
    let tails = log.clone();
    let lane = Lane {
        config: LaneConfig::new("queue", source().lineage, Position::ZERO),
        open: move |after| Ok(tails.tail(after)),
        filter: Box::new(|_: &ChangeEvent| true),
        transforms: Vec::new(),
        emitter: BoxEmitter::new(emitter),
        dlq: Arc::new(Mutex::new(MemoryDlq::default())),
        checkpoints: Arc::new(MemoryCheckpoints::default()),
        watermark: Watermark::new().register("queue", None),
        clock: Arc::new(SystemClock::new()),
        metrics: metrics.clone(),
        control: commands,
        shutdown,
    };
    let orders = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(metrics.counts().waits_for.is_some());
        let redrive = control.redrive(RedriveRequest::default()).await.unwrap();
        assert!(redrive.stopped.unwrap().contains("room"));
        control.pause().await.unwrap();
        control.resume().await.unwrap();
        let mut got = Vec::new();
        for _ in 0..3 {
            let batch = consumer.recv().await.unwrap();
            got.extend(positions(&batch));
            batch.ack();
        }
        let all = |commits: std::ops::Range<u64>| commits.map(|c| crate::at(c, 0));
        assert_eq!(got, all(1..4).collect::<Vec<_>>());
        // Back to where the second one is given again.
        control.seek(end(1)).await.unwrap().unwrap();
        let batch = consumer.recv().await.unwrap();
        assert_eq!(positions(&batch), all(2..3).collect::<Vec<_>>());
        batch.ack();
        trigger.trigger();
    };
    let both = async { tokio::join!(orders, lane.run()) };
    let hour = Duration::from_secs(3600);
    let both = tokio::time::timeout(hour, both).await;
    both.expect("orders are answered").1.unwrap();
}
