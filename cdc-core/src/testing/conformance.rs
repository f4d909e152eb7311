//! The emitter contract (`docs/specs/emitter.md`) as a suite that any emitter can run.
//!
//! ```
//! use std::sync::{Arc, Mutex};
//! use cdc_core::testing::conformance::{self, Subject};
//! use cdc_core::{EmitError, Emitter, EventBatch, Position, Receipt};
//!
//! /// A destination that is durable at once.
//! #[derive(Default)]
//! struct Table(Arc<Mutex<Vec<Position>>>);
//! struct Insert(Arc<Mutex<Vec<Position>>>);
//!
//! impl Emitter for Insert {
//!     async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
//!         self.0.lock().unwrap().extend(batch.events().iter().map(|event| event.position));
//!         Ok(Receipt::DURABLE)
//!     }
//! }
//!
//! impl Subject for Table {
//!     type Emitter = Insert;
//!     async fn open(&mut self) -> Insert { Insert(self.0.clone()) }
//!     async fn taken(&mut self) -> Vec<Position> { self.0.lock().unwrap().clone() }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! conformance::check(async || Table::default()).await;
//! # });
//! ```

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::{source, transaction};
use crate::{Checkpoint, Delivery, DurableMark, EmitError, Emitter, EventBatch, Lsn, Position};

/// How long a call may take before the suite gives up on it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Most times an emitter may ask for the same batch again without anything being wrong.
const ATTEMPTS_MAX: usize = 10;

/// An emitter together with its destination.
pub trait Subject {
    /// What is tested.
    type Emitter: Emitter;

    /// A new emitter on the same destination, as after a restart of the process; the one before
    /// has been dropped. The suite calls `resume` itself.
    fn open(&mut self) -> impl Future<Output = Self::Emitter>;

    /// Positions of every event at the destination, in the order a reader meets them, repeats
    /// included. What an emitter has reported durable must be in it.
    fn taken(&mut self) -> impl Future<Output = Vec<Position>>;
}

/// Runs every check, each on a new destination.
///
/// # Panics
/// With the number of the clause that does not hold.
pub async fn check<S: Subject>(mut make: impl AsyncFnMut() -> S) {
    delivers_in_order(make().await).await;
    marks_never_run_ahead(make().await).await;
    repeats_after_a_dropped_future(make().await).await;
    leaves_no_hole_behind_a_checkpoint(make().await).await;
    starts_without_state(make().await).await;
}

/// Clauses 2.1, 3.1 and 4.3: what is emitted arrives in order, and `flush` is a barrier.
async fn delivers_in_order<S: Subject>(mut subject: S) {
    let batches = workload();
    let mut run = Run::open(&mut subject, None).await;
    for batch in &batches {
        run.emit(batch).await;
    }
    run.flush().await;
    assert!(
        run.safe >= last(&batches),
        "clause 3.4: after a flush everything is durable; {} is not",
        last(&batches)
    );
    let taken = subject.taken().await;
    assert_eq!(
        taken,
        all(&batches),
        "clauses 2.1, 3.4: undisturbed, every event arrives once and in order"
    );
}

/// Clauses 3.1 to 3.3: what is reported durable is at the destination, and marks only grow.
async fn marks_never_run_ahead<S: Subject>(mut subject: S) {
    let batches = workload();
    let mut run = Run::open(&mut subject, None).await;
    let mut given = BTreeSet::new();
    for batch in &batches {
        given.extend(positions(batch));
        run.emit(batch).await;
        run.poll();
        assert!(
            run.safe <= batch.end(),
            "clause 3.2: the mark {} is ahead of what was emitted, {}",
            run.safe,
            batch.end()
        );
        let safe = run.safe;
        let taken: BTreeSet<_> = subject.taken().await.into_iter().collect();
        let missing = given.iter().find(|p| **p <= safe && !taken.contains(p));
        assert_eq!(
            missing, None,
            "clause 3.1: durable through {safe}, and yet not at the destination"
        );
    }
}

