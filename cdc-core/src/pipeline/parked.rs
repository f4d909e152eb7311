//! Keys that wait behind a dead letter.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};

use super::window::Numbers;
use crate::row::RowError;
use crate::{ChangeEvent, DeadLetter, Op, Position, Relation};

/// Hash of (table, key values). A collision parks one key too many, which keeps order and loses
/// nothing.
pub(super) type KeyHash = u64;
/// Of the row before and the row after, if the event is of a row.
pub(super) type KeyHashes = Option<(KeyHash, KeyHash)>;

/// [`ChangeEvent::key_hashes`].
pub(super) fn key_hashes(event: &ChangeEvent) -> Result<KeyHashes, RowError> {
    event.key_hashes()
}

/// Which worker's an event without a key of a row is: its table's.
pub(super) fn table_hash(relation: &Relation) -> KeyHash {
    hash_of(&relation.schema, &relation.table)
}

/// As [`table_hash`], of the other table that an event concerns, if there is one.
pub(super) fn other_table_hash(event: &ChangeEvent) -> Option<KeyHash> {
    Some(hash_of(&event.relation.schema, event.other_table()?))
}

fn hash_of(schema: &str, table: &str) -> KeyHash {
    let mut hasher = DefaultHasher::new();
    schema.hash(&mut hasher);
    table.hash(&mut hasher);
    hasher.finish()
}

/// The table of an event, and where its row was before, or what the table is called from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tables {
    of: KeyHash,
    other: Option<KeyHash>,
}

impl Tables {
    fn each(self) -> impl Iterator<Item = KeyHash> {
        [self.of].into_iter().chain(self.other)
    }
}

/// What of its table an event concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The row of one key; of two, if it changes its key.
    Row {
        tables: Tables,
        old: KeyHash,
        new: KeyHash,
    },
    /// All of it: `truncate`, `schema`, and an operand that does not say of which row it is.
    Table(Tables),
}

impl Scope {
    /// What an event concerns. `None` for a message, and for a row that cannot be read: encoding
    /// that will dead-letter it, and nothing waits behind it.
    pub(super) fn of(event: &ChangeEvent) -> Option<Self> {
        if event.op == Op::Message {
            return None;
        }
        let of = table_hash(&event.relation);
        let other = other_table_hash(event).filter(|&other| other != of);
        let tables = Tables { of, other };
        match key_hashes(event) {
            Ok(Some((old, new))) => Some(Self::Row { tables, old, new }),
            Ok(None) => Some(Self::Table(tables)),
            Err(_) => None,
        }
    }

    fn tables(self) -> impl Iterator<Item = KeyHash> {
        match self {
            Self::Row { tables, .. } | Self::Table(tables) => tables.each(),
        }
    }

    /// The keys of a row, each once.
    fn keys(self) -> impl Iterator<Item = KeyHash> {
        let (first, second) = match self {
            Self::Row { old, new, .. } => (Some(old), (new != old).then_some(new)),
            Self::Table(_) => (None, None),
        };
        first.into_iter().chain(second)
    }
}

/// Where a letter of this counts.
fn counts(scope: Scope) -> impl Iterator<Item = (Which, KeyHash)> {
    let whole = matches!(scope, Scope::Table(_));
    let tables = scope.tables().flat_map(move |table| {
        let whole = whole.then_some((Which::Whole, table));
        [(Which::Table, table)].into_iter().chain(whole)
    });
    tables.chain(scope.keys().map(|key| (Which::Key, key)))
}

/// Open letters of one key, or one table.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    letters: u64,
    /// At or below the first of them: what is before that does not wait.
    first: Position,
}

/// What is a hash already needs none.
#[derive(Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Open letters of each key, or table.
#[derive(Debug, Default)]
struct Letters(HashMap<KeyHash, Waiting, BuildHasherDefault<AsItIs>>);

impl Letters {
    /// At or below the first letter of a key, if it has any.
    fn first(&self, key: KeyHash) -> Option<Position> {
        self.0.get(&key).map(|waiting| waiting.first)
    }

    /// True if more may have to wait than before.
    fn add(&mut self, key: KeyHash, position: Position) -> bool {
        let waiting = self.0.entry(key).or_insert(Waiting {
            letters: 0,
            first: position,
        });
        let more = waiting.letters == 0 || position < waiting.first;
        waiting.first = waiting.first.min(position);
        waiting.letters += 1;
        more
    }

