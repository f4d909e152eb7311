//! What a lane counts. Read from any thread; written by the lane alone.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::latency::LatencyHistogram;
use crate::Position;

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
            Self::Refused { .. } => "refused",
            Self::Stopped { .. } => "stopped",
        }
    }
}

/// Counters of one lane.
///
/// At every moment between two batches, `read = filtered + delivered + dead_lettered + parked +
/// rewound + in_flight`.
#[derive(Debug, Default)]
pub struct LaneMetrics {
    read: AtomicU64,
    filtered: AtomicU64,
    delivered: AtomicU64,
    dead_lettered: AtomicU64,
    parked: AtomicU64,
    rewound: AtomicU64,
    in_flight: AtomicU64,
    retries: AtomicU64,
    checkpoint_micros: AtomicI64,
    latency: LatencyHistogram,
    detail: Mutex<Detail>,
}

#[derive(Debug, Default)]
struct Detail {
    position: Position,
    commit_micros: i64,
    health: LaneHealth,
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
    /// Events taken by the emitter and not yet durable.
    pub in_flight: u64,
    /// Attempts after the first.
    pub retries: u64,
    /// The lane's position: everything up to it is done.
    pub position: Position,
    /// Commit time of the last event that is done, microseconds since 1970.
    pub commit_micros: i64,
    /// When the last checkpoint was stored, microseconds since 1970.
    pub checkpoint_micros: i64,
    /// How the lane is doing.
    pub health: LaneHealth,
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

macro_rules! counters {
    ($($name:ident),*) => {
        $(pub(super) fn $name(&self, count: usize) {
            // Release: who sees an event's end also sees that it was read (`scrape`).
            self.$name.fetch_add(count as u64, Ordering::Release);
        })*
    };
}

impl LaneMetrics {
    counters!(
        read,
        filtered,
        delivered,
        dead_lettered,
        parked,
        rewound,
        retries,
        in_flight
    );

    pub(super) fn landed(&self, count: u64) {
        self.in_flight.fetch_sub(count, Ordering::Relaxed);
    }

    /// Accounts for the rest of a batch whose handling was broken off.
    pub(super) fn broken_off(&self) {
        let counts = self.counts();
        let handled = counts.filtered
            + counts.delivered
            + counts.dead_lettered
            + counts.parked
            + counts.rewound
            + counts.in_flight;
        self.rewound
            .fetch_add(counts.read.saturating_sub(handled), Ordering::Release);
    }

    pub(super) fn reach(&self, position: Position, commit_micros: Option<i64>) {
        let mut detail = self.detail.lock().unwrap_or_else(PoisonError::into_inner);
        detail.position = position;
        if let Some(micros) = commit_micros {
            detail.commit_micros = micros;
        }
    }

    /// How long events took from their commit to being durable at the destination.
    pub const fn latency(&self) -> &LatencyHistogram {
        &self.latency
    }

    pub(super) fn checkpointed(&self, micros: i64) {
        self.checkpoint_micros.store(micros, Ordering::Relaxed);
    }

    pub(super) fn set_health(&self, health: LaneHealth) {
        self.detail
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .health = health;
    }

    /// A reading. Taken beside a running lane it may be in the middle of a batch.
    pub fn counts(&self) -> LaneCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let detail = self.detail.lock().unwrap_or_else(PoisonError::into_inner);
        LaneCounts {
            read: get(&self.read),
            filtered: get(&self.filtered),
            delivered: get(&self.delivered),
            dead_lettered: get(&self.dead_lettered),
            parked: get(&self.parked),
            rewound: get(&self.rewound),
            in_flight: get(&self.in_flight),
            retries: get(&self.retries),
            position: detail.position,
            commit_micros: detail.commit_micros,
            checkpoint_micros: self.checkpoint_micros.load(Ordering::Relaxed),
            health: detail.health.clone(),
        }
    }

    /// A reading that adds up at any moment, for metrics: events that the lane has in hand and
    /// has not yet counted anywhere are in flight, too.
    pub fn scrape(&self) -> LaneCounts {
        // Ends before beginnings: what has ended was read before, so nothing is counted twice.
        let get = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        let (filtered, delivered) = (get(&self.filtered), get(&self.delivered));
        let (dead_lettered, parked) = (get(&self.dead_lettered), get(&self.parked));
        let rewound = get(&self.rewound);
        let read = get(&self.read);
        let ended = filtered + delivered + dead_lettered + parked + rewound;
        LaneCounts {
            read,
            filtered,
            delivered,
            dead_lettered,
            parked,
            rewound,
            in_flight: read.saturating_sub(ended),
            ..self.counts()
        }
    }
}
