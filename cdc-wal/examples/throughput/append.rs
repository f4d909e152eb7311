//! Appending: without syncs, with group commit beside a raw file, and with a subscriber.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cdc_core::storage::{OpenMode, StdStorage, Storage};
use cdc_core::{BatchLimit, Lsn, WalHook, WalSource};
use cdc_wal::{Log, LogConfig, StartAt, SyncPolicy, Visibility};

use crate::support::{
    Failure, INTEGERS, Measures, ROWS, Start, append, clock, drain, median, number, rate, relation,
    scaled, write_row,
};

const ROUNDS: u32 = 5;

fn unsynced_config(dir: &Path) -> LogConfig {
    LogConfig {
        sync: SyncPolicy::Never,
        visibility: Visibility::Written,
        retain_bytes: 16 << 30,
        ..LogConfig::new(dir)
    }
}

/// Appends, then tails, on one thread.
pub(crate) fn unsynced(dir: &Path, scale: f64, measures: &mut Measures) -> Result<(), Failure> {
    let count = scaled(300_000, scale);
    let relation = relation();
    let [mut appended, mut tailed, mut read] = [(); 3].map(|()| Vec::new());
    let [mut append_cpu, mut read_cpu] = [(); 2].map(|()| Vec::new());
    for round in 0..ROUNDS {
        let log = Log::open(unsynced_config(&dir.join(round.to_string())))?;
        let start = Start::now();
        for id in 0..count {
            append(&log, &relation, id)?;
        }
        appended.push(rate(count * ROWS, start.elapsed()));
        append_cpu.push(start.cpu_each(count * ROWS));
        for (columns, rates) in [(false, &mut tailed), (true, &mut read)] {
            let mut tail = log.tail(StartAt::Earliest, clock())?;
            let start = Start::now();
            let (events, integers) = drain(&mut tail, columns)?;
            rates.push(rate(events, start.elapsed()));
            if columns {
                read_cpu.push(start.cpu_each(events));
            }
            assert_eq!(events, count * ROWS);
            assert!(!columns || integers == events * INTEGERS);
        }
        drop(log);
        std::fs::remove_dir_all(dir.join(round.to_string()))?;
    }
    measures.add("append_unsynced_m_events_s", median(appended));
    measures.add("append_unsynced_cpu_ns_event", median(append_cpu));
    measures.add("tail_m_events_s", median(tailed));
    measures.add("tail_columns_m_events_s", median(read));
    measures.add("tail_columns_cpu_ns_event", median(read_cpu));
    Ok(())
}

/// Counts syncs.
#[derive(Default)]
struct Syncs(AtomicU64);

impl WalHook for Syncs {
    fn on_commit(&self, _end: Lsn) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Commits from many threads, beside the same bytes in as many writes and syncs of one file that was
/// written full of zeros.
pub(crate) fn group_commit(dir: &Path, scale: f64, measures: &mut Measures) -> Result<(), Failure> {
    const THREADS: u64 = 16;
    let each = scaled(1500, scale);
    let relation = relation();
    let (mut ratios, mut rates, mut group) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let own = dir.join(round.to_string());
        let log = Log::open(LogConfig::new(&own))?;
        let syncs = Arc::new(Syncs::default());
        log.add_hook(syncs.clone());
        let begin = log.flushed_lsn().0;
        let start = Instant::now();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..THREADS)
                .map(|worker| {
                    let (log, relation) = (&log, &relation);
                    scope.spawn(move || commits(log, relation, worker * each, each, 100))
                })
                .collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().unwrap_or(Ok(Vec::new())).map(drop))
        })?;
        let log_time = start.elapsed();
        let bytes = log.flushed_lsn().0 - begin;
        let syncs = syncs.0.load(Ordering::Relaxed).max(1);
        drop(log);

        let path = own.join("raw");
        let file = StdStorage.open(&path, OpenMode::CreateNew)?;
        let record = vec![7; usize::try_from(bytes / syncs)?];
        let zeros = vec![0; record.len()];
        for n in 0..syncs {
            file.write_all_at(&zeros, n * record.len() as u64)?;
        }
        file.sync_data()?;
        let start = Instant::now();
        for n in 0..syncs {
            file.write_all_at(&record, n * record.len() as u64)?;
            file.sync_data()?;
        }
        ratios.push(start.elapsed().as_secs_f64() / log_time.as_secs_f64());
        rates.push(rate(THREADS * each * 100, log_time));
        group.push(number(THREADS * each) / number(syncs));
        std::fs::remove_dir_all(&own)?;
    }
    measures.add("group_commit_m_events_s", median(rates));
    measures.add("group_commit_transactions_a_sync", median(group));
    measures.add("group_commit_to_raw", median(ratios));
    Ok(())
}

