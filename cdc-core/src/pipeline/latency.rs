//! How long events took from their commit to being durable at the destination.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets in microseconds; one more bucket takes what is longer.
const BOUNDS_MICROS: [u64; 20] = [
    250,
    500,
    1_000,
    2_000,
    3_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    600_000_000,
    3_600_000_000,
];

/// A histogram with fixed buckets from 250 µs to an hour. Written by one lane, read by anybody.
#[derive(Debug, Default)]
pub struct LatencyHistogram {
    buckets: [AtomicU64; BOUNDS_MICROS.len() + 1],
    sum_micros: AtomicU64,
}

/// A reading of a [`LatencyHistogram`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LatencyReading {
    /// Events at most as slow as each bound, ascending: bound and count, cumulative.
    pub buckets: Vec<(Duration, u64)>,
    /// All events.
    pub count: u64,
    /// Sum of their latencies.
    pub sum: Duration,
}

impl LatencyHistogram {
    /// Takes in events that were committed at one time. A clock that stepped back counts as zero.
    pub(super) fn observe(&self, events: u64, committed_micros: i64, now_micros: i64) {
        let micros = u64::try_from(now_micros.saturating_sub(committed_micros)).unwrap_or(0);
        let bucket = BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(events, Ordering::Relaxed);
        }
        self.sum_micros
            .fetch_add(micros.saturating_mul(events), Ordering::Relaxed);
    }

    /// A reading. The count is the sum of the buckets, so it always fits them.
    pub fn read(&self) -> LatencyReading {
        let sum = Duration::from_micros(self.sum_micros.load(Ordering::Relaxed));
        let mut count = 0;
        let mut counts = self.buckets.iter().map(|bucket| {
            count += bucket.load(Ordering::Relaxed);
            count
        });
        let buckets = BOUNDS_MICROS
            .iter()
            .map(|bound| Duration::from_micros(*bound))
            .zip(counts.by_ref())
            .collect();
        // What is beyond the last bound.
        let count = counts.next().unwrap_or_default();
        LatencyReading {
            buckets,
            count,
            sum,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_fall_into_the_bucket_that_bounds_them() {
        let histogram = LatencyHistogram::default();
        // At a bound, just above it, beyond the last, and from a clock that stepped back.
        histogram.observe(2, 0, 1_000);
        histogram.observe(3, 0, 1_001);
        histogram.observe(1, 0, 7_200_000_000);
        histogram.observe(1, 10, 0);
        let reading = histogram.read();
        let at_most = |micros| {
            let bound = Duration::from_micros(micros);
            let found = reading.buckets.iter().find(|(b, _)| *b == bound);
            found.unwrap().1
        };
        assert_eq!(
            (at_most(250), at_most(1_000), at_most(2_000)),
            (1, 3, 6),
            "{reading:?}"
        );
        assert_eq!(at_most(3_600_000_000), 6);
        assert_eq!(reading.count, 7);
        assert_eq!(
            reading.sum,
            Duration::from_micros(2_000 + 3_003 + 7_200_000_000)
        );
    }
}
