//! Tails of the lanes that deliver from a journal: what a lane has not done is held for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use cdc_core::{Clock, Position};

use crate::log::register;
use crate::log::state::Shared;
use crate::{Log, LogError, LogErrorKind, StartAt, WalTail};

/// What the cursor of a lane is called, before the lane's name.
const PREFIX: &str = "lane:";

/// Opens the tails of a pipeline's lanes over its journal, each with a cursor `lane:NAME`.
///
/// [`PIPELINE_CURSOR`](crate::journal::PIPELINE_CURSOR) follows the watermark, which never goes back: a lane
/// that an operator moves back reads behind it, in what is retained for replay only. Its own cursor goes
/// back with it, before its checkpoint does, and holds what it is to read once more.
///
/// ```
/// # use cdc_wal::lane::LaneTails;
/// # use cdc_wal::{FileJournal, JournalConfig, LogError};
/// # use std::sync::Arc;
/// # fn main() -> Result<(), LogError> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let source = cdc_core::testing::source();
/// let journal = FileJournal::open(JournalConfig::new(dir.path()), &source)?;
/// let tails = LaneTails::new(journal.log().clone());
/// // Before capture begins: where each lane goes on.
/// tails.hold([("search", journal.log().oldest()?)])?;
/// let clock = Arc::new(cdc_core::ThreadClock::new());
/// let tail = tails.open("search", journal.log().oldest()?, clock)?;
/// # drop(tail);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct LaneTails(Log);

impl LaneTails {
    /// For the lanes of this journal.
    pub const fn new(log: Log) -> Self {
        Self(log)
    }

    /// Holds the journal for these lanes, each from the position behind which it goes on, and for no
    /// other lane: what was held for one that is gone may be trimmed. To be called before anything is
    /// captured. Of a lane whose position is not retained nothing can be held; its tail will say so.
    ///
    /// # Errors
    /// [`LogErrorKind::TooLarge`] for a name over 195 bytes or more than 1024 cursors, or the disk's.
    pub fn hold<'a>(
        &self,
        lanes: impl IntoIterator<Item = (&'a str, Position)>,
    ) -> Result<(), LogError> {
        let cursors = self.0.cursors();
        let mut gone: BTreeSet<_> = cursors.into_keys().collect();
        gone.retain(|cursor| cursor.starts_with(PREFIX));
        for (lane, after) in lanes {
            gone.remove(&cursor(lane));
            hold(self.0.shared(), lane, after)?;
        }
        gone.iter().try_for_each(|name| self.0.remove_cursor(name))
    }

    /// A tail of what is strictly behind a position, which is held from now on. It goes on being held
    /// until the lane confirms more; a tail that was opened and not used does no harm.
    ///
    /// # Errors
    /// [`LogErrorKind::Refused`] if the position is not retained or ahead of the log, and as for
    /// [`hold`](Self::hold).
    pub fn open(
        &self,
        lane: &str,
        after: Position,
        clock: Arc<dyn Clock>,
    ) -> Result<WalTail, LogError> {
        hold_one(self.0.shared(), lane, after)?;
        self.0
            .tail_cursor(&cursor(lane), StartAt::After(after), clock)
    }
}

/// Holds what a lane needs that goes on behind a position; nothing if that is not retained.
pub(crate) fn hold(shared: &Shared, lane: &str, after: Position) -> Result<(), LogError> {
    match hold_one(shared, lane, after) {
        Err(error) if matches!(error.kind, LogErrorKind::Refused(_)) => Ok(()),
        held => held,
    }
}

/// Without a write where the cursor holds enough: a lane opens its tail on a full disk, too.
fn hold_one(shared: &Shared, lane: &str, after: Position) -> Result<(), LogError> {
    let name = cursor(lane);
    let known = shared.lock().cursors.entries.get(&name).copied();
    if known.is_some_and(|known| !known.invalidated && known.position <= after) {
        return Ok(());
    }
    register(shared, &name, after)
}

fn cursor(lane: &str) -> String {
    format!("{PREFIX}{lane}")
}
