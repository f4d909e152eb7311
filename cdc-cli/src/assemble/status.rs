//! How a pipeline is doing, for people and for programs.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use cdc_core::pipeline::{CaptureMetrics, LaneHealth, LaneMetrics};
use cdc_core::{LetterState, Lineage, Position, ResumeToken, SourceKind, wall_micros};
use cdc_dlq::{DlqCount, FileDlq};
use serde::{Deserialize, Serialize};

use super::link::SourceLink;
use super::rate::Rates;
use super::start::LogView;

/// What is known of capture.
#[derive(Clone, Debug)]
pub(crate) struct Capturing {
    /// Its counters.
    pub(crate) metrics: Arc<CaptureMetrics>,
    /// The connection to the database.
    pub(crate) link: Arc<SourceLink>,
}

/// A running lane's counters.
#[derive(Clone, Debug)]
pub(crate) struct LaneReading {
    pub(crate) name: Arc<str>,
    pub(crate) kind: &'static str,
    pub(crate) metrics: Arc<LaneMetrics>,
}

/// A pipeline at one moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct PipelineStatus {
    /// True if it was asked for this, false if this was read from its files.
    pub(crate) running: bool,
    /// The source, as in the configuration, without its password.
    pub(crate) source: Option<String>,
    /// `connected` or `connecting`, if the source is a database.
    #[serde(default)]
    pub(crate) source_state: Option<String>,
    /// Why it is not connected.
    #[serde(default)]
    pub(crate) source_reason: Option<String>,
    /// For how many seconds it could not be reached, and in how many attempts.
    #[serde(default)]
    pub(crate) source_away_seconds: Option<f64>,
    #[serde(default)]
    pub(crate) source_attempts: Option<u64>,
    /// Events taken from the source since it was started.
    pub(crate) captured_events: Option<u64>,
    /// Everything up to this is in the journal.
    pub(crate) captured: Option<String>,
    /// Everything up to this was confirmed to the source.
    pub(crate) confirmed: Option<String>,
    /// How often the source was held back because the journal was full.
    pub(crate) held_back: Option<u64>,
    /// Where its HTTP surface listens.
    pub(crate) http: Option<String>,
    /// Its lanes.
    pub(crate) lanes: Vec<LaneStatus>,
}

/// A lane at one moment. Counters are since the process was started.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct LaneStatus {
    /// The emitter's name.
    pub(crate) name: String,
    /// The emitter's kind.
    pub(crate) kind: Option<String>,
    /// `running`, `retrying`, `refused`, `stopped`, ...
    pub(crate) health: Option<String>,
    /// Why it is not running, or what it waits for.
    pub(crate) reason: Option<String>,
    /// Everything up to this is done.
    pub(crate) position: String,
    /// The same as a resume token.
    pub(crate) token: Option<String>,
    /// Age of the stored checkpoint in seconds.
    pub(crate) checkpoint_age_seconds: Option<f64>,
    /// Seconds between now and the commit of the last event that is done.
    pub(crate) last_event_age_seconds: Option<f64>,
    /// Bytes of the source's log between this position and the end of what was read, where positions
    /// count bytes.
    #[serde(default)]
    pub(crate) lag_bytes: Option<u64>,
    /// Age of the last event that is done, if there is more to do; 0 if there is not.
    #[serde(default)]
    pub(crate) lag_seconds: Option<f64>,
    /// Events delivered a second in the last minute.
    #[serde(default)]
    pub(crate) delivered_per_second: Option<f64>,
    /// Counters.
    pub(crate) counts: Option<Counts>,
    /// Open dead letters.
    pub(crate) dead_letters: Option<u64>,
    /// Those of them that wait behind another one of their row.
    #[serde(default)]
    pub(crate) parked_letters: Option<u64>,
}

impl LaneStatus {
    /// Says how far it is behind the end of the log, and how old that makes it.
    pub(crate) fn lag(&mut self, source: SourceKind, at: Position, end: Position) {
        let bytes = end.commit.0.saturating_sub(at.commit.0);
        self.lag_bytes = source.counts_bytes().then_some(bytes);
        self.lag_seconds = if at < end {
            self.last_event_age_seconds
        } else {
            Some(0.0)
        };
    }

    /// Says how many letters it has.
    pub(crate) fn letters(&mut self, counts: &[DlqCount]) {
        let mine = || counts.iter().filter(|count| count.emitter == self.name);
        let (all, parked) = (
            mine().map(|count| count.letters).sum(),
            mine()
                .filter(|count| count.state == LetterState::Parked)
                .map(|count| count.letters)
                .sum(),
        );
        self.dead_letters = Some(all);
        self.parked_letters = Some(parked);
    }
}

