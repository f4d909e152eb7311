//! What the suite gives an emitter, and what must be at the destination then.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::super::{source, transaction};
use crate::{EventBatch, Image, Lsn, Position, RowImage};

/// Stands in the row that cannot be read, and must not be seen anywhere.
pub(super) const MARKER: &str = "ROW-CONTENTS-7f3a";

/// Three events; the row of the second is no row.
pub(super) fn partly_unreadable() -> EventBatch {
    let batch = transaction(1, 1, 3);
    let (source, end) = (batch.source().clone(), batch.end());
    let mut events = batch.into_events();
    let bytes = [b"\xff\xff", MARKER.as_bytes()].concat();
    if let Some(event) = events.get_mut(1) {
        event.after = Image::Full(RowImage::from_bytes(Bytes::from(bytes)));
    }
    EventBatch::new(source, events, end)
}

/// Transactions of several sizes; one lies in three batches, one batch holds three transactions.
pub(super) fn workload() -> Vec<EventBatch> {
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
pub(super) fn recut(batches: &[EventBatch], from: Position) -> Vec<EventBatch> {
    let events = batches.iter().flat_map(|batch| batch.clone().into_events());
    let events: Vec<_> = events.filter(|event| event.position > from).collect();
    let cut = events.chunks(2).map(|chunk| {
        let end = chunk.last().map_or(from, |event| event.position);
        EventBatch::new(source(), chunk.to_vec(), end)
    });
    cut.collect()
}

pub(super) fn positions(batch: &EventBatch) -> impl Iterator<Item = Position> + '_ {
    batch.events().iter().map(|event| event.position)
}

pub(super) fn all(batches: &[EventBatch]) -> Vec<Position> {
    batches.iter().flat_map(positions).collect()
}

pub(super) fn last(batches: &[EventBatch]) -> Position {
    all(batches).last().copied().unwrap_or_default()
}
/// Every event is there, and the first of each stands in order.
pub(super) fn assert_complete(taken: &[Position], batches: &[EventBatch], clause: &str) {
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
