//! Savepoints of an open transaction: where they stand, in its buffer or in the log.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{LogError, LogErrorKind};

/// Most savepoints of one transaction at once.
const SAVEPOINTS_MAX: usize = 65_536;

/// Numbers savepoints of all transactions, so that one of another transaction is noticed.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A place in a [`Transaction`](crate::Transaction) to roll back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Savepoint(u64);

/// Where a savepoint stands, with the counts of the transaction there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mark {
    /// In front of byte `at` of the buffer.
    InBuffer {
        at: usize,
        events: u32,
        in_buffer: u32,
        ordinal: u32,
    },
    /// Behind `bytes` of the payload of the frame at `frame`; 0 for in front of all.
    InLog {
        frame: u64,
        bytes: u32,
        events: u32,
        ordinal: u32,
    },
}

impl Mark {
    pub(crate) const fn events(&self) -> u32 {
        match self {
            Self::InBuffer { events, .. } | Self::InLog { events, .. } => *events,
        }
    }

    pub(crate) const fn ordinal(&self) -> u32 {
        match self {
            Self::InBuffer { ordinal, .. } | Self::InLog { ordinal, .. } => *ordinal,
        }
    }
}

/// The savepoints of a transaction, oldest first; their numbers ascend.
#[derive(Debug, Default)]
pub(crate) struct Savepoints {
    marks: Vec<(u64, Mark)>,
}

impl Savepoints {
    pub(crate) fn add(&mut self, mark: Mark) -> Result<Savepoint, LogError> {
        if self.marks.len() >= SAVEPOINTS_MAX {
            return Err(LogError::new(
                LogErrorKind::TooLarge,
                format!(
                    "set a savepoint: the transaction has {SAVEPOINTS_MAX} already; release some"
                ),
            ));
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.marks.push((number, mark));
        Ok(Savepoint(number))
    }

    fn find(&self, savepoint: &Savepoint) -> Result<usize, LogError> {
        let found = self.marks.binary_search_by_key(&savepoint.0, |(n, _)| *n);
        found.map_err(|_| {
            LogError::new(
                LogErrorKind::NotFound,
                "use a savepoint: it was released, rolled past, or is of another transaction",
            )
        })
    }

    /// Forgets the savepoints behind one, and gives where that one stands.
    pub(crate) fn return_to(&mut self, savepoint: &Savepoint) -> Result<Mark, LogError> {
        let index = self.find(savepoint)?;
        self.marks.truncate(index + 1);
        Ok(self.marks[index].1)
    }

    /// Forgets a savepoint and those behind it.
    pub(crate) fn release(&mut self, savepoint: &Savepoint) -> Result<(), LogError> {
        let index = self.find(savepoint)?;
        self.marks.truncate(index);
        Ok(())
    }

    /// Says that the buffer's changes, from `head` on, are in the log now: in the frame at
    /// `frame`, behind the one at `previous` (0 without one).
    pub(crate) fn flushed(&mut self, head: usize, previous: u64, frame: u64) {
        for (_, mark) in self.marks.iter_mut().rev() {
            let Mark::InBuffer {
                at,
                events,
                ordinal,
                ..
            } = *mark
            else {
                // Those in front of it are in the log as well.
                return;
            };
            let (frame, bytes) = if at > head {
                (frame, u32::try_from(at - head).unwrap_or(u32::MAX))
            } else {
                (previous, u32::MAX)
            };
            *mark = Mark::InLog {
                frame,
                bytes,
                events,
                ordinal,
            };
        }
    }
}
