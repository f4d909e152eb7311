//! A database with a log of its own, whichever it is: what capture needs of it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use cdc_core::storage::StdStorage;
use cdc_core::{
    BatchLimit, EventBatch, Lineage, Position, SourceError, SourceErrorKind, SourceInfo,
    SystemClock, WalSource,
};
use cdc_wal::postgres::{PostgresConfig, PostgresSource, SqlSession};
use cdc_wal::rocksdb::{RocksDbConfig, RocksDbSource};
use cdc_wal::sqlite::{Downstream as _, SqliteConfig, SqliteSource};

use super::record::Record;

/// How to connect.
#[derive(Clone, Debug)]
pub(crate) enum ForeignConfig {
    Postgres(Box<PostgresConfig>),
    Sqlite(Box<SqliteConfig>),
    RocksDb(Box<RocksDbConfig>),
}

/// A connection that streams.
#[derive(Debug)]
pub(crate) enum Foreign {
    Postgres(Box<PostgresSource>),
    Sqlite(Box<SqliteSource>),
    RocksDb(Box<RocksDbSource>),
}

impl ForeignConfig {
    /// Lets the source know what was captured before, and whether changes may be missing.
    pub(crate) fn resume(&mut self, captured: Option<Lineage>, accept_gap: bool) {
        match self {
            Self::Postgres(config) => {
                config.captured = captured;
                config.accept_gap = accept_gap;
            }
            Self::Sqlite(config) => config.accept_gap = accept_gap,
            Self::RocksDb(config) => config.accept_gap = accept_gap,
        }
    }

    /// Lets the server know how far was captured from it: one that was restored from an older backup
    /// sends changes that the journal would take for known.
    fn know(&mut self, record: &Record) {
        if let Self::Postgres(config) = self {
            config.captured_to = record.reach(config.captured);
        }
    }

    /// True if trying again may help against an error of [`ForeignConfig::connect`]: nobody
    /// answered. A login that is refused needs a person.
    pub(crate) async fn may_come_back(&self, error: &SourceError) -> bool {
        match (self, &error.kind) {
            (_, SourceErrorKind::Transient) => true,
            // The reader's first attempt calls both by one name; a session of its own tells apart.
            (Self::Postgres(config), SourceErrorKind::Unreachable) => {
                match SqlSession::open(config).await {
                    Ok(session) => {
                        session.close().await;
                        true
                    }
                    Err(error) => error.is_transient(),
                }
            }
            (Self::Sqlite(_), SourceErrorKind::Unreachable) => true,
            _ => false,
        }
    }

    /// Connects and begins to stream. `record` is what was captured before.
    ///
    /// # Errors
    /// From the source, and from a journal that is damaged.
    pub(crate) async fn connect(mut self, record: Record) -> Result<Foreign, SourceError> {
        self.know(&record);
        match self {
            // The slot knows where it stands; the journal is compared with it afterwards.
            Self::Postgres(config) => PostgresSource::connect(*config, None)
                .await
                .map(|source| Foreign::Postgres(Box::new(source))),
            Self::RocksDb(config) => {
                let clock = Arc::new(SystemClock::new());
                RocksDbSource::connect(StdStorage::shared(), clock, *config, record.end())
                    .map(|source| Foreign::RocksDb(Box::new(source)))
            }
            Self::Sqlite(config) => SqliteSource::connect_to(*config, Box::new(record))
                .await
                .map(|source| Foreign::Sqlite(Box::new(source))),
        }
    }
}

