//! What a lane counts. Read from any thread; written by the lane alone.

use std::sync::{Mutex, PoisonError};

use super::BreakerState;
use super::latency::LatencyHistogram;
use crate::{EmitErrorKind, Position};

/// How a lane is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LaneHealth {
    /// Not running yet.
    #[default]
    Starting,
    /// Delivering, or idle.
    Running,
    /// The destination is unwell; the lane waits and tries again.
    Retrying {
        /// The last failure.
        reason: String,
    },
    /// An operator paused the lane.
    Paused,
    /// Letters do not fit into the dead letter queue; the lane waits until some are redriven or
    /// discarded.
    Blocked {
        /// Which bound is reached.
        reason: String,
    },
    /// The destination refuses everything; the lane probes it rarely until a person acts.
    Refused {
        /// The last failure.
        reason: String,
    },
    /// Ended: drained, or failed.
    Stopped {
        /// Why, if it failed.
        reason: Option<String>,
    },
}

impl LaneHealth {
    /// The name in status output.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Retrying { .. } => "retrying",
            Self::Paused => "paused",
            Self::Blocked { .. } => "blocked",
            Self::Refused { .. } => "refused",
            Self::Stopped { .. } => "stopped",
        }
    }
}

/// Counters of one lane.
///
/// At every moment, `read = filtered + delivered + dead_lettered + parked + rewound + in_flight`:
/// an event leaves one of them and enters another in one step, under one lock.
#[derive(Debug, Default)]
pub struct LaneMetrics {
    counts: Mutex<LaneCounts>,
    latency: LatencyHistogram,
}

/// A reading of [`LaneMetrics`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneCounts {
    /// Events read from the log.
    pub read: u64,
    /// Events that the filter or a transform dropped.
    pub filtered: u64,
    /// Events that are durable at the destination.
    pub delivered: u64,
    /// Events in the dead letter queue because they failed.
    pub dead_lettered: u64,
    /// Events in the dead letter queue because they wait behind a failed one of their key.
    pub parked: u64,
    /// Events read whose delivery was broken off: the lane halted, was asked to stop, or went
    /// back to its checkpoint because the destination lost them. They are read again.
    pub rewound: u64,
    /// Events read and in none of the above: on their way, or taken by the emitter and not yet
    /// durable.
    pub in_flight: u64,
    /// Attempts after the first.
    pub retries: u64,
    /// The same by the class of the failure before them ([`EmitErrorKind::CLASSES`]).
    pub retries_by_class: [u64; EmitErrorKind::CLASSES.len()],
    /// Requests that wait for their answer now.
    pub requests: u64,
    /// The circuit breaker.
    pub breaker: BreakerState,
    /// The lane's position: everything up to it is done.
    pub position: Position,
    /// Commit time of the last event that is done, microseconds since 1970.
    pub commit_micros: i64,
    /// When the last checkpoint was stored, microseconds since 1970.
    pub checkpoint_micros: i64,
    /// How the lane is doing.
    pub health: LaneHealth,
    /// What it waits for, if that takes longer than a moment although nothing is wrong.
    pub waits_for: Option<&'static str>,
}

impl LaneCounts {
    /// True if every event that was read is accounted for.
    pub const fn adds_up(&self) -> bool {
        self.read
            == self.filtered
                + self.delivered
                + self.dead_lettered
                + self.parked
                + self.rewound
                + self.in_flight
    }
}

/// Where an event goes from `in_flight`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    Filtered,
    Delivered,
    DeadLettered,
    Parked,
    Rewound,
}

impl LaneMetrics {
    fn update<T>(&self, change: impl FnOnce(&mut LaneCounts) -> T) -> T {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn read(&self, count: usize) {
        self.update(|counts| {
            counts.read += count as u64;
            counts.in_flight += count as u64;
        });
    }

    /// Events that were in flight are not any more.
    pub(super) fn settle(&self, fate: Fate, count: u64) {
        if count == 0 {
            return;
        }
        self.update(|counts| {
            debug_assert!(
                counts.in_flight >= count,
                "{count} of {counts:?} as {fate:?}"
            );
            counts.in_flight = counts.in_flight.saturating_sub(count);
            *match fate {
                Fate::Filtered => &mut counts.filtered,
                Fate::Delivered => &mut counts.delivered,
                Fate::DeadLettered => &mut counts.dead_lettered,
                Fate::Parked => &mut counts.parked,
                Fate::Rewound => &mut counts.rewound,
            } += count;
        });
    }

    /// Everything in flight but `kept` events will be read again.
    pub(super) fn broken_off(&self, kept: u64) {
        let in_flight = self.update(|counts| counts.in_flight);
        self.settle(Fate::Rewound, in_flight.saturating_sub(kept));
    }

    pub(super) fn retried(&self, class: usize) {
        self.update(|counts| {
            counts.retries += 1;
            if let Some(count) = counts.retries_by_class.get_mut(class) {
                *count += 1;
            }
        });
    }

    pub(super) fn requests(&self, waiting: usize) {
        self.update(|counts| counts.requests = waiting as u64);
    }

    pub(super) fn reach(&self, position: Position, commit_micros: Option<i64>) {
        self.update(|counts| {
            counts.position = position;
            counts.commit_micros = commit_micros.unwrap_or(counts.commit_micros);
        });
    }

    pub(super) fn checkpointed(&self, micros: i64) {
        self.update(|counts| counts.checkpoint_micros = micros);
    }

    pub(super) fn set_health(&self, health: LaneHealth, breaker: BreakerState) {
        self.update(|counts| {
            counts.health = health;
            counts.breaker = breaker;
        });
    }

    pub(super) fn waits_for(&self, what: Option<&'static str>) {
        self.update(|counts| counts.waits_for = what);
    }

    /// How long events took from their commit to being durable at the destination.
    pub const fn latency(&self) -> &LatencyHistogram {
        &self.latency
    }

    /// A reading, true for one moment, so that it always adds up; from any thread.
    pub fn counts(&self) -> LaneCounts {
        self.update(|counts| counts.clone())
    }
}
