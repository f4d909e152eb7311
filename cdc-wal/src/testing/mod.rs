//! Conformance kit for engines that embed the log. Feature `testing`; not for production builds.
//!
//! *Events applied to nothing equal the engine's state, at every commit, and after a crash at any
//! point.* An engine shows that of itself by implementing [`EngineUnderTest`] and calling
//! [`check`] with a few hundred seeds:
//!
//! ```
//! use cdc_wal::testing::reference::KeyValueEngine;
//! use cdc_wal::testing::{Budget, check};
//!
//! for seed in 0..3 {
//!     let report = check::<KeyValueEngine>(seed, &Budget::default())
//!         .unwrap_or_else(|violation| panic!("{violation}"));
//!     assert!(report.commits > 0 && report.crashes > 0);
//! }
//! ```
//! [`reference`](mod@reference) has a small engine of each kind that passes, to read and to
//! compare with.
//!
//! # What is checked
//! - After every commit, the events since the last one, applied to a [`State`] that began empty,
//!   give what the engine says its committed state is; after an abort there are none.
//! - Events come in strictly increasing positions, transactions whole and one after another, with
//!   ordinals from 0 and the last one marked; operations and causes are those the engine said.
//! - Old rows are those that were there; inserts meet no row, and updates meet one.
//! - A tail that resumes after any position gives the same rest.
//! - The process is killed at storage calls spread over the run, and the disk forgets what was not
//!   synced: every acknowledged commit is there, at most the one under way beside it, nothing of
//!   an abort; the log's events still give the state; and the engine goes on.
//! - No value appears in `Debug` of events and transactions, or in errors.

mod check;
mod dice;
mod order;
pub mod reference;
mod state;

use std::sync::Arc;

use cdc_core::storage::Storage;
use cdc_core::{Cause, ChangeEvent, Op, RowImage};

pub use check::{Budget, Report, Violation, check};
pub use dice::{CANARY, Dice};
pub use state::{MergeFn, State};

use crate::{Log, LogError};

/// Most transactions a workload has open at once, numbered from 0.
pub const SLOTS: usize = 3;

/// The directory of the log on the simulated disk; an engine's own files may stand beside it.
pub const LOG_DIR: &str = "/wal";

/// What an engine says consumers will see of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    /// The operation.
    pub op: Op,
    /// The cause.
    pub cause: Cause,
    /// True if the engine has the whole old row, so that it must be in the event.
    pub old_row: bool,
}

impl From<(Op, Cause)> for Announced {
    fn from((op, cause): (Op, Cause)) -> Self {
        Self {
            op,
            cause,
            old_row: false,
        }
    }
}

/// An engine that can be checked.
///
/// The workload is sequential, but up to [`SLOTS`] transactions are open at once; an engine that
/// has one at a time refuses the others' changes by doing nothing. What it does must follow from
/// its state and the [`Dice`] alone, so that a run can be repeated up to a crash.
pub trait EngineUnderTest: Sized {
    /// Opens the engine on a disk that is empty or as a crash left it, and recovers. Its log
    /// stands in [`LOG_DIR`], is synced by each commit, and keeps everything.
    ///
    /// # Errors
    /// From the disk.
    fn open(storage: Arc<dyn Storage>) -> Result<Self, LogError>;

    /// Its log.
    fn log(&self) -> &Log;

    /// Makes a random change in the transaction of this slot, which begins if it is not open.
    /// Gives what consumers will see of it, in order; nothing if it made no change, for example
    /// because another transaction has locked what the dice chose. Values come from
    /// [`Dice::text`] and [`Dice::bytes`].
    ///
    /// # Errors
    /// From the log.
    fn mutate(&mut self, slot: usize, dice: &mut Dice) -> Result<Vec<Announced>, LogError>;

    /// Commits the transaction of this slot, if it is open, durably.
    ///
    /// # Errors
    /// From the log. The engine is not used again.
    fn commit(&mut self, slot: usize) -> Result<(), LogError>;

    /// Aborts the transaction of this slot, if it is open.
    ///
    /// # Errors
    /// From the log. The engine is not used again.
    fn abort(&mut self, slot: usize) -> Result<(), LogError>;

    /// The committed state: without what open transactions did.
    fn committed(&self) -> State;

    /// The `Debug` form of what an engine would log of an open transaction.
    fn debug_of_transactions(&self) -> String {
        String::new()
    }

    /// Applies a merge operand to the row before, for engines that merge: `event.after` has the
    /// key, `event.meta` the operand.
    fn merge(operator: &str, before: Option<&RowImage>, event: &ChangeEvent) -> RowImage {
        let _ = (operator, before);
        event.after.row().cloned().unwrap_or_default()
    }
}
