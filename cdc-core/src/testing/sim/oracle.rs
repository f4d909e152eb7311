//! What must hold, judged by someone who knows what was committed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use super::judged::{Judged, Known, Which, distinct, identities};
use super::{Timeline, locked};
use crate::{ChangeEvent, DeadLetter, EventId, LetterState, Lineage, Position, SourceInfo};

/// What one emitter is configured to do.
pub struct EmitterRules {
    /// Its name.
    pub name: Arc<str>,
    /// What its filter keeps.
    pub keep: Box<dyn Fn(&ChangeEvent) -> bool + Send>,
    /// What its transform drops.
    pub drops: Box<dyn Fn(&ChangeEvent) -> bool + Send>,
    /// Later events of a dead letter's key wait behind it.
    pub parks: bool,
    /// When what it delivers is safe.
    pub safety: Safety,
    /// Its files may hold an event more than once.
    pub repeats: bool,
    /// How many events there may be from the first that is not done to one that arrives, both
    /// counted: what a crash repeats at most, beside what was done since the checkpoint.
    pub ahead_max: usize,
}

impl fmt::Debug for EmitterRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmitterRules")
            .field("name", &self.name)
            .field("safety", &self.safety)
            .finish_non_exhaustive()
    }
}

/// When an event is safe at a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Safety {
    /// When it arrived there.
    OnArrival,
    /// When it is in the destination's files, which are looked at after crashes.
    InFiles,
}

/// How an event came to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// In a request that somebody waits for.
    Asked,
    /// In a request that was given up long ago.
    Late,
    /// In a replay of this number.
    Replayed(u64),
}

/// The judge of a run. Clones are the same judge; the first violation stays.
#[derive(Clone, Debug)]
pub struct Oracle {
    pub(super) timeline: Timeline,
    pub(super) inner: Arc<Mutex<Inner>>,
    witness: Arc<Mutex<Option<Witness>>>,
}

/// Tells the judge of what has become visible since it last looked.
struct Witness(Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Witness").finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(super) struct Inner {
    lineage: Lineage,
    pub(super) events: Vec<Known>,
    end: Position,
    pub(super) emitters: BTreeMap<Arc<str>, Judged>,
    violation: Option<String>,
}

impl Oracle {
    /// A judge of a database's history.
    pub fn new(timeline: Timeline, lineage: Lineage) -> Self {
        let inner = Inner {
            lineage,
            events: Vec::new(),
            end: Position::ZERO,
            emitters: BTreeMap::new(),
            violation: None,
        };
        Self {
            timeline,
            inner: Arc::new(Mutex::new(inner)),
            witness: Arc::default(),
        }
    }

    /// `look` is called before anything that came is judged: an engine's log may show a
    /// transaction to a tail before the engine itself has seen it.
    pub fn set_witness(&self, look: impl Fn() + Send + Sync + 'static) {
        *locked(&self.witness) = Some(Witness(Arc::new(look)));
    }

    /// Nobody is asked any more: what a witness holds is let go.
    pub fn dismiss_witness(&self) {
        *locked(&self.witness) = None;
    }

    pub(super) fn ask_witness(&self) {
        let look = locked(&self.witness).as_ref().map(|w| w.0.clone());
        if let Some(look) = look {
            look();
        }
    }

    /// An emitter that is to get everything committed.
    pub fn add_emitter(&self, rules: EmitterRules) {
        let judged = Judged::new(rules);
        locked(&self.inner)
            .emitters
            .insert(judged.rules.name.clone(), judged);
    }

    /// The history its positions belong to.
    pub fn lineage(&self) -> Lineage {
        locked(&self.inner).lineage
    }

    /// The source has said which history its positions belong to.
    pub fn set_lineage(&self, lineage: Lineage) {
        locked(&self.inner).lineage = lineage;
    }

    /// The first violation.
    pub fn violation(&self) -> Option<String> {
        locked(&self.inner).violation.clone()
    }

    /// Something does not hold.
    pub fn violated(&self, what: impl Into<String>) {
        let what = what.into();
        self.timeline.note("ORACLE", || what.clone());
        locked(&self.inner).violation.get_or_insert(what);
    }

