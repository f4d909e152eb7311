//! The writer beside the lane: a bounded ring of steps, and the thread that does them.
//!
//! While the lane encodes the next events, the thread writes, hashes and syncs the last ones. Steps are
//! done in the order they are given. Where a thread gains nothing (small chunks on an idle ring, a
//! simulated disk, a sync after every batch) the caller does the step itself, and no thread is made.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use cdc_core::DurableMark;
use tracing::warn;

use crate::Fsync;
use crate::writer::{Command, Failure, Loss, Writer};

/// Chunks from which on a thread is worth its while.
const BESIDE_MIN: usize = 128 << 10;
/// Most encoded bytes on their way to the thread. One chunk more may be at it.
const BYTES_MAX: usize = 8 << 20;
/// Most steps on their way to the thread.
const STEPS_MAX: usize = 256;
/// Most empty buffers that are kept, and the largest.
const SPARE_MAX: usize = 16;
const SPARE_BYTES_MAX: usize = 8 << 20;

/// The writer, and the way to it.
pub(crate) struct Beside {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// A thread could not be made: it is not tried again.
    alone: bool,
    /// The disk is known to be one of the operating system.
    real: bool,
}

struct Shared {
    /// Only ever locked by who is at work: by the thread while [`Ring::working`], else by the lane.
    writer: Mutex<Writer>,
    ring: Mutex<Ring>,
    /// There is something to do, or nothing any more.
    given: Condvar,
    /// A step is done, or cannot be.
    done: Condvar,
}

#[derive(Default)]
struct Ring {
    steps: VecDeque<Command>,
    /// In the steps that wait.
    bytes: usize,
    /// The thread is at a step.
    working: bool,
    /// The first step failed and nothing is lost: it waits for the lane to try it again.
    stuck: bool,
    /// The thread met a disk without room: until a chunk is written again, the lane writes itself, and so
    /// hears at once of each that cannot be.
    cautious: bool,
    /// The emitter is dropped.
    ended: bool,
    mark: DurableMark,
    spare: Vec<Vec<u8>>,
}

impl Ring {
    fn is_idle(&self) -> bool {
        !self.working && self.steps.is_empty()
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.steps.len() < STEPS_MAX && (bytes == 0 || self.bytes < BYTES_MAX)
    }

    /// Takes back the buffer of a step that is done.
    fn recycle(&mut self, step: Command) {
        if let Command::Chunk(mut chunk) = step
            && self.spare.len() < SPARE_MAX
        {
            chunk.bytes.clear();
            chunk.bytes.shrink_to(SPARE_BYTES_MAX);
            self.spare.push(chunk.bytes);
        }
    }
}

impl Shared {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the thread does until the emitter is dropped.
    fn work(&self) {
        let mut ring = self.ring();
        loop {
            while !ring.ended && (ring.stuck || ring.steps.is_empty()) {
                ring = self
                    .given
                    .wait(ring)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if ring.ended {
                return;
            }
            let Some(step) = ring.steps.pop_front() else {
                continue;
            };
            ring.bytes -= step.len();
            ring.working = true;
            drop(ring);
            let (outcome, mark) = self.step(&step);
            ring = self.ring();
            ring.working = false;
            ring.mark = mark;
            match outcome {
                Outcome::Done => ring.recycle(step),
                Outcome::Stuck => {
                    ring.bytes += step.len();
                    ring.steps.push_front(step);
                    ring.stuck = true;
                    ring.cautious = true;
                }
                Outcome::Lost => {
                    ring.steps.clear();
                    ring.bytes = 0;
                }
            }
            self.done.notify_all();
        }
    }

    fn step(&self, step: &Command) -> (Outcome, DurableMark) {
        let mut writer = self.writer();
        let done = catch_unwind(AssertUnwindSafe(|| {
            writer.run(step)?;
            match step {
                Command::End(_) => writer.tend(false),
                Command::Chunk(_) | Command::Close => Ok(()),
            }
        }));
        let outcome = match done {
            Ok(Ok(())) => Outcome::Done,
            Ok(Err(Failure::Again(error))) => {
                warn!(%error, "write what the file emitter has taken; it is tried again");
                Outcome::Stuck
            }
            Ok(Err(Failure::Lost(loss))) => {
                writer.lose(loss);
                Outcome::Lost
            }
            Err(_) => {
                let what = format!("write to a file in {}", writer.config.path.display());
                let cause = "its thread panicked".to_owned();
                writer.lose(Loss { what, cause });
                Outcome::Lost
            }
        };
        (outcome, writer.mark.clone())
    }
}

enum Outcome {
    Done,
    Stuck,
    Lost,
}

impl Beside {
    pub(crate) fn new(writer: Writer) -> Self {
        Self {
            shared: Arc::new(Shared {
                writer: Mutex::new(writer),
                ring: Mutex::default(),
                given: Condvar::new(),
                done: Condvar::new(),
            }),
            thread: None,
            alone: false,
            real: false,
        }
    }

    /// True if chunks may be given away: then they need not be larger than a processor's cache.
    pub(crate) const fn is_beside(&self) -> bool {
        self.real && !self.alone
    }

    /// An empty buffer.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        self.shared.ring().spare.pop().unwrap_or_default()
    }

    /// The last mark of the thread.
    pub(crate) fn mark(&self) -> DurableMark {
        self.shared.ring().mark.clone()
    }

