//! `bench`: what this machine does, measured at the destination.
//!
//! A log of our own is written first, then delivered by the same lane that `run` uses. The rate is
//! events counted at the destination over the time from the lane's start to its end, which is
//! durable; latency is taken at a fixed rate, from the time an event was *due* to be committed, so
//! that a stall counts for everything that waited behind it.

mod destination;
mod measure;
mod workload;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use cdc_core::pipeline::{
    Lane, LaneConfig, LaneControl, LaneEnd, LaneMetrics, Shutdown, Watermark,
};
use cdc_core::storage::StdStorage;
use cdc_core::{ChangeEvent, Position, SystemClock};
use cdc_dlq::{DlqOptions, FileDlq};
use cdc_wal::{Log, LogConfig, StartAt, SyncPolicy};
use serde_json::{Value, json};

use self::destination::Destination;
pub(crate) use self::measure::Usage;
use self::workload::Workload;
use crate::args::{BenchArgs, BenchEmitter};
use crate::exit::Exit;
use crate::report::CliError;

/// Runs the benchmarks that were asked for; one JSON object each.
///
/// # Errors
/// Exit code 1 if a count at a destination is not what was committed.
pub(crate) fn run(args: &BenchArgs) -> Result<Vec<Value>, CliError> {
    let emitters = match args.emitter {
        BenchEmitter::All => vec![
            BenchEmitter::Queue,
            BenchEmitter::File,
            BenchEmitter::Webhook,
        ],
        one => vec![one],
    };
    let workload = Workload {
        events: args.events,
        row_bytes: usize::try_from(args.row_bytes).unwrap_or(usize::MAX),
        transaction: args.transaction,
    };
    let mut results = Vec::new();
    for emitter in emitters {
        let dir = tempfile::Builder::new().prefix("cdc-bench-").tempdir();
        let dir = dir.map_err(|cause| failed("make a directory", cause))?;
        results.push(match args.rate {
            None => throughput(dir.path(), emitter, &workload)?,
            Some(rate) => latency(dir.path(), emitter, &workload, rate)?,
        });
    }
    Ok(results)
}

fn throughput(dir: &Path, emitter: BenchEmitter, workload: &Workload) -> Result<Value, CliError> {
    let log = open_log(dir, SyncPolicy::Never)?;
    let began = Instant::now();
    workload.write_all(&log)?;
    log.flush().map_err(log_error)?;
    let append = began.elapsed().as_secs_f64();
    let destination = Destination::start(emitter, dir, None)?;
    let before = Usage::now();
    let began = Instant::now();
    deliver(dir, &log, destination.emitter()?, Some(log.end()))?;
    let elapsed = began.elapsed().as_secs_f64();
    let usage = Usage::now().since(&before);
    let counted = destination.count(dir)?.events;
    check(counted, workload.events)?;
    let events = as_f64(workload.events);
    Ok(json!({
        "benchmark": "throughput",
        "emitter": destination.name(),
        "events": workload.events,
        "counted": counted,
        "row_bytes": workload.row_bytes,
        "transaction": workload.transaction,
        "append_events_per_second": (events / append).round(),
        "seconds": elapsed,
        "events_per_second": (events / elapsed).round(),
        "cpu_seconds_per_million": usage.cpu_seconds * 1e6 / events,
        "peak_rss_kib": usage.peak_rss_kib,
    }))
}

