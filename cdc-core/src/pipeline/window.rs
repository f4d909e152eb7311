//! The acknowledgement window: what a lane has read and not yet seen safe.

use std::collections::VecDeque;
use std::ops::Range;

use crate::{ChangeEvent, Position};

/// Numbers of events in the window. Dense in the order of reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Numbers {
    /// Consecutive ones.
    Range(Range<u64>),
    /// Any, ascending.
    List(Vec<u64>),
}

impl Numbers {
    /// The number at an index.
    ///
    /// # Panics
    /// If there are not that many.
    pub(super) fn at(&self, index: usize) -> u64 {
        match self {
            Self::Range(range) => range.start + index as u64,
            Self::List(list) => list[index],
        }
    }

    /// Those at a range of indices.
    pub(super) fn slice(&self, indices: Range<usize>) -> Self {
        match self {
            Self::Range(range) => {
                let start = range.start + indices.start as u64;
                Self::Range(start..start + indices.len() as u64)
            }
            Self::List(list) => Self::List(list[indices].to_vec()),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Range(range) => usize::try_from(range.end - range.start).unwrap_or(usize::MAX),
            Self::List(list) => list.len(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.len()).map(|index| self.at(index))
    }
}

/// One event in the window.
#[derive(Clone, Copy, Debug)]
struct Entry {
    position: Position,
    commit_micros: i64,
}

/// A position that is reached when every event numbered below is done: the end of a batch, with
/// what was filtered out or dead-lettered behind its last event.
#[derive(Clone, Copy, Debug)]
struct Reach {
    below: u64,
    end: Position,
    commit_micros: Option<i64>,
}

/// The lane's position: the end of the contiguous prefix that is done.
///
/// Every event that is to be delivered has a dense number; a bit says that it is done (durable at
/// the destination, or fsynced in the dead letter queue). What the filter dropped has no number: it
/// lies between two events, and is passed with the first of them. The number of the first event
/// that is not done is the low watermark.
#[derive(Debug)]
pub(super) struct Window {
    position: Position,
    commit_micros: Option<i64>,
    /// Number of the first event that is not done.
    head: u64,
    /// Entries from `head` on.
    entries: VecDeque<Entry>,
    /// Bits from the word of `head` on.
    done: VecDeque<u64>,
    reaches: VecDeque<Reach>,
    /// Events that are not done.
    open: u64,
}

impl Window {
    pub(super) const fn new(position: Position) -> Self {
        Self {
            position,
            commit_micros: None,
            head: 0,
            entries: VecDeque::new(),
            done: VecDeque::new(),
            reaches: VecDeque::new(),
            open: 0,
        }
    }

    /// Everything up to this is delivered, dead-lettered or filtered out.
    pub(super) const fn position(&self) -> Position {
        self.position
    }

    /// Commit time of the last event of the done prefix.
    pub(super) const fn commit_micros(&self) -> Option<i64> {
        self.commit_micros
    }

    /// Everything up to this has been read.
    pub(super) fn read_through(&self) -> Position {
        let last = self.entries.back().map(|entry| entry.position);
        let reach = self.reaches.back().map(|reach| reach.end);
        last.max(reach)
            .map_or(self.position, |at| at.max(self.position))
    }

    /// Events from the first that is not done to the last that was read: what the bound is on.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Number of the first event that is not done.
    pub(super) const fn head(&self) -> u64 {
        self.head
    }

    /// True if some event is not done.
    pub(super) const fn is_waiting(&self) -> bool {
        self.open > 0
    }

    /// Takes events in, in position order, and numbers them.
    pub(super) fn push(&mut self, events: &[ChangeEvent]) -> Range<u64> {
        let first = self.head + self.entries.len() as u64;
        self.entries.extend(events.iter().map(|event| Entry {
            position: event.position,
            commit_micros: event.transaction.commit_micros,
        }));
        self.open += events.len() as u64;
        first..first + events.len() as u64
    }