    /// Has a step done, now or after those before it. Waits while the ring is full.
    ///
    /// # Errors
    /// Why this step, or one before it, could not be done; after [`Failure::Again`] this one is as if it had
    /// not been given. What goes wrong later is told by the writer.
    pub(crate) fn give(&mut self, step: Command) -> Result<(), Failure> {
        self.unstick()?;
        let ring = self.shared.ring();
        let (idle, cautious) = (ring.is_idle(), ring.cautious);
        drop(ring);
        if idle && (step.len() < BESIDE_MIN || cautious || !self.is_beside() || !self.start()) {
            let mut writer = self.shared.writer();
            let done = writer.run(&step);
            self.real = writer.is_real() && writer.config.fsync != Fsync::Batch;
            drop(writer);
            let mut ring = self.shared.ring();
            ring.cautious &= done.is_err() || step.len() == 0;
            ring.recycle(step);
            return done;
        }
        if idle {
            // What the lane did itself since the thread's last step.
            let mark = self.shared.writer().mark.clone();
            self.shared.ring().mark = mark;
        }
        let mut ring = self.shared.ring();
        while !ring.has_room(step.len()) && !ring.stuck {
            ring = self
                .shared
                .done
                .wait(ring)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let stuck = ring.stuck;
        if stuck {
            drop(ring);
            self.unstick()?;
            ring = self.shared.ring();
        }
        debug_assert!(stuck || ring.has_room(step.len()));
        ring.bytes += step.len();
        ring.steps.push_back(step);
        drop(ring);
        self.shared.given.notify_one();
        Ok(())
    }

    /// Tries the step once more that the thread could not do, if there is one.
    ///
    /// # Errors
    /// It cannot be done yet, or what is on disk is unknown.
    pub(crate) fn unstick(&self) -> Result<(), Failure> {
        let mut ring = self.shared.ring();
        if !ring.stuck {
            return Ok(());
        }
        let Some(step) = ring.steps.pop_front() else {
            ring.stuck = false;
            return Ok(());
        };
        // The thread does nothing while the ring is stuck.
        drop(ring);
        let mut writer = self.shared.writer();
        let done = writer.run(&step);
        let mark = writer.mark.clone();
        drop(writer);
        let mut ring = self.shared.ring();
        ring.mark = mark;
        match &done {
            Ok(()) => {
                ring.bytes -= step.len();
                ring.recycle(step);
                ring.stuck = false;
                self.shared.given.notify_one();
            }
            Err(Failure::Again(_)) => ring.steps.push_front(step),
            Err(Failure::Lost(_)) => {
                ring.steps.clear();
                ring.bytes = 0;
                ring.stuck = false;
            }
        }
        done
    }

    /// The writer, if everything given is done.
    pub(crate) fn idle(&self) -> Option<MutexGuard<'_, Writer>> {
        let idle = self.shared.ring().is_idle();
        // Only the lane gives steps, and it is here: an idle ring stays so.
        idle.then(|| self.shared.writer())
    }

    /// Waits until everything given is done, or cannot be.
    ///
    /// # Errors
    /// As for [`Self::unstick`].
    pub(crate) fn settled(&self) -> Result<MutexGuard<'_, Writer>, Failure> {
        loop {
            self.unstick()?;
            let ring = self.shared.ring();
            let waited = self
                .shared
                .done
                .wait_while(ring, |ring| !ring.is_idle() && !ring.stuck);
            if waited.unwrap_or_else(PoisonError::into_inner).is_idle() {
                return Ok(self.shared.writer());
            }
        }
    }

    /// Forgets what is given and not done, and waits for the step that the thread is at.
    pub(crate) fn halted(&mut self) -> MutexGuard<'_, Writer> {
        let mut ring = self.shared.ring();
        ring.steps.clear();
        ring.bytes = 0;
        ring.stuck = false;
        // A step that comes back undone is forgotten, too.
        let waited = self.shared.done.wait_while(ring, |ring| ring.working);
        let mut ring = waited.unwrap_or_else(PoisonError::into_inner);
        ring.steps.clear();
        ring.bytes = 0;
        ring.stuck = false;
        drop(ring);
        self.shared.writer()
    }

    /// Begins anew with the writer as it is after a restart.
    pub(crate) fn begin(&mut self) {
        let writer = self.shared.writer();
        self.real = writer.is_real() && writer.config.fsync != Fsync::Batch;
        let mark = writer.mark.clone();
        drop(writer);
        self.shared.ring().mark = mark;
    }

    /// Makes the thread if there is none; false if there is none to be had.
    fn start(&mut self) -> bool {
        if self.thread.is_some() {
            return true;
        }
        let shared = self.shared.clone();
        let begun = std::thread::Builder::new()
            .name("cdc-file-write".to_owned())
            .spawn(move || shared.work());
        match begun {
            Ok(thread) => self.thread = Some(thread),
            Err(error) => {
                warn!(%error, "start a thread that writes files; the lane writes them itself");
                self.alone = true;
            }
        }
        !self.alone
    }
}

impl Drop for Beside {
    /// What is given and not done is forgotten: no mark says that it is written, so it comes again.
    fn drop(&mut self) {
        self.shared.ring().ended = true;
        self.shared.given.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the thread that writes files panicked");
        }
    }
}
