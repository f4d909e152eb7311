//! Measures this machine: append without sync, group commit against a raw write and sync of the
//! same bytes, and tail with decoding. `cargo run --release -p cdc-wal --example throughput [directory]`

#![expect(clippy::print_stdout, reason = "a measurement is printed")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cdc_core::row::RowWriter;
use cdc_core::storage::{OpenMode, StdStorage, Storage};
use cdc_core::{BatchLimit, Clock, Column, EngineKind, Relation};
use cdc_wal::{Log, LogConfig, LogError, StartAt, SyncPolicy, Visibility};

const ROWS: u64 = 10;

#[derive(Debug)]
struct NoTimer;

impl Clock for NoTimer {
    fn wall_micros(&self) -> i64 {
        0
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _duration: Duration) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    }
}

fn write_row(row: &mut RowWriter<'_>, n: u64) {
    row.int(n.cast_signed());
    row.int(1);
    row.decimal("1234.50");
    row.text("a filler of a hundred and twenty bytes, give or take, as an ordinary row of an ordinary table has it, and some more on top");
    row.timestamp_tz(1_795_352_707_123_456);
}

fn relation() -> Arc<Relation> {
    let names = ["id", "account", "total", "filler", "at"];
    let columns = names.map(|name| Column::new(name, "int8")).to_vec();
    Arc::new(Relation::new(
        EngineKind::Relational,
        "public",
        "orders",
        columns,
        vec![0],
    ))
}

fn transaction(log: &Log, relation: &Arc<Relation>, id: u64) -> Result<(), LogError> {
    let mut tx = log.begin(id);
    for n in 0..ROWS {
        tx.insert_with(relation, |row| write_row(row, n))?;
    }
    tx.commit().map(drop)
}

/// Wall clock, and processor time of this thread, which a busy machine distorts less.
struct Start(Instant, u64);

impl Start {
    fn now() -> Self {
        Self(Instant::now(), cpu_nanos())
    }
}

fn cpu_nanos() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = stat.split(' ').next().and_then(|n| n.parse().ok());
    first.unwrap_or_default()
}

fn report(what: &str, events: u64, bytes: u64, start: &Start) {
    let seconds = start.0.elapsed().as_secs_f64();
    let cpu = (cpu_nanos() - start.1) / events.max(1);
    let rate = |n: u64| f64::from(u32::try_from(n / 1000).unwrap_or(u32::MAX)) / seconds / 1000.0;
    println!(
        "{what:<44} {:>8.2} M events/s {:>9.1} MB/s {cpu:>7} CPU ns/event",
        rate(events),
        rate(bytes)
    );
}

fn rss_kib() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|line| line.starts_with("VmHWM"));
    peak.unwrap_or("peak memory unknown").to_owned()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let base = std::env::args()
        .nth(1)
        .map_or_else(std::env::temp_dir, Into::into);
    let dir = base.join(format!("cdc-wal-throughput-{}", std::process::id()));
    let result = measure(&dir);
    std::fs::remove_dir_all(&dir)?;
    result
}

fn measure(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let relation = relation();
    let log = Log::open(LogConfig {
        sync: SyncPolicy::Never,
        visibility: Visibility::Written,
        retain_bytes: 4 << 30,
        ..LogConfig::new(dir.join("unsynced"))
    })?;
    let count = 300_000;
    let start = Start::now();
    for id in 0..count {
        transaction(&log, &relation, id)?;
    }
    report(
        "append, one thread, no sync",
        count * ROWS,
        log.retained_bytes(),
        &start,
    );

    for columns in [false, true] {
        let mut tail = log.tail(StartAt::Earliest, Arc::new(NoTimer))?;
        let (mut events, mut check) = (0, 0u64);
        let start = Start::now();
        while let Some(batch) = tail.poll_batch(&BatchLimit::default())? {
            events += batch.len() as u64;
            if columns {
                for event in batch.events() {
                    for value in event
                        .after
                        .row()
                        .into_iter()
                        .flat_map(cdc_core::RowImage::columns)
                        .flatten()
                    {
                        check += u64::from(matches!(value?, cdc_core::ValueRef::Int(_)));
                    }
                }
            }
        }
        let what = if columns {
            "tail and decode, every column read"
        } else {
            "tail and decode to events"
        };
        report(what, events, log.retained_bytes(), &start);
        assert_eq!(events, count * ROWS);
        assert!(!columns || check == events * 2);
    }
    println!("{}", rss_kib());

    let mut big = log.begin(u64::MAX);
    let large = 5_000_000;
    let before = log.retained_bytes();
    let start = Start::now();
    for n in 0..large {
        big.insert_with(&relation, |row| write_row(row, n))?;
    }
    let after = log.end();
    big.commit()?;
    let bytes = log.retained_bytes() - before;
    report("append one transaction of 5M rows", large, bytes, &start);
    let mut tail = log.tail(StartAt::After(after), Arc::new(NoTimer))?;
    let start = Start::now();
    let mut events = 0;
    while let Some(batch) = tail.poll_batch(&BatchLimit::default())? {
        events += batch.len() as u64;
    }
    report("tail it", events, bytes, &start);
    assert_eq!(events, large);
    println!("{}", rss_kib());
    drop((tail, log));

    for threads in [1, 16] {
        group_commit(dir, &relation, threads)?;
    }
    Ok(())
}

fn group_commit(
    dir: &Path,
    relation: &Arc<Relation>,
    threads: u64,
) -> Result<(), Box<dyn std::error::Error>> {
    let log = Log::open(LogConfig::new(dir.join(format!("synced-{threads}"))))?;
    let each = 2000 / threads.min(4);
    let start = Start::now();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|worker| {
                let log = log.clone();
                scope.spawn(move || {
                    (0..each).try_for_each(|n| transaction(&log, relation, worker * each + n))
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or(Ok(())))
    })?;
    let bytes = log.retained_bytes();
    report(
        &format!("group commit, {threads} threads"),
        threads * each * ROWS,
        bytes,
        &start,
    );
    drop(log);

    // The same bytes, one write and sync a transaction, into a file of full size.
    let path = dir.join("raw");
    let file = StdStorage.open(&path, OpenMode::CreateNew)?;
    let record = vec![7; usize::try_from(bytes / (threads * each))?];
    file.write_all_at(&vec![0; usize::try_from(bytes)?], 0)?;
    file.sync_data()?;
    let start = Start::now();
    for n in 0..each {
        file.write_all_at(&record, n * record.len() as u64)?;
        file.sync_data()?;
    }
    report(
        "raw write and sync, one thread",
        each * ROWS,
        each * record.len() as u64,
        &start,
    );
    std::fs::remove_file(path)?;
    Ok(())
}
