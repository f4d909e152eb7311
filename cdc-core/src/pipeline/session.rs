//! One session of a lane: reading, delivering and storing the position until something ends it.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tracing::{info, warn};

use super::lane::LaneError;
use super::letters::is_full;
use super::metrics::Fate;
use super::parked::key_hashes;
use super::run::{Held, Running, Settled};
use super::workers::Worker;
use super::{LaneCommand, LaneEnd, RedriveReport};
use crate::crash;
use crate::{BatchLimit, Emitter, EventBatch, Position, SourceError, WalSource};

/// How often a full window asks an emitter how far it is durable.
const DURABLE_POLL: Duration = Duration::from_millis(10);

/// How long a request may wait for room before a redrive does not wait for it, and status tells.
pub(super) const ROOM_WAIT: Duration = Duration::from_secs(1);

/// What a lane waits for, in status.
pub(super) const FOR_ROOM: &str = "waits for room at its destination: its consumer has to take, or acknowledge, what it was given";
pub(super) const FOR_THE_CONSUMER: &str =
    "a redrive waits for the consumer to acknowledge what it was given";

/// Why a session with the destination ended.
pub(super) enum SessionEnd {
    Lane(LaneEnd),
    /// Back to the checkpoint, because the emitter lost something or an operator moved it.
    Rewind,
}

impl Running {
    /// Reads and delivers until something ends the session.
    pub(super) async fn session<O, S>(
        &mut self,
        tail: &mut S,
        open: &mut O,
    ) -> Result<SessionEnd, LaneError>
    where
        O: FnMut(Position) -> Result<S, SourceError> + Send,
        S: WalSource,
    {
        self.due = self.clock.elapsed() + self.config.checkpoint_interval;
        self.ending = None;
        self.told = Position::ZERO;
        self.show();
        loop {
            let goes_on = poll_fn(|cx| Poll::Ready(self.drive(cx))).await?;
            let now = self.clock.elapsed();
            self.show_wait(self.has_no_room(now).then_some(FOR_ROOM));
            let due = now >= self.due;
            if !self.poll_durable(due)? {
                return Ok(SessionEnd::Rewind);
            }
            if due
                && let Some(w) = self.behind_ahead()
                && !self.wait_durable(w).await?
            {
                return Ok(SessionEnd::Rewind);
            }
            if self.must_store(due) {
                self.store_parking()?;
            }
            if due {
                self.checkpoint(tail).await?;
            }
            if let Some(end) = self.orders(open).await? {
                return Ok(end);
            }
            if self.shutdown.is_asked() && self.draining.is_none() {
                self.draining = Some(self.drain_until());
                continue;
            }
            if self.blocked.is_some() && now >= self.look_again && self.draining.is_none() {
                self.unblock()?;
                continue;
            }
            if self.blocked.is_none() && !self.paused && self.draining.is_none() {
                self.admit_held()?;
            }
            let busy = self.workers.iter().any(Worker::is_busy);
            let idle = self.is_idle();
            if let Some(deadline) = self.draining
                && (!busy || now >= deadline)
            {
                return self.finish(tail, LaneEnd::Drained).await;
            }
            let ends = idle && self.pending.is_none() && self.blocked.is_none();
            if let Some(end) = self.ending.filter(|_| ends) {
                if !self.store_parking()? {
                    continue;
                }
                // A consumer may take its time: what it has done is stored meanwhile, and orders are heard.
                if self.slowest().is_none() {
                    return self.finish(tail, end).await;
                }
                if !self.attend().await? {
                    return Ok(SessionEnd::Rewind);
                }
                continue;
            }
            if self
                .config
                .stop_at
                .is_some_and(|stop| self.window.position() >= stop)
            {
                return self.finish(tail, LaneEnd::Reached).await;
            }
            // A window that is full of events whose letters have no room waits for orders below.
            if idle && self.is_full() && self.blocked.is_none() {
                if !self.attend().await? {
                    return Ok(SessionEnd::Rewind);
                }
                continue;
            }
            let reads = self.may_read();
            let limit = self.limit();
            let wake = match goes_on {
                true => Duration::ZERO,
                false => self.next_wake(now).saturating_sub(now),
            };
            let timer = self.clock.sleep(wake);
            let answers = self.draining.is_none() && self.pending.is_none();
            let batch = tokio::select! {
                biased;
                () = self.shutdown.asked(), if self.draining.is_none() => continue,
                Some(command) = self.control.recv(), if answers => {
                    self.pending = Some(command);
                    continue;
                }
                () = any_answer(&mut self.workers) => continue,
                batch = tail.next_batch(limit), if reads => batch,
                () = timer => continue,
            };
            let batch = match batch {
                Ok(Some(batch)) => batch,
                Ok(None) => {
                    self.ending = Some(LaneEnd::Finished);
                    continue;
                }
                Err(cause) => return Err(self.source_error(cause)),
            };
            if self.config.stop_at.is_some_and(|stop| batch.end() >= stop) {
                self.ending = Some(LaneEnd::Reached);
            }
            let any = !batch.is_empty();
            self.process(batch)?;
            if any {
                crash::point("read");
            }
        }
    }

