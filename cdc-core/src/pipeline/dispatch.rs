//! From what was read to requests: partition by key, fences, slices.

use std::task::Context;
use std::time::Duration;

use super::lane::LaneError;
use super::metrics::Fate;
use super::order::{Place, place};
use super::parked::{KeyHashes, key_hashes};
use super::run::Running;
use super::window::Numbers;
use super::workers::{Item, Job, Pending, Slice, Worker};
use super::{BreakerState, OnDeadKey};
use crate::{ChangeEvent, Emitter, EventBatch, Position};

/// Answers handled between two looks at shutdown, orders and the clock.
const ROUNDS_MAX: usize = 64;

/// Events given to one worker in a row where no order is kept.
const STRETCH: usize = 256;

/// Tables without key that are named in the log; further ones are not.
const KEYLESS_NAMED_MAX: usize = 256;

impl Running {
    /// Puts events into the workers' queues, with the numbers they have in the window. `originals` are
    /// the events before transforms, one an event, or empty; `hashes` those of their keys, or empty.
    pub(super) fn enqueue(
        &mut self,
        batch: EventBatch,
        originals: Vec<ChangeEvent>,
        numbers: Numbers,
        hashes: &[KeyHashes],
    ) {
        let (source, end) = (batch.source().clone(), batch.end());
        let last_commit = batch
            .events()
            .last()
            .map(|event| event.transaction.commit_micros);
        self.window.reach(end, last_commit);
        let generation = self.parked.generation();
        let pending = |numbers, fence, end| Pending {
            source: source.clone(),
            events: Vec::new(),
            originals: Vec::new(),
            numbers,
            end,
            generation,
            fence,
        };
        let count = self.workers.len();
        self.queued += batch.len();
        self.queued_bytes += batch.encoded_len();
        if count == 1 {
            let mut whole = pending(numbers, None, end);
            whole.events = batch.into_events();
            whole.originals = originals;
            self.workers[0].queue.push_back(Item::Work(whole));
            return;
        }
        let mut originals = originals.into_iter();
        let (mut anyone, mut stretch) = (0, 0);
        for (nth, (number, event)) in numbers.iter().zip(batch.into_events()).enumerate() {
            let original = originals.next();
            let captured = original.as_ref().unwrap_or(&event);
            let hashes = || match hashes.get(nth) {
                Some(known) => *known,
                None => key_hashes(captured).ok().flatten(),
            };
            let at = place(self.config.order, captured, hashes, count);
            let (owner, fence) = match at {
                Place::One(owner) => (owner, None),
                Place::Any => {
                    // A stretch each, so that requests stay large.
                    if stretch == 0 {
                        stretch = STRETCH;
                        anyone = (0..count)
                            .min_by_key(|&w| self.workers[w].queue.len())
                            .unwrap_or(0);
                    }
                    stretch -= 1;
                    (anyone, None)
                }
                Place::Both { owner, other } => (owner, Some(vec![other])),
                Place::All { owner } => (owner, Some((0..count).filter(|&w| w != owner).collect())),
            };
            let fence = fence.map(|others: Vec<usize>| {
                let id = self.next_fence;
                self.next_fence += 1;
                self.fences.insert(id, others.len());
                for other in others {
                    self.workers[other].queue.push_back(Item::Fence(id));
                }
                id
            });
            let position = event.position;
            let queue = &mut self.workers[owner].queue;
            match queue.back_mut() {
                Some(Item::Work(last))
                    if fence.is_none()
                        && last.fence.is_none()
                        && last.generation == generation
                        && last.originals.is_empty() == original.is_none()
                        && last.events.len() < self.config.limit.events_max =>
                {
                    last.events.push(event);
                    last.originals.extend(original);
                    last.end = position;
                    if let Numbers::List(list) = &mut last.numbers {
                        list.push(number);
                    }
                }
                _ => {
                    let mut fresh = pending(Numbers::List(vec![number]), fence, position);
                    fresh.events.push(event);
                    fresh.originals.extend(original);
                    queue.push_back(Item::Work(fresh));
                }
            }
        }
    }

    /// Names tables whose order hangs on the whole row, once each.
    pub(super) fn tell_keyless(&mut self, events: &[ChangeEvent]) {
        let mut last = None;
        for event in events {
            let relation = &event.relation;
            let known = last.is_some_and(|last| std::sync::Arc::ptr_eq(last, relation));
            last = Some(relation);
            if known
                || !relation.key.is_empty()
                || event.identity_row().is_none()
                || event.op == crate::Op::Message
                || self.keyless.len() >= KEYLESS_NAMED_MAX
            {
                continue;
            }
            let name = relation.qualified_name();
            if self.keyless.insert(name.clone()) {
                tracing::warn!(
                    emitter = %self.config.name,
                    table = %name,
                    "this table has no key: its rows are told apart by all their columns, so the order of a row's changes holds only where the source gives the whole row before"
                );
            }
        }
    }

