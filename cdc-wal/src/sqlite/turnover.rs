//! Helps the application's checkpoints, which cannot pass our mark.
//!
//! The mark follows the end of the log in short steps, so that what it lets through is little: the
//! application tries a checkpoint at every commit, and who gets there first, it or we, copies what there
//! is and waits for the disk. A thread of our own has synced the log before each step, and copies up to
//! the mark behind it, while the log is followed on. If the application pauses, that is all, and its next
//! write begins the log anew. Under load, when the log is long, the write lock is taken for the moment
//! it takes to copy the rest.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cdc_core::SourceError;

use super::collect::Collector;
use super::config::{Assist, SqliteConfig};
use super::follow::{Follower, IDLE, index};
use super::log_file::io_error;
use super::pins::{Checkpointer, Copied, Pins};
use super::worker::Worker;

/// Shortest time between two attempts.
const INTERVAL: Duration = Duration::from_millis(20);
/// The same, where somebody else's reader is in the way.
const HINDERED_INTERVAL: Duration = Duration::from_secs(1);
/// Most frames that are processed while the application is kept from writing.
const LOCKED_FRAMES_MAX: u32 = 1000;
/// Frames that may be left for the moment under the lock, and how often the thread copies until they
/// are so few: an application that writes as fast as the disk takes it leaves as many each time.
const REST_FRAMES_MAX: u32 = 1000;
const COPIES_MAX: u32 = 5;
/// How long the thread waits for a checkpoint of somebody else to end.
const OTHERS_TIME: Duration = Duration::from_secs(1);
/// How long it is tried to find the write lock free before the rest is copied once more.
const LOCKING_TIME: Duration = Duration::from_millis(100);

/// How far it is.
#[derive(Clone, Copy, Debug)]
enum Step {
    Rest,
    /// The thread syncs the log.
    Syncing,
    /// The thread copies the log back up to this mark, for the so-manieth time.
    Copying(u32, u32),
    /// Since then the write lock is tried for.
    Locking(Instant),
}

/// What the thread does.
#[derive(Debug)]
enum Job {
    /// So that a checkpoint, whoever runs it, finds little of the log to wait for.
    Sync(Arc<File>),
    Copy,
}

/// Copies the log back, in steps between which the log is followed on.
#[derive(Debug)]
pub(crate) struct Turnover {
    worker: Worker<Job, Option<Copied>>,
    /// For what is left, under the write lock.
    rest: Checkpointer,
    step: Step,
    next: Instant,
}

impl Turnover {
    /// Starts the thread. Nothing is opened before it is needed.
    pub(crate) fn new(config: &SqliteConfig, pins: &Pins) -> Result<Self, SourceError> {
        let mut checkpointer = Checkpointer::new(config, pins.place);
        let main = pins.main.clone();
        let worker = Worker::start("sqlite checkpoint", move |job| match job {
            Job::Sync(wal) => {
                wal.sync_data()
                    .map_err(|cause| io_error("sync the -wal file", cause))?;
                Ok(None)
            }
            Job::Copy => {
                let copied = checkpointer.passive_after_others(Instant::now() + OTHERS_TIME)?;
                // So that little is left for the checkpoint under the lock to wait for.
                main.sync_data()
                    .map_err(|cause| io_error("sync the database file", cause))?;
                Ok(Some(copied))
            }
        })?;
        Ok(Self {
            worker,
            rest: Checkpointer::new(config, pins.place),
            step: Step::Rest,
            next: Instant::now(),
        })
    }

    /// The write lock is tried for: every moment counts.
    pub(crate) const fn is_urgent(&self) -> bool {
        matches!(self.step, Step::Locking(_))
    }

    fn rest_for(&mut self, time: Duration) {
        self.step = Step::Rest;
        self.next = Instant::now() + time;
    }
}

impl Follower {
    /// Goes one step on, if one is due. Waits for nobody but, under the write lock, the disk.
    pub(crate) fn turn(&mut self, collector: &mut Collector) -> Result<(), SourceError> {
        match self.turnover.step {
            Step::Rest => self.begin_turn(),
            Step::Syncing => match self.turnover.worker.poll()? {
                Some(_) => self.synced(collector),
                None => Ok(()),
            },
            Step::Copying(mark, copies) => match self.turnover.worker.poll()?.flatten() {
                Some(copied) => self.copied((mark, copies), copied, collector),
                None => Ok(()),
            },
            Step::Locking(since) => self.lock(since, collector),
        }
    }