/// Commits and waits for each; gives the latencies.
fn commits(
    log: &Log,
    relation: &Arc<cdc_core::Relation>,
    first: u64,
    count: u64,
    rows: u64,
) -> Result<Vec<Duration>, cdc_wal::LogError> {
    (first..first + count)
        .map(|id| {
            let mut tx = log.begin(id);
            for n in 0..rows {
                tx.insert_with(relation, |row| write_row(row, n))?;
            }
            let start = Instant::now();
            tx.commit()?;
            Ok(start.elapsed())
        })
        .collect()
}

/// The same commits with and without a tail that follows on a thread of its own, by turns.
pub(crate) fn subscriber(dir: &Path, scale: f64, measures: &mut Measures) -> Result<(), Failure> {
    const THREADS: u64 = 4;
    let each = scaled(1500, scale);
    let relation = relation();
    let mut throughput = [Vec::new(), Vec::new()];
    let mut p99 = [Vec::new(), Vec::new()];
    for round in 0..2 * ROUNDS + 1 {
        let followed = round % 2 == 1;
        let own = dir.join(round.to_string());
        let log = Log::open(LogConfig::new(&own))?;
        let follower = followed.then(|| follow(&log)).transpose()?;
        let start = Instant::now();
        let latencies = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..THREADS)
                .map(|worker| {
                    let (log, relation) = (&log, &relation);
                    scope.spawn(move || commits(log, relation, worker * each, each, ROWS))
                })
                .collect();
            let mut all = Vec::new();
            for worker in workers {
                all.extend(worker.join().unwrap_or(Ok(Vec::new()))?);
            }
            Ok::<_, cdc_wal::LogError>(all)
        })?;
        let time = start.elapsed();
        drop(log);
        if let Some(follower) = follower {
            let seen = follower.join().map_err(|_| "the follower panicked")??;
            assert_eq!(seen, THREADS * each * ROWS);
        }
        std::fs::remove_dir_all(&own)?;
        // The first round warms up.
        if round > 0 {
            let mut nanos: Vec<f64> = latencies.iter().map(Duration::as_secs_f64).collect();
            nanos.sort_by(f64::total_cmp);
            throughput[usize::from(followed)].push(rate(THREADS * each * ROWS, time));
            p99[usize::from(followed)].push(nanos[nanos.len() * 99 / 100] * 1e6);
        }
    }
    let [[alone, followed], [alone_p99, followed_p99]] =
        [throughput, p99].map(|pair| pair.map(median));
    measures.add("commit_alone_m_events_s", alone);
    measures.add(
        "subscriber_throughput_loss_percent",
        (1.0 - followed / alone) * 100.0,
    );
    measures.add("commit_alone_p99_us", alone_p99);
    measures.add(
        "subscriber_p99_gain_percent",
        (followed_p99 / alone_p99 - 1.0) * 100.0,
    );
    Ok(())
}

type Follower = std::thread::JoinHandle<Result<u64, Failure>>;

/// A tail on a thread of its own, woken by the log, until that is closed.
fn follow(log: &Log) -> Result<Follower, Failure> {
    let mut tail = log.tail(StartAt::Earliest, clock())?;
    Ok(std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        runtime.block_on(async {
            let mut events = 0;
            while let Some(batch) = tail.next_batch(BatchLimit::default()).await? {
                events += batch.len() as u64;
            }
            Ok(events)
        })
    }))
}

/// One thing, so many transactions long.
pub(crate) fn counted(dir: &Path, what: &str, times: u64) -> Result<(), Failure> {
    static DONE: AtomicBool = AtomicBool::new(false);
    let relation = relation();
    let log = Log::open(LogConfig {
        background: false,
        ..unsynced_config(dir)
    })?;
    // The same number is appended whatever is counted; what is counted is what is done on top.
    let appended = if what == "append" { times } else { 40_000 };
    for id in 0..appended {
        append(&log, &relation, id)?;
    }
    let mut left = if what == "append" { 0 } else { times * ROWS };
    let mut tail = log.tail(StartAt::Earliest, clock())?;
    while left > 0 {
        let Some(batch) = tail.poll_batch(&BatchLimit::default())? else {
            break;
        };
        left = left.saturating_sub(batch.len() as u64);
        if what == "columns" {
            let seen = crate::support::read_columns(&batch)?;
            DONE.store(seen > 0, Ordering::Relaxed);
        }
    }
    Ok(())
}
