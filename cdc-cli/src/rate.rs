//! How much has come, and how fast: one line for a person who watches.

use std::collections::VecDeque;
use std::time::Duration;

/// The rate is of this long.
const WINDOW: Duration = Duration::from_secs(5);
/// Shortest time between two readings that are kept.
const STEP: Duration = Duration::from_millis(250);

/// Counts what came. Times are since the beginning.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    events: u64,
    transactions: u64,
    /// When there were how many events: none older than the window but the first.
    readings: VecDeque<(Duration, u64)>,
}

impl Rate {
    /// Something came.
    pub(crate) fn add(&mut self, events: u64, transactions: u64) {
        self.events += events;
        self.transactions += transactions;
    }

    /// The line, as of now.
    pub(crate) fn line(&mut self, now: Duration) -> String {
        let last = self.readings.back().map(|(at, _)| *at);
        if last.is_none_or(|last| now.saturating_sub(last) >= STEP) {
            self.readings.push_back((now, self.events));
        }
        while self.readings.len() > 1
            && (self.readings.get(1)).is_some_and(|(at, _)| now.saturating_sub(*at) >= WINDOW)
        {
            self.readings.pop_front();
        }
        if self.events == 0 {
            return format!("nothing yet · {}", clock(now));
        }
        let (from, before) = self.readings.front().copied().unwrap_or_default();
        let millis = now.saturating_sub(from).as_millis().max(1);
        let tenths = u128::from(self.events - before) * 10_000 / millis;
        let rate = if tenths >= 1000 {
            grouped(u64::try_from(tenths / 10).unwrap_or(u64::MAX))
        } else {
            format!("{}.{}", tenths / 10, tenths % 10)
        };
        format!(
            "{} events · {} transactions · {rate}/s · {}",
            grouped(self.events),
            grouped(self.transactions),
            clock(now)
        )
    }
}

/// Minutes and seconds.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_rate_is_of_the_last_seconds() {
        let mut rate = Rate::default();
        assert_eq!(rate.line(at(0)), "nothing yet · 0:00");
        rate.add(100, 40);
        assert_eq!(
            rate.line(at(1000)),
            "100 events · 40 transactions · 100/s · 0:01"
        );
        // As many in the next nine seconds: what was at the beginning counts no more.
        for second in 2..=10 {
            rate.add(11, 1);
            rate.line(at(second * 1000));
        }
        assert_eq!(
            rate.line(at(10_000)),
            "199 events · 49 transactions · 11.0/s · 0:10"
        );
        let mut last = String::new();
        for tenth in 0..600 {
            last = rate.line(at(10_000 + tenth * 100));
        }
        assert_eq!(last, "199 events · 49 transactions · 0.0/s · 1:09");
        assert!(rate.readings.len() <= 22, "{}", rate.readings.len());
        rate.add(1_234_567, 1_000_000);
        assert!(
            rate.line(at(70_000))
                .starts_with("1 234 766 events · 1 000 049 transactions · ")
        );
    }
}
