//! The emitter whose consumers fetch: a bounded window of events that wait for an acknowledgement.
//!
//! The lane puts events in, requests look at them without taking them out, and an acknowledgement
//! removes them from the front. What is in the window was accepted, what is acknowledged is
//! durable: the lane's checkpoint stands at the last acknowledged event, and so holds the log for
//! a consumer that is away.
//!
//! Events sent again by a redrive stand in the window, too, behind nothing else, since the lane
//! waits for everything before them. Their positions lie behind the checkpoint; they are never
//! skipped, and only an acknowledgement of one of them removes them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cdc_core::{
    ChangeEvent, Checkpoint, DurableMark, EmitError, Emitter, EventBatch, Position, Receipt,
    SourceInfo,
};
use tokio::sync::{Notify, watch};

/// What an event costs besides its rows.
const EVENT_BYTES: usize = size_of::<ChangeEvent>();

/// An event that waits for an acknowledgement.
#[derive(Debug)]
struct Entry {
    event: ChangeEvent,
    bytes: usize,
    /// Sent again although something later was sent before: a redrive.
    again: bool,
}

#[derive(Debug, Default)]
struct Window {
    entries: VecDeque<Entry>,
    /// Number of the first entry, counted since the lane resumed.
    first: u64,
    bytes: usize,
    /// Counts resumes of the lane: numbers of entries are of one generation.
    generation: u64,
    /// The last generation that began before what had been acknowledged: the consumer was moved back.
    moved: u64,
    /// How far was given, or said to be done, before it was moved back: what anybody says of positions up to
    /// this may be of before the move, and counts only for what was looked at since.
    moved_from: Position,
    /// Number behind the last entry that somebody has looked at, in this generation.
    looked: u64,
    /// Highest position the lane has given.
    given: Position,
    /// Highest position that is acknowledged and was given.
    through: Position,
    /// Highest position a consumer said it is done with; it may not have been given yet.
    done: Position,
    source: Option<Arc<SourceInfo>>,
}

#[derive(Debug)]
struct Shared {
    window: Mutex<Window>,
    bytes_max: usize,
    batch_size: usize,
    /// Room was made. Only the emitter waits for it.
    freed: Notify,
    /// Changes when events came, or the lane resumed.
    changed: watch::Sender<u64>,
}

impl Shared {
    fn window(&self) -> MutexGuard<'_, Window> {
        // A panic elsewhere leaves it whole: nothing in here calls foreign code half-way.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.changed
            .send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// The lane's end of the window.
#[derive(Debug)]
pub(crate) struct PullEmitter(Arc<Shared>);

/// The end of requests. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct PullHandle(Arc<Shared>);

/// Where a reader stands in the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    generation: u64,
    next: u64,
    /// Events up to this are passed over: the reader has them from an earlier life of this process.
    skip_through: Position,
}

/// What a look at the window gave.
#[derive(Debug)]
pub(crate) struct Look {
    /// Events in the order to handle them.
    pub(crate) events: Vec<ChangeEvent>,
    /// Where they come from; `None` before the first event.
    pub(crate) source: Option<Arc<SourceInfo>>,
    /// Where to look next.
    pub(crate) cursor: Cursor,
}

/// How a consumer is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PullStats {
    /// Everything up to this is acknowledged, as far as this process knows.
    pub(crate) acknowledged: Position,
    /// Events that wait for an acknowledgement.
    pub(crate) waiting_events: usize,
    /// Their bytes.
    pub(crate) waiting_bytes: usize,
}

impl PullEmitter {
    /// An empty window of at most this many bytes; a single batch larger than that passes alone.
    pub(crate) fn new(bytes_max: usize, batch_size: usize) -> Self {
        Self(Arc::new(Shared {
            window: Mutex::default(),
            bytes_max,
            batch_size,
            freed: Notify::new(),
            changed: watch::channel(0).0,
        }))
    }

    /// The end of requests.
    pub(crate) fn handle(&self) -> PullHandle {
        PullHandle(self.0.clone())
    }

