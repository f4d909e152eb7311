//! Measures the queue between two threads: `cargo run --release --example queue_throughput`.
#![expect(clippy::print_stdout, reason = "printing is what this program is for")]

use std::time::Instant;

use cdc_core::{Emitter, EventBatch, Lsn, Position, testing};
use cdc_emit_queue::{QueueConfig, QueueEmitter};

const EVENTS: u64 = 20_000_000;
const BATCH: u64 = 100;

fn main() {
    let mut emitter = QueueEmitter::new(QueueConfig::default()).expect("default bounds are valid");
    let consumer = emitter.consumer();
    let events: Vec<_> = (0..100).map(|n| testing::insert(1, n, n.into())).collect();
    let batch = EventBatch::new(testing::source(), events, Position::end_of(Lsn(1)));
    let start = Instant::now();
    let taking = std::thread::spawn(move || {
        let mut count = 0;
        while let Some(batch) = consumer.recv_blocking() {
            count += batch.events().len() as u64;
            batch.ack();
        }
        count
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        for _ in 0..EVENTS / BATCH {
            emitter.emit(&batch).await.expect("the queue takes it");
        }
        emitter.flush().await.expect("everything is acknowledged");
    });
    drop(emitter);
    let count = taking.join().expect("the consumer ends");
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{count} events in {seconds:.2} s: {:.1} M/s",
        count as f64 / seconds / 1e6
    );
}
