//! Settings of a log.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cdc_core::storage::{StdStorage, Storage};

use crate::format::{SEGMENT_BYTES, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use crate::{LogError, LogErrorKind};

/// When commits become durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncPolicy {
    /// `commit` returns when the transaction is durable. One sync covers all that wait; the sync
    /// under way is the batching window.
    #[default]
    Always,
    /// `commit` returns when the transaction is in the log's buffer; a sync follows within the
    /// interval. A crash may lose that much of what was acknowledged.
    Group(Duration),
    /// `commit` returns when the transaction is in the log's buffer, and nothing is synced but by
    /// [`Log::flush`](crate::Log::flush) and at a segment's end.
    Never,
}

/// What opening a log does with what a crash or the disk left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recovery {
    /// Any sign of an interrupted write is refused with [`LogErrorKind::Corrupt`], and nothing is
    /// changed. A writer that was killed may leave one; a log that was closed never does.
    Strict,
    /// A torn tail, which was never acknowledged as durable, is cut. Damage of what was durable is
    /// refused with [`LogErrorKind::Corrupt`].
    #[default]
    Tail,
    /// As `Tail`, but the whole log is read first and damage repaired as by
    /// [`repair`](crate::repair::repair), where the others look only at what was written last: the damaged files are kept aside with a report, and tails that have not got past it end with
    /// [`LogErrorKind::Lost`]. See [`Log::repaired`](crate::Log::repaired).
    Salvage,
}

/// What tails may read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Visibility {
    /// Only what is durable: nothing that could vanish in a crash is ever delivered.
    #[default]
    Flushed,
    /// What was written. For journals, whose source sends again what a crash takes, with the same
    /// positions. An engine's own log gives the LSNs of what a crash took to other commits: tails
    /// that have seen it must begin anew.
    Written,
}

/// What happens when a cursor holds back more than `retain_bytes_max`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLimit {
    /// The writer is held: [`Log::is_full`](crate::Log::is_full) is true, commits are refused
    /// with [`LogErrorKind::Full`].
    #[default]
    Hold,
    /// The cursor is invalidated: its tail ends with [`LogErrorKind::Invalidated`].
    Invalidate,
}

/// Settings of a [`Log`](crate::Log).
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The log's directory; created if it is not there.
    pub dir: PathBuf,
    /// Size of a segment, 64 KiB to 1 GiB, a multiple of 4096; default 64 MiB. A log that exists
    /// keeps its own.
    pub segment_bytes: u32,
    /// When commits become durable; default [`SyncPolicy::Always`].
    pub sync: SyncPolicy,
    /// What tails may read; default [`Visibility::Flushed`].
    pub visibility: Visibility,
    /// Bytes kept for replay behind what every cursor has confirmed; default 1 GiB.
    pub retain_bytes: u64,
    /// Keep for replay also what was written within this time, by the wall clock, at the granularity
    /// of segments and up to `retain_bytes_max`; default no such bound.
    pub retain_age: Option<Duration>,
    /// Bytes the log may grow to when a cursor holds it; default no bound. Its directory may take two
    /// segments more: one that is made ahead and one that was trimmed, to be written over.
    pub retain_bytes_max: Option<u64>,
    /// What happens there; default [`OnLimit::Hold`].
    pub on_limit: OnLimit,
    /// Name in events; default the directory's name. A log that exists keeps its own.
    pub name: Option<String>,
    /// Database in events; default the name. A log that exists keeps its own.
    pub database: Option<String>,
    /// What opening does with what a crash or the disk left; default [`Recovery::Tail`].
    pub recovery: Recovery,
    /// A thread prepares segments ahead and syncs on the interval; default true. Without it the
    /// log does everything in the calling threads, in an order that only depends on the calls.
    pub background: bool,
    /// The disk.
    pub storage: Arc<dyn Storage>,
}

impl LogConfig {
    /// Defaults for a directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes: SEGMENT_BYTES,
            sync: SyncPolicy::default(),
            visibility: Visibility::default(),
            retain_bytes: 1 << 30,
            retain_age: None,
            retain_bytes_max: None,
            on_limit: OnLimit::default(),
            name: None,
            database: None,
            recovery: Recovery::default(),
            background: true,
            storage: StdStorage::shared(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), LogError> {
        let refuse = |message: String| Err(LogError::new(LogErrorKind::Configuration, message));
        let size = self.segment_bytes;
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&size) || !size.is_multiple_of(4096) {
            return refuse(format!(
                "open the log {}: segment_bytes is {size}; it must be a multiple of 4096 from {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}",
                self.dir.display()
            ));
        }
        let least = self.retain_bytes.saturating_add(2 * u64::from(size));
        if let Some(max) = self.retain_bytes_max
            && max < least
        {
            return refuse(format!(
                "open the log {}: retain_bytes_max is {max}; it must be at least retain_bytes and two segments, {least}",
                self.dir.display()
            ));
        }
        Ok(())
    }
}