    /// True if another one is the first now, which nobody knows.
    fn remove(&mut self, key: KeyHash, position: Position) -> bool {
        let Some(waiting) = self.0.get_mut(&key) else {
            return false;
        };
        waiting.letters = waiting.letters.saturating_sub(1);
        if waiting.letters == 0 {
            self.0.remove(&key);
            return false;
        }
        position <= waiting.first
    }

    fn holds(&self, key: KeyHash, position: Position) -> bool {
        self.0
            .get(&key)
            .is_some_and(|waiting| waiting.first <= position)
    }
}

/// Keys that wait behind a dead letter, and tables that wait as a whole.
///
/// An event of a whole table (`truncate`, `schema`) waits behind every letter of that table, and
/// every later event of the table behind it: otherwise a redrive would bring back rows that were
/// truncated.
#[derive(Debug, Default)]
pub(super) struct ParkedKeys {
    keys: Letters,
    /// Tables with an open letter that concerns all of them.
    whole: Letters,
    /// Tables with any open letter.
    tables: Letters,
    /// Events with an open letter: after a crash they are read again, and each counts once.
    letters: HashMap<Position, u32>,
    /// Sessions that were before: what was added in an earlier one and is read again is not new.
    session: u32,
    /// A first letter is closed, and others of its key, or table, are not.
    vague: bool,
    additions: u64,
    /// Added since [`begin`](Self::begin).
    since: Vec<(Scope, Position)>,
    /// Of each count that was added to since then, the first letter it had before, if any.
    before: HashMap<(Which, KeyHash), Option<Position>>,
}

/// One of the three counts of [`ParkedKeys`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Which {
    Key,
    Whole,
    Table,
}

impl ParkedKeys {
    pub(super) fn is_empty(&self) -> bool {
        self.tables.0.is_empty()
    }

    /// Keys that wait; a table that waits as a whole counts as one more.
    pub(super) fn len(&self) -> usize {
        self.keys.0.len() + self.whole.0.len()
    }

    /// Grows whenever another event may have to wait: what was looked at then need not be looked at
    /// again.
    pub(super) const fn generation(&self) -> u64 {
        self.additions
    }

    /// What is added from here on may be taken back: its letters are not stored yet.
    pub(super) fn begin(&mut self) {
        self.since.clear();
        self.before.clear();
    }

    /// Takes back what was added since [`begin`](Self::begin), but for what is stored: the queue had
    /// no room for more.
    pub(super) fn undo(&mut self, stored: &[Position]) {
        let stored: HashSet<_> = stored.iter().collect();
        let (kept, undone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.since)
            .into_iter()
            .partition(|(_, position)| stored.contains(position));
        for (scope, position) in undone {
            self.remove(scope, position);
        }
        // What was taken back is the first of nothing: what stands between may go out.
        let mut firsts = std::mem::take(&mut self.before);
        for (scope, position) in kept {
            for count in counts(scope) {
                let first = firsts.entry(count).or_default();
                *first = Some(first.map_or(position, |first| first.min(position)));
            }
        }
        for ((which, key), first) in firsts {
            if let Some(waiting) = self.count(which).0.get_mut(&key)
                && let Some(first) = first
            {
                waiting.first = first;
            }
        }
    }

    const fn count(&mut self, which: Which) -> &mut Letters {
        match which {
            Which::Key => &mut self.keys,
            Which::Whole => &mut self.whole,
            Which::Table => &mut self.tables,
        }
    }

    pub(super) fn add(&mut self, scope: Scope, position: Position) {
        let Entry::Vacant(fresh) = self.letters.entry(position) else {
            return;
        };
        fresh.insert(self.session);
        self.since.push((scope, position));
        let mut more = false;
        for (which, key) in counts(scope) {
            let letters = self.count(which);
            let first = letters.first(key);
            more |= letters.add(key, position);
            self.before.entry((which, key)).or_insert(first);
        }
        self.additions += u64::from(more);
    }

    /// The session ends, and these letters are not stored. Their events are read again: until then nothing
    /// waits behind them, unless they were letters before this session.
    pub(super) fn forget(&mut self, unstored: &[DeadLetter]) {
        for letter in unstored {
            let position = letter.event.position;
            if self.letters.get(&position) == Some(&self.session)
                && let Some(scope) = Scope::of(&letter.event)
            {
                self.remove(scope, position);
            }
        }
        self.session += 1;
        self.begin();
    }