    /// A transaction committed; its events come in position order behind all earlier ones.
    pub fn committed(&self, events: &[ChangeEvent]) {
        let mut inner = locked(&self.inner);
        for event in events {
            let index = inner.events.len();
            let (keys, table) = identities(event);
            let known = Known {
                event: event.clone(),
                keys,
                table,
            };
            for judged in inner.emitters.values_mut() {
                let kept = (judged.rules.keep)(event) && !(judged.rules.drops)(event);
                judged.arrived.push(0);
                judged.kept.push(kept);
                if !kept {
                    continue;
                }
                if known.is_barrier() {
                    judged.barriers.entry(table).or_default().events.push(index);
                } else {
                    for key in distinct(keys) {
                        judged.keys.entry(key).or_default().events.push(index);
                    }
                }
                judged.tables.entry(table).or_default().events.push(index);
            }
            inner.end = inner.end.max(event.position);
            inner.events.push(known);
        }
    }

    /// Number of events committed so far.
    pub fn count(&self) -> usize {
        locked(&self.inner).events.len()
    }

    /// Position of the last event committed.
    pub fn end(&self) -> Position {
        locked(&self.inner).end
    }

    /// An event came to a destination, in a request of which the events at `refused` were refused, or
    /// taken behind such a one. True if it is of the latter: that is no delivery.
    pub fn arrived(
        &self,
        emitter: &str,
        source: &SourceInfo,
        event: &ChangeEvent,
        way: Way,
        refused: &[Position],
    ) -> bool {
        self.ask_witness();
        let found = locked(&self.inner).arrive(emitter, source, event, way, refused);
        found.unwrap_or_else(|what| {
            self.violated(what);
            false
        })
    }

    /// A destination or transform refused this event for what it is.
    pub fn refused(&self, emitter: &str, position: Position) {
        self.ask_witness();
        let mut inner = locked(&self.inner);
        let Some(index) = inner.find(position) else {
            return;
        };
        if let Some(judged) = inner.emitters.get_mut(emitter) {
            judged.refused.insert(index);
        }
    }

    /// A checkpoint is about to be stored.
    pub fn storing(&self, emitter: &str, position: Position) {
        self.ask_witness();
        let mut violation = None;
        {
            let mut inner = locked(&self.inner);
            let inner = &mut *inner;
            let Some(judged) = inner.emitters.get_mut(emitter) else {
                return;
            };
            if position < judged.checkpoint {
                violation = Some(format!(
                    "{emitter}: checkpoint goes back from {} to {position}",
                    judged.checkpoint
                ));
            }
            judged.attempted = judged.attempted.max(position);
            if judged.rules.safety == Safety::OnArrival {
                let open = judged.advance();
                if let Some(known) = inner.events.get(open)
                    && known.event.position <= position
                {
                    violation = Some(format!(
                        "{emitter}: checkpoint {position} passes event {}, which is neither delivered nor dead-lettered",
                        known.event.position
                    ));
                }
            }
        }
        if let Some(what) = violation {
            self.violated(what);
        }
    }

    /// A checkpoint is stored.
    pub fn stored(&self, emitter: &str, position: Position) {
        if let Some(judged) = locked(&self.inner).emitters.get_mut(emitter) {
            judged.checkpointed(position);
        }
    }

    /// The stored checkpoint of an emitter, as far as it was acknowledged.
    pub fn checkpoint(&self, emitter: &str) -> Position {
        let inner = locked(&self.inner);
        inner
            .emitters
            .get(emitter)
            .map_or(Position::ZERO, |judged| judged.checkpoint)
    }

    /// An operator moved an emitter's checkpoint.
    pub fn moved(&self, emitter: &str, position: Position) {
        if let Some(judged) = locked(&self.inner).emitters.get_mut(emitter) {
            judged.checkpointed(position);
            judged.attempted = position;
            judged.reset = true;
            judged.moves += 1;
            judged.began = None;
        }
    }

    /// Storing a move failed: the next start may find it or what was there before.
    pub fn maybe_moved(&self, emitter: &str, position: Position) {
        if let Some(judged) = locked(&self.inner).emitters.get_mut(emitter) {
            judged.maybe_moved = Some(position);
        }
    }

