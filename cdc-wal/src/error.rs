//! What can go wrong with a log.

use std::error::Error as StdError;
use std::fmt;

use cdc_core::{Position, SourceError, SourceErrorKind, TokenRefusal};

/// What an error of a log means.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogErrorKind {
    /// Another writer has the directory.
    InUse,
    /// The disk failed. The handle is dead if it was a write.
    Io,
    /// What was durable is damaged, or the files contradict themselves.
    Corrupt,
    /// An earlier write or sync failed; reopen the log.
    Dead,
    /// The log is at `retain_bytes_max` and a cursor holds it; nothing was written.
    Full,
    /// The directory holds the log of another source.
    OtherSource,
    /// A format version or file this build does not know.
    Unsupported,
    /// A record, relation or name is over its bound; nothing was written.
    TooLarge,
    /// A setting is out of its bounds.
    Configuration,
    /// A position cannot be resumed from.
    Refused(TokenRefusal),
    /// A cursor was invalidated since it held back more than `retain_bytes_max`.
    Invalidated,
    /// What a reader needs next was trimmed away.
    Trimmed,
    /// There is no log, cursor, segment or savepoint of that name.
    NotFound,
    /// What follows was lost to damage and a repair. To account for that and go on, begin at
    /// `resume`.
    Lost {
        /// The position right behind the loss.
        resume: Position,
    },
    /// A change contradicts its table or itself; nothing was written and the transaction is as it
    /// was.
    Invalid,
}

/// An error of a log, its tails or its journal.
///
/// `Display` says what was attempted, on what, and what to do; the cause is in `source()`. It
/// never holds row contents.
#[derive(Debug)]
pub struct LogError {
    /// What it means.
    pub kind: LogErrorKind,
    message: String,
    cause: Option<std::io::Error>,
}

impl LogError {
    pub(crate) fn new(kind: LogErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            cause: None,
        }
    }

    /// The same error once more, for those who ask again.
    pub(crate) fn repeat(&self) -> Self {
        Self::new(self.kind.clone(), self.message.clone())
    }

    pub(crate) fn io(what: &str, path: &std::path::Path, cause: std::io::Error) -> Self {
        let full = if is_full(&cause) {
            "; the disk is full: free some space, then start again"
        } else {
            ""
        };
        Self {
            kind: LogErrorKind::Io,
            message: format!("{what} {}{full}", path.display()),
            cause: Some(cause),
        }
    }

    /// True if its disk is full.
    pub(crate) fn is_for_want_of_room(&self) -> bool {
        self.cause.as_ref().is_some_and(is_full)
    }

    pub(crate) fn corrupt(path: &std::path::Path, offset: u64, what: impl fmt::Display) -> Self {
        Self::new(
            LogErrorKind::Corrupt,
            format!(
                "read the log segment {}: {what} at byte {offset}; the file is damaged: restore it, or see what a repair would keep (`cdc-cli wal repair {}`)",
                path.display(),
                path.parent().unwrap_or(path).display()
            ),
        )
    }
}

fn is_full(cause: &std::io::Error) -> bool {
    matches!(
        cause.kind(),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
    )
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for LogError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_ref().map(|cause| cause as _)
    }
}

impl From<TokenRefusal> for LogError {
    fn from(refusal: TokenRefusal) -> Self {
        let message = refusal.to_string();
        Self::new(LogErrorKind::Refused(refusal), message)
    }
}

impl From<LogError> for SourceError {
    fn from(error: LogError) -> Self {
        let kind = match &error.kind {
            LogErrorKind::InUse => SourceErrorKind::InUse,
            LogErrorKind::Corrupt => SourceErrorKind::Corrupt,
            LogErrorKind::Unsupported | LogErrorKind::TooLarge | LogErrorKind::Invalid => {
                SourceErrorKind::Unsupported
            }
            LogErrorKind::OtherSource | LogErrorKind::Configuration | LogErrorKind::NotFound => {
                SourceErrorKind::Configuration
            }
            LogErrorKind::Refused(refusal) => SourceErrorKind::Refused(refusal.clone()),
            LogErrorKind::Invalidated | LogErrorKind::Trimmed | LogErrorKind::Lost { .. } => {
                SourceErrorKind::Gap
            }
            LogErrorKind::Io | LogErrorKind::Dead | LogErrorKind::Full => SourceErrorKind::Io,
        };
        let LogError { message, cause, .. } = error;
        let source = Self::new(kind, message);
        match cause {
            Some(cause) => source.with_cause(cause),
            None => source,
        }
    }
}
