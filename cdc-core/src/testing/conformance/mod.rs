//! The emitter contract (`docs/specs/emitter.md`) as a suite that any emitter can run.
//!
//! A panic begins with the number of the clause that does not hold; [`CLAUSES`] are those the suite
//! proves. `examples/own_emitter.rs` is an emitter outside of this project that runs it.
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

mod run;
mod workload;

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use self::run::{ATTEMPTS_MAX, Run, patient};
use self::workload::{
    MARKER, all, assert_complete, last, partly_unreadable, positions, recut, workload,
};
use super::source;
use crate::{Checkpoint, EmitErrorKind, Emitter, EventBatch, Lsn, Position, Rejection};

/// The clauses the suite proves.
pub const CLAUSES: [&str; 18] = [
    "1.5", "2.1", "2.2", "2.3", "2.4", "2.5", "3.1", "3.2", "3.3", "3.4", "3.5", "3.6", "4.1",
    "4.2", "4.3", "4.4", "4.5", "5.1",
];

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
    takes_letters_before_a_repetition(make().await).await;
    leaves_no_hole_behind_a_checkpoint(make().await).await;
    starts_without_state(make().await).await;
    resumes_again_from_the_same_checkpoint(make().await).await;
    refuses_a_state_it_cannot_read(make().await).await;
    tells_a_bad_event_from_a_bad_destination(make().await).await;
    workers_are_emitters_of_their_own(make().await).await;
}

/// Clauses 2.1 and 3.4: what is emitted arrives in order, and `flush` is a barrier.
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
    let there: BTreeSet<_> = taken.iter().collect();
    let missing = all(&batches).into_iter().find(|p| !there.contains(p));
    assert_eq!(
        missing, None,
        "clause 3.4: after a flush everything is at the destination"
    );
    assert_eq!(
        taken,
        all(&batches),
        "clause 2.1: undisturbed, every event arrives once and in order"
    );
}

/// Clauses 3.1 to 3.3 and 3.6: what is reported durable is at the destination, and marks only grow.
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

/// Clause 2.3: letters that are redriven may come between a batch and its repetition.
async fn takes_letters_before_a_repetition<S: Subject>(mut subject: S) {
    let batches = workload();
    let mut run = Run::open(&mut subject, None).await;
    let mut letter: Option<EventBatch> = None;
    for batch in &batches {
        // Its first event was refused long ago, if it had others.
        let (parked, rest) = match batch.len() {
            0 | 1 => (None, batch.clone()),
            len => (Some(batch.slice(0..1)), batch.slice(1..len)),
        };
        {
            let mut future = pin!(run.emitter.emit(&rest));
            let mut context = Context::from_waker(Waker::noop());
            let _ = future.as_mut().poll(&mut context);
        }
        if let Some(letter) = letter.take() {
            run.emit(&letter).await;
        }
        run.emit(&rest).await;
        letter = parked;
    }
    if let Some(letter) = letter {
        run.emit(&letter).await;
    }
    run.flush().await;
    let taken: BTreeSet<_> = subject.taken().await.into_iter().collect();
    let missing = all(&batches).into_iter().find(|p| !taken.contains(p));
    assert_eq!(
        missing, None,
        "clause 2.3: given before or after the repetition of another batch, and not at the destination"
    );
}

/// Clause 4.1: an emitter that is gone continues at any checkpoint without a hole, even
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
        state: Bytes::new(),
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

/// Clause 4.5: `resume` is repeatable, also if it was interrupted.
async fn resumes_again_from_the_same_checkpoint<S: Subject>(mut subject: S) {
    let batches = workload();
    let mut run = Run::open(&mut subject, None).await;
    for batch in &batches[..2] {
        run.emit(batch).await;
    }
    run.flush().await;
    let checkpoint = run.checkpoint();
    for batch in &batches[2..4] {
        run.emit(batch).await;
    }
    drop(run);
    let mut emitter = subject.open().await;
    {
        let mut interrupted = pin!(emitter.resume(Some(&checkpoint)));
        let mut context = Context::from_waker(Waker::noop());
        // It may even come to its end.
        let _ = interrupted.as_mut().poll(&mut context);
    }
    let mut run = Run::resume(emitter, Some(&checkpoint), "4.5").await;
    for batch in &batches[2..3] {
        run.emit(batch).await;
    }
    // The lane goes back: the same checkpoint once more, in the same process.
    let mut run = Run::resume(run.emitter, Some(&checkpoint), "4.5").await;
    for batch in &recut(&batches[..5], checkpoint.position) {
        run.emit(batch).await;
    }
    run.flush().await;
    assert_complete(&subject.taken().await, &batches[..5], "4.5");
}

