//! What emitter and consumers share: the window of unacknowledged hand-overs.
//!
//! The window holds every hand-over that is not yet behind the durable mark, in order. The channel
//! carries one ticket for each hand-over that is ready; who draws a ticket takes the *oldest* ready
//! hand-over that it may, so that one given back comes before all later ones whatever the order of
//! wake-ups. It may not take one that holds an event of a row of which another consumer has an
//! earlier event and has not acknowledged it, nor one behind such a one: then it puts its ticket back,
//! for that other consumer, and waits until something changes.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use cdc_core::{EventBatch, Op, Position};

use crate::QueueConfig;

/// Hand-overs that others have, or that are for others, before a consumer stops looking for one that
/// it may take.
const LOOK_MAX: usize = 64;

/// How full a queue is, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Events queued or handed over and not yet acknowledged.
    pub events: usize,
    /// Bytes of those events.
    pub bytes: usize,
    /// Hand-overs that wait for a consumer.
    pub ready: usize,
    /// Hand-overs a consumer holds.
    pub held: usize,
    /// Hand-overs given back so far by a drop without ack.
    pub returned_total: u64,
    /// Everything up to and including this is acknowledged.
    pub through: Position,
}

/// One hand-over that is not yet behind the mark.
struct Slot {
    /// Taken out when acknowledged, so that its memory is free.
    batch: Option<EventBatch>,
    end: Position,
    /// Queued although something as late or later was queued before: a redriven letter.
    again: bool,
    bytes: usize,
    /// Who holds it: consumer and hand-over number.
    holder: Option<(u64, u64)>,
    deliveries: u32,
    /// Rows it is of, once somebody had to know.
    keys: Option<Keys>,
}

/// Rows that a hand-over is of.
enum Keys {
    These(Vec<u64>),
    /// Something in it is of a whole table, or of a row that is not known.
    Any,
}

#[derive(Default)]
struct State {
    slots: VecDeque<Slot>,
    /// Sequence number of the first slot.
    base: u64,
    /// First sequence number that was never handed over.
    fresh: u64,
    /// Given back and waiting.
    returned: BTreeSet<u64>,
    /// Tickets in the channel, or drawn and not yet redeemed.
    tickets: usize,
    held: usize,
    /// Hand-overs each consumer holds; none of those that hold nothing.
    holders: HashMap<u64, usize>,
    /// Threads that wait for a change.
    waiting: usize,
    /// Grows with every change that may let a consumer take what it could not.
    changes: u64,
    events: usize,
    bytes: usize,
    through: Position,
    /// Highest end that was queued.
    given: Position,
    returned_total: u64,
    hold_next: u64,
    consumer_next: u64,
    closed: bool,
}

/// A hand-over on its way to a consumer.
pub(crate) struct Taken {
    pub(crate) seq: u64,
    pub(crate) hold: u64,
    pub(crate) batch: EventBatch,
    pub(crate) deliveries: u32,
}

/// What a ticket was worth.
pub(crate) enum Redeemed {
    Taken(Taken),
    /// Somebody acknowledged late what the ticket stood for.
    Stale,
    /// What is ready is for another consumer first; worth another look after this many changes.
    Blocked(u64),
    /// Nothing is ready and nothing new will come.
    Finished,
}

pub(crate) struct Shared {
    pub(crate) config: QueueConfig,
    state: Mutex<State>,
    ticket_in: flume::Sender<()>,
    pub(crate) ticket_out: flume::Receiver<()>,
    /// One async consumer at a time waits on the channel: with several, flume's list of waiters
    /// grows while a waiting future is polled again and again.
    pub(crate) turnstile: tokio::sync::Mutex<()>,
    /// Room was made. Only the emitter waits for it.
    pub(crate) freed: tokio::sync::Notify,
    /// Something changed for consumers that could not take what was ready: tasks, and threads.
    pub(crate) changed: tokio::sync::Notify,
    changed_threads: Condvar,
}

impl Shared {
    pub(crate) fn new(config: QueueConfig) -> Self {
        // One ticket for each ready hand-over, each of at least one event, and one for the end.
        let (ticket_in, ticket_out) = flume::bounded(config.capacity.saturating_add(1));
        Self {
            config,
            state: Mutex::default(),
            ticket_in,
            ticket_out,
            turnstile: tokio::sync::Mutex::new(()),
            freed: tokio::sync::Notify::new(),
            changed: tokio::sync::Notify::new(),
            changed_threads: Condvar::new(),
        }
    }

    /// A panic elsewhere leaves the state whole: nothing in here calls foreign code half-way.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the number of tickets up to the number of ready hand-overs.
    fn announce(&self, state: &mut State) {
        let wanted = state.ready() + usize::from(state.closed);
        while state.tickets < wanted {
            // Cannot be full: the channel holds at most `tickets`, which is below its size here.
            if self.ticket_in.try_send(()).is_err() {
                debug_assert!(false, "a ticket always fits");
                break;
            }
            state.tickets += 1;
        }
    }

