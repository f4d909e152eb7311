//! Where to begin in a log, as people write it: `earliest`, `latest`, a resume token,
//! `position:...` or `time:...`.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use cdc_core::storage::StdStorage;
use cdc_core::{
    BatchLimit, Lineage, Position, ResumeToken, SourceInfo, SystemClock, TokenError, TokenRefusal,
    wall_micros,
};
use cdc_wal::{Log, LogError, StartAt, WalTail};

use crate::exit::Exit;
use crate::report::CliError;
use crate::time;

/// What a start may be, for help.
pub(crate) const START_HELP: &str = "earliest, latest, a resume token (cdc1_...), position:LSN:ORDINAL or time:2026-11-22T13:05:00Z";

/// Where to begin. Whatever it is, delivery begins strictly behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Start {
    /// With the oldest event there is.
    #[default]
    Earliest,
    /// With what is committed from now on.
    Latest,
    /// Strictly behind a token.
    Token(ResumeToken),
    /// Strictly behind a position of this very source.
    Position(Position),
    /// With the first transaction committed at or after this time, microseconds since 1970.
    Time(i64),
}

/// Why text is no start.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StartError {
    /// It looks like a token, and is none.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A position that is none.
    #[error("read the position {text:?}; write position:LSN:ORDINAL, such as position:0/16B3748:2")]
    Position {
        /// What stands behind `position:`.
        text: String,
    },
    /// A time that is none.
    #[error("read the time {text:?}; {}", time::TIME_HELP)]
    Time {
        /// What stands behind `time:`.
        text: String,
    },
    /// None of the words.
    #[error("read where to begin, {text:?}; write {}", START_HELP)]
    Unknown {
        /// The text.
        text: String,
    },
}

/// As much of a text as an error repeats.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

impl FromStr for Start {
    type Err = StartError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        match text {
            "earliest" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        if let Some(position) = text.strip_prefix("position:") {
            let parsed = position.parse().map_err(|_| StartError::Position {
                text: shown(position),
            });
            return parsed.map(Self::Position);
        }
        if let Some(time) = text.strip_prefix("time:") {
            let micros = time::parse(time, wall_micros());
            let micros = micros.ok_or_else(|| StartError::Time { text: shown(time) });
            return micros.map(Self::Time);
        }
        if text.starts_with("cdc") || ResumeToken::is_meant(text) {
            return Ok(Self::Token(text.parse()?));
        }
        Err(StartError::Unknown { text: shown(text) })
    }
}

impl From<StartError> for CliError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Token(error) => error.into(),
            other => Self::from_error(Exit::Usage, other),
        }
    }
}

/// The log that lanes read: the journal in this process, or a directory.
#[derive(Clone, Debug)]
pub(crate) enum LogView {
    /// This process writes it.
    Open(Log),
    /// Another process writes it, or nobody.
    Directory(PathBuf),
}

/// What can be read of a log at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    /// The source its positions belong to.
    pub(crate) source: Arc<SourceInfo>,
    /// The oldest position to resume from.
    pub(crate) oldest: Position,
    /// Its end.
    pub(crate) end: Position,
}

/// Why a start cannot be used with a log.
#[derive(Debug)]
pub(crate) enum LocateError {
    /// The token or the position is refused.
    Refused(TokenRefusal),
    /// The log cannot be read.
    Log(LogError),
}

impl From<LogError> for LocateError {
    fn from(error: LogError) -> Self {
        match error.kind {
            cdc_wal::LogErrorKind::Refused(refusal) => Self::Refused(refusal),
            _ => Self::Log(error),
        }
    }
}

impl From<LocateError> for CliError {
    fn from(error: LocateError) -> Self {
        match error {
            LocateError::Refused(refusal) => Self::from_error(Exit::Position, refusal),
            LocateError::Log(error) => cdc_core::SourceError::from(error).into(),
        }
    }
}

impl LogView {
    /// A tail of it.
    ///
    /// # Errors
    /// From the log.
    pub(crate) fn tail(&self, start: StartAt) -> Result<WalTail, LogError> {
        let clock = Arc::new(SystemClock::new());
        match self {
            Self::Open(log) => log.tail(start, clock),
            Self::Directory(dir) => WalTail::open(StdStorage::shared(), dir, start, clock),
        }
    }

