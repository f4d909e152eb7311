//! Metrics in the text format of Prometheus, version 0.0.4.
//!
//! Labels are names of emitters and fixed words: never anything from a row.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use cdc_core::pipeline::{LaneCounts, LaneHealth};
use cdc_core::{EmitErrorKind, LetterState, Position, wall_micros};
use cdc_dlq::DlqCount;

use super::route::{Live, Surface};
use crate::assemble::status::age_seconds;

/// The media type.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The open states of dead letters, each always there.
const STATES: [LetterState; 3] = [
    LetterState::Pending,
    LetterState::Parked,
    LetterState::Redriving,
];

/// One metric: its name, type and help, then its samples.
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"", if at == 0 { '{' } else { ',' });
            for c in text.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        self.sample(name, &[], value);
    }
}

/// Everything, as it is now.
pub(crate) fn text(surface: &Surface) -> String {
    let mut out = Text(String::new());
    out.head(
        "cdc_build_info",
        "gauge",
        "Always 1; the labels say what runs.",
    );
    out.sample(
        "cdc_build_info",
        &[("version", env!("CARGO_PKG_VERSION"))],
        1,
    );
    let readers = surface.readers.load(Ordering::Relaxed);
    out.one(
        "cdc_http_readers",
        "gauge",
        "Open event streams and polls.",
        readers,
    );
    dead_letters(&mut out, surface);
    if let Some(live) = surface.pipeline() {
        let lanes: Vec<(String, LaneCounts)> = live
            .lanes
            .iter()
            .map(|lane| (lane.reading.name.to_string(), lane.reading.metrics.counts()))
            .collect();
        source(&mut out, live, &lanes);
        emitters(&mut out, &lanes);
        latency(&mut out, live);
    }
    out.0
}

fn dead_letters(out: &mut Text, surface: &Surface) {
    let (counts, bytes, bytes_max) = {
        let queue = surface.dead_letters();
        (
            queue.reader().counts(),
            queue.reader().bytes(),
            queue.options().bytes_max,
        )
    };
    out.head(
        "cdc_dlq_records",
        "gauge",
        "Open dead letters; parked ones wait behind a pending one of their key.",
    );
    // Zero too: a series that is missing cannot be told from one that was never there.
    let mut names: BTreeSet<&str> = counts.iter().map(|count| count.emitter.as_str()).collect();
    let lanes = surface.pipeline().map_or(&[][..], |live| &live.lanes);
    names.extend(lanes.iter().map(|lane| &*lane.reading.name));
    for state in STATES {
        for &name in &names {
            let of = |count: &&DlqCount| count.state == state && count.emitter == name;
            let letters = counts.iter().find(of).map_or(0, |count| count.letters);
            let labels = [("emitter", name), ("state", state.name())];
            out.sample("cdc_dlq_records", &labels, letters);
        }
    }
    out.one(
        "cdc_dlq_bytes",
        "gauge",
        "Size of the dead letter queue.",
        bytes,
    );
    out.one(
        "cdc_dlq_bytes_max",
        "gauge",
        "Size at which emitters stop and wait.",
        bytes_max,
    );
}

fn source(out: &mut Text, live: &Live, lanes: &[(String, LaneCounts)]) {
    let capture = live.capture.as_ref();
    let up = capture.is_none_or(|capture| capture.link.read().connected);
    out.one(
        "cdc_source_up",
        "gauge",
        "1 while the source is connected, 0 while it is tried to reach it.",
        u8::from(up),
    );
    // Lanes read an engine's own log themselves.
    let read = || lanes.iter().map(|(_, counts)| counts.read).max();
    let events = capture
        .map(|capture| capture.metrics.events())
        .or_else(read);
    out.one(
        "cdc_source_events_total",
        "counter",
        "Events taken from the source: into the journal, or by the emitter that read most of an engine's own log.",
        events.unwrap_or(0),
    );
    if let Some(capture) = capture {
        out.one(
            "cdc_source_held_back_total",
            "counter",
            "How often the source was held back because the journal was full.",
            capture.metrics.held_back(),
        );
    }
    let Ok(extent) = live.log.extent() else {
        return;
    };
    let end = extent.end;
    let behind = lanes.iter().filter(|(_, counts)| counts.position < end);
    let lag = behind
        .filter_map(|(_, counts)| lag_seconds(live, counts))
        .fold(0.0, f64::max);
    out.one(
        "cdc_source_lag_seconds",
        "gauge",
        "Age of the last event that the slowest emitter is done with; 0 if none is behind.",
        lag,
    );
    let slowest = lanes.iter().map(|(_, counts)| counts.position).min();
    let confirmed = live.capture.as_ref().map(|c| c.metrics.confirmed());
    // Before anything was confirmed, what may be is the nearest thing known.
    let confirmed = confirmed.filter(|position| *position != Position::ZERO);
    let confirmed = confirmed.or(slowest).unwrap_or(Position::ZERO);
    if extent.lineage().kind.counts_bytes() {
        out.one(
            "cdc_source_lag_bytes",
            "gauge",
            "Bytes of the source's log between what is confirmed and the end of what was read.",
            end.commit.0.saturating_sub(confirmed.confirmable().0),
        );
    }
}

/// How far a lane is behind that has more to do. One that has done nothing since the start does not know when
/// its last event was committed: what it has to do first was, after that.
fn lag_seconds(live: &Live, counts: &LaneCounts) -> Option<f64> {
    age_seconds(counts.commit_micros).or_else(|| {
        let first = live.log.first_commit(counts.position).ok().flatten();
        first.and_then(age_seconds)
    })
}

