//! Integration tests of this crate, one binary.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

mod bounds;
mod conformance;
mod model;
mod orders;
mod queue;
mod rows;
mod threads;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use cdc_core::{Lsn, Position};
use cdc_emit_queue::{QueueBatch, QueueConfig, QueueEmitter};

fn queue(capacity: usize, batch_size: usize) -> QueueEmitter {
    QueueEmitter::new(QueueConfig {
        capacity,
        batch_size,
        ..QueueConfig::default()
    })
    .unwrap()
}

fn at(commit: u64, ordinal: u32) -> Position {
    Position::new(Lsn(commit), ordinal)
}

fn end(commit: u64) -> Position {
    Position::end_of(Lsn(commit))
}

fn positions(batch: &QueueBatch) -> Vec<Position> {
    batch.events().iter().map(|event| event.position).collect()
}

/// Polls a future once; only what is ready right now comes out.
fn now<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