    /// A process found this checkpoint when it started.
    pub fn loaded(&self, emitter: &str, position: Option<Position>) {
        let position = position.unwrap_or(Position::ZERO);
        let mut violation = None;
        if let Some(judged) = locked(&self.inner).emitters.get_mut(emitter) {
            if judged.maybe_moved.take() == Some(position) {
                judged.attempted = position;
                judged.reset = true;
            } else if position < judged.checkpoint {
                violation = Some(format!(
                    "{emitter}: checkpoint {} was stored, {position} is found",
                    judged.checkpoint
                ));
            } else if position > judged.attempted {
                violation = Some(format!(
                    "{emitter}: checkpoint {position} is found, which nobody stored"
                ));
            }
            judged.checkpointed(position);
            judged.began = Some(position);
            judged.furthest = 0;
            judged.replay = None;
        }
        if let Some(what) = violation {
            self.violated(what);
        }
    }

    /// Letters are about to be appended, all or none. Gives what [`not_appended`](Self::not_appended)
    /// needs.
    pub fn appending(&self, letters: &[DeadLetter]) -> Vec<usize> {
        self.ask_witness();
        let found = locked(&self.inner).append(letters);
        found.unwrap_or_else(|what| {
            self.violated(what);
            Vec::new()
        })
    }

    /// The queue is full: it has refused letters whole, and nothing of them may ever be found; or its disk is, and
    /// `some` of them, the first, may be found after a loss of power.
    pub fn not_appended(&self, emitter: &str, new: &[usize], some: bool) {
        if let Some(judged) = locked(&self.inner).emitters.get_mut(emitter) {
            for index in new {
                judged.maybe_letters.remove(index);
            }
            if some {
                judged.begun_letters.extend(new);
            }
            judged.came_again.extend(new);
        }
    }

    /// Letters were appended durably.
    pub fn appended(&self, letters: &[DeadLetter]) {
        let mut inner = locked(&self.inner);
        for letter in letters {
            let Some(index) = inner.find(letter.event.position) else {
                continue;
            };
            if let Some(judged) = inner.emitters.get_mut(&letter.emitter) {
                judged.maybe_letters.remove(&index);
                // A letter that is open already stays what it was.
                let state = judged.letters.entry(index).or_insert(letter.state);
                if !state.is_open() || letter.state == LetterState::Pending {
                    *state = letter.state;
                }
                judged.ever_letter.insert(index);
            }
        }
    }

    /// What has become of a letter; durable.
    pub fn letter_state(&self, emitter: &str, id: EventId, state: LetterState) {
        let mut violation = None;
        {
            let mut inner = locked(&self.inner);
            let index = inner.find(id.position());
            let Some(judged) = inner.emitters.get_mut(emitter) else {
                return;
            };
            let Some(index) = index else { return };
            match state {
                LetterState::Delivered => {
                    judged.letters.remove(&index);
                    if judged.rules.safety == Safety::OnArrival
                        && judged.kept[index]
                        && judged.arrived[index] == 0
                    {
                        violation = Some(format!(
                            "{emitter}: letter {id} is closed as delivered and never arrived"
                        ));
                    }
                }
                LetterState::Discarded => {
                    judged.letters.remove(&index);
                    judged.discarded.insert(index);
                }
                open => {
                    judged.letters.insert(index, open);
                }
            }
        }
        if let Some(what) = violation {
            self.violated(what);
        }
    }

    /// A process found these open letters when it started; `asked` states that a crash left
    /// unknown count either way.
    pub fn letters_found(&self, emitter: &str, found: &[DeadLetter]) {
        let mut violations = Vec::new();
        {
            let mut inner = locked(&self.inner);
            let inner = &mut *inner;
            let Some(judged) = inner.emitters.get_mut(emitter) else {
                return;
            };
            let mut open = BTreeMap::new();
            for letter in found {
                let position = letter.event.position;
                let index = inner
                    .events
                    .binary_search_by_key(&position, |known| known.event.position);
                let Ok(index) = index else {
                    violations.push(format!(
                        "{emitter}: a letter for {position}, which was never committed"
                    ));
                    continue;
                };
                if inner.events[index].event != letter.event {
                    violations.push(format!(
                        "{emitter}: the letter of {position} holds another event"
                    ));
                }
                if !judged.letters.contains_key(&index)
                    && !judged.maybe_letters.contains_key(&index)
                    && !judged.ever_letter.contains(&index)
                    && !judged.begun_letters.contains(&index)
                {
                    violations.push(format!(
                        "{emitter}: a letter for {position}, which nobody stored"
                    ));
                }
                open.insert(index, letter.state);
            }
            for index in judged.letters.keys() {
                if !open.contains_key(index) && !judged.maybe_letters.contains_key(index) {
                    violations.push(format!(
                        "{emitter}: the letter of {} was stored and is gone",
                        inner.events[*index].event.position
                    ));
                }
            }
            // Changes of state that a crash left unknown: closed is closed.
            for (index, state) in std::mem::take(&mut judged.maybe_letters) {
                if state == LetterState::Discarded && !open.contains_key(&index) {
                    judged.discarded.insert(index);
                }
            }
            judged.ever_letter.extend(open.keys().copied());
            judged.letters = open;
        }
        for what in violations {
            self.violated(what);
        }
    }