impl Foreign {
    /// Why it may begin behind what was captured from it.
    pub(crate) const fn why_gone(&self) -> &'static str {
        match self {
            Self::Postgres(_) => {
                "the slot was dropped or lost and begins anew there, or it was confirmed further than this state directory knows, as after restoring an old copy of it or using the slot from elsewhere"
            }
            Self::Sqlite(_) => {
                "what was known of the database does not fit it any more (another page size, another file), and it begins anew there; rows that were deleted meanwhile come as no event, so begin consumers that must be equal anew, too"
            }
            Self::RocksDb(_) => "log files that were not read yet were deleted",
        }
    }

    /// Says from now on whether the connection is up; `None` if there is none that could break.
    pub(crate) fn is_up(&self) -> Option<Arc<AtomicBool>> {
        match self {
            Self::Postgres(source) => Some(source.is_up()),
            Self::Sqlite(_) | Self::RocksDb(_) => None,
        }
    }

    /// Everything up to here is not part of the stream.
    pub(crate) fn start(&self) -> Position {
        match self {
            Self::Postgres(source) => source.start(),
            Self::Sqlite(source) => source.start(),
            Self::RocksDb(source) => source.start(),
        }
    }

    /// Where what was committed when this connected ends.
    pub(crate) fn end_at_start(&self) -> Position {
        match self {
            Self::Postgres(source) => Position::before(source.server_end()),
            Self::Sqlite(source) => source.end_at_start(),
            Self::RocksDb(source) => source.end_at_start(),
        }
    }

    /// Delivers the last confirmation and leaves.
    ///
    /// # Errors
    /// From the source.
    pub(crate) async fn close(self) -> Result<(), SourceError> {
        match self {
            Self::Postgres(source) => source.close().await,
            Self::Sqlite(source) => source.close().await,
            Self::RocksDb(_) => Ok(()),
        }
    }
}

impl WalSource for Foreign {
    fn source(&self) -> &Arc<SourceInfo> {
        match self {
            Self::Postgres(source) => source.source(),
            Self::Sqlite(source) => source.source(),
            Self::RocksDb(source) => source.source(),
        }
    }

    async fn next_batch(&mut self, limit: BatchLimit) -> Result<Option<EventBatch>, SourceError> {
        match self {
            Self::Postgres(source) => source.next_batch(limit).await,
            Self::Sqlite(source) => source.next_batch(limit).await,
            Self::RocksDb(source) => source.next_batch(limit).await,
        }
    }

    async fn confirm(&mut self, up_to: Position) -> Result<(), SourceError> {
        match self {
            Self::Postgres(source) => source.confirm(up_to).await,
            Self::Sqlite(source) => source.confirm(up_to).await,
            Self::RocksDb(source) => source.confirm(up_to).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cdc_core::{EventBatch, Journal as _, Lsn, ResumeToken, SourceKind};
    use cdc_wal::{FileJournal, JournalConfig};

    /// A server is compared with the furthest of what was captured and what was delivered.
    #[test]
    fn a_server_is_told_how_far_was_captured_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let [journaled, delivered] =
            [1, 2].map(|timeline| Lineage::new(SourceKind::Postgres, [1; 16], timeline));
        let journal = JournalConfig::new(dir.path().join("journal"));
        let captured_to = |checkpoint: Option<u64>| {
            let record = Record::of(&journal, checkpoint.map(|at| Position::end_of(Lsn(at))));
            let mut config = ForeignConfig::Postgres(Box::default());
            config.resume(checkpoint.map(|_| delivered), false);
            config.know(&record.unwrap());
            match config {
                ForeignConfig::Postgres(config) => config.captured_to,
                other => panic!("{other:?}"),
            }
        };
        let reach = |lineage, at| Some(ResumeToken::new(lineage, Position::end_of(Lsn(at))));
        assert_eq!(captured_to(None), None);
        assert_eq!(captured_to(Some(50)), reach(delivered, 50));
        let info = Arc::new(SourceInfo::new("shop", "shop", journaled));
        let mut made = FileJournal::open(journal.clone(), &info).unwrap();
        made.append(&EventBatch::heartbeat(info, Position::end_of(Lsn(100))))
            .unwrap();
        made.flush().unwrap();
        drop(made);
        assert_eq!(captured_to(None), reach(journaled, 100));
        assert_eq!(captured_to(Some(50)), reach(journaled, 100));
        assert_eq!(captured_to(Some(150)), reach(journaled, 150));
    }
}
