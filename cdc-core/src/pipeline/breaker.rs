//! The circuit breaker: when a lane stops asking a destination that is unwell.

use std::time::Duration;

/// When the breaker opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Failed requests in a row that open it; default 5.
    pub in_a_row: u32,
    /// Failed requests among the last `window` that open it; default 10.
    pub in_window: u32,
    /// Requests that are remembered, at most 64; default 20.
    pub window: u32,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            in_a_row: 5,
            in_window: 10,
            window: 20,
        }
    }
}

/// What the breaker does with requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BreakerState {
    /// Requests go out.
    #[default]
    Closed,
    /// None goes out until the wait is over.
    Open,
    /// One goes out, with the oldest batch; its answer decides.
    HalfOpen,
}

impl BreakerState {
    /// The name in status output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// One lane's breaker, shared by its workers. Knows no clock: times are given to it.
#[derive(Debug)]
pub(super) struct Breaker {
    config: BreakerConfig,
    state: BreakerState,
    /// While open: when the next probe may go.
    until: Duration,
    /// The last requests, newest in the lowest bit; set = failed.
    last: u64,
    in_a_row: u32,
    /// Times it opened since it was last closed.
    opened: u32,
}

impl Breaker {
    pub(super) fn new(config: BreakerConfig) -> Self {
        let config = BreakerConfig {
            in_a_row: config.in_a_row.max(1),
            in_window: config.in_window.max(1),
            window: config.window.clamp(1, 64),
        };
        Self {
            config,
            state: BreakerState::Closed,
            until: Duration::ZERO,
            last: 0,
            in_a_row: 0,
            opened: 0,
        }
    }

    pub(super) const fn state(&self) -> BreakerState {
        self.state
    }

    /// While open: when the probe may go.
    pub(super) const fn until(&self) -> Duration {
        self.until
    }

    /// The destination answered and is well, whatever it thought of the events.
    pub(super) const fn answered(&mut self) {
        self.state = BreakerState::Closed;
        self.in_a_row = 0;
        self.last = if self.opened > 0 { 0 } else { self.last << 1 };
        self.opened = 0;
    }

    /// A request failed because of the destination. True if that opens the breaker, or keeps it
    /// open after a probe; [`open`](Self::open) then says for how long.
    pub(super) const fn failed(&mut self) -> bool {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.last = self.last << 1 | 1;
        match self.state {
            BreakerState::HalfOpen => true,
            // An answer to a request from before: the wait stands.
            BreakerState::Open => false,
            BreakerState::Closed => {
                let window = u64::MAX >> (64 - self.config.window);
                self.in_a_row >= self.config.in_a_row
                    || (self.last & window).count_ones() >= self.config.in_window
            }
        }
    }

    /// How the wait of the next opening grows: goes on where the waits of single requests ended.
    pub(super) const fn exponent(&self) -> u32 {
        (self.config.in_a_row - 1).saturating_add(self.opened)
    }

    /// Opens until then.
    pub(super) const fn open(&mut self, until: Duration) {
        self.state = BreakerState::Open;
        self.until = until;
        self.opened = self.opened.saturating_add(1);
    }

    /// The wait is over: one request may go.
    pub(super) const fn half_open(&mut self) {
        self.state = BreakerState::HalfOpen;
    }
}

impl Breaker {
    /// The probe was not sent: another one may go at once.
    pub(super) const fn probe_again(&mut self) {
        self.state = BreakerState::Open;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(text: &str) -> (BreakerState, usize) {
        let mut breaker = Breaker::new(BreakerConfig::default());
        for (at, outcome) in text.chars().enumerate() {
            if outcome == '.' {
                breaker.answered();
            } else if breaker.failed() {
                breaker.open(Duration::from_secs(9));
                return (breaker.state(), at + 1);
            }
        }
        (breaker.state(), text.len())
    }

    #[test]
    fn opens_at_five_in_a_row_or_half_of_the_last_twenty() {
        let closed = |text: &str| assert_eq!(outcomes(text).0, BreakerState::Closed, "{text}");
        let opens = |text: &str, after| {
            assert_eq!(outcomes(text), (BreakerState::Open, after), "{text}");
        };
        opens("xxxxx", 5);
        opens(".xxxxx", 6);
        closed("xxxx.xxxx.");
        opens("x.x.x.x.x.x.x.x.x.x.x.", 19);
        opens("xxx..xxx..xxx..xxx..", 16);
        closed(&"x..".repeat(40));
        closed(&"xxx....".repeat(40));
    }

    #[test]
    fn a_probe_decides_and_late_answers_do_not_prolong_the_wait() {
        let mut breaker = Breaker::new(BreakerConfig::default());
        let failures: Vec<bool> = (0..5).map(|_| breaker.failed()).collect();
        assert_eq!(failures, [false, false, false, false, true]);
        assert_eq!(breaker.exponent(), 4);
        breaker.open(Duration::from_secs(1));
        assert!(!breaker.failed(), "sent before it opened");
        assert_eq!(breaker.until(), Duration::from_secs(1));
        breaker.half_open();
        assert!(breaker.failed());
        assert_eq!(breaker.exponent(), 5);
        breaker.open(Duration::from_secs(2));
        breaker.half_open();
        breaker.answered();
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert!(!breaker.failed(), "what was before the outage is forgotten");
        assert_eq!(breaker.exponent(), 4);
    }
}