    /// Tells consumers that could not take what was ready.
    fn change(&self, state: &mut State) {
        state.changes += 1;
        self.changed.notify_waiters();
        if state.waiting > 0 {
            self.changed_threads.notify_all();
        }
    }

    /// Blocks until something has changed since.
    pub(crate) fn wait_for_change(&self, since: u64) {
        let mut state = self.state();
        while state.changes == since {
            state.waiting += 1;
            state = self
                .changed_threads
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
    }

    /// Queues a hand-over if there is room.
    pub(crate) fn push(&self, batch: &EventBatch, bytes: usize) -> bool {
        let mut state = self.state();
        let fits = state.events + batch.len() <= self.config.capacity
            && state.bytes.saturating_add(bytes) <= self.config.bytes_max
            && state.slots.len() < self.config.capacity;
        if !fits && state.events > 0 {
            return false;
        }
        state.events += batch.len();
        state.bytes = state.bytes.saturating_add(bytes);
        let again = batch.end() <= state.given;
        state.given = state.given.max(batch.end());
        state.slots.push_back(Slot {
            batch: Some(batch.clone()),
            end: batch.end(),
            again,
            bytes,
            holder: None,
            deliveries: 0,
            keys: None,
        });
        self.announce(&mut state);
        self.change(&mut state);
        true
    }

    /// Turns a drawn ticket into the oldest ready hand-over.
    pub(crate) fn redeem(&self, consumer: u64) -> Redeemed {
        let mut state = self.state();
        state.tickets -= 1;
        let taken = state.take(consumer);
        self.announce(&mut state);
        match taken {
            Some(taken) => Redeemed::Taken(taken),
            None if state.ready() > 0 => Redeemed::Blocked(state.changes),
            None if state.closed => Redeemed::Finished,
            None => Redeemed::Stale,
        }
    }

    pub(crate) fn ack(&self, seq: u64) {
        let mut state = self.state();
        state.ack(seq);
        self.change(&mut state);
        drop(state);
        self.freed.notify_one();
    }

    /// Acknowledges what this consumer holds up to and including a position. What is there again is
    /// behind in order and not in position: only an end that was handed over with it, or after it, tells
    /// that it was meant.
    pub(crate) fn ack_through(&self, consumer: u64, position: Position) -> usize {
        let mut state = self.state();
        let named = state.held_by(consumer, |_, slot| slot.end == position);
        let named = named.last().copied();
        let covered = state.held_by(consumer, |seq, slot| {
            slot.end <= position && (!slot.again || named.is_some_and(|named| seq <= named))
        });
        for &seq in &covered {
            state.ack(seq);
        }
        self.change(&mut state);
        drop(state);
        self.freed.notify_one();
        covered.len()
    }

    /// Makes a hand-over ready again, if this very hand-over still holds it.
    pub(crate) fn give_back(&self, seq: u64, hold: u64) {
        let mut state = self.state();
        state.give_back(seq, |holder| holder.1 == hold);
        self.announce(&mut state);
        self.change(&mut state);
    }

    pub(crate) fn give_back_all(&self, consumer: u64) {
        let mut state = self.state();
        for seq in state.held_by(consumer, |_, _| true) {
            state.give_back(seq, |_| true);
        }
        self.announce(&mut state);
        self.change(&mut state);
    }

    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        self.announce(&mut state);
        self.change(&mut state);
    }

    /// Forgets everything queued; the lane gives it again from its checkpoint.
    pub(crate) fn restart(&self, through: Position) {
        let mut state = self.state();
        state.base += state.slots.len() as u64;
        state.fresh = state.base;
        state.slots.clear();
        state.returned.clear();
        state.held = 0;
        state.holders.clear();
        self.change(&mut state);
        state.events = 0;
        state.bytes = 0;
        state.through = through;
        state.given = through;
    }

    pub(crate) fn next_consumer(&self) -> u64 {
        let mut state = self.state();
        state.consumer_next += 1;
        state.consumer_next
    }

    /// The mark, and if it covers everything that was pushed.
    pub(crate) fn through(&self) -> (Position, bool) {
        let state = self.state();
        (state.through, state.slots.is_empty())
    }

    pub(crate) fn stats(&self) -> QueueStats {
        let state = self.state();
        QueueStats {
            events: state.events,
            bytes: state.bytes,
            ready: state.ready(),
            held: state.held,
            returned_total: state.returned_total,
            through: state.through,
        }
    }
}

