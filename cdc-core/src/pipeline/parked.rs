//! Keys that wait behind a dead letter.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::window::Numbers;
use crate::row::RowError;
use crate::{ChangeEvent, DeadLetter, Position, Relation};

/// Hash of (table, key values). A collision parks one key too many, which keeps order and loses
/// nothing.
pub(super) type KeyHash = u64;

/// [`ChangeEvent::key_hashes`].
pub(super) fn key_hashes(event: &ChangeEvent) -> Result<Option<(KeyHash, KeyHash)>, RowError> {
    event.key_hashes()
}

/// Which worker's an event without a key of a row is: its table's.
pub(super) fn table_hash(relation: &Relation) -> KeyHash {
    let mut hasher = DefaultHasher::new();
    relation.schema.hash(&mut hasher);
    relation.table.hash(&mut hasher);
    hasher.finish()
}

/// One key that waits.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// Open letters of it.
    letters: u64,
    /// At or below its first letter: what is before that does not wait.
    first: Position,
}

/// Keys that wait behind a dead letter.
#[derive(Debug, Default)]
pub(super) struct ParkedKeys {
    keys: HashMap<KeyHash, Waiting>,
    /// Events with an open letter: after a crash they are read again, and each counts once.
    letters: HashSet<Position>,
    additions: u64,
    /// Added since [`begin`](Self::begin).
    since: Vec<((KeyHash, KeyHash), Position)>,
}

impl ParkedKeys {
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Keys that wait.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Grows whenever another event may have to wait: what was looked at then need not be looked at
    /// again.
    pub(super) const fn generation(&self) -> u64 {
        self.additions
    }

    /// What is added from here on may be taken back: its letters are not stored yet.
    pub(super) fn begin(&mut self) {
        self.since.clear();
    }

    /// Takes back what was added since [`begin`](Self::begin): the queue had no room.
    pub(super) fn undo(&mut self) {
        for (keys, position) in std::mem::take(&mut self.since) {
            self.remove(keys, position);
        }
    }

    pub(super) fn add(&mut self, (old, new): (KeyHash, KeyHash), position: Position) {
        if !self.letters.insert(position) {
            return;
        }
        self.since.push(((old, new), position));
        for key in [old, new].into_iter().take(if new == old { 1 } else { 2 }) {
            let waiting = self.keys.entry(key).or_insert(Waiting {
                letters: 0,
                first: position,
            });
            if waiting.letters == 0 || position < waiting.first {
                waiting.first = position;
                self.additions += 1;
            }
            waiting.letters += 1;
        }
    }

    /// The letter of the event at `position` is closed.
    pub(super) fn remove(&mut self, (old, new): (KeyHash, KeyHash), position: Position) {
        if !self.letters.remove(&position) {
            return;
        }
        for key in [old, new].into_iter().take(if new == old { 1 } else { 2 }) {
            if let Some(waiting) = self.keys.get_mut(&key) {
                waiting.letters = waiting.letters.saturating_sub(1);
                if waiting.letters == 0 {
                    self.keys.remove(&key);
                }
            }
        }
    }

    /// True if an event of these keys at `position` must wait; the first dead letter itself does, when
    /// it is read again.
    pub(super) fn holds(&self, (old, new): (KeyHash, KeyHash), position: Position) -> bool {
        [old, new].into_iter().any(|key| {
            self.keys
                .get(&key)
                .is_some_and(|waiting| waiting.first <= position)
        })
    }

    /// True if one of these keys waits already.
    pub(super) fn knows(&self, (old, new): (KeyHash, KeyHash)) -> bool {
        self.keys.contains_key(&old) || self.keys.contains_key(&new)
    }
}

/// Letters of events that wait behind another one, until they are stored as a group: one sync for
/// all that came in a fraction of a second. Their events are in the window and not done.
#[derive(Debug, Default)]
pub(super) struct Parking {
    letters: Vec<DeadLetter>,
    numbers: Vec<u64>,
    /// The lowest of them.
    first: Option<u64>,
    bytes: usize,
}

impl Parking {
    /// Most letters, and bytes of their rows, that wait for the group to be complete.
    const LETTERS_MAX: usize = 4096;
    const BYTES_MAX: usize = 4 << 20;

    pub(super) fn push(&mut self, number: u64, letter: DeadLetter) {
        self.bytes += letter.event.encoded_len();
        self.first = Some(self.first.map_or(number, |first| first.min(number)));
        self.numbers.push(number);
        self.letters.push(letter);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    /// Number of the first event.
    pub(super) const fn first(&self) -> Option<u64> {
        self.first
    }

    /// True if the group is large enough.
    pub(super) fn is_large(&self) -> bool {
        self.letters.len() >= Self::LETTERS_MAX || self.bytes >= Self::BYTES_MAX
    }

    pub(super) fn letters(&self) -> &[DeadLetter] {
        &self.letters
    }

    /// They are stored: gives the numbers of their events, ascending.
    pub(super) fn stored(&mut self) -> Numbers {
        let mut numbers = std::mem::take(self).numbers;
        numbers.sort_unstable();
        Numbers::List(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lsn;

    #[test]
    fn a_letter_that_is_found_and_then_read_again_counts_once() {
        let at = |n| Position::new(Lsn(n), 0);
        let mut parked = ParkedKeys::default();
        parked.add((1, 2), at(5));
        parked.add((1, 2), at(5));
        parked.add((2, 2), at(6));
        parked.remove((1, 2), at(5));
        assert!(!parked.knows((1, 1)), "its only letter is closed");
        assert!(parked.knows((2, 2)));
        parked.remove((1, 2), at(5));
        assert!(parked.knows((2, 2)), "closed twice, counted once");
        parked.remove((2, 2), at(6));
        assert!(parked.is_empty());
    }
}
