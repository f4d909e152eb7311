//! Many tails at once.

use std::path::Path;
use std::time::Instant;

use cdc_wal::{Log, LogConfig, StartAt, SyncPolicy, Visibility};

use crate::support::{
    Failure, INTEGERS, Measures, ROWS, append, clock, drain, rate, relation, scaled,
};

/// 64 tails, each on a thread, that read the same log at once, every column.
pub(crate) fn tails(dir: &Path, scale: f64, measures: &mut Measures) -> Result<(), Failure> {
    const TAILS: u64 = 64;
    let count = scaled(50_000, scale);
    let relation = relation();
    let log = Log::open(LogConfig {
        sync: SyncPolicy::Never,
        visibility: Visibility::Written,
        ..LogConfig::new(dir)
    })?;
    for id in 0..count {
        append(&log, &relation, id)?;
    }
    let start = Instant::now();
    let results: Vec<Result<(u64, u64), Failure>> = std::thread::scope(|scope| {
        let tails: Vec<_> = (0..TAILS)
            .map(|_| {
                let log = &log;
                scope.spawn(move || {
                    let mut tail = log.tail(StartAt::Earliest, clock())?;
                    drain(&mut tail, true)
                })
            })
            .collect();
        let joined = tails.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined.flatten().collect()
    });
    let time = start.elapsed();
    assert_eq!(results.len() as u64, TAILS, "no tail panicked");
    for result in results {
        assert_eq!(result?, (count * ROWS, count * ROWS * INTEGERS));
    }
    measures.add("tails_64_m_events_s", rate(TAILS * count * ROWS, time));
    Ok(())
}
