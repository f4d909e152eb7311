//! Named points at which a test ends the process, as `kill -9` would. Feature `crash-points`.
//!
//! `WEFTKIT_CRASH_AT=POINT[:N]` aborts the process the N-th time (default 1) it comes to the
//! point. Without the feature nothing of this is compiled, and [`point`] is nothing.

/// Points of a lane, in the order an event passes them.
pub const POINTS: [&str; 6] = [
    // Events were read from the log and given to the workers; none was sent.
    "read",
    // The destination has answered; the lane has not looked at it.
    "sent",
    // The lane has marked events as delivered; no checkpoint says so.
    "acknowledged",
    // Letters are fsynced in the dead letter queue; no checkpoint says so.
    "letter",
    // The checkpoint is durable; the log was not told.
    "checkpoint",
    // The log was told.
    "confirmed",
];

/// Points of the file emitter.
pub const FILE_POINTS: [&str; 5] = [
    // Bytes were written; they are not synced.
    "file-written",
    // They are; no mark says so.
    "file-synced",
    // A file that is to be closed is synced; the manifest does not know it.
    "file-closing",
    // The manifest knows it; it has its open name.
    "file-listed",
    // It has its closed name; the emitter's state does not say so.
    "file-closed",
];

/// Points of a capture from a foreign database.
pub const CAPTURE_POINTS: [&str; 3] = [
    // Events were given to the journal; nothing was confirmed.
    "captured",
    // The journal has written them; they are not synced.
    "log-written",
    // They are synced; the source was not told.
    "journaled",
];

/// The process has come to a point.
#[cfg(not(feature = "crash-points"))]
#[inline]
pub const fn point(_: &'static str) {}

/// The process has come to a point.
///
/// # Panics
/// If the environment variable names no point: the test would prove nothing.
#[cfg(feature = "crash-points")]
pub fn point(name: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static PLAN: OnceLock<Option<(String, AtomicU64)>> = OnceLock::new();
    let plan = PLAN.get_or_init(|| {
        let text = std::env::var("WEFTKIT_CRASH_AT").ok()?;
        let (at, times) = match text.split_once(':') {
            Some((at, times)) => (at, times.parse().ok()),
            None => (&*text, Some(1)),
        };
        assert!(
            [&POINTS[..], &FILE_POINTS, &CAPTURE_POINTS].concat().contains(&at)
                && times.is_some_and(|times| times > 0),
            "WEFTKIT_CRASH_AT={text}: write POINT or POINT:N; points are {POINTS:?}, {FILE_POINTS:?}, {CAPTURE_POINTS:?}"
        );
        times.map(|times| (at.to_owned(), AtomicU64::new(times)))
    });
    if let Some((at, left)) = plan
        && at == name
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        std::process::abort();
    }
}