/// A lane's counters.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) read: u64,
    pub(crate) filtered: u64,
    pub(crate) delivered: u64,
    pub(crate) dead_lettered: u64,
    pub(crate) parked: u64,
    pub(crate) rewound: u64,
    pub(crate) in_flight: u64,
    pub(crate) retries: u64,
}

/// Seconds between a wall time in microseconds and now; `None` for the time zero.
pub(crate) fn age_seconds(micros: i64) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "an age for people")]
    (micros != 0).then(|| (wall_micros() - micros) as f64 / 1e6)
}

impl LaneReading {
    pub(crate) fn status(&self, lineage: &Lineage) -> LaneStatus {
        let counts = self.metrics.counts();
        let reason = match &counts.health {
            LaneHealth::Retrying { reason }
            | LaneHealth::Blocked { reason }
            | LaneHealth::Refused { reason } => Some(reason.clone()),
            LaneHealth::Stopped { reason } => reason.clone(),
            LaneHealth::Starting | LaneHealth::Running | LaneHealth::Paused => None,
        };
        LaneStatus {
            name: self.name.to_string(),
            kind: Some(self.kind.to_owned()),
            health: Some(counts.health.name().to_owned()),
            reason: reason.or_else(|| counts.waits_for.map(str::to_owned)),
            position: counts.position.to_string(),
            token: Some(ResumeToken::new(*lineage, counts.position).to_string()),
            checkpoint_age_seconds: age_seconds(counts.checkpoint_micros),
            last_event_age_seconds: age_seconds(counts.commit_micros),
            counts: Some(Counts {
                read: counts.read,
                filtered: counts.filtered,
                delivered: counts.delivered,
                dead_lettered: counts.dead_lettered,
                parked: counts.parked,
                rewound: counts.rewound,
                in_flight: counts.in_flight,
                retries: counts.retries,
            }),
            ..LaneStatus::default()
        }
    }
}

/// What a status of a running pipeline is made of.
pub(crate) struct StatusSources {
    /// The source, as in the configuration, without its password.
    pub(crate) source: String,
    pub(crate) lineage: Lineage,
    pub(crate) capture: Option<Capturing>,
    pub(crate) lanes: Vec<LaneReading>,
    pub(crate) http: Option<SocketAddr>,
    /// The log lanes read.
    pub(crate) log: LogView,
    pub(crate) rates: Arc<Rates>,
    pub(crate) dlq: Arc<Mutex<FileDlq>>,
}

impl PipelineStatus {
    pub(crate) fn running(of: &StatusSources) -> Self {
        let capture = of.capture.as_ref();
        let end = of.log.extent().ok().map(|extent| extent.end);
        let letters = {
            let queue = of.dlq.lock().unwrap_or_else(PoisonError::into_inner);
            queue.reader().counts()
        };
        let now = Instant::now();
        let lane = |(at, reading): (usize, &LaneReading)| {
            let mut status = reading.status(&of.lineage);
            let counts = reading.metrics.counts();
            if let Some(end) = end {
                status.lag(of.lineage.kind, counts.position, end);
            }
            status.delivered_per_second = of.rates.per_second(at, now, counts.delivered);
            status.letters(&letters);
            status
        };
        let link = capture.map(|capture| capture.link.read());
        let metrics = capture.map(|capture| &*capture.metrics);
        // Nothing is known yet of a source that was not reached since the start.
        let known = |position: Position| (position != Position::ZERO).then(|| position.to_string());
        let away = link.as_ref().filter(|link| link.attempts > 0);
        Self {
            running: true,
            source: Some(of.source.clone()),
            source_state: link.as_ref().map(|link| link.name().to_owned()),
            source_reason: link.as_ref().and_then(|link| link.reason.clone()),
            source_away_seconds: away.and_then(|link| age_seconds(link.since_micros)),
            source_attempts: away.map(|link| link.attempts),
            captured_events: metrics.map(CaptureMetrics::events),
            captured: metrics.and_then(|c| known(c.captured())),
            confirmed: metrics.and_then(|c| known(c.confirmed())),
            held_back: metrics.map(CaptureMetrics::held_back),
            http: of.http.map(|address| address.to_string()),
            lanes: of.lanes.iter().enumerate().map(lane).collect(),
        }
    }
}