    /// A change of a letter's state is about to be stored.
    pub fn letter_changing(&self, emitter: &str, id: EventId, state: LetterState) {
        let mut inner = locked(&self.inner);
        let index = inner.find(id.position());
        if let (Some(judged), Some(index)) = (inner.emitters.get_mut(emitter), index) {
            judged.maybe_letters.insert(index, state);
        }
    }

    /// The change is stored.
    pub fn letter_changed(&self, emitter: &str, id: EventId) {
        let mut inner = locked(&self.inner);
        let index = inner.find(id.position());
        if let (Some(judged), Some(index)) = (inner.emitters.get_mut(emitter), index) {
            judged.maybe_letters.remove(&index);
        }
    }

    /// The source is told that everything up to this is safe.
    pub fn confirmed(&self, position: Position) {
        let mut violations = Vec::new();
        {
            let mut inner = locked(&self.inner);
            let inner = &mut *inner;
            for (name, judged) in &mut inner.emitters {
                let (open, how) = if judged.rules.safety == Safety::OnArrival {
                    (judged.advance(), "delivered or dead-lettered")
                } else {
                    let covered = inner
                        .events
                        .partition_point(|known| known.event.position <= judged.checkpoint_max);
                    (covered, "checkpointed")
                };
                if let Some(known) = inner.events.get(open)
                    && known.event.position <= position
                {
                    violations.push(format!(
                        "the source was told {position}, and {} is not {how} at {name}",
                        known.event.position
                    ));
                }
            }
        }
        for what in violations {
            self.violated(what);
        }
    }

    /// The first event an emitter still owes; open letters are owed if `redriven`.
    pub fn owed(&self, emitter: &str, redriven: bool) -> Option<Position> {
        let mut inner = locked(&self.inner);
        let inner = &mut *inner;
        let judged = inner.emitters.get_mut(emitter)?;
        let index = if judged.rules.safety == Safety::InFiles {
            let covered = inner
                .events
                .partition_point(|known| known.event.position <= judged.checkpoint);
            let open = judged.letters.keys().next().copied();
            match open {
                Some(open) if redriven => covered.min(open),
                _ => covered,
            }
        } else {
            let open = judged.letters.keys();
            let open = open.copied().find(|at| !judged.discarded.contains(at));
            match open {
                Some(open) if redriven => judged.advance().min(open),
                _ => judged.advance(),
            }
        };
        Some(inner.events.get(index)?.event.position)
    }

    /// Open letters of an emitter, in position order, as far as they are known to be durable.
    pub fn open_letters(&self, emitter: &str) -> Vec<EventId> {
        let inner = locked(&self.inner);
        let Some(judged) = inner.emitters.get(emitter) else {
            return Vec::new();
        };
        judged
            .letters
            .keys()
            .map(|index| EventId::new(&inner.lineage, inner.events[*index].event.position))
            .collect()
    }

    /// How many they are.
    pub fn count_letters(&self, emitter: &str) -> u64 {
        let inner = locked(&self.inner);
        let letters = inner.emitters.get(emitter).map(|judged| &judged.letters);
        letters.map_or(0, |letters| letters.len() as u64)
    }

    /// Events that arrived more than once at an emitter, repeats counted.
    pub fn repeats(&self, emitter: &str) -> u64 {
        let inner = locked(&self.inner);
        inner.emitters.get(emitter).map_or(0, |judged| {
            judged
                .arrived
                .iter()
                .map(|n| u64::from(n.saturating_sub(1)))
                .sum()
        })
    }
}

impl Inner {
    pub(super) fn find(&self, position: Position) -> Option<usize> {
        self.events
            .binary_search_by_key(&position, |known| known.event.position)
            .ok()
    }