fn latency(
    dir: &Path,
    emitter: BenchEmitter,
    workload: &Workload,
    rate: u64,
) -> Result<Value, CliError> {
    let log = open_log(dir, SyncPolicy::Always)?;
    let schedule = workload.schedule(rate);
    let destination = Destination::start(emitter, dir, Some(schedule.clone()))?;
    if !destination.sees_each_event() {
        return Err(CliError::new(
            Exit::Usage,
            "measure latency to a file: nobody watches a file event by event; use --emitter queue or webhook",
        ));
    }
    let before = Usage::now();
    let writer = {
        let (log, workload, schedule) = (log.clone(), workload.clone(), schedule);
        crate::assemble::lanes::spawn("writer", move || workload.write_on_time(&log, &schedule))?
    };
    // Transactions have consecutive commits, so the last one's position is known only at the end:
    // the lane is stopped when the destination has counted everything.
    let lane = {
        let (emitter, log, dir) = (destination.emitter()?, log.clone(), dir.to_path_buf());
        let (trigger, shutdown) = Shutdown::new();
        let thread = crate::assemble::lanes::spawn("lane", move || {
            deliver_until(&dir, &log, emitter, None, shutdown)
        })?;
        (trigger, thread)
    };
    let written = writer.join().unwrap_or_else(|_| Err(panicked("writer")));
    destination.wait_for(workload.events);
    lane.0.trigger();
    lane.1.join().unwrap_or_else(|_| Err(panicked("lane")))?;
    written?;
    let usage = Usage::now().since(&before);
    let mut counted = destination.count(dir)?;
    check(counted.events, workload.events)?;
    let percentiles = counted.percentiles();
    Ok(json!({
        "benchmark": "latency",
        "emitter": destination.name(),
        "events": workload.events,
        "counted": counted.events,
        "row_bytes": workload.row_bytes,
        "transaction": workload.transaction,
        "rate": rate,
        "sync": "always",
        "micros": {
            "p50": percentiles[0],
            "p90": percentiles[1],
            "p99": percentiles[2],
            "p999": percentiles[3],
            "max": percentiles[4],
        },
        "cpu_seconds_per_million": usage.cpu_seconds * 1e6 / as_f64(workload.events),
        "peak_rss_kib": usage.peak_rss_kib,
    }))
}

fn open_log(dir: &Path, sync: SyncPolicy) -> Result<Log, CliError> {
    let mut config = LogConfig::new(dir.join("wal"));
    config.sync = sync;
    config.name = Some("bench".into());
    Log::open(config).map_err(log_error)
}

fn deliver(
    dir: &Path,
    log: &Log,
    emitter: cdc_core::BoxEmitter,
    stop_at: Option<Position>,
) -> Result<(), CliError> {
    let (_trigger, shutdown) = Shutdown::new();
    deliver_until(dir, log, emitter, stop_at, shutdown)
}

/// Runs one lane over the log on this thread.
fn deliver_until(
    dir: &Path,
    log: &Log,
    emitter: cdc_core::BoxEmitter,
    stop_at: Option<Position>,
    shutdown: Shutdown,
) -> Result<(), CliError> {
    let state = crate::assemble::state::State::open(&dir.join("state"))?;
    let dlq = FileDlq::open(StdStorage::shared(), dir.join("dlq"), DlqOptions::default())?;
    let mut config = LaneConfig::new(
        "bench",
        log.source().lineage,
        log.oldest().map_err(log_error)?,
    );
    config.stop_at = stop_at;
    let log = log.clone();
    let (_control, commands) = LaneControl::new();
    let metrics = Arc::new(LaneMetrics::default());
    let lane = Lane {
        config,
        open: move |after| Ok(log.tail(StartAt::After(after), Arc::new(SystemClock::new()))?),
        filter: Box::new(|_: &ChangeEvent| true),
        transforms: Vec::new(),
        emitter,
        dlq: Arc::new(Mutex::new(dlq)),
        checkpoints: state.checkpoints.clone(),
        watermark: Watermark::new().register("bench", None),
        clock: Arc::new(SystemClock::new()),
        metrics,
        control: commands,
        shutdown,
    };
    match crate::commands::block_on(lane.run())? {
        Ok(LaneEnd::Reached | LaneEnd::Drained | LaneEnd::Finished) => Ok(()),
        Err(error) => Err(crate::assemble::runner::lane_error(error)),
    }
}

fn check(counted: u64, expected: u64) -> Result<(), CliError> {
    if counted == expected {
        return Ok(());
    }
    Err(CliError::new(
        Exit::Runtime,
        format!("count events at the destination: {counted} arrived of {expected} committed"),
    ))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "rates and counts far below 2^52"
)]
const fn as_f64(count: u64) -> f64 {
    count as f64
}

fn failed(what: &str, cause: std::io::Error) -> CliError {
    CliError::new(Exit::Runtime, format!("{what} for the benchmark")).with_cause(cause)
}

fn panicked(thread: &str) -> CliError {
    CliError::new(
        Exit::Runtime,
        format!("run the benchmark: its {thread} thread panicked"),
    )
}

fn log_error(error: cdc_wal::LogError) -> CliError {
    cdc_core::SourceError::from(error).into()
}