/// Clause 2.3: a dropped `emit` may be given again, and nothing is lost or out of order.
async fn repeats_after_a_dropped_future<S: Subject>(mut subject: S) {
    let batches = workload();
    let mut run = Run::open(&mut subject, None).await;
    for batch in &batches {
        {
            let mut future = pin!(run.emitter.emit(batch));
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(Ok(_)) = future.as_mut().poll(&mut context) {
                // The answer got lost on its way back.
            }
        }
        run.emit(batch).await;
    }
    run.flush().await;
    assert_complete(&subject.taken().await, &batches, "2.3");
}

/// Clauses 4.1 and 4.2: an emitter that is gone continues at any checkpoint without a hole, even
/// if the batches are cut differently.
async fn leaves_no_hole_behind_a_checkpoint<S: Subject>(mut subject: S) {
    let batches = workload();
    let mut checkpoints = vec![None];
    let mut run = Run::open(&mut subject, None).await;
    for batch in &batches[..4] {
        run.emit(batch).await;
        run.flush().await;
        checkpoints.push(Some(run.checkpoint()));
    }
    for batch in &batches[4..6] {
        run.emit(batch).await;
    }
    drop(run);
    // The newest checkpoint first, then older ones: an operator may go back.
    for checkpoint in checkpoints.iter().rev() {
        let from = checkpoint.as_ref().map_or(Position::ZERO, |c| c.position);
        let mut run = Run::open(&mut subject, checkpoint.as_ref()).await;
        for batch in &recut(&batches[..7], from) {
            run.emit(batch).await;
        }
        run.flush().await;
        drop(run);
        assert_complete(&subject.taken().await, &batches[..7], "4.1");
    }
}

/// Clause 4.2: a checkpoint may come without state, and may be ahead of the mark it was taken from.
async fn starts_without_state<S: Subject>(mut subject: S) {
    let batches = workload();
    let mut checkpoint = Checkpoint {
        lineage: source().lineage,
        position: Position::end_of(Lsn(0)),
        state: bytes::Bytes::new(),
        stored_micros: 0,
    };
    let mut run = Run::open(&mut subject, Some(&checkpoint)).await;
    run.emit(&batches[0]).await;
    run.flush().await;
    checkpoint = run.checkpoint();
    // Everything between was filtered out: the lane's position moves on, the state does not.
    checkpoint.position = batches[1].end();
    drop(run);
    let mut run = Run::open(&mut subject, Some(&checkpoint)).await;
    run.poll();
    assert!(
        run.safe <= checkpoint.position,
        "clause 3.2: the mark {} is ahead of the checkpoint {}",
        run.safe,
        checkpoint.position
    );
    run.emit(&batches[2]).await;
    run.flush().await;
    let expected = [batches[0].clone(), batches[2].clone()];
    assert_complete(&subject.taken().await, &expected, "4.2");
}

/// One emitter's life.
struct Run<E> {
    emitter: E,
    /// Everything up to here was reported durable.
    safe: Position,
    mark: Option<DurableMark>,
    emitted: Position,
}

impl<E: Emitter> Run<E> {
    async fn open<S: Subject<Emitter = E>>(subject: &mut S, from: Option<&Checkpoint>) -> Self {
        let mut emitter = subject.open().await;
        let mut attempts = 0;
        while let Err(error) = patient("resume", emitter.resume(from)).await {
            attempts += 1;
            assert!(attempts < ATTEMPTS_MAX, "clause 4.1: resume fails: {error}");
        }
        Self {
            emitter,
            safe: Position::ZERO,
            mark: None,
            emitted: from.map_or(Position::ZERO, |c| c.position),
        }
    }

    async fn emit(&mut self, batch: &EventBatch) {
        let mut attempts = 0;
        let receipt = loop {
            match patient("emit", self.emitter.emit(batch)).await {
                Ok(receipt) => break receipt,
                Err(error) => check_error(&error),
            }
            attempts += 1;
            assert!(attempts < ATTEMPTS_MAX, "clause 2.2: emit fails for ever");
        };
        assert_eq!(
            receipt.rejected,
            [],
            "clause 2.4: events that any destination takes were refused"
        );
        self.emitted = batch.end();
        if receipt.delivery == Delivery::Durable {
            self.safe = self.safe.max(batch.end());
        }
    }

