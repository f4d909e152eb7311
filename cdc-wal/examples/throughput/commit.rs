//! Commits from many threads, beside raw appends and syncs of the same bytes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cdc_core::{Lsn, Relation, WalHook};
use cdc_wal::{Log, LogConfig, LogError};

use crate::raw::{Raw, Segments};
use crate::support::{Failure, Measures, median, number, rate, relation, scaled, write_row};

const THREADS: u64 = 16;
/// Rows of a transaction here: about 17 KiB.
const ROWS: u64 = 100;
/// The log and each raw file take turns this often, so that what else the disk does falls on all.
const ROUNDS: u64 = 15;

/// Counts syncs.
#[derive(Default)]
struct Syncs(AtomicU64);

impl WalHook for Syncs {
    fn on_commit(&self, _end: Lsn) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The measure that is asked for compares with one thread that writes and syncs the same batches,
/// one after the other, into files like the log's: of the same size, written full of zeros by
/// another thread before they are needed, made durable with their names. Nothing else is in it: no lock,
/// no checksum, nobody to wake. The others compare with a file that grows, and with one
/// that was written full of zeros before the clock began, by somebody who is not asked for the time.
pub(crate) fn group_commit(dir: &Path, scale: f64, measures: &mut Measures) -> Result<(), Failure> {
    let each = scaled(100, scale.min(1.0));
    let relation = relation();
    let config = LogConfig {
        retain_bytes: 16 << 30,
        ..LogConfig::new(dir.join("log"))
    };
    let segment_bytes = config.segment_bytes;
    let log = Log::open(config)?;
    let syncs = Arc::new(Syncs::default());
    log.add_hook(syncs.clone());
    let mut raw = Segments::new(&dir.join("raw"), segment_bytes.into())?;
    let mut ratios = [(); 3].map(|()| Vec::new());
    let (mut rates, mut group) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let (begin, before) = (log.flushed_lsn().0, syncs.0.load(Ordering::Relaxed));
        let start = Instant::now();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..THREADS)
                .map(|worker| {
                    let (log, relation) = (&log, &relation);
                    scope.spawn(move || commits(log, relation, worker * each, each, ROWS))
                })
                .collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().unwrap_or(Ok(Vec::new())).map(drop))
        })?;
        let log_time = start.elapsed();
        let bytes = log.flushed_lsn().0 - begin;
        let syncs = (syncs.0.load(Ordering::Relaxed) - before).max(1);
        let batch = vec![7; usize::try_from(bytes / syncs)?];

        let times = [
            raw.appends(&batch, syncs)?,
            Raw::growing(&dir.join("growing"))?.appends(&batch, syncs)?,
            Raw::zeroed(&dir.join("zeroed"), &batch, syncs)?.appends(&batch, syncs)?,
        ];
        // The first round warms up.
        if round > 0 {
            for (ratios, time) in ratios.iter_mut().zip(times) {
                ratios.push(time.as_secs_f64() / log_time.as_secs_f64());
            }
            rates.push(rate(THREADS * each * ROWS, log_time));
            group.push(number(THREADS * each) / number(syncs));
        }
    }
    let [segments, growing, zeroed] = ratios.map(median);
    measures.add("group_commit_m_events_s", median(rates));
    measures.add("group_commit_transactions_a_sync", median(group));
    measures.add("group_commit_to_raw", segments);
    measures.add("group_commit_to_raw_growing", growing);
    measures.add("group_commit_to_raw_zeroed_before", zeroed);
    Ok(())
}

/// Commits and waits for each; gives the latencies.
pub(crate) fn commits(
    log: &Log,
    relation: &Arc<Relation>,
    first: u64,
    count: u64,
    rows: u64,
) -> Result<Vec<Duration>, LogError> {
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