    /// Waits a while for the oldest that is taken and not durable. Its consumer may stay away for long: an
    /// order is heard meanwhile. False if the emitter lost something.
    async fn attend(&mut self) -> Result<bool, LaneError> {
        if let Some(w) = self.slowest()
            && !self.wait_durable(w).await?
        {
            return Ok(false);
        }
        if self.draining.is_none() && self.pending.is_none() {
            self.pending = self.control.try_recv().ok();
        }
        Ok(true)
    }

    /// True if nothing is in flight and nothing waits to be.
    fn is_idle(&self) -> bool {
        self.held.is_none() && self.workers.iter().all(Worker::is_idle)
    }

    /// True while the window takes no more events.
    fn is_full(&self) -> bool {
        self.window.len() as u64 >= self.config.window_max
    }

    fn may_read(&self) -> bool {
        let full = self.is_full() || self.queued_bytes >= self.config.window_bytes_max;
        // One worker is given what it can take at once and no more: reading further gains nothing.
        let fed = self.workers.len() == 1 && self.queued > 0;
        !full
            && !fed
            && (self.blocked.is_none() || self.others_go_on())
            && self.held.is_none()
            && !self.paused
            && self.pending.is_none()
            && self.draining.is_none()
            && self.ending.is_none()
    }

    /// True if one worker is blocked and others are not, and there is room in memory for what comes to wait
    /// behind dead letters.
    fn others_go_on(&self) -> bool {
        !self.parking.is_large()
            && self.workers.iter().any(|worker| !worker.blocked)
            && self.workers.len() > 1
    }

    fn limit(&self) -> BatchLimit {
        let room = self
            .config
            .window_max
            .saturating_sub(self.window.len() as u64);
        let limit = self.config.limit;
        BatchLimit {
            events_max: limit
                .events_max
                .min(usize::try_from(room).unwrap_or(usize::MAX))
                .max(1),
            bytes_max: limit.bytes_max,
            linger: limit.linger.min(self.config.checkpoint_interval),
        }
    }

    /// When something is to be done without an answer or an event.
    fn next_wake(&self, now: Duration) -> Duration {
        let mut wake = self.due;
        if let Some(deadline) = self.draining {
            wake = wake.min(deadline);
        }
        let later = |at: Duration| if at > now { at } else { self.due };
        wake = wake
            .min(later(self.hold_until))
            .min(later(self.breaker.until()));
        if self.blocked.is_some() {
            wake = wake.min(later(self.look_again));
        }
        for worker in self.workers.iter().filter(|worker| worker.retry.is_some()) {
            wake = wake.min(later(worker.retry_at));
        }
        wake
    }

    /// The worker that has taken the oldest event which is not durable.
    fn slowest(&self) -> Option<usize> {
        (0..self.workers.len())
            .filter(|&w| !self.workers[w].accepted.is_empty())
            .min_by_key(|&w| self.workers[w].accepted[0].numbers.at(0))
    }

