//! What destinations that refuse events leave behind.

use std::sync::Arc;

use crate::{
    ChangeEvent, DeadLetter, EventBatch, Failure, LetterState, Position, Rejection, SourceInfo,
    Stage,
};

/// The answer to a batch of which events at these positions are refused.
pub(super) fn rejections(batch: &EventBatch, refuses: &[Position]) -> Vec<Rejection> {
    let events = batch.events().iter().enumerate();
    let refused = events.filter(|(_, event)| refuses.contains(&event.position));
    let rejection = |(index, _)| Rejection {
        index,
        message: "no".into(),
        status: None,
    };
    refused.map(rejection).collect()
}

/// An event that a destination refused.
pub(super) fn dead_letter(source: Arc<SourceInfo>, event: ChangeEvent) -> DeadLetter {
    DeadLetter {
        emitter: "hook".into(),
        source,
        event,
        failure: Failure {
            stage: Stage::Deliver,
            class: "event".into(),
            message: "no".into(),
            status: Some(400),
            response: None,
        },
        attempts: 1,
        first_failed_micros: 0,
        last_failed_micros: 0,
        state: LetterState::Pending,
    }
}