    fn arrive(
        &mut self,
        emitter: &str,
        source: &SourceInfo,
        event: &ChangeEvent,
        way: Way,
        refused: &[Position],
    ) -> Result<bool, String> {
        let position = event.position;
        let together: Vec<_> = refused.iter().filter_map(|at| self.find(*at)).collect();
        let index = self
            .find(position)
            .ok_or_else(|| format!("{emitter}: got {position}, which was never committed"))?;
        let known = &self.events[index];
        if known.event != *event {
            return Err(format!("{emitter}: {position} arrived changed"));
        }
        let id = EventId::new(&self.lineage, position);
        if EventId::new(&source.lineage, position) != id {
            return Err(format!("{emitter}: {position} arrived with another id"));
        }
        let judged = self
            .emitters
            .get_mut(emitter)
            .ok_or_else(|| format!("{emitter}: nobody knows this emitter"))?;
        if let Way::Replayed(number) = way {
            judged.replayed(number, index, known, &self.events)?;
            return Ok(false);
        }
        let letter =
            judged.letters.contains_key(&index) || judged.maybe_letters.contains_key(&index);
        if !judged.kept[index] {
            // Parked events have not been through the transforms, and may be redriven as they were. One
            // that is given up meanwhile may be on its way.
            let redriven = letter || (way == Way::Late && judged.discarded.contains(&index));
            if redriven && (judged.rules.keep)(event) {
                judged.arrived[index] += 1;
                return Ok(false);
            }
            return Err(format!(
                "{emitter}: got {position}, which the filter or a transform drops"
            ));
        }
        if way == Way::Asked && position <= judged.checkpoint && !letter {
            return Err(format!(
                "{emitter}: {position} is delivered again although the checkpoint is at {}",
                judged.checkpoint
            ));
        }
        if judged.arrived[index] == 0 {
            let chains: Vec<_> = if known.is_barrier() {
                vec![(Which::Table, known.table)]
            } else {
                let keys = distinct(known.keys).map(|key| (Which::Key, key));
                keys.chain([(Which::Barrier, known.table)]).collect()
            };
            // Taken behind an event of its key that was refused in the same request: that is no
            // delivery, and it must come again behind that one.
            let mut ahead = false;
            for (which, key) in chains {
                if let Some(hole) = judged.hole(which, key, index, &together) {
                    let what = if which == Which::Key { "key" } else { "table" };
                    return Err(format!(
                        "{emitter}: {position} overtakes {} of the same {what}",
                        self.events[hole].event.position
                    ));
                }
                ahead |= judged.rules.parks && judged.hole(which, key, index, &[]).is_some();
            }
            if ahead {
                return Ok(true);
            }
        }
        judged.arrived[index] += 1;
        judged
            .is_near(way, index)
            .map_err(|what| format!("{emitter}: {position} {what}"))?;
        Ok(false)
    }

    /// Gives the numbers of the events that nobody knew a letter of.
    fn append(&mut self, letters: &[DeadLetter]) -> Result<Vec<usize>, String> {
        let mut new = Vec::new();
        for letter in letters {
            let position = letter.event.position;
            let name = &letter.emitter;
            let index = self.find(position).ok_or_else(|| {
                format!("{name}: a letter for {position}, which was never committed")
            })?;
            let known = &self.events[index];
            if known.event != letter.event {
                return Err(format!(
                    "{name}: the letter of {position} is not the original event"
                ));
            }
            let judged = self
                .emitters
                .get_mut(name)
                .ok_or_else(|| format!("{name}: nobody knows this emitter"))?;
            match letter.state {
                LetterState::Pending if !judged.refused.contains(&index) => {
                    return Err(format!(
                        "{name}: {position} is dead-lettered although nobody refused it"
                    ));
                }
                LetterState::Parked => {
                    let behind = judged
                        .letters
                        .keys()
                        .chain(judged.maybe_letters.keys())
                        // It was when the event was read; letters of those that wait are stored
                        // together, later.
                        .chain(judged.ever_letter.iter().filter(|&&at| at < index))
                        .any(|&other| known.may_wait_behind(&self.events[other]));
                    if !behind {
                        return Err(format!("{name}: {position} is parked behind nothing"));
                    }
                }
                _ => {}
            }
            judged.maybe_letters.entry(index).or_insert_with(|| {
                new.push(index);
                letter.state
            });
        }
        Ok(new)
    }
}