    /// The letter of the event at `position` is closed.
    pub(super) fn remove(&mut self, scope: Scope, position: Position) {
        if self.letters.remove(&position).is_none() {
            return;
        }
        for (which, key) in counts(scope) {
            self.vague |= self.count(which).remove(key, position);
        }
    }

    /// True if what is read again may seem to wait behind a letter that is closed: then they are to be found anew
    /// before anything is.
    pub(super) const fn is_vague(&self) -> bool {
        self.vague
    }

    /// As it was made, to be filled again.
    pub(super) fn clear(&mut self) {
        *self = Self {
            session: self.session,
            additions: self.additions + 1,
            ..Self::default()
        };
    }

    /// What was added is stored, and no session's own.
    pub(super) fn found(&mut self) {
        self.session += 1;
        self.begin();
    }

    /// Behind what an event must wait, if it must, and what it concerns.
    pub(super) fn behind(&self, event: &ChangeEvent) -> Option<(Scope, Behind)> {
        self.behind_of(event, key_hashes(event).ok().flatten())
    }

    /// As [`behind`](Self::behind), with the hashes of the event's key, if it has one.
    pub(super) fn behind_of(
        &self,
        event: &ChangeEvent,
        hashes: KeyHashes,
    ) -> Option<(Scope, Behind)> {
        let position = event.position;
        // Nearly every event ends here.
        if self.whole.0.is_empty()
            && let Some((old, new)) = hashes
            && !self.keys.holds(old, position)
            && (new == old || !self.keys.holds(new, position))
        {
            return None;
        }
        let scope = Scope::of(event)?;
        Some((scope, self.holds(scope, position)?))
    }

    /// Behind what an event at `position` must wait, if it must; the first dead letter itself does,
    /// when it is read again.
    pub(super) fn holds(&self, scope: Scope, position: Position) -> Option<Behind> {
        if scope
            .tables()
            .any(|table| self.whole.holds(table, position))
        {
            return Some(Behind::Table);
        }
        let waits = match scope {
            Scope::Table(tables) => tables
                .each()
                .any(|table| self.tables.holds(table, position)),
            Scope::Row { .. } => scope.keys().any(|key| self.keys.holds(key, position)),
        };
        waits.then_some(match scope {
            Scope::Table(_) => Behind::Rows,
            Scope::Row { .. } => Behind::Key,
        })
    }

    /// True if a letter of this adds no key and no table to those that wait.
    pub(super) fn knows(&self, scope: Scope) -> bool {
        match scope {
            Scope::Table(tables) => tables.each().all(|table| self.whole.0.contains_key(&table)),
            Scope::Row { .. } => scope.keys().all(|key| self.keys.0.contains_key(&key)),
        }
    }
}

/// Why an event waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// A letter of its key.
    Key,
    /// It concerns a whole table, and that has letters.
    Rows,
    /// A letter that concerns its whole table.
    Table,
}

impl Behind {
    /// What the letter says.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Key => "waits behind a dead letter of the same key",
            Self::Rows => "concerns the whole table, and waits behind a dead letter of that table",
            Self::Table => "waits behind an event of the whole table that waits itself",
        }
    }
}

/// What a redrive leaves behind it, and what must therefore stay too.
#[derive(Debug, Default)]
pub(super) struct Left {
    keys: HashSet<KeyHash>,
    whole: HashSet<KeyHash>,
    tables: HashSet<KeyHash>,
}

impl Left {
    /// A letter of this stays.
    pub(super) fn add(&mut self, scope: Scope) {
        self.tables.extend(scope.tables());
        if let Scope::Table(tables) = scope {
            self.whole.extend(tables.each());
        }
        self.keys.extend(scope.keys());
    }