    /// Puts a batch in if there is room.
    fn push(&self, batch: &EventBatch) -> bool {
        let mut window = self.0.window();
        let window = &mut *window;
        let bytes = |event: &ChangeEvent| event.encoded_len().saturating_add(EVENT_BYTES);
        let needed = batch
            .events()
            .iter()
            .map(bytes)
            .fold(0, usize::saturating_add);
        let room = window.bytes.saturating_add(needed) <= self.0.bytes_max;
        if !room && !window.entries.is_empty() {
            return false;
        }
        window.source = Some(batch.source().clone());
        for event in batch.events() {
            let again = event.position <= window.given;
            window.given = window.given.max(event.position);
            if !again && event.position <= window.done && window.entries.is_empty() {
                // A consumer that keeps its own position said so before it came.
                window.through = window.through.max(event.position);
                continue;
            }
            let bytes = bytes(event);
            window.bytes = window.bytes.saturating_add(bytes);
            window.entries.push_back(Entry {
                event: event.clone(),
                bytes,
                again,
            });
        }
        true
    }
}

impl Emitter for PullEmitter {
    /// Forgets what is not acknowledged: the lane gives it again.
    async fn resume(&mut self, from: Option<&Checkpoint>) -> Result<(), EmitError> {
        let at = from.map_or(Position::ZERO, |checkpoint| checkpoint.position);
        {
            let mut window = self.0.window();
            let generation = window.generation + 1;
            // What is acknowledged is never lost here. So a place before it means that somebody has
            // moved the consumer, to have that given again whatever was said of it.
            let back = at < window.through;
            let before = window.moved_from.max(window.given).max(window.done);
            *window = Window {
                generation,
                moved: if back { generation } else { window.moved },
                moved_from: if back { before } else { window.moved_from },
                given: at,
                through: at,
                done: if back { at } else { window.done.max(at) },
                source: window.source.take(),
                ..Window::default()
            };
        }
        self.0.tell();
        Ok(())
    }

    /// # Cancel safety
    /// A batch goes in whole or not at all.
    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        while !self.push(batch) {
            // An acknowledgement between the failed push and the wait is kept by `Notify`.
            self.0.freed.notified().await;
        }
        self.0.tell();
        Ok(Receipt::ACCEPTED)
    }

    fn durable(&mut self) -> Result<Option<DurableMark>, EmitError> {
        Ok(Some(mark(self.0.window().through)))
    }

    /// Waits until every event is acknowledged; the lane sets the limit.
    async fn flush(&mut self) -> Result<Option<DurableMark>, EmitError> {
        loop {
            {
                let window = self.0.window();
                if window.entries.is_empty() {
                    return Ok(Some(mark(window.through)));
                }
            }
            self.0.freed.notified().await;
        }
    }

    fn batch_size(&self) -> usize {
        self.0.batch_size
    }

    /// A consumer fetches when it likes.
    fn drains(&self) -> bool {
        false
    }

    fn waits_for_room(&self) -> bool {
        true
    }
}

const fn mark(through: Position) -> DurableMark {
    DurableMark {
        through,
        state: Bytes::new(),
    }
}

impl PullHandle {
    /// Where a reader begins: behind what it has (`after`), or with everything that is not
    /// acknowledged.
    pub(crate) fn begin(&self, after: Option<Position>) -> Cursor {
        let window = self.0.window();
        let mut cursor = Cursor {
            generation: window.generation,
            next: window.first,
            skip_through: Position::ZERO,
        };
        let Some(after) = after else { return cursor };
        let held = window
            .entries
            .iter()
            .rposition(|e| e.event.position == after);
        let moved = after <= window.moved_from;
        match held {
            Some(index) if moved => {
                cursor.next = window.looked.min(window.first + index as u64 + 1);
            }
            None if moved => {}
            Some(index) => cursor.next = window.first + index as u64 + 1,
            // Acknowledged already: everything that waits comes behind it, redriven events too.
            None if after <= window.through => {}
            None => cursor.skip_through = after,
        }
        cursor
    }

