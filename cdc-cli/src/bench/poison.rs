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
/// Each of the two is run so often, in turn; the medians are compared.
const TURNS: usize = 3;

/// # Errors
/// Exit code 1 if a count at the destination is not what it must be.
pub(super) fn run(
    directory: &impl Fn() -> Result<TempDir, CliError>,
    workload: &Workload,
) -> Result<Value, CliError> {
    let workload = Workload {
        keys: KEYS,
        ..workload.clone()
    };
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..TURNS {
        for (poison, rates) in [false, true].into_iter().zip(&mut rates) {
            rates.push(one(&directory()?, &workload, poison)?);
        }
    }
    let [clean, poison] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    });
    Ok(json!({
        "benchmark": "poison",
        "emitter": "webhook",
        "events": workload.events,
        "row_bytes": workload.row_bytes,
        "transaction": workload.transaction,
        "keys": KEYS,
        "concurrency": CONCURRENCY,
        "clean_events_per_second": clean.round(),
        "poison_events_per_second": poison.round(),
        "others_lose_percent": (1.0 - poison / clean) * 100.0,
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
