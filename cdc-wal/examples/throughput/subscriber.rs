//! What a tail that follows costs those who commit.

use std::path::Path;
use std::time::{Duration, Instant};

use cdc_core::{BatchLimit, WalSource};
use cdc_wal::{Log, LogConfig, StartAt};

use crate::commit::commits;
use crate::support::{Failure, Measures, ROWS, clock, median, rate, relation, scaled};

const THREADS: u64 = 4;
/// The three arms take turns this often, each time in another order.
const ROUNDS: usize = 60;
/// Resamplings the range of a median is taken from.
const RESAMPLED: usize = 2000;

/// What one turn gave.
#[derive(Clone, Copy, Default)]
struct Turn {
    rate: f64,
    p99: f64,
}

/// The same commits alone, followed by a tail on a thread of its own, and alone again, by turns. The two
/// that are alone say how much two measurements of the same thing differ here.
pub(crate) fn subscriber(dir: &Path, scale: f64, measures: &mut Measures) -> Result<(), Failure> {
    let each = scaled(300, scale.min(1.0));
    let log = Log::open(LogConfig {
        retain_bytes: 16 << 30,
        ..LogConfig::new(dir.join("log"))
    })?;
    let mut turns: Vec<[Turn; 3]> = Vec::new();
    for round in 0..=ROUNDS {
        let mut arms = [Turn::default(); 3];
        for step in 0..3 {
            let arm = (round + step) % 3;
            arms[arm] = turn(&log, each, arm == 1)?;
        }
        // The first round warms up.
        if round > 0 {
            turns.push(arms);
        }
    }
    let of = |pick: fn(&Turn) -> f64| -> Vec<[f64; 3]> {
        turns
            .iter()
            .map(|arms| [0, 1, 2].map(|arm| pick(&arms[arm])))
            .collect()
    };
    let alone =
        |values: &[[f64; 3]]| median(values.iter().map(|v| f64::midpoint(v[0], v[2])).collect());
    let (rates, p99s) = (of(|turn| turn.rate), of(|turn| turn.p99));
    measures.add("commit_alone_m_events_s", alone(&rates));
    measures.add("commit_alone_p99_us", alone(&p99s));
    // A lower rate and a higher latency are the costs.
    compare(
        measures,
        "subscriber_throughput_loss_percent",
        &rates,
        |base, value| (1.0 - value / base) * 100.0,
    );
    compare(
        measures,
        "subscriber_p99_gain_percent",
        &p99s,
        |base, value| (value / base - 1.0) * 100.0,
    );
    Ok(())
}

/// Adds the median cost over the rounds, the range it is in at 95 %, and the range of the same
/// figure for the two arms without a tail.
fn compare(measures: &mut Measures, name: &str, rounds: &[[f64; 3]], cost: fn(f64, f64) -> f64) {
    let followed: Vec<f64> = rounds
        .iter()
        .map(|v| cost(f64::midpoint(v[0], v[2]), v[1]))
        .collect();
    let same: Vec<f64> = rounds.iter().map(|v| cost(v[0], v[2])).collect();
    let (low, high) = range(&followed);
    let (noise_low, noise_high) = range(&same);
    measures.add(name, median(followed));
    measures.add(&format!("{name}_low"), low);
    measures.add(&format!("{name}_high"), high);
    measures.add(&format!("{name}_of_nothing_low"), noise_low);
    measures.add(&format!("{name}_of_nothing_high"), noise_high);
}

/// The middle 95 % of the medians of resampled values (bootstrap).
fn range(values: &[f64]) -> (f64, f64) {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |bound: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % bound as u64).unwrap_or(0)
    };
    let mut medians: Vec<f64> = (0..RESAMPLED)
        .map(|_| {
            median(
                (0..values.len())
                    .map(|_| values[next(values.len())])
                    .collect(),
            )
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    (medians[RESAMPLED / 40], medians[RESAMPLED - RESAMPLED / 40])
}

fn turn(log: &Log, each: u64, followed: bool) -> Result<Turn, Failure> {
    let relation = relation();
    let events = THREADS * each * ROWS;
    let follower = followed.then(|| follow(log, events)).transpose()?;
    let start = Instant::now();
    let mut latencies = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|worker| {
                let relation = &relation;
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
    if let Some(follower) = follower {
        let seen = follower.join().map_err(|_| "the follower panicked")??;
        assert_eq!(seen, events);
    }
    latencies.sort_unstable();
    Ok(Turn {
        rate: rate(events, time),
        p99: latencies
            .get(latencies.len() * 99 / 100)
            .map_or(0.0, Duration::as_secs_f64)
            * 1e6,
    })
}

type Follower = std::thread::JoinHandle<Result<u64, Failure>>;

/// A tail on a thread of its own, woken by the log, until it has seen so many events.
fn follow(log: &Log, events: u64) -> Result<Follower, Failure> {
    let mut tail = log.tail(StartAt::Latest, clock())?;
    Ok(std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        runtime.block_on(async {
            let mut seen = 0;
            while seen < events {
                let Some(batch) = tail.next_batch(BatchLimit::default()).await? else {
                    break;
                };
                seen += batch.len() as u64;
            }
            Ok(seen)
        })
    }))
}