    /// Events from a place in the window on, at most so many and about so many bytes, at least one
    /// if there is one. A place of an earlier generation begins anew behind what was seen, unless
    /// the consumer was moved back since.
    pub(crate) fn look(&self, cursor: Cursor, events_max: usize, bytes_max: usize) -> Look {
        let mut window = self.0.window();
        let mut cursor = cursor;
        if cursor.generation != window.generation {
            let moved = cursor.generation < window.moved;
            cursor = Cursor {
                generation: window.generation,
                next: window.first,
                skip_through: if moved {
                    Position::ZERO
                } else {
                    cursor.skip_through
                },
            };
        }
        // What a reader has not seen may be acknowledged by another one meanwhile.
        cursor.next = cursor.next.max(window.first);
        let skipped = usize::try_from(cursor.next - window.first).unwrap_or(usize::MAX);
        let (mut events, mut bytes) = (Vec::new(), 0usize);
        for entry in window.entries.iter().skip(skipped) {
            let full = events.len() >= events_max || bytes.saturating_add(entry.bytes) > bytes_max;
            if full && !events.is_empty() {
                break;
            }
            cursor.next += 1;
            if !entry.again && entry.event.position <= cursor.skip_through {
                continue;
            }
            bytes = bytes.saturating_add(entry.bytes);
            events.push(entry.event.clone());
        }
        window.looked = window.looked.max(cursor.next);
        Look {
            events,
            source: window.source.clone(),
            cursor,
        }
    }

    /// Everything up to and including this is safe with the consumer. The caller has checked that
    /// the position is not ahead of the log.
    pub(crate) fn acknowledge(&self, position: Position) -> PullStats {
        {
            let mut window = self.0.window();
            let held = window
                .entries
                .iter()
                .rposition(|e| e.event.position == position);
            let until = held.map_or(0, |index| index + 1);
            let moved = position <= window.moved_from;
            let mut popped = 0;
            while let Some(entry) = window.entries.front()
                && (popped < until || (!entry.again && entry.event.position <= position))
                && (!moved || window.first < window.looked)
            {
                let (bytes, at, again) = (entry.bytes, entry.event.position, entry.again);
                window.entries.pop_front();
                window.first += 1;
                window.bytes = window.bytes.saturating_sub(bytes);
                if !again {
                    window.through = window.through.max(at);
                }
                popped += 1;
            }
            if !moved {
                window.done = window.done.max(position);
            }
        }
        self.0.freed.notify_one();
        self.stats()
    }

    /// How the consumer is doing.
    pub(crate) fn stats(&self) -> PullStats {
        let window = self.0.window();
        PullStats {
            acknowledged: window.through,
            waiting_events: window.entries.len(),
            waiting_bytes: window.bytes,
        }
    }

    /// Tells when there may be more to look at.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }
}

impl Cursor {
    /// The same place, remembering what the reader was given: should the lane resume, that is not
    /// given to it again.
    pub(crate) fn seen(mut self, position: Position) -> Self {
        self.skip_through = self.skip_through.max(position);
        self
    }
}

