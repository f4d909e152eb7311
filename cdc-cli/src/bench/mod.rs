//! `bench`: what this machine does, measured at the destination.
//!
//! A log of our own is written first, then delivered by the same lane that `run` uses. The rate is
//! events counted at the destination over the time from the lane's start to its end, which is
//! durable; latency is taken at a fixed rate, from the time an event was *due* to be committed, so
//! that a stall counts for everything that waited behind it.

mod destination;
mod histogram;
mod measure;
mod poison;
mod raw;
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

use self::destination::{Destination, Measure};
pub(crate) use self::measure::Usage;
use self::workload::Workload;
use crate::args::{BenchArgs, BenchEmitter};
use crate::config::window_of;
use crate::exit::Exit;
use crate::report::CliError;

/// About what our JSON adds to the bytes of a row.
const ENVELOPE_BYTES: u64 = 350;

/// Segments that are written before latency is measured; one and the current one are kept.
const AGE_SEGMENTS: u64 = 4;

/// Deliveries to files, and plain appends in turn with them.
const FILE_TURNS: usize = 3;

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
        keys: 0,
    };
    let place = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let directory = || {
        let dir = tempfile::Builder::new()
            .prefix("cdc-bench-")
            .tempdir_in(&place);
        dir.map_err(|cause| failed("make a directory", cause))
    };
    if args.poison {
        return poison::run(&directory, &workload).map(|result| vec![result]);
    }
    let mut results = Vec::new();
    for emitter in emitters {
        let dir = directory()?;
        results.push(match args.rate {
            None => throughput(dir.path(), emitter, &workload)?,
            Some(rate) => latency(dir.path(), emitter, &workload, rate)?,
        });
    }
    Ok(results)
}

/// Events a second of one delivery of the whole log, and what it cost.
struct Delivered {
    rate: f64,
    cpu_seconds: f64,
}

/// Delivers the whole log, into a directory of its own.
fn deliver_all(
    dir: &Path,
    log: &Log,
    emitter: BenchEmitter,
    workload: &Workload,
) -> Result<Delivered, CliError> {
    let measure = Measure {
        row_bytes: workload.row_bytes,
        ..Measure::default()
    };
    let destination = Destination::start(emitter, dir, measure)?;
    let before = Usage::now();
    let began = Instant::now();
    deliver(
        dir,
        log,
        destination.emitter()?,
        Some(log.end()),
        |config| {
            config.window_max = window_of(destination::name(emitter));
        },
    )?;
    let elapsed = began.elapsed().as_secs_f64();
    let usage = Usage::now().since(&before);
    check(destination.count(dir)?.events, workload.events)?;
    Ok(Delivered {
        rate: as_f64(workload.events) / elapsed,
        cpu_seconds: usage.cpu_seconds,
    })
}

fn throughput(dir: &Path, emitter: BenchEmitter, workload: &Workload) -> Result<Value, CliError> {
    let log = open_log(dir, SyncPolicy::Never)?;
    let began = Instant::now();
    workload.write_all(&log)?;
    log.flush().map_err(log_error)?;
    let append = began.elapsed().as_secs_f64();
    let events = as_f64(workload.events);
    let (delivered, limit) = if emitter == BenchEmitter::File {
        to_files(dir, &log, workload)?
    } else {
        (deliver_all(dir, &log, emitter, workload)?, None)
    };
    let mut result = json!({
        "benchmark": "throughput",
        "emitter": destination::name(emitter),
        "events": workload.events,
        "counted": workload.events,
        "row_bytes": workload.row_bytes,
        "transaction": workload.transaction,
        "append_events_per_second": (events / append).round(),
        "seconds": events / delivered.rate,
        "events_per_second": delivered.rate.round(),
        "cpu_seconds_per_million": delivered.cpu_seconds * 1e6 / events,
        "peak_rss_kib": Usage::now().peak_rss_kib,
    });
    if let Some((bytes, raw)) = limit {
        let rate = as_f64(bytes) / events * delivered.rate / 1e6;
        result["bytes_per_event"] = (bytes / workload.events.max(1)).into();
        result["mb_per_second"] = rate.round().into();
        result["raw_append_mb_per_second"] = raw.round().into();
        result["ratio_to_raw_append"] = (rate / raw).into();
        result["turns"] = FILE_TURNS.into();
    }
    Ok(result)
}

/// Delivers to files and appends the same bytes plainly, in turn, each time with the memory warm that the
/// pages will need: the medians of both, and how many bytes they are.
fn to_files(
    dir: &Path,
    log: &Log,
    workload: &Workload,
) -> Result<(Delivered, Option<(u64, f64)>), CliError> {
    let (mut rates, mut costs, mut raws) = (Vec::new(), Vec::new(), Vec::new());
    let mut bytes = workload
        .events
        .saturating_mul(workload.row_bytes as u64 + ENVELOPE_BYTES);
    for turn in 0..FILE_TURNS {
        let place = dir.join(format!("turn-{turn}"));
        raw::warm(dir, bytes).map_err(|cause| failed("warm the page cache", cause))?;
        let delivered = deliver_all(&place, log, BenchEmitter::File, workload)?;
        bytes = raw::bytes(&place.join("out")).map_err(|cause| failed("measure files", cause))?;
        rates.push(delivered.rate);
        costs.push(delivered.cpu_seconds);
        std::fs::remove_dir_all(&place).map_err(|cause| failed("remove files", cause))?;
        raw::warm(dir, bytes).map_err(|cause| failed("warm the page cache", cause))?;
        raws.push(raw_append(dir, bytes)?);
    }
    let delivered = Delivered {
        rate: median(rates),
        cpu_seconds: median(costs),
    };
    Ok((delivered, Some((bytes, median(raws)))))
}

