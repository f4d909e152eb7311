//! Random, growing, bounded waits between attempts to reconnect.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// Exponential backoff with full jitter: each wait is between nothing and a bound that doubles.
#[derive(Debug)]
pub(crate) struct Backoff {
    bound: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        let min = min.max(Duration::from_millis(1));
        Self {
            bound: min.min(max.max(min)),
            max: max.max(min),
        }
    }

    pub(crate) fn next(&mut self) -> Duration {
        let bound = self.bound;
        self.bound = bound.saturating_mul(2).min(self.max);
        bound.mul_f64(random_unit())
    }
}

/// A number from 0 to 1, from the seed of the standard library's hash maps.
fn random_unit() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 11;
    // 53 bits: exact in an f64.
    bits as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_under_a_growing_bound() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let mut waits = Vec::new();
        for bound_ms in [100, 200, 400, 800, 1600, 2000, 2000] {
            let wait = backoff.next();
            assert!(
                wait <= Duration::from_millis(bound_ms),
                "{wait:?} of {bound_ms} ms"
            );
            waits.push(wait);
        }
        waits.dedup();
        assert!(waits.len() > 1, "waits differ");
    }
}
