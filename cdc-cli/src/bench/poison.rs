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
const PAIRS: usize = 32;
/// Of so many losses in order, the middle of all is between this one and the one as far from the other end
/// with 98.0 % certainty, however they scatter (a sign test): some hours of a shared machine throw a few
/// pairs far off.
const BOUND: usize = 9;

/// # Errors
/// Exit code 1 if a count at the destination is not what it must be.
pub(super) fn run(
    directory: &impl Fn() -> Result<TempDir, CliError>,
    workload: &Workload,
) -> Result<Value, CliError> {
    let workload = Workload {
        keys: KEYS,
        events: (workload.events / PAIRS as u64).max(KEYS),
        ..workload.clone()
    };
    let (mut rates, mut costs) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let mut losses = Vec::new();
    for pair in 0..PAIRS {
        let mut of = [0.0; 2];
        for turn in 0..2 {
            let which = (pair + turn) % 2;
            let (rate, cost) = one(&directory()?, &workload, which == 1)?;
            of[which] = rate;
            rates[which].push(rate);
            costs[which].push(cost);
        }
        let [clean, poison] = of;
        losses.push((1.0 - poison / clean) * 100.0);
    }
    losses.sort_by(f64::total_cmp);
    let [clean, poison] = rates.map(super::median);
    let [clean_cpu, poison_cpu] = costs.map(super::median);
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
        "clean_cpu_seconds_per_million": clean_cpu,
        "poison_cpu_seconds_per_million": poison_cpu,
        "others_lose_percent": f64::midpoint(losses[PAIRS / 2 - 1], losses[PAIRS / 2]),
        "others_lose_percent_low": losses[BOUND],
        "others_lose_percent_high": losses[PAIRS - 1 - BOUND],
        "peak_rss_kib": Usage::now().peak_rss_kib,
    }))
}

/// Events a second of the other keys over the second half, and CPU seconds of the whole, both sides, for a
/// million events of theirs.
fn one(dir: &TempDir, workload: &Workload, poison: bool) -> Result<(f64, f64), CliError> {
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
    let before = Usage::now();
    deliver(dir, &log, destination.emitter()?, Some(log.end()), |lane| {
        lane.concurrency = CONCURRENCY;
    })?;
    let usage = Usage::now().since(&before);
    let counted = destination.count(dir)?;
    check(counted.events, arrive)?;
    let others = as_f64(workload.events - refused);
    Ok((
        others / 2.0 / counted.second_half.as_secs_f64(),
        usage.cpu_seconds * 1e6 / others,
    ))
}
