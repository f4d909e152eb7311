//! Appending without syncs, then reading it.

use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use cdc_core::BatchLimit;
use cdc_wal::{Log, LogConfig, StartAt, SyncPolicy, Visibility};

use crate::support::{
    Failure, INTEGERS, Measures, ROWS, Start, append, clock, drain, median, rate, relation, scaled,
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
    let [mut appended, mut tailed, mut read, mut raw] = [(); 4].map(|()| Vec::new());
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
        raw.push(raw_reader(&dir.join(round.to_string()), count * ROWS)?);
        std::fs::remove_dir_all(dir.join(round.to_string()))?;
    }
    measures.add("append_unsynced_m_events_s", median(appended));
    measures.add("append_unsynced_cpu_ns_event", median(append_cpu));
    measures.add("tail_m_events_s", median(tailed));
    let (read, raw) = (median(read), median(raw));
    measures.add("tail_columns_m_events_s", read);
    measures.add("raw_reader_m_events_s", raw);
    measures.add("tail_columns_to_raw_reader", read / raw);
    measures.add("tail_columns_cpu_ns_event", median(read_cpu));
    Ok(())
}

/// The limit to compare with: the same files read in chunks of the tail's size, their checksums
/// computed, nothing else; in events, as if it had found them.
fn raw_reader(dir: &Path, events: u64) -> Result<f64, Failure> {
    let mut chunk = vec![0; 256 << 10];
    let start = Start::now();
    let mut sum = 0;
    for entry in std::fs::read_dir(dir)? {
        let mut file = std::fs::File::open(entry?.path())?;
        loop {
            let read = file.read(&mut chunk)?;
            if read == 0 {
                break;
            }
            sum ^= crc32c::crc32c(&chunk[..read]);
        }
    }
    std::hint::black_box(sum);
    Ok(rate(events, start.elapsed()))
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
