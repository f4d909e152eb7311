//! Waiting between attempts.

use std::time::Duration;

/// How a lane waits for a destination that is unwell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryConfig {
    /// Longest first wait; default 200 ms.
    pub base: Duration,
    /// Longest wait ever, but for `Retry-After`; default 60 s.
    pub cap: Duration,
    /// Wait between probes of a destination that refuses everything; default 60 s.
    pub probe_interval: Duration,
    /// Seed of the jitter.
    pub seed: u64,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(200),
            cap: Duration::from_secs(60),
            probe_interval: Duration::from_secs(60),
            seed: 0x9e37_79b9_7f4a_7c15,
        }
    }
}

/// Exponential backoff with full jitter: the n-th wait is uniform in `0..=min(cap, base * 2^n)`.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
    random: u64,
}

impl Backoff {
    /// A backoff without failures so far.
    pub const fn new(base: Duration, cap: Duration, seed: u64) -> Self {
        Self {
            base,
            cap,
            failures: 0,
            random: seed | 1,
        }
    }

    /// Failures since the last success.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// A success: the next wait starts from the base again.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// A failure: how long to wait now, at least `floor`.
    pub fn next_wait(&mut self, floor: Duration) -> Duration {
        let failures = self.failures;
        self.failures = failures.saturating_add(1);
        self.wait_after(failures, floor)
    }

    /// How long to wait after this many earlier failures, at least `floor`. Counts nothing.
    pub fn wait_after(&mut self, failures: u32, floor: Duration) -> Duration {
        let doubled = self
            .base
            .saturating_mul(1u32.checked_shl(failures.min(31)).unwrap_or(u32::MAX));
        let ceiling = doubled.min(self.cap);
        // xorshift64*: jitter needs spread, not secrecy, and a seed that a simulation can fix.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let random = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d);
        let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
        let jittered = Duration::from_nanos(if nanos == 0 { 0 } else { random % nanos });
        jittered.max(floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_under_the_doubling_ceiling_and_over_the_floor() {
        let base = Duration::from_millis(200);
        let cap = Duration::from_secs(60);
        for seed in 0..200 {
            let mut backoff = Backoff::new(base, cap, seed);
            for n in 0..40 {
                let wait = backoff.next_wait(Duration::ZERO);
                assert!(
                    wait <= base.saturating_mul(1 << n.min(20)).min(cap),
                    "attempt {n}"
                );
            }
            assert!(backoff.next_wait(Duration::from_secs(300)) >= Duration::from_secs(300));
            backoff.reset();
            assert!(backoff.next_wait(Duration::ZERO) <= base);
        }
    }

    #[test]
    fn jitter_spreads() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(1), 7);
        let waits: Vec<_> = (0..1000)
            .map(|_| backoff.next_wait(Duration::ZERO))
            .collect();
        let low = waits
            .iter()
            .filter(|w| **w < Duration::from_millis(500))
            .count();
        assert!((400..600).contains(&low), "{low} of 1000 in the lower half");
    }
}
