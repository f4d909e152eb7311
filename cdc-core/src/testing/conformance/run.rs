//! One emitter's life in the suite, with what must hold at every step of it.

use std::future::Future;
use std::time::Duration;

use super::{Subject, source};
use crate::{
    Checkpoint, Delivery, DurableMark, EmitError, EmitErrorKind, Emitter, EventBatch, Position,
};

/// How long a call may take before the suite gives up on it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Most times an emitter may ask for the same batch again without anything being wrong.
pub(super) const ATTEMPTS_MAX: usize = 10;

/// One emitter's life.
pub(super) struct Run<E> {
    pub(super) emitter: E,
    /// Everything up to here was reported durable.
    pub(super) safe: Position,
    mark: Option<DurableMark>,
    pub(super) emitted: Position,
    /// A receipt said that everything is durable.
    said_durable: bool,
}

impl<E: Emitter> Run<E> {
    pub(super) async fn open<S: Subject<Emitter = E>>(
        subject: &mut S,
        from: Option<&Checkpoint>,
    ) -> Self {
        let clause = match from {
            Some(from) if from.state.is_empty() => "4.2",
            _ => "4.1",
        };
        Self::resume(subject.open().await, from, clause).await
    }

    /// A life that begins at a checkpoint; `clause` is what demands that it can.
    pub(super) async fn resume(mut emitter: E, from: Option<&Checkpoint>, clause: &str) -> Self {
        let mut attempts = 0;
        while let Err(error) = patient("resume", emitter.resume(from)).await {
            attempts += 1;
            assert!(
                attempts < ATTEMPTS_MAX,
                "clause {clause}: resume fails: {error}"
            );
        }
        Self {
            emitter,
            safe: Position::ZERO,
            mark: None,
            emitted: from.map_or(Position::ZERO, |c| c.position),
            said_durable: false,
        }
    }

    pub(super) async fn emit(&mut self, batch: &EventBatch) {
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
            self.said_durable = true;
            self.safe = self.safe.max(batch.end());
        }
    }

    pub(super) fn poll(&mut self) {
        let mark = self.emitter.durable();
        self.take(mark);
    }

    pub(super) async fn flush(&mut self) {
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
            assert!(
                mark.state.is_empty() || !self.said_durable,
                "clause 3.6: a mark carries a state, and a receipt said `Durable`"
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

    pub(super) fn checkpoint(&self) -> Checkpoint {
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
        matches!(error.kind, EmitErrorKind::EndpointRetry { .. }),
        "clause 2.2: nothing is wrong, and yet: {error}"
    );
}

pub(super) async fn patient<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("clause 2.5: {what} does not come to an end"),
    }
}
