//! What keys that a receiver refuses cost the others.
//!
//! The same stream is delivered twice to a receiver on loopback, 8 requests at once: once everything
//! is taken, once every hundredth key is refused. Compared is the rate of the other keys over the
//! second half of each run, when the keys that fail are known.

use cdc_wal::SyncPolicy;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::destination::{Destination, Measure, is_poison};
use super::workload::Workload;
use super::{Usage, as_f64, check, deliver, open_log};
use crate::args::BenchEmitter;
use crate::report::CliError;

const KEYS: u64 = 10_000;
const CONCURRENCY: usize = 8;
/// Pairs of runs, each of a part of the events, the one that comes first in turn: what is compared stands
/// side by side, for the machine changes within minutes.
const PAIRS: u64 = 8;
/// Student's t for that many pairs, at 95 %.
const T: f64 = 2.36;

/// # Errors
/// Exit code 1 if a count at the destination is not what it must be.
pub(super) fn run(
    directory: &impl Fn() -> Result<TempDir, CliError>,
    workload: &Workload,
) -> Result<Value, CliError> {
    let workload = Workload {
        keys: KEYS,
        events: (workload.events / PAIRS).max(KEYS),
        ..workload.clone()
    };
    let (mut rates, mut losses) = ([Vec::new(), Vec::new()], Vec::new());
    for pair in 0..PAIRS {
        let mut of = [0.0; 2];
        for turn in 0..2 {
            let poison = (pair + turn) % 2 == 1;
            of[usize::from(poison)] = one(&directory()?, &workload, poison)?;
        }
        let [clean, poison] = of;
        losses.push((1.0 - poison / clean) * 100.0);
        rates[0].push(clean);
        rates[1].push(poison);
    }
    let [clean, poison] = rates.map(super::median);
    let pairs = as_f64(PAIRS);
    let mean = losses.iter().sum::<f64>() / pairs;
    let squares: f64 = losses.iter().map(|loss| (loss - mean).powi(2)).sum();
    let off = T * (squares / (pairs - 1.0) / pairs).sqrt();
    Ok(json!({
        "benchmark": "poison",
        "emitter": "webhook",
        "events": workload.events,
        "row_bytes": workload.row_bytes,
        "transaction": workload.transaction,
        "keys": KEYS,
        "concurrency": CONCURRENCY,
        "pairs": PAIRS,
        "clean_events_per_second": clean.round(),
        "poison_events_per_second": poison.round(),
        "others_lose_percent": mean,
        "others_lose_percent_low": mean - off,
        "others_lose_percent_high": mean + off,
        "peak_rss_kib": Usage::now().peak_rss_kib,
    }))
}

/// Events a second of the other keys over the second half.
fn one(dir: &TempDir, workload: &Workload, poison: bool) -> Result<f64, CliError> {
    let dir = dir.path();
    let log = open_log(dir, SyncPolicy::Never)?;
    workload.write_all(&log)?;
    log.flush().map_err(super::log_error)?;
    let refused = (0..workload.events)
        .filter(|id| is_poison(id % KEYS))
        .count() as u64;
    let arrive = workload.events - if poison { refused } else { 0 };
    let measure = Measure {
        poison,
        half: arrive / 2,
        row_bytes: workload.row_bytes,
        ..Measure::default()
    };
    let destination = Destination::start(BenchEmitter::Webhook, dir, measure)?;
    deliver(dir, &log, destination.emitter()?, Some(log.end()), |lane| {
        lane.concurrency = CONCURRENCY;
    })?;
    let counted = destination.count(dir)?;
    check(counted.events, arrive)?;
    let others = as_f64(workload.events - refused) / 2.0;
    Ok(others / counted.second_half.as_secs_f64())
}
