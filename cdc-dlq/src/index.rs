//! What is known of open letters without reading them: identity, place, state, class, time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cdc_core::{LetterState, Position};

use crate::record::{Identity, LetterRecord};
use crate::sidecar::Operation;

/// Most different failure classes told apart; the classes of this project are a dozen.
const CLASSES_MAX: usize = 1024;
/// What classes beyond [`CLASSES_MAX`] count as.
const OTHER_CLASS: &str = "other";

/// A letter's identity; ordered by emitter, then position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) emitter: u32,
    pub(crate) position: Position,
    pub(crate) source: u64,
}

/// Where a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    /// Sequence of the segment.
    pub(crate) segment: u64,
    /// Offset of the frame in the file.
    pub(crate) offset: u32,
    /// Length of the frame with its header.
    pub(crate) length: u32,
}

/// An open letter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) at: At,
    pub(crate) state: LetterState,
    pub(crate) class: u16,
    pub(crate) last_failed_micros: i64,
}

/// Texts that many letters share, by number.
#[derive(Debug, Default)]
struct Names {
    list: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32>,
}

impl Names {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        // Bounded by the configuration's emitters, or by `CLASSES_MAX`.
        let number = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        let name: Arc<str> = name.into();
        self.list.push(name.clone());
        self.numbers.insert(name, number);
        number
    }
}

/// How much of a segment open letters need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) letters: u64,
    pub(crate) bytes: u64,
}

/// The open letters.
#[derive(Debug, Default)]
pub(crate) struct Index {
    letters: BTreeMap<Key, Entry>,
    live: BTreeMap<u64, Live>,
    /// Open letters by emitter and state; kept up, so that asking is free.
    counts: BTreeMap<(u32, u8), u64>,
    emitters: Names,
    classes: Names,
}

impl Index {
    pub(crate) fn len(&self) -> usize {
        self.letters.len()
    }

    /// Bytes of the records of all open letters.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live.values().map(|live| live.bytes).sum()
    }

    /// What open letters need of a segment.
    pub(crate) fn live(&self, segment: u64) -> Live {
        self.live.get(&segment).copied().unwrap_or_default()
    }

    pub(crate) fn forget_segment(&mut self, segment: u64) {
        self.live.remove(&segment);
    }

    /// The letter's key, whether it is open or not; `None` for an emitter without letters so far.
    pub(crate) fn key(&self, identity: &Identity<'_>) -> Option<Key> {
        Some(Key {
            emitter: *self.emitters.numbers.get(identity.emitter)?,
            position: identity.position,
            source: identity.source,
        })
    }

    pub(crate) fn get(&self, key: Key) -> Option<Entry> {
        self.letters.get(&key).copied()
    }

    pub(crate) fn find(&self, identity: &Identity<'_>) -> Option<(Key, Entry)> {
        let key = self.key(identity)?;
        Some((key, self.get(key)?))
    }

    /// Takes in a letter record: opens the letter, or replaces what was known. A letter that was
    /// written closed (which the writer never does) is not there.
    pub(crate) fn apply_letter(&mut self, record: &LetterRecord<'_>, at: At) {
        let last_failed = record.last_failed_micros;
        self.open(
            &record.identity,
            record.class,
            record.state,
            last_failed,
            at,
        );
    }

    /// Takes in what a letter record says.
    fn open(
        &mut self,
        identity: &Identity<'_>,
        class: &str,
        state: LetterState,
        last_failed_micros: i64,
        at: At,
    ) {
        let class = if self.classes.list.len() < CLASSES_MAX {
            class
        } else {
            OTHER_CLASS
        };
        let key = Key {
            emitter: self.emitters.number(identity.emitter),
            position: identity.position,
            source: identity.source,
        };
        let entry = Entry {
            at,
            state,
            class: u16::try_from(self.classes.number(class)).unwrap_or(u16::MAX),
            last_failed_micros,
        };
        self.close(key);
        if state.is_open() {
            let live = self.live.entry(at.segment).or_default();
            live.letters += 1;
            live.bytes += u64::from(at.length);
            self.count(key, state, 1);
            self.letters.insert(key, entry);
        }
    }

    /// Takes in what a segment's index says of one of its records.
    pub(crate) fn apply_operation(&mut self, operation: &Operation<'_>, segment: u64) {
        match *operation {
            Operation::Letter {
                identity,
                class,
                state,
                last_failed_micros,
                offset,
                length,
            } => {
                let at = At {
                    segment,
                    offset,
                    length,
                };
                self.open(&identity, class, state, last_failed_micros, at);
            }
            Operation::State(identity, state) => {
                if let Some(key) = self.key(&identity) {
                    self.apply_state(key, state);
                }
            }
        }
    }

    /// Takes in a state record; nothing if the letter is not open.
    pub(crate) fn apply_state(&mut self, key: Key, state: LetterState) {
        if !state.is_open() {
            self.close(key);
        } else if let Some(entry) = self.letters.get_mut(&key) {
            let before = std::mem::replace(&mut entry.state, state);
            self.count(key, before, -1);
            self.count(key, state, 1);
        }
    }

    fn count(&mut self, key: Key, state: LetterState, change: i64) {
        let count = self.counts.entry((key.emitter, state as u8)).or_default();
        *count = count.saturating_add_signed(change);
    }

    /// Open letters by emitter and state; emitters that have none any more count zero.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&str, LetterState, u64)> {
        self.counts
            .iter()
            .filter_map(|(&(emitter, state), &count)| {
                let name = self.emitters.list.get(emitter as usize)?;
                Some((&**name, LetterState::from_u8(state)?, count))
            })
    }

    fn close(&mut self, key: Key) {
        let Some(entry) = self.letters.remove(&key) else {
            return;
        };
        self.count(key, entry.state, -1);
        if let Some(live) = self.live.get_mut(&entry.at.segment) {
            live.letters -= 1;
            live.bytes -= u64::from(entry.at.length);
        }
    }

    /// Open letters of one emitter in position order, strictly after a position.
    pub(crate) fn after(
        &self,
        emitter: &str,
        after: Option<Position>,
    ) -> impl Iterator<Item = (Key, Entry)> + '_ {
        let number = self.emitters.numbers.get(emitter).copied();
        number
            .into_iter()
            .flat_map(move |number| {
                let first = Key {
                    emitter: number,
                    position: after.unwrap_or(Position::ZERO),
                    source: 0,
                };
                self.letters
                    .range(first..)
                    .take_while(move |(key, _)| key.emitter == number)
                    .skip_while(move |(key, _)| after.is_some_and(|after| key.position <= after))
            })
            .map(|(key, entry)| (*key, *entry))
    }

    /// Open letters behind a key, in the order of [`Index::iter`].
    pub(crate) fn behind(&self, key: Option<Key>) -> impl Iterator<Item = (Key, Entry)> + '_ {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = key.map_or(Unbounded, Excluded);
        self.letters
            .range((from, Unbounded))
            .map(|(key, entry)| (*key, *entry))
    }

    /// All open letters, by emitter in order of its first letter, then position.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, Entry)> + '_ {
        self.letters.iter().map(|(key, entry)| (*key, *entry))
    }

    pub(crate) fn emitter(&self, key: Key) -> &str {
        let name = self.emitters.list.get(key.emitter as usize);
        name.map_or("", |name| name)
    }

    pub(crate) fn class(&self, entry: &Entry) -> &str {
        let name = self.classes.list.get(usize::from(entry.class));
        name.map_or(OTHER_CLASS, |name| name)
    }
}
