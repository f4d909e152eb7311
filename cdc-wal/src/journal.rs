//! The journal: the log format, filled from a foreign database.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use cdc_core::storage::{StdStorage, Storage};
use cdc_core::{
    ChangeEvent, Clock, EventBatch, Journal, Position, SourceError, SourceErrorKind, SourceInfo,
};

use crate::format::SEGMENT_BYTES;
use crate::log::{CommitAt, Transaction};
use crate::{Log, LogConfig, LogError, OnLimit, StartAt, SyncPolicy, Visibility, WalTail};

/// The cursor of [`Journal::confirm`].
pub const PIPELINE_CURSOR: &str = "pipeline";

/// Settings of a [`FileJournal`].
#[derive(Clone, Debug)]
pub struct JournalConfig {
    /// The journal's directory; created if it is not there.
    pub dir: PathBuf,
    /// Size of a segment; default 64 MiB.
    pub segment_bytes: u32,
    /// When appended transactions are synced beside [`Journal::flush`]; default
    /// [`SyncPolicy::Never`]: the pipeline flushes before it confirms, or the source is told only
    /// what is delivered.
    pub sync: SyncPolicy,
    /// What tails may read; default [`Visibility::Written`]: the transactions are committed at
    /// the source, which sends them again until it is told otherwise.
    pub visibility: Visibility,
    /// Bytes kept for replay behind what every cursor has confirmed; default 1 GiB.
    pub retain_bytes: u64,
    /// See [`LogConfig::retain_age`].
    pub retain_age: Option<std::time::Duration>,
    /// Bytes the journal may grow to when a cursor holds it; default no bound. A transaction that is larger
    /// goes beyond it.
    pub retain_bytes_max: Option<u64>,
    /// What happens there; default [`OnLimit::Hold`]: [`Journal::is_full`] is true.
    pub on_limit: OnLimit,
    /// Lanes that go on in this journal, each with the position strictly behind which it does: that is held,
    /// as by [`LaneTails::hold`](crate::lane::LaneTails::hold), before anything is trimmed. A lane may have
    /// been moved back while nothing ran, into what only its age still kept.
    pub lanes: Vec<(String, Position)>,
    /// Where a new journal begins in the source's stream: nothing at or below it will come.
    /// Default [`Position::ZERO`].
    pub start: Position,
    /// See [`LogConfig::background`].
    pub background: bool,
    /// The disk.
    pub storage: Arc<dyn Storage>,
}

impl JournalConfig {
    /// Defaults for a directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes: SEGMENT_BYTES,
            sync: SyncPolicy::Never,
            visibility: Visibility::Written,
            retain_bytes: 1 << 30,
            retain_age: None,
            retain_bytes_max: None,
            on_limit: OnLimit::Hold,
            lanes: Vec::new(),
            start: Position::ZERO,
            background: true,
            storage: StdStorage::shared(),
        }
    }
}

/// A journal in a directory. The writer is one; [`FileJournal::log`] gives handles for tails and
/// cursors to other threads.
#[derive(Debug)]
pub struct FileJournal {
    log: Log,
    partial: Option<Partial>,
    /// Everything up to here is known to be durable.
    durable: Position,
    flushing: Option<Flushing>,
}

/// A sync on a thread of its own, and what is durable when it is done.
#[derive(Debug)]
struct Flushing {
    end: Position,
    thread: JoinHandle<Result<(), LogError>>,
}

/// A transaction whose events have come in part.
#[derive(Debug)]
struct Partial {
    transaction: Transaction,
    commit: Position,
    micros: i64,
    last_ordinal: u32,
}

impl FileJournal {
    /// Opens the journal of a source, or creates it.
    ///
    /// # Errors
    /// `OtherSource` if the directory holds another lineage, `InUse` if another writer has it,
    /// and as for [`Log::open`].
    pub fn open(config: JournalConfig, source: &SourceInfo) -> Result<Self, LogError> {
        let settings = LogConfig {
            segment_bytes: config.segment_bytes,
            sync: config.sync,
            visibility: config.visibility,
            retain_bytes: config.retain_bytes,
            retain_age: config.retain_age,
            retain_bytes_max: config.retain_bytes_max,
            on_limit: config.on_limit,
            background: config.background,
            storage: config.storage,
            ..LogConfig::new(config.dir)
        };
        let log = Log::open_for(settings, Some((source, config.start)), &config.lanes)?;
        if !log.cursors().contains_key(PIPELINE_CURSOR) {
            // Nothing is trimmed before the pipeline has said what is done.
            log.register_cursor(PIPELINE_CURSOR, log.oldest()?)?;
        }
        Ok(Self {
            log,
            partial: None,
            durable: Position::ZERO,
            flushing: None,
        })
    }

    /// The log underneath: tails, cursors, retention.
    pub const fn log(&self) -> &Log {
        &self.log
    }

