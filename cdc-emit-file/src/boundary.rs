//! Where a file may end: between transactions of the stream, and not within one.

use cdc_core::{EventBatch, Lsn, Position};

/// The stream's last transaction, of which something is written or which a checkpoint has passed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Boundary {
    commit: Option<Lsn>,
    /// The transaction is known to have ended.
    ended: bool,
}

impl Boundary {
    /// Where a stream goes on behind a checkpoint, which may lie inside a transaction.
    pub(crate) fn behind(position: Position) -> Self {
        let within = position < Position::end_of(position.commit);
        Self {
            commit: Some(position.commit),
            ended: !within,
        }
    }

    /// True if no transaction would be divided before an event of this commit.
    pub(crate) fn is_before(&self, batch: &EventBatch, commit: Lsn) -> bool {
        self.ended
            || self
                .commit
                .is_none_or(|last| last != commit && !(is_letter(batch) && commit < last))
    }

    /// True if no transaction would be divided behind what was written, here or before a restart.
    pub(crate) const fn is_behind(&self) -> bool {
        self.commit.is_some() && self.ended
    }

    /// An event is written, which may be its transaction's last.
    pub(crate) fn pass(&mut self, batch: &EventBatch, commit: Lsn, last: bool) {
        match self.commit {
            // It is redriven: the stream goes on where it was.
            Some(before) if is_letter(batch) && commit < before => {}
            Some(before) if commit == before => self.ended |= last,
            _ => {
                *self = Self {
                    commit: Some(commit),
                    ended: last,
                };
            }
        }
    }

    /// A batch is written to its end, which is that of a transaction if it lies there.
    pub(crate) fn end(&mut self, batch: &EventBatch) {
        self.ended |= self
            .commit
            .is_some_and(|commit| batch.end() >= Position::end_of(commit));
    }
}

/// A redriven letter is given like this. So may be one event of the stream, but none that lies before
/// another.
fn is_letter(batch: &EventBatch) -> bool {
    matches!(batch.events(), [event] if event.position == batch.end())
}
