//! Group commit: who writes and syncs, and who waits for it.
//!
//! The sync under way is the batching window: what is appended meanwhile goes with the next one. A thread
//! that finds nobody syncing does it itself, so a lone committer pays for no other thread. When others
//! have come in the meantime, it hands over to the *flusher*, a thread that begins the next sync in the
//! same breath in which one ends, as long as somebody waits: a committer that had to be woken
//! first would leave the disk idle for as long as that takes, behind all the others that are woken.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use cdc_core::Lsn;

use super::closing;
use super::state::{Shared, State};
use crate::LogError;
use crate::notify::guarded;
use crate::segment::Segment;
use crate::threads::{Builder, JoinHandle, MutexGuard};

/// Who waits for which sync. Syncs are numbered; those who wait for the one under way and those
/// who wait for the next one sleep apart, so that nobody is woken for nothing.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// Number of the newest sync that began.
    number: u64,
    /// Number of the newest sync that ended well.
    ended: u64,
    /// Where what it covers ends; of the one under way only.
    covers: Option<u64>,
    /// How many wait for a sync that has not ended, by whether its number is odd.
    waiting: [u32; 2],
    /// One of these was woken, and is to wake the others, and the tails if so: what the next sync
    /// does not have to wait for.
    wake_on: [Option<WakeOn>; 2],
    /// How many wait for `busy` to end, to write or to go on in another segment.
    wanting: u32,
    /// There is a flusher.
    pub(super) has_flusher: bool,
    /// The flusher does the syncs.
    handed_over: bool,
}

impl Queue {
    const fn half(number: u64) -> usize {
        (number % 2) as usize
    }

    /// How many wait for the sync that comes next.
    const fn waiting_next(&self) -> u32 {
        self.waiting[Self::half(self.number + 1)]
    }
}

/// Whom the first that is woken wakes beside the others that committed.
#[derive(Clone, Copy, Debug)]
struct WakeOn {
    tails: bool,
    /// There are others.
    others: bool,
}

/// Whom to tell of a sync.
struct Told {
    /// Where those sleep who committed.
    half: Option<usize>,
    tails: bool,
    end: u64,
}

/// Bytes on their way to the disk.
struct Job {
    bytes: Bytes,
    segment: Arc<Segment>,
    at: u64,
    end: u64,
    unsynced: Vec<Arc<Segment>>,
    sync: bool,
    flushed: u64,
}

/// Starts the flusher.
pub(crate) fn spawn(shared: Arc<Shared>) -> std::io::Result<JoinHandle<()>> {
    Builder::new().name("cdc-wal-sync".into()).spawn(move || {
        shared.flusher();
        closing::thread_ended(&shared);
    })
}

impl Shared {
    /// Takes what is buffered, to be written without the lock. The caller has seen that nobody else
    /// does.
    fn begin(state: &mut State, sync: bool) -> Job {
        state.busy = true;
        if sync {
            state.queue.number += 1;
            state.queue.covers = Some(state.next);
        }
        Job {
            bytes: state.pending.split().freeze(),
            segment: state.current.clone(),
            at: state.written,
            end: state.next,
            unsynced: if sync {
                std::mem::take(&mut state.unsynced)
            } else {
                Vec::new()
            },
            sync,
            flushed: state.flushed,
        }
    }