fn emitters(out: &mut Text, lanes: &[(String, LaneCounts)]) {
    out.head(
        "cdc_emitter_read_events_total",
        "counter",
        "Events read from the log: the sum of all results and of what is in flight, always.",
    );
    for (name, counts) in lanes {
        out.sample(
            "cdc_emitter_read_events_total",
            &[("emitter", name)],
            counts.read,
        );
    }
    out.head(
        "cdc_emitter_events_total",
        "counter",
        "Events by what became of them.",
    );
    for (name, counts) in lanes {
        for (result, count) in [
            ("filtered", counts.filtered),
            ("delivered", counts.delivered),
            ("dead_lettered", counts.dead_lettered),
            ("parked", counts.parked),
            ("rewound", counts.rewound),
        ] {
            let labels = [("emitter", name.as_str()), ("result", result)];
            out.sample("cdc_emitter_events_total", &labels, count);
        }
    }
    out.head(
        "cdc_emitter_inflight_events",
        "gauge",
        "Events read that are neither dropped nor durable anywhere yet.",
    );
    for (name, counts) in lanes {
        out.sample(
            "cdc_emitter_inflight_events",
            &[("emitter", name)],
            counts.in_flight,
        );
    }
    out.head(
        "cdc_emitter_retries_total",
        "counter",
        "Attempts after the first, by the class of the failure before them.",
    );
    for (name, counts) in lanes {
        for (class, count) in EmitErrorKind::CLASSES
            .into_iter()
            .zip(counts.retries_by_class)
        {
            let labels = [("emitter", name.as_str()), ("class", class)];
            out.sample("cdc_emitter_retries_total", &labels, count);
        }
    }
    out.head(
        "cdc_emitter_up",
        "gauge",
        "1 while the emitter delivers or is idle, 0 while it waits or has stopped.",
    );
    for (name, counts) in lanes {
        let up = u8::from(counts.health == LaneHealth::Running);
        out.sample("cdc_emitter_up", &[("emitter", name)], up);
    }
    out.head(
        "cdc_checkpoint_age_seconds",
        "gauge",
        "Time since the emitter's checkpoint was stored; it is only stored when it changes.",
    );
    let now = wall_micros();
    for (name, counts) in lanes.iter().filter(|(_, c)| c.checkpoint_micros != 0) {
        #[expect(clippy::cast_precision_loss, reason = "an age for people")]
        let age = now.saturating_sub(counts.checkpoint_micros) as f64 / 1e6;
        out.sample("cdc_checkpoint_age_seconds", &[("emitter", name)], age);
    }
}

fn latency(out: &mut Text, live: &Live) {
    let name = "cdc_emitter_end_to_end_seconds";
    out.head(
        name,
        "histogram",
        "From an event's commit to its being durable at the destination.",
    );
    let (bucket, sum, count) = (
        format!("{name}_bucket"),
        format!("{name}_sum"),
        format!("{name}_count"),
    );
    for lane in &live.lanes {
        let emitter: &str = &lane.reading.name;
        let reading = lane.reading.metrics.latency().read();
        for (bound, events) in &reading.buckets {
            let bound = bound.as_secs_f64().to_string();
            out.sample(&bucket, &[("emitter", emitter), ("le", &bound)], events);
        }
        let labels = [("emitter", emitter), ("le", "+Inf")];
        out.sample(&bucket, &labels, reading.count);
        out.sample(&sum, &[("emitter", emitter)], reading.sum.as_secs_f64());
        out.sample(&count, &[("emitter", emitter)], reading.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assemble::control::ControlledLane;
    use crate::assemble::start::LogView;
    use crate::assemble::status::LaneReading;
    use cdc_core::pipeline::{LaneControl, LaneMetrics};
    use cdc_core::{EventBatch, Journal as _, testing};
    use cdc_wal::{FileJournal, JournalConfig};

    /// A restart while a destination is away: nothing is done yet, and that is no lag of nothing.
    #[test]
    fn a_lane_that_has_done_nothing_yet_is_behind() {
        let dir = tempfile::tempdir().unwrap();
        let journal = JournalConfig {
            background: false,
            ..JournalConfig::new(dir.path().join("journal"))
        };
        let mut journal = FileJournal::open(journal, &testing::source()).unwrap();
        let mut event = testing::insert(5, 0, 1);
        event.last = true;
        event.transaction.commit_micros = wall_micros() - 3_600_000_000;
        let end = Position::end_of(event.position.commit);
        journal
            .append(&EventBatch::new(testing::source(), vec![event], end))
            .unwrap();
        journal.flush().unwrap();
        let metrics = std::sync::Arc::new(LaneMetrics::default());
        let live = Live {
            log: LogView::Open(journal.log().clone()),
            lanes: vec![ControlledLane {
                reading: LaneReading {
                    name: "hooks".into(),
                    kind: "webhook",
                    metrics: metrics.clone(),
                },
                control: LaneControl::new().0,
            }],
            pulls: Vec::new(),
            capture: None,
            status: Box::new(|| panic!("nobody asks")),
        };
        let mut out = Text(String::new());
        source(&mut out, &live, &[("hooks".into(), metrics.counts())]);
        let lag = out.0.lines().find_map(|line| {
            let lag = line.strip_prefix("cdc_source_lag_seconds ")?;
            lag.parse::<f64>().ok()
        });
        assert!(lag.is_some_and(|lag| lag >= 3600.0), "{}", out.0);
    }

    #[test]
    fn labels_are_escaped() {
        let mut text = Text(String::new());
        text.sample("m", &[("a", "x\"\\\n"), ("b", "y")], 1.5);
        assert_eq!(text.0, "m{a=\"x\\\"\\\\\\n\",b=\"y\"} 1.5\n");
    }
}