    /// Starts requests and handles answers until nothing more goes without waiting, or for long enough:
    /// true if more would go.
    ///
    /// # Errors
    /// [`LaneError`] that halts the lane.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) -> Result<bool, LaneError> {
        let mut moved = true;
        for _ in 0..ROUNDS_MAX {
            moved = self.dispatch()?;
            for w in 0..self.workers.len() {
                if self.workers[w].poll(cx)
                    && let Some((slice, answer)) = self.workers[w].answer()
                {
                    self.answered(w, slice, answer)?;
                    moved = true;
                }
            }
            if !moved {
                break;
            }
        }
        let waiting = self
            .workers
            .iter()
            .filter(|worker| worker.is_busy())
            .count();
        if waiting != self.shown_requests {
            self.shown_requests = waiting;
            self.metrics.requests(waiting);
        }
        Ok(moved)
    }

    /// Starts what may start; true if anything changed.
    fn dispatch(&mut self) -> Result<bool, LaneError> {
        // One worker has everything, in order.
        let blocked = self.blocked.is_some() && self.workers.len() == 1;
        if self.paused || self.quiet || blocked {
            return Ok(false);
        }
        let mut changed = self.workers.len() > 1 && self.pass_fences();
        if self.hold_until > Duration::ZERO {
            if self.clock.elapsed() < self.hold_until {
                return Ok(changed);
            }
            self.hold_until = Duration::ZERO;
        }
        match self.breaker.state() {
            BreakerState::Closed => {
                for w in 0..self.workers.len() {
                    changed |= self.start_next(w)?;
                }
            }
            BreakerState::Open => {
                if self.draining.is_some()
                    || self.workers.iter().any(Worker::is_busy)
                    || self.clock.elapsed() < self.breaker.until()
                {
                    return Ok(changed);
                }
                // The oldest batch: what holds the lane's position.
                let oldest = (0..self.workers.len())
                    .filter_map(|w| Some((self.workers[w].oldest(&self.fences)?, w)))
                    .min();
                if let Some((_, w)) = oldest {
                    self.breaker.half_open();
                    self.probe = w;
                    self.workers[w].retry_at = Duration::ZERO;
                    self.show();
                    changed |= self.start_next(w)?;
                }
            }
            BreakerState::HalfOpen => {
                changed |= self.start_next(self.probe)?;
                if !self.workers[self.probe].is_busy() {
                    // What was to go out has been parked meanwhile: what is the oldest now probes.
                    self.breaker.probe_again();
                    changed = true;
                }
            }
        }
        Ok(changed)
    }

    /// Lets workers arrive at fences, and past those whose event is done; true if any moved.
    fn pass_fences(&mut self) -> bool {
        let mut changed = false;
        for w in 0..self.workers.len() {
            let worker = &mut self.workers[w];
            if worker.is_busy() || worker.retry.is_some() {
                continue;
            }
            match &worker.job {
                Some(job) if job.ranges.is_empty() => {
                    self.finish_job(w);
                    changed = true;
                }
                Some(_) => continue,
                None => {}
            }
            let worker = &mut self.workers[w];
            while let Some(Item::Fence(id)) = worker.queue.front() {
                match self.fences.get_mut(id) {
                    None => {
                        worker.arrived = false;
                        worker.queue.pop_front();
                        changed = true;
                    }
                    Some(missing) => {
                        if !std::mem::replace(&mut worker.arrived, true) {
                            *missing -= 1;
                            changed = true;
                        }
                        break;
                    }
                }
            }
        }
        changed
    }

    /// The worker's job has nothing left.
    fn finish_job(&mut self, w: usize) {
        if let Some(id) = self.workers[w].job.take().and_then(|job| job.fence) {
            self.fences.remove(&id);
        }
    }

    /// Starts this worker's next request, if it has one and may.
    fn start_next(&mut self, w: usize) -> Result<bool, LaneError> {
        let worker = &self.workers[w];
        if worker.is_busy()
            || worker.blocked
            || (worker.is_idle() && worker.job.is_none())
            || worker.lost.is_some()
        {
            return Ok(false);
        }
        if worker.retry_at > Duration::ZERO && self.clock.elapsed() < worker.retry_at {
            return Ok(false);
        }
        // An emitter that always has a request in flight, as one that waits for room, could not be
        // asked at any other moment how far it is durable.
        if !worker.accepted.is_empty() {
            let durable = worker
                .emitter
                .try_lock()
                .map(|mut emitter| emitter.durable());
            match durable {
                Ok(Ok(mark)) => self.apply(w, mark, false)?,
                Ok(Err(cause)) => {
                    self.workers[w].lost = Some(cause);
                    return Ok(false);
                }
                Err(_) => {}
            }
        }
        let (slice, changed) = self.next_slice(w)?;
        let Some(slice) = slice else {
            return Ok(changed);
        };
        if let Some(job) = &self.workers[w].job {
            let last = slice.index(slice.batch.len() - 1).unwrap_or(0);
            self.highest = self.highest.max(job.numbers.at(last) + 1);
        }
        let now = self.clock.elapsed();
        self.workers[w].start(slice, now);
        Ok(true)
    }

    /// What this worker sends next; and whether it changed something for others on the way.
    fn next_slice(&mut self, w: usize) -> Result<(Option<Slice>, bool), LaneError> {
        let mut changed = false;
        loop {
            let draining = self.draining.is_some();
            let worker = &mut self.workers[w];
            if let Some(slice) = worker.retry.take() {
                if draining {
                    worker.retry = Some(slice);
                    return Ok((None, changed));
                }
                if let Some(class) = worker.retry_class {
                    self.metrics.retried(class);
                }
                return Ok((Some(slice), changed));
            }
            if worker.job.is_none() {
                let ready = match worker.queue.front() {
                    None | Some(Item::Fence(_)) => false,
                    Some(Item::Work(pending)) => pending.may_go(&self.fences),
                };
                if !ready {
                    return Ok((None, changed));
                }
                let Some(Item::Work(pending)) = worker.queue.pop_front() else {
                    continue;
                };
                let size = worker
                    .emitter
                    .try_lock()
                    .map_or(usize::MAX, |emitter| emitter.batch_size());
                worker.job = Some(Job::new(pending, size));
            }
            let Some(job) = &mut worker.job else { continue };
            let Some(range) = job.next_range() else {
                self.finish_job(w);
                changed = true;
                continue;
            };
            if draining && job.numbers.at(range.start) >= self.highest {
                job.ranges.push(range);
                return Ok((None, changed));
            }
            if !self.park_in(w, range.clone())? {
                if let Some(job) = &mut self.workers[w].job {
                    job.ranges.push(range);
                }
                self.workers[w].blocked = true;
                return Ok((None, true));
            }
            if let Some(slice) = self.workers[w]
                .job
                .as_ref()
                .and_then(|job| job.slice(range))
            {
                return Ok((Some(slice), changed));
            }
            changed = true;
        }
    }

    /// Parks what of a range has come to wait behind a dead letter since it was read. False if no
    /// further key may wait: then the worker is blocked.
    fn park_in(&mut self, w: usize, range: std::ops::Range<usize>) -> Result<bool, LaneError> {
        let generation = self.parked.generation();
        let Some(job) = &mut self.workers[w].job else {
            return Ok(true);
        };
        if job.generation == generation || self.config.on_dead_key != OnDeadKey::Park {
            return Ok(true);
        }
        self.parked.begin();
        let (mut found, mut bytes, mut refused) = (0, 0, None);
        for index in range {
            let Some(job) = self.workers[w].job.as_ref().filter(|j| !j.is_gone(index)) else {
                continue;
            };
            let Some((scope, behind)) = self.parked.behind(job.original(index)) else {
                continue;
            };
            if let Err(error) = self.room_for_key(scope) {
                refused = Some(error);
                break;
            }
            let (source, original) = (job.batch.source().clone(), job.original(index).clone());
            let number = job.numbers.at(index);
            found += 1;
            bytes += job.batch.events()[index].encoded_len();
            self.parked.add(scope, original.position);
            let letter = self.parked_letter(&source, original, behind);
            self.parking.push(number, letter);
            if let Some(job) = &mut self.workers[w].job {
                job.gone.resize(job.batch.len(), false);
                job.gone[index] = true;
            }
        }
        self.taken_off(found, bytes);
        match refused {
            None => Ok(true),
            Some(error) => self.block(error).map(|()| false),
        }
    }

    /// Marks events as done.
    pub(super) fn done(&mut self, numbers: &Numbers, fate: Fate) {
        let marked = self.window.mark(numbers);
        self.metrics.settle(fate, marked);
        self.reached();
    }

    pub(super) fn reached(&self) {
        let position: Position = self.window.position();
        self.metrics.reach(position, self.window.commit_micros());
    }

    /// Events left the lane's hands.
    pub(super) const fn taken_off(&mut self, events: usize, bytes: usize) {
        self.queued = self.queued.saturating_sub(events);
        self.queued_bytes = self.queued_bytes.saturating_sub(bytes);
    }
}