impl PullHandle {
    /// True for the position of an event that waits, and for what is acknowledged already: positions that
    /// this window has seen itself.
    pub(crate) fn knows(&self, position: Position) -> bool {
        let window = self.0.window();
        position <= window.through.max(window.done)
            || window.entries.iter().any(|e| e.event.position == position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cdc_core::{Lsn, testing};

    fn at(commit: u64) -> Position {
        Position::new(Lsn(commit), 0)
    }

    fn batch(commits: impl IntoIterator<Item = u64>) -> EventBatch {
        let events: Vec<_> = commits
            .into_iter()
            .map(|commit| testing::insert(commit, 0, 7))
            .collect();
        let end = events.last().unwrap().position;
        EventBatch::new(testing::source(), events, end)
    }

    fn commits(handle: &PullHandle, cursor: Cursor) -> Vec<u64> {
        let look = handle.look(cursor, usize::MAX, usize::MAX);
        let commit = |event: &ChangeEvent| event.position.commit.0;
        look.events.iter().map(commit).collect()
    }

    fn through(emitter: &mut PullEmitter) -> Position {
        emitter.durable().unwrap().unwrap().through
    }

    fn checkpoint(position: Position) -> Checkpoint {
        Checkpoint {
            lineage: testing::source().lineage,
            position,
            state: Bytes::new(),
            stored_micros: 0,
        }
    }

    async fn given(commits: std::ops::RangeInclusive<u64>) -> (PullEmitter, PullHandle) {
        let mut emitter = PullEmitter::new(1 << 20, 10);
        let handle = emitter.handle();
        emitter.resume(None).await.unwrap();
        emitter.emit(&batch(commits)).await.unwrap();
        (emitter, handle)
    }

    #[tokio::test]
    async fn reading_takes_nothing_and_acknowledging_does() {
        let (mut emitter, handle) = given(1..=5).await;
        for _ in 0..2 {
            assert_eq!(commits(&handle, handle.begin(None)), [1, 2, 3, 4, 5]);
        }
        assert_eq!(commits(&handle, handle.begin(Some(at(2)))), [3, 4, 5]);
        assert_eq!(through(&mut emitter), Position::ZERO);
        handle.acknowledge(at(3));
        assert_eq!(through(&mut emitter), at(3));
        // Behind something acknowledged comes everything that waits.
        assert_eq!(commits(&handle, handle.begin(Some(at(1)))), [4, 5]);
        // An older acknowledgement changes nothing.
        handle.acknowledge(at(2));
        assert_eq!(through(&mut emitter), at(3));
        assert_eq!(handle.stats().waiting_events, 2);
    }

    #[tokio::test]
    async fn a_position_between_events_acknowledges_those_before_it() {
        let (mut emitter, handle) = given(1..=5).await;
        handle.acknowledge(Position::end_of(Lsn(3)));
        assert_eq!(through(&mut emitter), at(3));
        assert_eq!(commits(&handle, handle.begin(None)), [4, 5]);
    }

    #[tokio::test]
    async fn what_a_consumer_had_before_a_restart_is_not_given_again() {
        let (mut emitter, handle) = given(1..=5).await;
        let cursor = handle
            .look(handle.begin(None), 4, usize::MAX)
            .cursor
            .seen(at(4));
        // The lane goes back to its checkpoint.
        emitter.resume(Some(&checkpoint(at(1)))).await.unwrap();
        assert_eq!(commits(&handle, cursor), [0; 0]);
        emitter.emit(&batch(2..=6)).await.unwrap();
        assert_eq!(commits(&handle, cursor), [5, 6]);
        // A reader that reconnects says what it has.
        assert_eq!(commits(&handle, handle.begin(Some(at(4)))), [5, 6]);
        // One that acknowledges it before it is given again never gets it.
        emitter.resume(Some(&checkpoint(at(1)))).await.unwrap();
        handle.acknowledge(at(4));
        assert_eq!(through(&mut emitter), at(1), "nothing was given yet");
        emitter.emit(&batch(2..=6)).await.unwrap();
        assert_eq!(through(&mut emitter), at(4));
        assert_eq!(commits(&handle, handle.begin(None)), [5, 6]);
    }

    /// An operator moves a consumer that runs: it gets again what it had acknowledged.
    #[tokio::test]
    async fn a_consumer_that_is_moved_back_is_given_everything_again() {
        let (mut emitter, handle) = given(1..=5).await;
        let streaming = handle.look(handle.begin(None), 9, usize::MAX);
        let streaming = streaming.cursor.seen(at(5));
        handle.acknowledge(at(5));
        emitter.resume(Some(&checkpoint(at(2)))).await.unwrap();
        emitter.emit(&batch(3..=6)).await.unwrap();
        assert_eq!(through(&mut emitter), at(2), "nobody has them");
        assert_eq!(commits(&handle, handle.begin(None)), [3, 4, 5, 6]);
        assert_eq!(commits(&handle, streaming), [3, 4, 5, 6]);
        handle.acknowledge(at(4));
        assert_eq!(through(&mut emitter), at(4));
        // And forwards: what lies between is not given.
        emitter.resume(Some(&checkpoint(at(8)))).await.unwrap();
        emitter.emit(&batch(9..=9)).await.unwrap();
        assert_eq!(commits(&handle, streaming), [9]);
        assert_eq!(through(&mut emitter), at(8));
    }

    /// Its reader does not know, and goes on as before the move.
    #[tokio::test]
    async fn what_is_said_of_before_a_move_back_takes_nothing_that_is_given_since() {
        let (mut emitter, handle) = given(1..=5).await;
        handle.look(handle.begin(None), 9, usize::MAX);
        handle.acknowledge(at(3));
        emitter.resume(Some(&checkpoint(at(1)))).await.unwrap();
        // An acknowledgement on its way, of what was given before.
        emitter.emit(&batch(2..=3)).await.unwrap();
        handle.acknowledge(at(5));
        assert_eq!(through(&mut emitter), at(1), "nobody has them");
        emitter.emit(&batch(4..=6)).await.unwrap();
        // A poll that goes on behind what it had.
        let cursor = handle.begin(Some(at(5)));
        assert_eq!(commits(&handle, cursor), [2, 3, 4, 5, 6]);
        assert_eq!(commits(&handle, handle.begin(Some(at(3)))), [4, 5, 6]);
        handle.acknowledge(at(5));
        assert_eq!(through(&mut emitter), at(5));
        handle.acknowledge(at(6));
        assert_eq!(through(&mut emitter), at(6));
    }

    #[tokio::test]
    async fn a_redriven_event_is_not_covered_by_later_positions() {
        let (mut emitter, handle) = given(1..=5).await;
        handle.acknowledge(at(5));
        // A letter of position 2 comes again.
        emitter.emit(&batch([2])).await.unwrap();
        handle.acknowledge(at(5));
        handle.acknowledge(at(9));
        assert_eq!(handle.stats().waiting_events, 1, "nobody has seen it");
        assert_eq!(commits(&handle, handle.begin(Some(at(5)))), [2]);
        handle.acknowledge(at(2));
        assert_eq!(handle.stats().waiting_events, 0);
        assert_eq!(through(&mut emitter), at(5), "the mark never goes back");
        emitter.flush().await.unwrap();
    }

    #[tokio::test]
    async fn a_full_window_holds_the_lane_and_an_acknowledgement_frees_it() {
        let one = batch([1]);
        let size = one.encoded_len() + EVENT_BYTES;
        let mut emitter = PullEmitter::new(3 * size, 10);
        let handle = emitter.handle();
        emitter.resume(None).await.unwrap();
        emitter.emit(&batch(1..=3)).await.unwrap();
        {
            let more = batch([4]);
            let mut waiting = Box::pin(emitter.emit(&more));
            tokio::select! {
                biased;
                _ = &mut waiting => panic!("there is no room"),
                () = std::future::ready(()) => {}
            }
            handle.acknowledge(at(1));
            waiting.await.unwrap();
        }
        assert_eq!(commits(&handle, handle.begin(None)), [2, 3, 4]);
        assert!(handle.stats().waiting_bytes <= 3 * size);
    }

    #[tokio::test]
    async fn a_look_is_bounded_and_gives_at_least_one() {
        let (_emitter, handle) = given(1..=5).await;
        let look = handle.look(handle.begin(None), 2, usize::MAX);
        assert_eq!(look.events.len(), 2);
        let look = handle.look(look.cursor, usize::MAX, 1);
        assert_eq!(look.events[0].position, at(3));
        assert_eq!(look.events.len(), 1);
    }
}