impl State {
    fn end(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    fn ready(&self) -> usize {
        let fresh = usize::try_from(self.end() - self.fresh).unwrap_or(usize::MAX);
        self.returned.len() + fresh
    }

    fn slot(&mut self, seq: u64) -> Option<&mut Slot> {
        let index = usize::try_from(seq.checked_sub(self.base)?).ok()?;
        self.slots.get_mut(index)
    }

    fn take(&mut self, consumer: u64) -> Option<Taken> {
        let seq = self.free_for(consumer)?;
        if !self.returned.remove(&seq) {
            // What is between stays ready, for somebody else.
            self.returned.extend(self.fresh..seq);
            self.fresh = seq + 1;
        }
        *self.holders.entry(consumer).or_default() += 1;
        self.hold_next += 1;
        let hold = self.hold_next;
        let slot = self.slot(seq)?;
        let batch = slot.batch.clone()?;
        slot.holder = Some((consumer, hold));
        slot.deliveries = slot.deliveries.saturating_add(1);
        let deliveries = slot.deliveries;
        self.held += 1;
        Some(Taken {
            seq,
            hold,
            batch,
            deliveries,
        })
    }

    /// A consumer holds one hand-over less.
    fn let_go(&mut self, consumer: u64) {
        if let Some(count) = self.holders.get_mut(&consumer) {
            *count -= 1;
            if *count == 0 {
                self.holders.remove(&consumer);
            }
        }
    }

    /// The oldest ready hand-over that holds no event of a row of which somebody else still has an
    /// earlier one, or has to take an earlier one first.
    fn free_for(&mut self, consumer: u64) -> Option<u64> {
        // Whatever was given back is older than everything fresh.
        let fresh = (self.fresh < self.end()).then_some(self.fresh);
        let oldest = self.returned.first().copied().or(fresh)?;
        let others = self.holders.len() - usize::from(self.holders.contains_key(&consumer));
        if others == 0 {
            return Some(oldest);
        }
        let mut taken = HashSet::new();
        let mut looked_at = 0;
        for (seq, slot) in (self.base..).zip(&mut self.slots) {
            let Some(batch) = &slot.batch else { continue };
            let ready = seq >= self.fresh || self.returned.contains(&seq);
            if !ready && slot.holder.is_some_and(|holder| holder.0 == consumer) {
                continue;
            }
            let keys = slot.keys.get_or_insert_with(|| Keys::of(batch));
            match keys {
                Keys::These(keys) => {
                    if ready && !keys.iter().any(|key| taken.contains(key)) {
                        return Some(seq);
                    }
                    taken.extend(keys.iter().copied());
                }
                Keys::Any if ready && taken.is_empty() => return Some(seq),
                Keys::Any => return None,
            }
            looked_at += 1;
            if looked_at >= LOOK_MAX {
                return None;
            }
        }
        None
    }

    fn ack(&mut self, seq: u64) {
        let Some(slot) = self.slot(seq) else { return };
        let Some(batch) = slot.batch.take() else {
            return;
        };
        let bytes = slot.bytes;
        slot.keys = None;
        if let Some((consumer, _)) = slot.holder.take() {
            self.held -= 1;
            self.let_go(consumer);
        }
        self.returned.remove(&seq);
        self.events -= batch.len();
        self.bytes = self.bytes.saturating_sub(bytes);
        while self.slots.front().is_some_and(|slot| slot.batch.is_none()) {
            if let Some(done) = self.slots.pop_front() {
                // A redriven letter lies behind it: the mark never goes back.
                self.through = self.through.max(done.end);
                self.base += 1;
            }
        }
    }

    fn give_back(&mut self, seq: u64, holds: impl FnOnce((u64, u64)) -> bool) {
        let Some(slot) = self.slot(seq) else { return };
        if let Some(holder) = slot.holder.filter(|holder| holds(*holder)) {
            slot.holder = None;
            self.held -= 1;
            self.let_go(holder.0);
            self.returned_total += 1;
            self.returned.insert(seq);
        }
    }

    fn held_by(&self, consumer: u64, which: impl Fn(u64, &Slot) -> bool) -> Vec<u64> {
        (self.base..)
            .zip(&self.slots)
            .filter(|(seq, slot)| slot.holder.is_some_and(|h| h.0 == consumer) && which(*seq, slot))
            .map(|(seq, _)| seq)
            .collect()
    }
}

impl Keys {
    fn of(batch: &EventBatch) -> Self {
        let mut keys = Vec::with_capacity(batch.len());
        for event in batch.events() {
            match event.key_hashes() {
                Ok(Some((old, new))) => {
                    keys.push(new);
                    if old != new {
                        keys.push(old);
                    }
                }
                // Of no row of a table: in order among those of its prefix.
                Ok(None) if event.op == Op::Message => {
                    let mut hasher = DefaultHasher::new();
                    (&event.relation.schema, &event.relation.table).hash(&mut hasher);
                    keys.push(hasher.finish());
                }
                Ok(None) | Err(_) => return Self::Any,
            }
        }
        Self::These(keys)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("config", &self.config)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
