//! Latencies, in buckets whose width grows with them.

use std::time::Duration;

/// Buckets a power of two: 64, so that a value is known to 1.6 %.
const FINE: u32 = 6;

/// A histogram of latencies in microseconds, exact below 64, else to 1.6 %; some kilobytes however
/// many it holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

fn bucket(micros: u64) -> usize {
    let over = (64 - micros.leading_zeros()).saturating_sub(FINE + 1);
    let index = (u64::from(over) << FINE) + (micros >> over);
    usize::try_from(index).unwrap_or(usize::MAX)
}

/// The largest value of a bucket.
fn highest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let over = (bucket >> FINE).saturating_sub(1);
    let fine = bucket - (over << FINE);
    ((fine + 1) << over) - 1
}

impl Histogram {
    pub(crate) fn add(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let bucket = bucket(micros);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
        self.max = self.max.max(micros);
    }

    /// The latency that this many of a thousand do not exceed, in microseconds.
    pub(crate) fn per_mille(&self, per_mille: u64) -> u64 {
        let wanted = (self.total * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return highest(bucket).min(self.max);
            }
        }
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_known_to_two_percent() {
        let values = (0..5000).chain((13..63).map(|power| (1 << power) + 12_345));
        for value in values {
            let high = highest(bucket(value));
            assert!(
                high >= value && high - value <= value / 64,
                "{value}: {high}"
            );
        }
        assert!((0..100_000).all(|value| bucket(value) <= bucket(value + 1)));
    }

    #[test]
    fn percentiles() {
        let mut histogram = Histogram::default();
        for micros in 1..=1000 {
            histogram.add(Duration::from_micros(micros));
        }
        assert_eq!(histogram.per_mille(10), 10);
        assert!((500..=508).contains(&histogram.per_mille(500)));
        assert_eq!(histogram.per_mille(1000), 1000);
        assert_eq!(Histogram::default().per_mille(990), 0);
    }
}
