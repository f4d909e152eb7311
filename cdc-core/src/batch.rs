//! Batches: events handled as one.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::{ChangeEvent, Position, SourceInfo};

/// How much a source may put into one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimit {
    /// Most events.
    pub events_max: usize,
    /// Most bytes of row images; one event larger than this still comes alone.
    pub bytes_max: usize,
    /// Longest wait for a first event before an empty batch is given (it carries `end`).
    pub linger: Duration,
}

impl Default for BatchLimit {
    fn default() -> Self {
        Self {
            events_max: 4096,
            bytes_max: 1 << 20,
            linger: Duration::from_millis(100),
        }
    }
}

/// Events in position order, and how far they reach.
///
/// The events are shared: clones and slices are cheap. A batch covers everything up to `end`,
/// even when it is empty (heartbeat, fully filtered); large transactions span batches.
#[derive(Clone, Debug)]
pub struct EventBatch {
    source: Arc<SourceInfo>,
    events: Arc<Vec<ChangeEvent>>,
    range: Range<usize>,
    end: Position,
}

impl EventBatch {
    /// A batch of events in strictly increasing position order, all at or below `end`.
    pub fn new(source: Arc<SourceInfo>, events: Vec<ChangeEvent>, end: Position) -> Self {
        debug_assert!(events.windows(2).all(|w| w[0].position < w[1].position));
        debug_assert!(events.last().is_none_or(|e| e.position <= end));
        let range = 0..events.len();
        Self {
            source,
            events: Arc::new(events),
            range,
            end,
        }
    }

    /// A batch without events: everything up to `end` is covered.
    pub fn heartbeat(source: Arc<SourceInfo>, end: Position) -> Self {
        Self::new(source, Vec::new(), end)
    }

    /// Where the events come from.
    pub const fn source(&self) -> &Arc<SourceInfo> {
        &self.source
    }

    /// The events, in position order.
    pub fn events(&self) -> &[ChangeEvent] {
        &self.events[self.range.clone()]
    }

    /// Everything up to and including this is covered.
    pub const fn end(&self) -> Position {
        self.end
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// True without events.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Bytes of all row images.
    pub fn encoded_len(&self) -> usize {
        self.events().iter().map(ChangeEvent::encoded_len).sum()
    }

    /// A part of the batch; `range` counts from this batch's first event. It covers up to its last
    /// event, or up to `end` if it reaches the batch's end.
    ///
    /// # Panics
    /// If the range is outside the batch.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "slice within the batch"
        );
        let end = if range.end == self.len() {
            self.end
        } else {
            match range.end.checked_sub(1) {
                Some(last) => self.events()[last].position,
                None => Position::ZERO,
            }
        };
        let start = self.range.start;
        Self {
            source: self.source.clone(),
            events: self.events.clone(),
            range: start + range.start..start + range.end,
            end,
        }
    }

    /// The events, moved out if nobody shares them, else cloned.
    pub fn into_events(self) -> Vec<ChangeEvent> {
        let whole = self.range == (0..self.events.len());
        match Arc::try_unwrap(self.events) {
            Ok(events) if whole => events,
            Ok(mut events) => events.drain(self.range).collect(),
            Err(shared) => shared[self.range].to_vec(),
        }
    }
}