    /// A worker that has taken events behind a letter it was given before: only a barrier, or a mark
    /// beyond that letter, tells that they are durable.
    fn behind_ahead(&self) -> Option<usize> {
        self.workers.iter().position(|worker| {
            let front = worker.accepted.front();
            !worker.is_busy() && front.is_some_and(|front| front.last <= worker.ahead)
        })
    }

    /// Waits until all that a worker has taken is durable, or some time has passed. False if the emitter
    /// lost something.
    async fn wait_durable(&mut self, w: usize) -> Result<bool, LaneError> {
        let emitter = self.workers[w].emitter.clone();
        let flush = async { emitter.lock().await.flush().await };
        let flushed = tokio::select! {
            biased;
            flushed = flush => flushed,
            () = self.shutdown.asked() => return Ok(true),
            () = self.clock.sleep(DURABLE_POLL) => return self.poll_durable(false),
        };
        match flushed {
            Ok(mark) => self.apply_barrier(w, mark).map(|()| true),
            Err(cause) => self.lost(cause).map(|()| false),
        }
    }

    /// Filters and transforms one batch of the log, and gives it to the workers.
    fn process(&mut self, batch: EventBatch) -> Result<(), LaneError> {
        let source = batch.source().clone();
        let mut end = batch.end();
        let mut events = batch.into_events();
        // A log that lost its unflushed tail begins again before this lane's position.
        let position = self.window.read_through();
        if events
            .first()
            .is_some_and(|event| event.position <= position)
        {
            events.retain(|event| event.position > position);
            end = end.max(position);
        }
        if let Some(stop) = self.config.stop_at.filter(|stop| *stop < end) {
            events.retain(|event| event.position <= stop);
            end = stop;
        }
        let last_commit = events.last().map(|event| event.transaction.commit_micros);
        self.metrics.read(events.len());
        let before = events.len();
        let filter = &self.filter;
        events.retain(|event| filter.keep(event));
        let dropped = before - events.len();
        self.metrics.settle(Fate::Filtered, dropped as u64);
        if self.workers.len() > 1 {
            self.tell_keyless(&events);
        }

        self.admit(Held {
            source,
            events,
            end,
            last_commit,
        })
    }

    /// Transforms what the filter kept and gives it to the workers; what cannot be, or must wait
    /// behind a dead letter, goes into the dead letter queue. What stands from the first letter on
    /// that there is no room for is held; the lane blocks there, once everything before it is done.
    ///
    /// # Errors
    /// [`LaneError`] that halts the lane.
    pub(super) fn admit(&mut self, read: Held) -> Result<(), LaneError> {
        let mut left = vec![read];
        while let Some(read) = left.pop() {
            let Some((mut read, fits, error)) = self.try_admit(read)? else {
                continue;
            };
            if fits > 0 {
                let (first, rest) = read.split(fits);
                left.extend([rest, first]);
                continue;
            }
            let done = self.workers.iter().all(Worker::is_idle);
            if done && (is_full(&error) || self.slowest().is_none()) {
                self.block(error)?;
            }
            for rest in left.drain(..).rev() {
                read.append(rest);
            }
            self.held = Some(read);
        }
        Ok(())
    }

    /// Admits what is held, if everything before it is done.
    ///
    /// # Errors
    /// [`LaneError`] that halts the lane.
    pub(super) fn admit_held(&mut self) -> Result<(), LaneError> {
        if self.workers.iter().all(Worker::is_idle)
            && let Some(held) = self.held.take()
        {
            self.admit(held)?;
        }
        Ok(())
    }

