//! The seam to time.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// Wall time, elapsed time and waiting; replaced by a virtual clock in simulations.
pub trait Clock: Send + Sync + Debug {
    /// Wall time in microseconds since 1970-01-01T00:00:00Z. May step.
    fn wall_micros(&self) -> i64;

    /// Time since some fixed point in this process. Never goes back.
    fn elapsed(&self) -> Duration;

    /// Resolves after `duration`. Dropping the future cancels the wait.
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// The machine's clock, through tokio's timer (so `tokio::time::pause` works in tests). Waiting panics
/// outside of tokio; [`ThreadClock`](crate::ThreadClock) works everywhere.
#[cfg(feature = "runtime")]
#[derive(Clone, Debug)]
pub struct SystemClock {
    start: tokio::time::Instant,
}

#[cfg(feature = "runtime")]
impl SystemClock {
    /// A clock that starts now.
    pub fn new() -> Self {
        Self {
            start: tokio::time::Instant::now(),
        }
    }
}

#[cfg(feature = "runtime")]
impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(feature = "runtime")]
impl Clock for SystemClock {
    fn wall_micros(&self) -> i64 {
        wall_micros()
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// The machine's wall time in microseconds since 1970-01-01T00:00:00Z.
pub fn wall_micros() -> i64 {
    match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
    }
}
