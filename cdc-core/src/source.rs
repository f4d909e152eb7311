//! The seam towards logs: anything that can be tailed.

use std::future::Future;
use std::sync::Arc;

use crate::{BatchLimit, EventBatch, Position, SourceError, SourceInfo};

/// A stream of committed changes in commit order, with a position to confirm.
///
/// Implemented by the tail of a native log and by the readers of foreign databases.
///
/// # Ordering
/// Positions strictly increase over the events given out. After an error or a restart the source
/// may give events again, with the same positions, beginning anywhere at or before the first
/// unconfirmed one.
pub trait WalSource: Send {
    /// What the events come from. Stays the same over the life of the value.
    fn source(&self) -> &Arc<SourceInfo>;

    /// Waits for events, at most `limit.linger`, and gives them; an empty batch still carries
    /// `end`. `None` when the source is finished and will never give more.
    ///
    /// # Cancel safety
    /// Dropping the future loses no event: the next call gives it.
    ///
    /// # Errors
    /// [`SourceError`]; after a transient one the next call reconnects, with its own backoff.
    fn next_batch(
        &mut self,
        limit: BatchLimit,
    ) -> impl Future<Output = Result<Option<EventBatch>, SourceError>> + Send;

    /// Everything up to `up_to` is durable downstream: the log may be trimmed. Monotonic; a lower
    /// position than before is ignored. Must return promptly: it is told to the log, not awaited.
    fn confirm(&mut self, up_to: Position) -> impl Future<Output = Result<(), SourceError>> + Send;
}

/// Called by an engine on its commit path.
///
/// Implementations only notify: they must not wait, write, allocate or panic. The engine calls it
/// after the commit is durable, possibly while holding its log lock, from many threads.
pub trait WalHook: Send + Sync {
    /// The log is durable up to `end` (exclusive).
    fn on_commit(&self, end: crate::Lsn);
}
