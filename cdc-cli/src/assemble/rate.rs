//! How fast each lane delivers: counters looked at every second, over a minute.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often counters are looked at.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);
/// Looks that are kept.
const LOOKS: usize = 60;

/// Counters of all lanes at past moments, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Rates(Mutex<VecDeque<(Instant, Vec<u64>)>>);

impl Rates {
    /// Takes a look.
    pub(crate) fn look(&self, now: Instant, counts: Vec<u64>) {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.len() >= LOOKS {
            looks.pop_front();
        }
        looks.push_back((now, counts));
    }

    /// What a lane's counter has grown by a second since the oldest look; `None` before there is
    /// one.
    pub(crate) fn per_second(&self, lane: usize, now: Instant, count: u64) -> Option<f64> {
        let looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (then, counts) = looks.front()?;
        let seconds = now.checked_duration_since(*then)?.as_secs_f64();
        let grown = count.saturating_sub(*counts.get(lane)?);
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        (seconds > 0.0).then(|| (grown as f64 / seconds * 10.0).round() / 10.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_last_minute() {
        let rates = Rates::default();
        let begin = Instant::now();
        assert_eq!(rates.per_second(0, begin, 5), None);
        let at = |second: u64| begin + Duration::from_secs(second);
        for second in 0..100 {
            // The second lane stands still since 50.
            rates.look(at(second), vec![second * 10, second.min(50)]);
        }
        assert_eq!(rates.per_second(0, at(100), 1000), Some(10.0));
        assert_eq!(rates.per_second(1, at(100), 50), Some(0.2));
        assert_eq!(rates.per_second(2, at(100), 50), None);
        assert_eq!(rates.per_second(0, at(40), 1000), None, "it was forgotten");
    }
}