fn raw_append(dir: &Path, bytes: u64) -> Result<f64, CliError> {
    raw::append(dir, bytes).map_err(|cause| failed("append to a file", cause))
}

fn latency(
    dir: &Path,
    emitter: BenchEmitter,
    workload: &Workload,
    rate: u64,
) -> Result<Value, CliError> {
    let log = open_log(dir, SyncPolicy::Always)?;
    let from = age(&log, workload)?;
    let schedule = workload.schedule(rate);
    let measure = Measure {
        schedule: Some(schedule.clone()),
        row_bytes: workload.row_bytes,
        ..Measure::default()
    };
    let destination = Destination::start(emitter, dir, measure)?;
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
            deliver_until(&dir, &log, from, emitter, (None, shutdown), |_| {})
        })?;
        (trigger, thread)
    };
    let written = writer.join().unwrap_or_else(|_| Err(panicked("writer")));
    destination.wait_for(workload.events);
    lane.0.trigger();
    lane.1.join().unwrap_or_else(|_| Err(panicked("lane")))?;
    written?;
    let usage = Usage::now().since(&before);
    let counted = destination.count(dir)?;
    check(counted.events, workload.events)?;
    let raw =
        raw::durable_on_time(dir, workload, rate).map_err(|cause| failed("sync a file", cause))?;
    Ok(json!({
        "benchmark": "latency",
        "emitter": destination.name(),
        "events": workload.events,
        "counted": counted.events,
        "row_bytes": workload.row_bytes,
        "transaction": workload.transaction,
        "rate": rate,
        "sync": "always",
        "micros": percentiles(&counted.latency),
        "raw_durable_micros": percentiles(&raw),
        "p99_to_raw_durable": as_f64(counted.latency.per_mille(990)) / as_f64(raw.per_mille(990).max(1)),
        "cpu_seconds_per_million": usage.cpu_seconds * 1e6 / as_f64(workload.events),
        "peak_rss_kib": usage.peak_rss_kib,
    }))
}

fn percentiles(latency: &histogram::Histogram) -> Value {
    json!({
        "p50": latency.per_mille(500),
        "p90": latency.per_mille(900),
        "p99": latency.per_mille(990),
        "p999": latency.per_mille(999),
        "max": latency.per_mille(1000),
    })
}

/// Fills and trims segments until each new one is an old one that is written over, as in a log that has
/// run for a while. Gives the end.
fn age(log: &Log, workload: &Workload) -> Result<Position, CliError> {
    let segment = u64::from(LogConfig::new(Path::new("")).segment_bytes);
    let before = Workload {
        events: AGE_SEGMENTS * segment / workload.row_bytes.max(1) as u64,
        transaction: 1000,
        ..workload.clone()
    };
    before.write_all(log)?;
    log.flush().map_err(log_error)?;
    log.trim().map_err(log_error)?;
    Ok(log.end())
}

fn open_log(dir: &Path, sync: SyncPolicy) -> Result<Log, CliError> {
    let mut config = LogConfig::new(dir.join("wal"));
    config.sync = sync;
    if sync == SyncPolicy::Always {
        config.retain_bytes = u64::from(config.segment_bytes);
    }
    config.name = Some("bench".into());
    Log::open(config).map_err(log_error)
}

fn deliver(
    dir: &Path,
    log: &Log,
    emitter: cdc_core::BoxEmitter,
    stop_at: Option<Position>,
    change: impl FnOnce(&mut LaneConfig),
) -> Result<(), CliError> {
    let (_trigger, shutdown) = Shutdown::new();
    let from = log.oldest().map_err(log_error)?;
    deliver_until(dir, log, from, emitter, (stop_at, shutdown), change)
}

/// Runs one lane over the log on this thread, from a position until another or until told.
fn deliver_until(
    dir: &Path,
    log: &Log,
    from: Position,
    emitter: cdc_core::BoxEmitter,
    (stop_at, shutdown): (Option<Position>, Shutdown),
    change: impl FnOnce(&mut LaneConfig),
) -> Result<(), CliError> {
    let state = crate::assemble::state::State::open(&dir.join("state"))?;
    let dlq = FileDlq::open(StdStorage::shared(), dir.join("dlq"), DlqOptions::default())?;
    let mut config = LaneConfig::new("bench", log.source().lineage, from);
    config.stop_at = stop_at;
    change(&mut config);
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

/// The middle one; 0 of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
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