    /// Admits all of it or nothing. For lack of room gives it back, with how many of its events may
    /// fit: zero if there is no room for the first.
    fn try_admit(&mut self, read: Held) -> Result<Option<(Held, usize, LaneError)>, LaneError> {
        let Held {
            source,
            mut events,
            end,
            last_commit,
        } = read;
        let (mut letters, mut parked) = (Vec::new(), Vec::new());
        let (mut originals, mut dropped) = (Vec::new(), Vec::new());
        // Of the keys of what is kept, if they are known.
        let mut hashes = Vec::new();
        let mut refused = None;
        if self.transforms.is_empty() && !self.parked.is_empty() {
            self.parked.begin();
            match self.take_waiting(&source, &mut events) {
                Ok(waiting) => (parked, hashes) = waiting,
                Err(found) => refused = Some(*found),
            }
        } else if !self.transforms.is_empty() {
            self.parked.begin();
            let hashing = !self.parked.is_empty();
            let (count, mut fits) = (events.len(), 0);
            let mut kept = Vec::with_capacity(count);
            let mut failed = None;
            let mut rest = events.into_iter();
            for original in rest.by_ref() {
                // Once for both questions: who waits, and whose it is.
                let of_key = match hashing {
                    true => key_hashes(&original).ok().flatten(),
                    false => None,
                };
                let letter = match self.park(&source, &original, of_key) {
                    Ok(Some(letter)) => {
                        parked.push(letter);
                        fits += 1;
                        continue;
                    }
                    Ok(None) => match self.transform(original.clone()) {
                        Ok(Some(event)) => {
                            kept.push(event);
                            hashes.push(of_key);
                            originals.push(original);
                            fits += 1;
                            continue;
                        }
                        Ok(None) => {
                            dropped.push(original);
                            fits += 1;
                            continue;
                        }
                        Err(failure) => self.letter(&source, &original, failure, 1),
                    },
                    Err(error) => Err(error),
                };
                match letter {
                    Ok(letter) => {
                        letters.push(letter);
                        fits += 1;
                    }
                    Err(error) => {
                        failed = Some(error);
                        dropped.push(original);
                        break;
                    }
                }
            }
            if failed.is_none()
                && !letters.is_empty()
                && let Err(error) = self.store_letters(&letters)
            {
                // Which of them fits is found out by halves.
                fits = count / 2;
                failed = Some(error);
            }
            if let Some(error) = failed {
                kept = std::mem::take(&mut originals);
                let letters = std::mem::take(&mut letters).into_iter();
                let parked = std::mem::take(&mut parked).into_iter();
                kept.extend(letters.chain(parked).map(|letter| letter.event));
                kept.extend(std::mem::take(&mut dropped).into_iter().chain(rest));
                kept.sort_by_key(|event| event.position);
                refused = Some((fits, error));
            }
            events = kept;
            if !hashing {
                hashes.clear();
            }
        }
        if let Some((fits, error)) = refused {
            // A dead event that stops the lane stops it where it stands: what comes before it goes out first.
            if !is_full(&error) && !matches!(error, LaneError::DeadKey { .. }) {
                return Err(error);
            }
            self.parked.undo(&[]);
            let read = Held {
                source,
                events,
                end,
                last_commit,
            };
            return Ok(Some((read, fits, error)));
        }
        self.metrics.settle(Fate::Filtered, dropped.len() as u64);
        self.metrics
            .settle(Fate::DeadLettered, letters.len() as u64);
        let numbers = self.number(&events, parked);
        if events.is_empty() {
            self.window.reach(end, last_commit);
            self.reached();
            return Ok(None);
        }
        let batch = EventBatch::new(source, events, end);
        self.enqueue(batch, originals, numbers, &hashes);
        Ok(None)
    }

