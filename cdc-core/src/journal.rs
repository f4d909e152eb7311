//! The seam to the journal: the log of a foreign database's events on our own disk.

use crate::{EventBatch, Position, SourceError};

/// Takes in what a [`WalSource`](crate::WalSource) gives, so that emitters move at their own pace
/// and replay needs no access to the database. Blocking.
pub trait Journal: Send {
    /// Appends the batch's events and its `end`. Idempotent by position: events of transactions
    /// at or below [`end`](Self::end) are skipped. A transaction whose events begin again at
    /// ordinal 0 replaces its unfinished predecessor.
    ///
    /// # Durability
    /// Tails may see appended, committed transactions at once: they are committed at the source,
    /// which sends them again until it is told otherwise. They survive a power cut only after
    /// [`flush`](Self::flush).
    ///
    /// # Errors
    /// After an I/O error the journal is dead: reopen it.
    fn append(&mut self, batch: &EventBatch) -> Result<(), SourceError>;

    /// Everything up to this is in the journal; ends on a whole transaction.
    fn end(&self) -> Position;

    /// Makes everything appended durable and gives the position up to which it is.
    ///
    /// # Errors
    /// As for [`append`](Self::append).
    fn flush(&mut self) -> Result<Position, SourceError>;

    /// Gives the position up to which everything is durable by now, and begins to make the rest durable
    /// without waiting for it, so that a slow sync does not hold up the source. Called again and again;
    /// [`flush`](Self::flush) when everything must be. A journal that cannot do two things at once waits.
    ///
    /// # Errors
    /// As for [`append`](Self::append); of a sync that was begun at an earlier call, too.
    fn flush_beside(&mut self) -> Result<Position, SourceError> {
        self.flush()
    }

    /// Tells up to where every emitter is done; what is older may be removed, as retention allows.
    ///
    /// # Errors
    /// As for [`append`](Self::append).
    fn confirm(&mut self, up_to: Position) -> Result<(), SourceError>;

    /// True while appending more would exceed the journal's bound and something else than the source can
    /// make room; the source is held back then.
    fn is_full(&self) -> bool;
}