/// Clause 4.3: a state that nobody can read is refused. Emitters without a state have none to read.
async fn refuses_a_state_it_cannot_read<S: Subject>(mut subject: S) {
    let batches = workload();
    let mut run = Run::open(&mut subject, None).await;
    run.emit(&batches[0]).await;
    run.flush().await;
    let checkpoint = run.checkpoint();
    drop(run);
    if checkpoint.state.is_empty() {
        return;
    }
    for state in [&b"\xff\xff not a state of anybody \xff"[..], b"\x00"] {
        let mut foreign = checkpoint.clone();
        foreign.state = Bytes::from_static(state);
        let mut emitter = subject.open().await;
        match patient("resume", emitter.resume(Some(&foreign))).await {
            Ok(()) => panic!("clause 4.3: a state that nobody can read was accepted"),
            Err(error) => assert_eq!(
                error.kind,
                EmitErrorKind::Fatal,
                "clause 4.3: a state that nobody can read is fatal: {error}"
            ),
        }
    }
    let mut run = Run::open(&mut subject, Some(&checkpoint)).await;
    run.emit(&batches[1]).await;
    run.flush().await;
    assert_complete(&subject.taken().await, &batches[..2], "4.3");
}

/// Clauses 2.2, 2.4 and 5.1: an event that cannot be encoded is its own fault, the others around it
/// are taken, and nobody hears what was in it. (An emitter that does not look into events takes it.)
async fn tells_a_bad_event_from_a_bad_destination<S: Subject>(mut subject: S) {
    let batch = partly_unreadable();
    let bad = 1;
    let mut run = Run::open(&mut subject, None).await;
    let mut attempts = 0;
    loop {
        match patient("emit", run.emitter.emit(&batch)).await {
            Ok(receipt) => {
                check_rejections(&receipt.rejected, batch.len(), bad);
                break;
            }
            Err(error) => {
                let text = format!("{error} {error:?} {:?}", error.response);
                assert!(
                    !text.contains(MARKER),
                    "clause 5.1: an error holds row contents"
                );
                match error.kind {
                    EmitErrorKind::Event => {
                        // The lane cuts the batch until the culprit is alone.
                        for index in 0..batch.len() {
                            let alone = batch.slice(index..index + 1);
                            if index != bad {
                                run.emit(&alone).await;
                            } else if let Ok(receipt) =
                                patient("emit", run.emitter.emit(&alone)).await
                            {
                                check_rejections(&receipt.rejected, 1, 0);
                            }
                        }
                        break;
                    }
                    EmitErrorKind::EndpointRetry { .. } => attempts += 1,
                    _ => panic!("clause 2.2: a bad event is no reason to stop: {error}"),
                }
                assert!(
                    attempts < ATTEMPTS_MAX,
                    "clause 2.2: a bad event is reported as an unwell destination: {error}"
                );
            }
        }
    }
    run.emitted = batch.end();
    run.flush().await;
    let taken = subject.taken().await;
    for (index, position) in positions(&batch).enumerate() {
        assert!(
            index == bad || taken.contains(&position),
            "clause 2.4: {position} was not refused and is not at the destination"
        );
    }
}

/// Clause 1.5: workers, if there are any, deliver what each is given, in its order, and outlive each
/// other; their marks carry no state.
async fn workers_are_emitters_of_their_own<S: Subject>(mut subject: S) {
    let batches = workload();
    let first = subject.open().await;
    let Some(second) = first.worker() else {
        return;
    };
    let mut workers = Vec::new();
    for emitter in [first, second] {
        workers.push(Run::resume(emitter, None, "1.5").await);
    }
    let (shared, alone) = batches.split_at(batches.len() - 1);
    let mut given = [Vec::new(), Vec::new()];
    for (index, batch) in shared.iter().enumerate() {
        workers[index % 2].emit(batch).await;
        given[index % 2].extend(positions(batch));
    }
    for worker in &mut workers {
        worker.flush().await;
        assert!(
            worker.checkpoint().state.is_empty(),
            "clause 1.5: the mark of one of several workers carries a state"
        );
    }
    // One of them is gone, the other goes on.
    workers.truncate(1);
    if let Some(worker) = workers.first_mut() {
        for batch in alone {
            worker.emit(batch).await;
            given[0].extend(positions(batch));
        }
        worker.flush().await;
    }
    let taken = subject.taken().await;
    for given in given {
        let own: Vec<_> = taken
            .iter()
            .filter(|p| given.contains(p))
            .copied()
            .collect();
        assert_eq!(
            own, given,
            "clause 1.5: what one worker was given arrives once and in its order"
        );
    }
}

fn check_rejections(rejected: &[Rejection], len: usize, bad: usize) {
    for rejection in rejected {
        assert!(
            rejection.index < len && rejection.index == bad,
            "clause 2.4: event {} of {len} was refused, and {bad} is the bad one",
            rejection.index
        );
        assert!(
            !rejection.message.contains(MARKER),
            "clause 5.1: a rejection holds row contents"
        );
    }
    assert!(
        rejected.is_sorted_by(|a, b| a.index < b.index),
        "clause 2.4: the indices of rejections ascend"
    );
}