    /// Carries out what an operator asked for, when its moment has come. The end of the session,
    /// if it leads to that.
    async fn orders<O, S>(&mut self, open: &mut O) -> Result<Option<SessionEnd>, LaneError>
    where
        O: FnMut(Position) -> Result<S, SourceError> + Send,
        S: WalSource,
    {
        let Some(command) = self.pending.take() else {
            return Ok(None);
        };
        self.store_parking()?;
        let busy = self.workers.iter().any(Worker::is_busy);
        // Whoever asked may be gone: a reply that nobody takes is none of the lane's business.
        match command {
            LaneCommand::Discard { ids, reply } => {
                _ = reply.send(self.discard(&ids)?);
                self.unblock()?;
            }
            LaneCommand::Resume { reply } => {
                self.paused = false;
                self.show();
                info!(emitter = %self.config.name, "resumed by an operator");
                _ = reply.send(());
            }
            LaneCommand::Stop { reply } => {
                self.draining = Some(self.drain_until());
                _ = reply.send(());
            }
            LaneCommand::Pause { reply } => {
                if !std::mem::replace(&mut self.paused, true) {
                    info!(emitter = %self.config.name, "paused by an operator");
                    self.show();
                }
                if busy && !self.take_back() {
                    self.pending = Some(LaneCommand::Pause { reply });
                } else {
                    _ = reply.send(());
                }
            }
            LaneCommand::Redrive { request, reply } => {
                let stopped = if self.paused {
                    Some("the lane is paused".to_owned())
                } else if self.has_no_room(self.clock.elapsed()) {
                    Some(format!("the lane {FOR_ROOM}; redrive when it has"))
                } else if self.is_idle() || self.blocked.is_some() {
                    // What went wrong last may be long over, and nothing else would find out: the
                    // redrive itself does.
                    None
                } else {
                    // Nothing of the redrive was tried.
                    let why = |reason| {
                        format!(
                            "the lane has to deliver what failed before, and waits to try again ({reason}); redrive when it has"
                        )
                    };
                    self.reason().map(why)
                };
                if stopped.is_some() {
                    drop(reply.send(RedriveReport {
                        stopped,
                        ..RedriveReport::default()
                    }));
                } else if busy || !(self.is_idle() || self.blocked.is_some()) {
                    self.pending = Some(LaneCommand::Redrive { request, reply });
                } else {
                    let (report, settled) = self.obey_redrive(&request).await?;
                    if settled == Settled::Hindered {
                        self.pending = Some(LaneCommand::Redrive { request, reply });
                        return Ok(Some(SessionEnd::Rewind));
                    }
                    drop(reply.send(report));
                    if settled == Settled::Lost {
                        // What waited for room is read again, and counts then.
                        return Ok(Some(SessionEnd::Rewind));
                    }
                    self.unblock()?;
                }
            }
            LaneCommand::Seek { to, reply } => {
                let busy = busy && !self.take_back();
                self.quiet = busy;
                if busy {
                    self.pending = Some(LaneCommand::Seek { to, reply });
                    return Ok(None);
                }
                match self.seek(to, open).await? {
                    Ok(from) => {
                        drop(reply.send(Ok(from)));
                        return Ok(Some(SessionEnd::Rewind));
                    }
                    Err(cause) => drop(reply.send(Err(cause))),
                }
            }
        }
        Ok(None)
    }

    /// Moves the checkpoint, if the log reaches there.
    async fn seek<O, S>(
        &mut self,
        to: Position,
        open: &mut O,
    ) -> Result<Result<Position, SourceError>, LaneError>
    where
        O: FnMut(Position) -> Result<S, SourceError> + Send,
        S: WalSource,
    {
        // Whatever comes of it, what holds the log for this lane may have gone back.
        self.told = Position::ZERO;
        if let Err(cause) = open(to) {
            return Ok(Err(cause));
        }
        // What the emitter has taken is its own: its state must say so, wherever the lane goes. One without
        // a state forgets it when it is resumed, and its consumer may be away for long.
        if !self.state.is_empty() && self.settle().await? == Settled::Lost {
            warn!(emitter = %self.config.name, "emitter lost what it had accepted; it is moved all the same");
        }
        self.move_to(to).map(Ok)
    }

    /// Stores another position, and gives the one before.
    pub(super) fn move_to(&mut self, to: Position) -> Result<Position, LaneError> {
        let from = self.window.position();
        let checkpoint = self.checkpoint_at(to);
        self.checkpoints
            .reset(&self.config.name, Some(&checkpoint))
            .map_err(|cause| self.checkpoint_error(cause))?;
        warn!(emitter = %self.config.name, %from, %to, "moved by an operator");
        Ok(from)
    }

    /// Takes back requests that wait for room: an order is not to wait for a consumer that may be away for
    /// days. True if none is in flight any more.
    fn take_back(&mut self) -> bool {
        if self.waits_for_room {
            self.workers.iter_mut().for_each(Worker::take_back);
        }
        !self.workers.iter().any(Worker::is_busy)
    }