    /// True if a later letter of this must stay.
    pub(super) fn holds(&self, scope: Scope) -> bool {
        scope.tables().any(|table| self.whole.contains(&table))
            || match scope {
                Scope::Table(tables) => tables.each().any(|table| self.tables.contains(&table)),
                Scope::Row { .. } => scope.keys().any(|key| self.keys.contains(&key)),
            }
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

    /// The first `count` of them are stored: gives the numbers of their events, ascending.
    pub(super) fn stored(&mut self, count: usize) -> Numbers {
        let stored = self.letters.drain(..count);
        self.bytes -= stored
            .map(|letter| letter.event.encoded_len())
            .sum::<usize>();
        let mut numbers: Vec<_> = self.numbers.drain(..count).collect();
        self.first = self.numbers.iter().min().copied();
        numbers.sort_unstable();
        Numbers::List(numbers)
    }

    /// Letters that were stored before, and are closed now: their events were read again and waited for
    /// room once more. Gives the numbers of those events, ascending.
    pub(super) fn closed(&mut self, positions: &HashSet<Position>) -> Numbers {
        let letters = std::mem::take(&mut self.letters);
        let numbers = std::mem::take(&mut self.numbers);
        let mut closed = Vec::new();
        for (letter, number) in letters.into_iter().zip(numbers) {
            if positions.contains(&letter.event.position) {
                self.bytes -= letter.event.encoded_len();
                closed.push(number);
            } else {
                self.letters.push(letter);
                self.numbers.push(number);
            }
        }
        self.first = self.numbers.iter().min().copied();
        closed.sort_unstable();
        Numbers::List(closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lsn;

    const fn tables(of: u64) -> Tables {
        Tables { of, other: None }
    }

    const fn row(table: u64, old: u64, new: u64) -> Scope {
        let tables = tables(table);
        Scope::Row { tables, old, new }
    }

    const fn whole(table: u64) -> Scope {
        Scope::Table(tables(table))
    }

    fn at(n: u64) -> Position {
        Position::new(Lsn(n), 0)
    }

    #[test]
    fn a_letter_that_is_found_and_then_read_again_counts_once() {
        let mut parked = ParkedKeys::default();
        parked.add(row(0, 1, 2), at(5));
        parked.add(row(0, 1, 2), at(5));
        parked.add(row(0, 2, 2), at(6));
        parked.remove(row(0, 1, 2), at(5));
        assert!(!parked.knows(row(0, 1, 1)), "its only letter is closed");
        assert!(parked.knows(row(0, 2, 2)));
        parked.remove(row(0, 1, 2), at(5));
        assert!(parked.knows(row(0, 2, 2)), "closed twice, counted once");
        parked.remove(row(0, 2, 2), at(6));
        assert!(parked.is_empty());
    }

    #[test]
    fn what_is_taken_back_is_the_first_of_nothing() {
        let mut parked = ParkedKeys::default();
        parked.add(row(0, 1, 1), at(9));
        parked.begin();
        parked.add(row(0, 1, 1), at(5));
        parked.add(row(0, 2, 2), at(6));
        parked.add(row(0, 2, 1), at(7));
        parked.undo(&[at(7)]);
        for (scope, position, behind) in [
            (row(0, 1, 1), 6, None),
            (row(0, 1, 1), 7, Some(Behind::Key)),
            (row(0, 2, 2), 6, None),
            (row(0, 2, 2), 7, Some(Behind::Key)),
            (whole(0), 6, None),
        ] {
            assert_eq!(parked.holds(scope, at(position)), behind, "{scope:?}");
        }
    }

    #[test]
    fn a_whole_table_waits_behind_its_rows_and_its_rows_behind_it() {
        let mut parked = ParkedKeys::default();
        parked.add(row(7, 1, 1), at(5));
        for (scope, position, behind) in [
            (row(7, 1, 1), 6, Some(Behind::Key)),
            (row(7, 3, 1), 6, Some(Behind::Key)),
            (row(7, 2, 2), 6, None),
            (whole(7), 6, Some(Behind::Rows)),
            (whole(7), 4, None),
            (whole(8), 6, None),
        ] {
            assert_eq!(parked.holds(scope, at(position)), behind, "{scope:?}");
        }
        let before = parked.generation();
        parked.add(whole(7), at(6));
        assert!(
            parked.generation() > before,
            "all that is queued is looked at again"
        );
        assert_eq!(parked.len(), 2, "a key and a table");
        assert_eq!(parked.holds(row(7, 2, 2), at(7)), Some(Behind::Table));
        assert_eq!(parked.holds(row(7, 2, 2), at(5)), None, "before it");
        assert_eq!(parked.holds(row(8, 2, 2), at(7)), None, "another table");
        // The rows' letter is closed: the table's own still stands.
        parked.remove(row(7, 1, 1), at(5));
        assert_eq!(parked.holds(row(7, 1, 1), at(8)), Some(Behind::Table));
        parked.remove(whole(7), at(6));
        assert!(parked.is_empty());
    }
}