    /// As [`push`](Self::push), of one event.
    pub(super) fn push_one(&mut self, event: &ChangeEvent) -> u64 {
        self.push(std::slice::from_ref(event)).start
    }

    /// Everything up to `end` that was not pushed needs nothing more.
    pub(super) fn reach(&mut self, end: Position, commit_micros: Option<i64>) {
        if self.entries.is_empty() {
            self.position = self.position.max(end);
            self.commit_micros = commit_micros.or(self.commit_micros);
            return;
        }
        let below = self.head + self.entries.len() as u64;
        match self.reaches.back_mut() {
            // An endless filtered stream behind a slow destination needs no memory.
            Some(last) if last.below == below => {
                last.end = last.end.max(end);
                last.commit_micros = commit_micros.or(last.commit_micros);
            }
            _ => self.reaches.push_back(Reach {
                below,
                end,
                commit_micros,
            }),
        }
    }

    /// These events are done. Marking one twice changes nothing. Gives how many were not done.
    pub(super) fn mark(&mut self, numbers: &Numbers) -> u64 {
        let marked = match numbers {
            Numbers::Range(range) => self.mark_range(range.clone()),
            Numbers::List(list) => list.iter().map(|&n| self.mark_range(n..n + 1)).sum(),
        };
        self.open -= marked;
        self.advance();
        marked
    }

    fn mark_range(&mut self, range: Range<u64>) -> u64 {
        let base = self.head / 64;
        let end = range.end.min(self.head + self.entries.len() as u64);
        let mut at = range.start.max(self.head);
        let mut marked = 0;
        while at < end {
            let word = at / 64;
            let through = end.min((word + 1) * 64);
            let count = through - at;
            let bits = (u64::MAX >> (64 - count)) << (at % 64);
            let index = usize::try_from(word - base).unwrap_or(usize::MAX);
            if self.done.len() <= index {
                self.done.resize(index + 1, 0);
            }
            marked += u64::from((bits & !self.done[index]).count_ones());
            self.done[index] |= bits;
            at = through;
        }
        marked
    }

    fn advance(&mut self) {
        let mut head = self.head;
        let end = self.head + self.entries.len() as u64;
        let mut words = self.done.iter();
        while head < end {
            let Some(word) = words.next() else { break };
            let ones = u64::from((word >> (head % 64)).trailing_ones());
            let whole = 64 - head % 64;
            head += ones;
            if ones < whole {
                break;
            }
        }
        if head == self.head {
            return;
        }
        let count = usize::try_from(head - self.head).unwrap_or(usize::MAX);
        if let Some(last) = self.entries.get(count - 1) {
            self.position = self.position.max(last.position);
            self.commit_micros = Some(last.commit_micros);
        }
        self.entries.drain(..count);
        let words = usize::try_from(head / 64 - self.head / 64).unwrap_or(usize::MAX);
        self.done.drain(..words.min(self.done.len()));
        self.head = head;
        while let Some(reach) = self.reaches.front().filter(|reach| reach.below <= head) {
            self.position = self.position.max(reach.end);
            self.commit_micros = reach.commit_micros.or(self.commit_micros);
            self.reaches.pop_front();
        }
    }

