//! What the oracle keeps of events and emitters.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::EmitterRules;
use crate::row::ValueRef;
use crate::{ChangeEvent, Image, LetterState, Op, Position};

#[derive(Debug)]
pub(super) struct Known {
    pub(super) event: ChangeEvent,
    pub(super) keys: [u64; 2],
    pub(super) table: u64,
}

impl Known {
    /// True if it concerns a whole table.
    pub(super) fn is_barrier(&self) -> bool {
        self.event.op == Op::Truncate
    }

    /// True if a letter of the other may hold this one: of the same row, or of the same table if one
    /// of them concerns all of it.
    pub(super) fn may_wait_behind(&self, other: &Self) -> bool {
        if self.is_barrier() || other.is_barrier() {
            return self.table == other.table;
        }
        distinct(other.keys).any(|key| self.keys.contains(&key))
    }
}

/// Kept events of one key or table, and how many of them, from the first, are known to be done.
#[derive(Debug, Default)]
pub(super) struct Chain {
    pub(super) events: Vec<usize>,
    pub(super) done: usize,
}

#[derive(Debug)]
pub(super) struct Judged {
    pub(super) rules: EmitterRules,
    /// How often each event arrived, by its number.
    pub(super) arrived: Vec<u32>,
    pub(super) kept: Vec<bool>,
    pub(super) keys: HashMap<u64, Chain>,
    pub(super) barriers: HashMap<u64, Chain>,
    pub(super) tables: HashMap<u64, Chain>,
    pub(super) letters: BTreeMap<usize, LetterState>,
    /// Appends that were not acknowledged: they may be there or not.
    pub(super) maybe_letters: BTreeMap<usize, LetterState>,
    pub(super) ever_letter: HashSet<usize>,
    /// Appends that a full disk refused: the power may take it back that they were cut off again.
    pub(super) begun_letters: HashSet<usize>,
    /// Had no room to be letters, and came again behind what was sent after them.
    pub(super) came_again: HashSet<usize>,
    pub(super) refused: HashSet<usize>,
    /// Of those, what the file emitter itself refuses, behind which it writes what came with it.
    pub(super) spoiled: HashSet<usize>,
    pub(super) discarded: HashSet<usize>,
    /// Stored and acknowledged.
    pub(super) checkpoint: Position,
    /// The furthest it ever was: what an operator moves back stays told to the source, and the log
    /// has it.
    pub(super) checkpoint_max: Position,
    /// Asked to be stored.
    pub(super) attempted: Position,
    /// A move that could not be stored for sure: the next start may find it.
    pub(super) maybe_moved: Option<Position>,
    /// All events before this number are done.
    pub(super) done: usize,
    pub(super) reset: bool,
    /// How often an operator has moved it.
    pub(super) moves: u64,
    /// One more than the number of the furthest event that arrived in this life.
    pub(super) furthest: usize,
    /// Where this life began, unless the lane has been moved since.
    pub(super) began: Option<Position>,
    /// A replay under way.
    pub(super) replay: Option<Replayed>,
}

/// What has come of a replay.
#[derive(Debug)]
pub(super) struct Replayed {
    pub(super) number: u64,
    pub(super) after: Position,
    pub(super) to: Position,
    pub(super) seen: HashSet<usize>,
}

impl Judged {
    pub(super) fn new(rules: EmitterRules) -> Self {
        Self {
            arrived: Vec::new(),
            kept: Vec::new(),
            keys: HashMap::new(),
            barriers: HashMap::new(),
            tables: HashMap::new(),
            letters: BTreeMap::new(),
            maybe_letters: BTreeMap::new(),
            ever_letter: HashSet::new(),
            begun_letters: HashSet::new(),
            came_again: HashSet::new(),
            refused: HashSet::new(),
            spoiled: HashSet::new(),
            discarded: HashSet::new(),
            checkpoint: Position::ZERO,
            checkpoint_max: Position::ZERO,
            attempted: Position::ZERO,
            maybe_moved: None,
            done: 0,
            reset: false,
            moves: 0,
            furthest: 0,
            began: None,
            replay: None,
            rules,
        }
    }

    pub(super) fn is_done(&self, index: usize) -> bool {
        !self.kept[index]
            || self.arrived[index] > 0
            || self.letters.contains_key(&index)
            || self.discarded.contains(&index)
    }

    /// True if it came again because its letter had no room, behind what the file emitter refused: that
    /// one wrote it with the batch in which it refused the other. It may have waited behind that one by way of
    /// others, of other keys.
    pub(super) fn wrote_behind_a_refused_one(&self, index: usize) -> bool {
        self.came_again.contains(&index) && self.spoiled.iter().any(|&before| before < index)
    }

    /// Number of the first event that is not done.
    pub(super) fn advance(&mut self) -> usize {
        while self.done < self.kept.len() && self.is_done(self.done) {
            self.done += 1;
        }
        self.done
    }

    /// The checkpoint is stored, found or moved there.
    pub(super) fn checkpointed(&mut self, position: Position) {
        self.checkpoint = position;
        self.checkpoint_max = self.checkpoint_max.max(position);
    }

    /// The first event of a chain before `index` that should have been delivered and was not.
    /// What was refused in the same request does not count: the destination took the others of
    /// its batch before anybody could know.
    pub(super) fn hole(
        &mut self,
        which: Which,
        key: u64,
        index: usize,
        together: &[usize],
    ) -> Option<usize> {
        let chain = match which {
            Which::Key => self.keys.get_mut(&key),
            Which::Barrier => self.barriers.get_mut(&key),
            Which::Table => self.tables.get_mut(&key),
        }?;
        let mut at = chain.done;
        while let Some(&next) = chain.events.get(at)
            && next < index
        {
            // A letter in front holds its key, and what concerns its whole table.
            let letter = self.ever_letter.contains(&next) || self.maybe_letters.contains_key(&next);
            let past = self.arrived[next] > 0
                || self.discarded.contains(&next)
                || (letter && !self.rules.parks);
            if past && at == chain.done {
                chain.done += 1;
            } else if !past && !together.contains(&next) {
                return Some(next);
            }
            at += 1;
        }
        None
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Key,
    Barrier,
    Table,
}

/// Both keys of a row event, equal unless it changes the key, and its table.
pub(super) fn identities(event: &ChangeEvent) -> ([u64; 2], u64) {
    let table = event
        .relation
        .qualified_name()
        .bytes()
        .fold(7u64, |hash, byte| hash.wrapping_mul(31) ^ u64::from(byte));
    let key = |image: &Image| {
        let id = match image.row()?.get(0) {
            Ok(Some(ValueRef::Int(id))) => id.cast_unsigned(),
            _ => 0,
        };
        Some(super::random::mix(table ^ id.wrapping_add(1) << 20))
    };
    let new = key(&event.after).or_else(|| key(&event.before));
    let old = key(&event.before).or(new);
    ([old.unwrap_or(table), new.unwrap_or(table)], table)
}

pub(super) fn distinct([old, new]: [u64; 2]) -> impl Iterator<Item = u64> {
    std::iter::once(old).chain((new != old).then_some(new))
}