    fn begin_turn(&mut self) -> Result<(), SourceError> {
        let frames = self.head.last_frame;
        let soft = frames > self.config.soft_frames && self.last_change.elapsed() >= IDLE;
        let due = match self.config.assist {
            Assist::Off => false,
            Assist::Soft => soft,
            Assist::Hard => {
                let behind = frames.saturating_sub(self.mark) > self.config.soft_frames;
                soft || behind || self.is_long()
            }
        };
        let ready = !self.on_main && self.at() >= frames && Instant::now() >= self.turnover.next;
        if due && ready {
            let wal = self.wal()?;
            self.turnover.worker.submit(Job::Sync(wal))?;
            self.turnover.step = Step::Syncing;
        }
        Ok(())
    }

    /// The log is so long that it should begin anew.
    fn is_long(&self) -> bool {
        self.head.last_frame > self.config.hard_frames(self.head.page_size)
    }

    /// The log is synced: the mark goes to its end.
    fn synced(&mut self, collector: &mut Collector) -> Result<(), SourceError> {
        self.cycle(collector)?;
        if self.on_main {
            self.turnover.rest_for(INTERVAL);
            return Ok(());
        }
        self.turnover.worker.submit(Job::Copy)?;
        self.turnover.step = Step::Copying(self.mark, 1);
        Ok(())
    }

    /// The thread has copied the log back, as far as others let it.
    fn copied(
        &mut self,
        (mark, copies): (u32, u32),
        copied: Copied,
        collector: &mut Collector,
    ) -> Result<(), SourceError> {
        self.cycle(collector)?;
        if self.on_main {
            self.turnover.rest_for(INTERVAL);
        } else if copied.frames < mark {
            // Another checkpoint is running, or somebody reads an older state.
            let time = if copied.busy {
                INTERVAL
            } else {
                HINDERED_INTERVAL
            };
            self.turnover.rest_for(time);
        } else if self.config.assist == Assist::Hard && self.is_long() {
            if self.mark.saturating_sub(mark) > REST_FRAMES_MAX && copies < COPIES_MAX {
                self.turnover.worker.submit(Job::Copy)?;
                self.turnover.step = Step::Copying(self.mark, copies + 1);
            } else {
                self.turnover.step = Step::Locking(Instant::now());
            }
        } else {
            self.turnover.rest_for(INTERVAL);
        }
        Ok(())
    }

    /// With the application kept from writing, everything is processed, copied back, and marked.
    fn lock(&mut self, since: Instant, collector: &mut Collector) -> Result<(), SourceError> {
        if since.elapsed() >= LOCKING_TIME {
            self.turnover.rest_for(Duration::ZERO);
            return Ok(());
        }
        // Under the lock nobody is waited for but the disk: only a short rest may be left.
        if self.left()? > LOCKED_FRAMES_MAX || !self.pins.lock_writer()? {
            return Ok(());
        }
        collector.hold(true);
        let outcome = self.copy_rest(collector);
        collector.hold(false);
        let unlocked = self.pins.unlock_writer();
        let whole = outcome?;
        unlocked?;
        self.turnover
            .rest_for(if whole { INTERVAL } else { HINDERED_INTERVAL });
        collector.flush()
    }

    /// Under the write lock; true if everything is in the database file and was processed.
    fn copy_rest(&mut self, collector: &mut Collector) -> Result<bool, SourceError> {
        let deadline = Instant::now() + self.config.hard_time_max;
        if self.left()? > LOCKED_FRAMES_MAX {
            return Ok(false);
        }
        self.cycle(collector)?;
        let whole = self.turnover.rest.whole(deadline)?;
        if whole {
            self.cycle(collector)?;
        }
        Ok(whole)
    }

    fn left(&self) -> Result<u32, SourceError> {
        let head = index(&self.pins)?;
        Ok(head.last_frame.saturating_sub(self.at()))
    }
}