    /// True if a request has waited for room longer than a moment.
    fn has_no_room(&self, now: Duration) -> bool {
        let waits = |worker: &Worker| worker.is_busy() && now >= worker.sent_at + ROOM_WAIT;
        self.waits_for_room && self.workers.iter().any(waits)
    }

    /// Tells what the lane waits for.
    pub(super) fn show_wait(&mut self, what: Option<&'static str>) {
        if self.shown_wait != what {
            self.shown_wait = what;
            self.metrics.waits_for(what);
        }
    }

    /// True while the emitter has a state, and that is further than the window's position: it must not
    /// be stored with it. Letters that have no room hold the window back.
    pub(super) fn is_hindered(&self) -> bool {
        !self.state.is_empty() && self.marked > self.window.position()
    }

    /// Stores the position if it changed, then tells the log, if it does not know.
    async fn checkpoint<S: WalSource>(&mut self, tail: &mut S) -> Result<(), LaneError> {
        self.due = self.clock.elapsed() + self.config.checkpoint_interval;
        let changed = self.window.position() != self.stored || self.state_changed;
        if changed && !self.is_hindered() {
            self.store_checkpoint()?;
        }
        if self.told < self.stored {
            // Also what was stored elsewhere, or in an earlier life: a log that is full gives nothing more until
            // it is told, so the position would never change.
            tail.confirm(self.stored)
                .await
                .map_err(|cause| self.source_error(cause))?;
            self.told = self.stored;
            if changed {
                crash::point("confirmed");
            }
        }
        Ok(())
    }

    /// Flushes within the time limit, stores the last checkpoint, ends.
    async fn finish<S: WalSource>(
        &mut self,
        tail: &mut S,
        end: LaneEnd,
    ) -> Result<SessionEnd, LaneError> {
        for w in 0..self.workers.len() {
            // The answer is not waited for any longer.
            self.workers[w].drop_request();
            // A drain is bounded; an end that was asked for by position waits for the destination
            // unless shutdown is asked for.
            let mut shutdown = self.shutdown.clone();
            let clock = self.clock.clone();
            let timeout = if self.drains {
                self.config.shutdown_timeout
            } else {
                Duration::ZERO
            };
            let deadline = self.draining;
            let limit = async move {
                let deadline = match deadline {
                    Some(deadline) => deadline,
                    None => {
                        shutdown.asked().await;
                        clock.elapsed() + timeout
                    }
                };
                clock.sleep(deadline.saturating_sub(clock.elapsed())).await;
            };
            let emitter = self.workers[w].emitter.clone();
            let flush = async { emitter.lock().await.flush().await };
            let flushed = tokio::select! {
                biased;
                flushed = flush => Some(flushed),
                () = limit => None,
            };
            match flushed {
                Some(Ok(mark)) => self.apply(w, mark, true)?,
                Some(Err(cause)) => {
                    self.lost(cause)?;
                    if end != LaneEnd::Drained {
                        return Ok(SessionEnd::Rewind);
                    }
                }
                None => {
                    // Not all of it, but what is durable by now.
                    let mark = emitter.try_lock().map(|mut emitter| emitter.durable());
                    if let Ok(Ok(mark)) = mark {
                        self.apply(w, mark, false)?;
                    }
                }
            }
        }
        self.store_parking()?;
        if self.window.is_waiting() {
            warn!(
                emitter = %self.config.name,
                in_flight = self.metrics.counts().in_flight,
                "shutdown did not wait longer for the destination; these events are delivered again at the next start"
            );
        }
        self.checkpoint(tail).await?;
        if end != LaneEnd::Drained && self.window.is_waiting() {
            // Shutdown overtook the end that was asked for.
            return Ok(SessionEnd::Lane(LaneEnd::Drained));
        }
        info!(emitter = %self.config.name, position = %self.stored, "lane ended");
        Ok(SessionEnd::Lane(end))
    }
}

/// Resolves when some request in flight has been answered; the next drive handles it.
async fn any_answer(workers: &mut [Worker]) {
    poll_fn(|cx| {
        let mut any = Poll::Pending;
        for worker in workers.iter_mut() {
            if worker.poll(cx) {
                any = Poll::Ready(());
            }
        }
        any
    })
    .await;
}