    /// Forgets everything and goes to `position`. Numbers go on, so that what still knows an old
    /// one can mark nothing.
    pub(super) fn rewind(&mut self, position: Position) {
        self.head += self.entries.len() as u64;
        self.entries.clear();
        self.done.clear();
        self.reaches.clear();
        self.open = 0;
        self.position = position;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lsn;
    use crate::testing::insert;
    use proptest::prelude::*;

    fn at(commit: u64) -> Position {
        Position::end_of(Lsn(commit))
    }

    fn events(commit: u64, count: u32) -> Vec<ChangeEvent> {
        (0..count)
            .map(|n| insert(commit, n, i64::from(n)))
            .collect()
    }

    #[test]
    fn after_going_back_nothing_is_left_of_what_was_read() {
        let mut window = Window::new(at(1));
        let old = window.push(&events(2, 4));
        window.mark(&Numbers::Range(old.start + 1..old.end));
        window.rewind(at(1));
        assert!(!window.is_waiting());
        assert_eq!((window.len(), window.position()), (0, at(1)));
        let new = window.push(&events(2, 4));
        assert!(new.start >= old.end, "numbers never come again");
        assert_eq!(window.mark(&Numbers::Range(old)), 0);
        assert_eq!(window.position(), at(1), "an old answer marks nothing");
        assert_eq!(window.mark(&Numbers::Range(new)), 4);
        assert_eq!(window.position(), Position::new(Lsn(2), 3));
        assert!(!window.is_waiting());
    }

    #[test]
    fn position_waits_for_the_first_that_is_not_done() {
        let mut window = Window::new(at(1));
        window.reach(at(2), None);
        assert_eq!(window.position(), at(2), "nothing waits");
        let numbers = window.push(&events(3, 5));
        window.reach(at(4), None);
        assert_eq!(numbers, 0..5);
        assert_eq!(window.mark(&Numbers::Range(1..5)), 4);
        assert_eq!(window.position(), at(2));
        assert_eq!(window.len(), 5, "a done event behind the head still counts");
        assert_eq!(window.mark(&Numbers::List(vec![0, 3])), 1);
        assert_eq!(window.position(), at(4), "with what was filtered behind it");
        assert!(!window.is_waiting());
        let more = window.push(&events(5, 2));
        window.mark(&Numbers::Range(more.start..more.start + 1));
        assert_eq!(
            window.position(),
            Position::new(Lsn(5), 0),
            "inside a transaction"
        );
        window.rewind(at(4));
        assert_eq!(
            window.mark(&Numbers::Range(more)),
            0,
            "old numbers are dead"
        );
        assert_eq!(window.position(), at(4));
    }

    proptest! {
        /// Against a plain list: the position is that of the longest done prefix.
        #[test]
        fn the_position_is_the_end_of_the_contiguous_prefix(
            steps in proptest::collection::vec((0u8..4, 0usize..400, 1usize..130), 1..120),
        ) {
            let mut window = Window::new(at(0));
            let mut oracle: Vec<(Position, Position, bool)> = Vec::new(); // position, reach, done
            let (mut commit, mut reached) = (0, at(0));
            for (step, pick, count) in steps {
                match step {
                    0 => {
                        commit += 1;
                        let batch = events(commit, u32::try_from(count).unwrap());
                        window.push(&batch);
                        window.reach(at(commit), None);
                        oracle.extend(batch.iter().map(|e| (e.position, e.position, false)));
                        oracle.last_mut().unwrap().1 = at(commit);
                    }
                    1 => {
                        commit += 1;
                        window.reach(at(commit), None);
                        match oracle.last_mut() {
                            Some(last) => last.1 = at(commit),
                            None => reached = at(commit),
                        }
                    }
                    _ if oracle.is_empty() => {}
                    _ => {
                        let from = pick % oracle.len();
                        let to = (from + count).min(oracle.len());
                        let numbers = if step == 2 {
                            Numbers::Range(from as u64..to as u64)
                        } else {
                            Numbers::List((from..to).step_by(3).map(|n| n as u64).collect())
                        };
                        let fresh = numbers.iter().filter(|&n| {
                            !std::mem::replace(&mut oracle[usize::try_from(n).unwrap()].2, true)
                        }).count();
                        prop_assert_eq!(window.mark(&numbers), fresh as u64);
                    }
                }
                let prefix = oracle.iter().take_while(|entry| entry.2).count();
                let expected = prefix.checked_sub(1).map_or(reached, |last| oracle[last].1);
                prop_assert_eq!(window.position(), expected.max(reached));
                prop_assert_eq!(window.len(), oracle.len() - prefix);
                let open = oracle.iter().filter(|entry| !entry.2).count();
                prop_assert_eq!(window.is_waiting(), open > 0);
            }
        }
    }
}
