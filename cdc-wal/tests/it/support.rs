//! What the tests of the log share.

use std::sync::Arc;

use cdc_core::{BatchLimit, ChangeEvent, Clock, Position, SystemClock};
use cdc_wal::{LogConfig, LogError, WalTail};

/// A small log: 64 KiB segments, everything in the calling thread.
pub(crate) fn config(dir: &std::path::Path) -> LogConfig {
    LogConfig {
        segment_bytes: 64 << 10,
        background: false,
        ..LogConfig::new(dir)
    }
}

pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

/// Everything a tail gives now.
pub(crate) fn drain(tail: &mut WalTail, limit: BatchLimit) -> Result<Vec<ChangeEvent>, LogError> {
    let mut events = Vec::new();
    let mut end = Position::ZERO;
    while let Some(batch) = tail.poll_batch(&limit)? {
        assert!(batch.len() <= limit.events_max, "a batch over its limit");
        assert!(batch.end() >= end, "the end went back");
        end = batch.end();
        events.extend_from_slice(batch.events());
    }
    Ok(events)
}