    fn poll(&mut self) {
        let mark = self.emitter.durable();
        self.take(mark);
    }

    async fn flush(&mut self) {
        let mark = patient("flush", self.emitter.flush()).await;
        self.take(mark);
    }

    fn take(&mut self, mark: Result<Option<DurableMark>, EmitError>) {
        let mark = match mark {
            Ok(mark) => mark,
            Err(error) => panic!("clause 3.5: nothing was lost, and yet: {error}"),
        };
        if let Some(mark) = mark {
            assert!(
                mark.state.len() <= Checkpoint::STATE_MAX,
                "clause 4.4: the state has {} bytes",
                mark.state.len()
            );
            let before = self.mark.as_ref().map_or(Position::ZERO, |m| m.through);
            assert!(
                before <= mark.through,
                "clause 3.3: the mark went back from {before} to {}",
                mark.through
            );
            self.safe = self.safe.max(mark.through);
            self.mark = Some(mark);
        }
    }

    fn checkpoint(&self) -> Checkpoint {
        let state = self.mark.as_ref().map(|mark| mark.state.clone());
        Checkpoint {
            lineage: source().lineage,
            position: self.safe.min(self.emitted),
            state: state.unwrap_or_default(),
            stored_micros: 0,
        }
    }
}

/// An error must be one that a lane may answer by giving the batch again.
fn check_error(error: &EmitError) {
    assert!(
        matches!(error.kind, crate::EmitErrorKind::EndpointRetry { .. }),
        "clause 2.2: nothing is wrong, and yet: {error}"
    );
}

async fn patient<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("clause 2.5: {what} does not come to an end"),
    }
}

/// Every event is there, and the first of each stands in order.
fn assert_complete(taken: &[Position], batches: &[EventBatch], clause: &str) {
    let mut seen = BTreeSet::new();
    let first: Vec<_> = taken.iter().copied().filter(|p| seen.insert(*p)).collect();
    let expected = all(batches);
    let missing = expected.iter().find(|p| !seen.contains(p));
    assert_eq!(missing, None, "clause {clause}: a hole");
    assert_eq!(
        first, expected,
        "clause {clause}: out of order, or never sent"
    );
}

/// Transactions of several sizes; one lies in three batches, one batch holds three transactions.
fn workload() -> Vec<EventBatch> {
    let mut batches = vec![transaction(1, 1, 3), transaction(2, 10, 1)];
    let long = transaction(4, 20, 9);
    batches.extend([long.slice(0..4), long.slice(4..8), long.slice(8..9)]);
    let several = (5..8).flat_map(|commit| transaction(commit, 30, 2).into_events());
    let several = several.collect();
    batches.push(EventBatch::new(source(), several, Position::end_of(Lsn(8))));
    batches.push(transaction(9, 40, 5));
    batches
}

/// The same events strictly behind a position, two to a batch.
fn recut(batches: &[EventBatch], from: Position) -> Vec<EventBatch> {
    let events = batches.iter().flat_map(|batch| batch.clone().into_events());
    let events: Vec<_> = events.filter(|event| event.position > from).collect();
    let cut = events.chunks(2).map(|chunk| {
        let end = chunk.last().map_or(from, |event| event.position);
        EventBatch::new(source(), chunk.to_vec(), end)
    });
    cut.collect()
}

fn positions(batch: &EventBatch) -> impl Iterator<Item = Position> + '_ {
    batch.events().iter().map(|event| event.position)
}

fn all(batches: &[EventBatch]) -> Vec<Position> {
    batches.iter().flat_map(positions).collect()
}

fn last(batches: &[EventBatch]) -> Position {
    all(batches).last().copied().unwrap_or_default()
}