    /// A tail of the journal; its events come from the foreign source. It holds nothing back: lanes open
    /// theirs by [`LaneTails`](crate::lane::LaneTails).
    ///
    /// # Errors
    /// As for [`Log::tail`].
    pub fn tail(&self, start: StartAt, clock: Arc<dyn Clock>) -> Result<WalTail, LogError> {
        self.log.tail(start, clock)
    }

    fn event(&mut self, event: &ChangeEvent) -> Result<(), SourceError> {
        let end = Position::end_of(event.position.commit);
        let ordinal = event.position.ordinal;
        if let Some(partial) = &self.partial {
            if partial.commit == end && ordinal <= partial.last_ordinal {
                // It is sent again from its begin, after a reconnect: replace it.
                self.drop_partial()?;
            } else if partial.commit != end {
                return Err(SourceError::new(
                    SourceErrorKind::Corrupt,
                    format!(
                        "append to the journal: the transaction at {} did not end before the one at {} began; restart the source",
                        partial.commit.commit, end.commit
                    ),
                ));
            }
        }
        if self.partial.is_none() {
            let mut transaction = self.log.begin(event.transaction.id);
            transaction.unbounded = true;
            self.partial = Some(Partial {
                transaction,
                commit: end,
                micros: event.transaction.commit_micros,
                last_ordinal: ordinal,
            });
        }
        if let Some(partial) = &mut self.partial {
            partial.last_ordinal = ordinal;
            partial.transaction.change_at(
                Some(ordinal),
                event.op,
                &event.relation,
                &event.before,
                &event.after,
                event.cause,
                event.meta.as_deref(),
            )?;
        }
        if event.last {
            self.commit_partial()?;
        }
        Ok(())
    }

    fn commit_partial(&mut self) -> Result<(), LogError> {
        if let Some(partial) = self.partial.take() {
            partial.transaction.commit_at(CommitAt {
                commit: Some(partial.commit.commit),
                micros: partial.micros,
            })?;
        }
        Ok(())
    }

    fn drop_partial(&mut self) -> Result<(), LogError> {
        match self.partial.take() {
            Some(partial) => partial.transaction.abort(),
            None => Ok(()),
        }
    }
}

/// A sync under way ends first: its thread has the directory locked as long as it runs.
impl Drop for FileJournal {
    fn drop(&mut self) {
        if let Some(flushing) = self.flushing.take() {
            // Whether it worked is of no use to anybody now: what it did is found at the next opening.
            drop(flushing.thread.join());
        }
    }
}

impl Journal for FileJournal {
    fn append(&mut self, batch: &EventBatch) -> Result<(), SourceError> {
        if batch.source().lineage != self.log.source().lineage {
            return Err(SourceError::new(
                SourceErrorKind::Configuration,
                format!(
                    "append to the journal of {}: the batch comes from {}; use another journal directory for another source",
                    self.log.source().lineage,
                    batch.source().lineage
                ),
            ));
        }
        let mut end = self.log.end();
        for event in batch.events() {
            if event.position <= end {
                continue;
            }
            self.event(event)?;
            if event.last {
                end = Position::end_of(event.position.commit);
            }
        }
        let batch_end = batch.end();
        if !batch_end.is_transaction_end() {
            return Ok(());
        }
        match &self.partial {
            // The source calls the transaction whole although its last event was filtered there.
            Some(partial) if partial.commit <= batch_end => self.commit_partial()?,
            Some(_) => return Ok(()),
            None => {}
        }
        Ok(self.log.heartbeat(batch_end)?)
    }

    fn end(&self) -> Position {
        self.log.end()
    }

    fn flush(&mut self) -> Result<Position, SourceError> {
        let end = self.log.end();
        self.log.flush()?;
        self.durable = end;
        Ok(end)
    }

    fn flush_beside(&mut self) -> Result<Position, SourceError> {
        if !self.log.has_background() {
            return self.flush();
        }
        if let Some(flushing) = self.flushing.take_if(|f| f.thread.is_finished()) {
            // A panic while syncing leaves the log dead or as it was; the next sync tells.
            if let Ok(result) = flushing.thread.join() {
                result?;
                self.durable = self.durable.max(flushing.end);
            }
        }
        let end = self.log.end();
        if self.flushing.is_none() && end > self.durable {
            let log = self.log.clone();
            let begun = std::thread::Builder::new()
                .name("cdc-journal-sync".to_owned())
                .spawn(move || log.flush().map(drop));
            match begun {
                Ok(thread) => self.flushing = Some(Flushing { end, thread }),
                // No thread to be had: then it takes this one.
                Err(_) => return self.flush(),
            }
        }
        Ok(self.durable)
    }

    fn confirm(&mut self, up_to: Position) -> Result<(), SourceError> {
        Ok(self.log.confirm(PIPELINE_CURSOR, up_to)?)
    }

    /// Not while all that is committed is confirmed and only the transaction under way holds the journal:
    /// nothing makes room before it is whole.
    fn is_full(&self) -> bool {
        self.log.is_full() && (self.partial.is_none() || self.log.is_awaited())
    }
}