    /// What can be read of it now.
    ///
    /// # Errors
    /// From the log.
    pub(crate) fn extent(&self) -> Result<Extent, LogError> {
        if let Self::Open(log) = self {
            return Ok(Extent {
                source: log.source().clone(),
                oldest: log.oldest()?,
                end: log.end(),
            });
        }
        let oldest = self.tail(StartAt::Earliest)?;
        let end = self.tail(StartAt::Latest)?.end();
        Ok(Extent {
            source: cdc_core::WalSource::source(&oldest).clone(),
            oldest: oldest.end(),
            end,
        })
    }

    /// The position strictly behind which to begin.
    ///
    /// # Errors
    /// [`LocateError`].
    pub(crate) fn locate(&self, start: &Start) -> Result<Position, LocateError> {
        let extent = self.extent()?;
        match start {
            Start::Time(micros) => Ok(self.before_time(*micros, &extent)?),
            other => extent.position(other).map_err(LocateError::Refused),
        }
    }

    /// When the first event behind a position was committed, microseconds since 1970; `None` if there is none.
    ///
    /// # Errors
    /// From the log.
    pub(crate) fn first_commit(&self, behind: Position) -> Result<Option<i64>, LogError> {
        let end = self.extent()?.end;
        let mut tail = self.tail(StartAt::After(behind))?;
        let limit = BatchLimit {
            events_max: 1,
            ..BatchLimit::default()
        };
        while let Some(batch) = tail.poll_batch(&limit)? {
            if let Some(event) = batch.events().first() {
                return Ok(Some(event.transaction.commit_micros));
            }
            if batch.end() >= end {
                break;
            }
        }
        Ok(None)
    }

    /// The end of the last transaction before the first one committed at or after a time. Commit
    /// times need not ascend as positions do: nothing committed since is left out.
    fn before_time(&self, micros: i64, extent: &Extent) -> Result<Position, LogError> {
        let mut tail = self.tail(StartAt::After(extent.oldest))?;
        let limit = BatchLimit::default();
        let mut before = extent.oldest;
        while let Some(batch) = tail.poll_batch(&limit)? {
            for event in batch.events() {
                if event.transaction.commit_micros >= micros {
                    return Ok(before);
                }
                if event.last {
                    before = Position::end_of(event.position.commit);
                }
            }
            if batch.end() >= extent.end {
                break;
            }
        }
        Ok(extent.end.max(before))
    }
}

impl Extent {
    /// The position strictly behind which to begin, but for times, which only the log knows.
    ///
    /// # Errors
    /// [`TokenRefusal`].
    pub(crate) fn position(&self, start: &Start) -> Result<Position, TokenRefusal> {
        match start {
            Start::Earliest | Start::Time(_) => Ok(self.oldest),
            Start::Latest => Ok(self.end),
            Start::Token(token) => token.check(&self.source.lineage, self.oldest, self.end),
            Start::Position(position) => {
                self.token(*position)
                    .check(&self.source.lineage, self.oldest, self.end)
            }
        }
    }

    /// A position of this source as a token.
    pub(crate) fn token(&self, position: Position) -> ResumeToken {
        ResumeToken::new(self.source.lineage, position)
    }

    /// The lineage of its positions.
    pub(crate) fn lineage(&self) -> &Lineage {
        &self.source.lineage
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn starts_are_read_or_refused_by_name() {
        for (text, expected) in [
            ("earliest", Ok(Start::Earliest)),
            (" latest\n", Ok(Start::Latest)),
            (
                "position:0/16B3748:2",
                Ok(Start::Position("0/16B3748:2".parse().unwrap())),
            ),
            ("time:1970-01-01T00:00:01Z", Ok(Start::Time(1_000_000))),
            ("time:soon", Err("read the time \"soon\"")),
            ("position:x", Err("read the position \"x\"")),
            ("oldest", Err("read where to begin, \"oldest\"")),
            ("cdc1_xyz", Err("read a resume token")),
            ("", Err("read where to begin, \"\"")),
        ] {
            match (text.parse::<Start>(), expected) {
                (Ok(start), Ok(expected)) => assert_eq!(start, expected, "{text}"),
                (Err(error), Err(words)) => {
                    assert!(error.to_string().starts_with(words), "{text}: {error}");
                }
                (got, expected) => panic!("{text}: {got:?}, not {expected:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_safe(text in "\\PC{0,80}", tail in "\\PC{0,80}") {
            let _ = text.parse::<Start>();
            for word in ["cdc1_", "time:", "position:"] {
                let _ = format!("{word}{tail}").parse::<Start>();
            }
        }
    }
}
