//! The journal as a source sees it at its start: how far it reaches, and that what it holds can be taken
//! back.

use std::path::Path;

use cdc_core::{
    BatchLimit, EventBatch, Journal as _, Lineage, Lsn, Position, ResumeToken, SourceError,
    SourceErrorKind, wall_micros,
};
use cdc_wal::sqlite::{Downstream, TakeBack};
use cdc_wal::{FileJournal, JournalConfig, StartAt};
use tracing::warn;

use super::start::LogView;

/// What was captured and delivered before this start.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    journal: JournalConfig,
    /// Where the journal ends, if there is one.
    end: Option<Position>,
    /// The history the journal is of.
    lineage: Option<Lineage>,
    /// The highest checkpoint: an emitter may have delivered what the journal has lost since.
    delivered: Option<Position>,
}

/// True if there is a journal. One that cannot be looked at is not absent: what it holds would be taken for
/// never captured.
pub(crate) fn holds_journal(dir: &Path) -> Result<bool, SourceError> {
    let control = dir.join("control");
    control.try_exists().map_err(|cause| {
        let what = format!("look at the journal: look for {}", control.display());
        SourceError::new(SourceErrorKind::Io, what).with_cause(cause)
    })
}

impl Record {
    /// Looks at the journal; nothing is opened for writing.
    ///
    /// # Errors
    /// From a journal that is damaged, or cannot be looked at.
    pub(crate) fn of(
        journal: &JournalConfig,
        delivered: Option<Position>,
    ) -> Result<Self, SourceError> {
        let extent = if holds_journal(&journal.dir)? {
            Some(LogView::Directory(journal.dir.clone()).extent()?)
        } else {
            None
        };
        Ok(Self {
            journal: journal.clone(),
            end: extent.as_ref().map(|extent| extent.end),
            lineage: extent.map(|extent| extent.source.lineage),
            delivered,
        })
    }

    /// How far it reaches, with its history: the journal's, or without one that of the checkpoints.
    pub(crate) fn reach(&self, checkpoints: Option<Lineage>) -> Option<ResumeToken> {
        let lineage = self.lineage.or(checkpoints)?;
        Some(ResumeToken::new(lineage, self.furthest()?))
    }

    /// The events behind a position, turned around; `None` if that cannot be done.
    fn turned(&self, behind: Position) -> Result<Option<TakeBack>, SourceError> {
        let view = LogView::Directory(self.journal.dir.clone());
        let extent = view.extent()?;
        if extent.oldest > behind {
            return Ok(None);
        }
        let mut tail = view.tail(StartAt::After(behind))?;
        let limit = BatchLimit::default();
        let mut back = TakeBack::new();
        while let Some(batch) = tail.poll_batch(&limit)? {
            for event in batch.events() {
                match back.push(event) {
                    Ok(()) => {}
                    Err(error) if error.kind == SourceErrorKind::Gap => {
                        warn!(error = %error, from = %behind, "what the journal holds behind the source's state stays");
                        return Ok(None);
                    }
                    Err(error) => return Err(error),
                }
            }
            if batch.end() >= extent.end {
                break;
            }
        }
        Ok(Some(back))
    }
}

impl Downstream for Record {
    fn end(&self) -> Option<Position> {
        self.end
    }

    fn furthest(&self) -> Option<Position> {
        self.end.max(self.delivered)
    }

    fn take_back(
        &mut self,
        lineage: Lineage,
        behind: Position,
        commit: Lsn,
    ) -> Result<bool, SourceError> {
        let source = LogView::Directory(self.journal.dir.clone())
            .extent()?
            .source;
        if source.lineage != lineage {
            // It is refused when it is opened.
            return Ok(false);
        }
        let Some(back) = self.turned(behind)? else {
            return Ok(false);
        };
        let mut journal = FileJournal::open(self.journal.clone(), &source)?;
        let events = back.events(commit, wall_micros());
        let end = Position::end_of(commit);
        journal.append(&EventBatch::new(source, events, end))?;
        self.end = Some(journal.flush()?);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_that_cannot_be_looked_at_is_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let config = JournalConfig {
            background: false,
            ..JournalConfig::new(dir.path().join("journal"))
        };
        let end = || Record::of(&config, None).map(|record| record.end);
        assert_eq!(end().unwrap(), None);
        let source = cdc_core::testing::source();
        let mut journal = FileJournal::open(config.clone(), &source).unwrap();
        let batch = cdc_core::testing::transaction(5, 1, 2);
        journal.append(&batch).unwrap();
        journal.flush().unwrap();
        drop(journal);
        assert_eq!(end().unwrap(), Some(batch.end()));
        let control = config.dir.join("control");
        let aside = config.dir.join("aside");
        std::fs::rename(&control, &aside).unwrap();
        // A link to itself: there, and nothing can be said of it.
        std::os::unix::fs::symlink(&control, &control).unwrap();
        assert_eq!(end().unwrap_err().kind, SourceErrorKind::Io);
        std::fs::rename(&aside, &control).unwrap();
        assert_eq!(end().unwrap(), Some(batch.end()));
    }
}