    /// Notes what was done; gives the state back, and true if tails may read more now.
    fn end<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        job: &Job,
        result: Result<(), LogError>,
    ) -> Result<(MutexGuard<'a, State>, bool), LogError> {
        state.busy = false;
        state.queue.covers = None;
        if let Err(error) = result {
            self.die(state, &error);
            return Err(error);
        }
        state.written = job.end;
        if job.sync {
            state.flushed = job.end;
        }
        self.recent.push(job.at, &job.bytes);
        let more = self.publish(&state);
        if state.queue.wanting > 0 {
            self.turn.notify_all();
        }
        if state.prepare_due() {
            self.work.notify_one();
        }
        Ok((state, more))
    }

    /// Tells what is written and flushed now; true if tails may read more than before.
    pub(super) fn publish(&self, state: &State) -> bool {
        let before = self.visible();
        self.written.store(state.written, Ordering::Release);
        self.flushed.store(state.flushed, Ordering::Release);
        self.visible() != before
    }

    /// Hands the buffer to the operating system, without a sync. The caller has seen that nobody
    /// else does.
    pub(super) fn write<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
    ) -> Result<MutexGuard<'a, State>, LogError> {
        let job = Self::begin(&mut state, false);
        drop(state);
        let result = self.execute(&job);
        let (mut state, more) = self.end(self.lock(), &job, result)?;
        self.pass_on(&mut state);
        Ok(if more { self.wake_tails(state) } else { state })
    }

    /// Wakes the tails, without the lock: a waker is another's code, which may run the task that has the
    /// tail there and then, or let go of the log.
    pub(super) fn wake_tails<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        drop(state);
        self.notify.wake();
        self.lock()
    }

    fn execute(&self, job: &Job) -> Result<(), LogError> {
        self.hand_over(job)?;
        self.complete(job)
    }

    /// Hands a job's bytes to the operating system.
    fn hand_over(&self, job: &Job) -> Result<(), LogError> {
        let segment = &job.segment;
        if !job.bytes.is_empty() {
            segment
                .file
                .write_all_at(&job.bytes, job.at - segment.base())
                .map_err(|cause| LogError::io("write the log segment", &segment.path, cause))?;
            cdc_core::crash::point("log-written");
        }
        Ok(())
    }

    /// Syncs what was put, if the job asks for it, and tells other processes.
    fn complete(&self, job: &Job) -> Result<(), LogError> {
        let segment = &job.segment;
        if job.sync {
            for segment in job.unsynced.iter().chain([segment]) {
                segment
                    .file
                    .sync_data()
                    .map_err(|cause| LogError::io("sync the log segment", &segment.path, cause))?;
            }
            if !job.unsynced.is_empty() {
                self.storage
                    .sync_dir(&self.dir)
                    .map_err(|cause| LogError::io("sync the log directory", &self.dir, cause))?;
            }
        }
        let flushed = if job.sync { job.end } else { job.flushed };
        self.write_control(job.end, flushed)
    }

    /// Makes everything below `target` durable: waits for the sync that covers it, or runs one that
    /// covers all that wait.
    pub(crate) fn flush_to(&self, target: u64) -> Result<(), LogError> {
        let mut state = self.lock();
        loop {
            if state.flushed >= target {
                return Ok(());
            }
            self.alive(&state)?;
            if !state.busy && !state.queue.handed_over {
                return self.lead(state);
            }
            let next = state.queue.covers.is_none_or(|covered| covered < target);
            let awaited = state.queue.number + u64::from(next);
            let half = Queue::half(awaited);
            state.queue.waiting[half] += 1;
            state = self.synced[half]
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            // Whose sync has ended is no longer counted, though it may not have run since: or the next sync
            // would be one for nobody.
            let early = awaited > state.queue.ended;
            if early {
                state.queue.waiting[half] -= 1;
            }
            if let Some(on) = state.queue.wake_on[half].take() {
                drop(state);
                // Woken in the place of somebody whose sync it was: they share a signal with those
                // who wait for the sync after the next.
                if on.others || early {
                    self.synced[half].notify_all();
                }
                if on.tails {
                    self.notify.wake();
                }
                state = self.lock();
            }
        }
    }

    /// One sync, by the calling thread.
    fn lead(&self, mut state: MutexGuard<'_, State>) -> Result<(), LogError> {
        let job = Self::begin(&mut state, true);
        drop(state);
        let result = self.execute(&job);
        let (mut state, more) = self.end(self.lock(), &job, result)?;
        self.pass_on(&mut state);
        let told = Self::tell(&mut state, more, job.end);
        drop(state);
        self.announce(&told);
        Ok(())
    }

    /// Whom to tell of the sync that just ended. Tails are woken by the first of those who
    /// committed, if there are any.
    fn tell(state: &mut State, tails: bool, end: u64) -> Told {
        let half = Queue::half(state.queue.number);
        state.queue.ended = state.queue.number;
        let released = std::mem::take(&mut state.queue.waiting[half]);
        let any = released > 0;
        if any {
            // Who was to wake those of two syncs ago has not run yet.
            let late = state.queue.wake_on[half];
            state.queue.wake_on[half] = Some(WakeOn {
                tails: tails || late.is_some_and(|on| on.tails),
                others: released > 1 || late.is_some(),
            });
        }
        Told {
            half: any.then_some(half),
            tails: tails && !any,
            end,
        }
    }

    /// Tells of a sync that ended, without the lock: the first of those who committed, the hooks,
    /// the tails. A hook that panics, against its contract, keeps nothing from the others.
    fn announce(&self, told: &Told) {
        if let Some(half) = told.half {
            self.synced[half].notify_one();
        }
        let hooks = self.hooks.read().unwrap_or_else(PoisonError::into_inner);
        for hook in hooks.iter() {
            guarded(|| hook.on_commit(Lsn(told.end)));
        }
        drop(hooks);
        if told.tails {
            self.notify.wake();
        }
    }

    /// Sees to it that somebody runs the sync that others wait for. The caller has ended what it
    /// did.
    fn pass_on(&self, state: &mut State) {
        if state.queue.waiting_next() == 0 {
            // Whoever comes next syncs for itself.
            state.queue.handed_over = false;
        } else if state.queue.has_flusher {
            state.queue.handed_over = true;
            self.sync_due.notify_one();
        } else {
            self.synced[Queue::half(state.queue.number + 1)].notify_one();
        }
    }

    /// Runs syncs as long as somebody waits for one, each as soon as the one before has ended.
    fn flusher(&self) {
        let mut state = self.lock();
        loop {
            let idle = state.queue.waiting_next() == 0;
            if state.dead.is_some() || (idle && state.closing) {
                (state.queue.handed_over, state.queue.has_flusher) = (false, false);
                return;
            }
            if idle {
                state.queue.handed_over = false;
            }
            // Whoever needs the segment for itself goes first: it was here before the next sync.
            if !state.queue.handed_over || state.busy || state.queue.wanting > 0 {
                state = self
                    .sync_due
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let mut job = Self::begin(&mut state, true);
            drop(state);
            let mut before: Option<Told> = None;
            loop {
                let handed = self.hand_over(&job);
                // Those who committed are woken while the disk works: woken before the bytes were handed
                // over they would take the processor for their next transactions, and the disk
                // would wait.
                if let Some(told) = before.take() {
                    self.announce(&told);
                }
                let result = handed.and_then(|()| self.complete(&job));
                let Ok((ended, more)) = self.end(self.lock(), &job, result) else {
                    // Whoever waits finds the log dead.
                    state = self.lock();
                    break;
                };
                state = ended;
                let told = Self::tell(&mut state, more, job.end);
                let again = state.queue.waiting_next() > 0 && state.queue.wanting == 0;
                if again {
                    job = Self::begin(&mut state, true);
                }
                drop(state);
                if !again {
                    self.announce(&told);
                    state = self.lock();
                    break;
                }
                before = Some(told);
            }
        }
    }

    /// Waits until nobody writes, in front of the next sync.
    pub(super) fn wait_for_turn<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        state.queue.wanting += 1;
        let mut state = self
            .turn
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner);
        state.queue.wanting -= 1;
        if state.queue.wanting == 0 && state.queue.handed_over {
            self.sync_due.notify_one();
        }
        state
    }

    /// Waits until the next segment's file is prepared.
    pub(super) fn wait_for_file<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.turn
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Has everybody who waits look again.
    pub(super) fn wake_everybody(&self) {
        self.turn.notify_all();
        for synced in &self.synced {
            synced.notify_all();
        }
        self.sync_due.notify_all();
    }

    /// Hands the buffer to the operating system without a sync, unless somebody is doing so.
    pub(crate) fn write_out(&self) -> Result<(), LogError> {
        let state = self.lock();
        self.alive(&state)?;
        if !state.busy && !state.pending.is_empty() {
            drop(self.write(state)?);
        }
        Ok(())
    }

    /// Hands everything appended so far to the operating system; gives the end of it.
    pub(crate) fn drain(&self) -> Result<u64, LogError> {
        let mut state = self.lock();
        let target = state.next;
        while state.written < target {
            self.alive(&state)?;
            state = if state.busy {
                self.wait_for_turn(state)
            } else {
                self.write(state)?
            };
        }
        Ok(state.written)
    }
}
