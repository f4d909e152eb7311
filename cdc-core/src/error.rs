//! Errors of the seams, their kinds, and the one table that says what each leads to.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::{Position, TokenRefusal};

/// The cause behind an error, printed by the binary's report and not by `Display`.
pub(crate) type Cause = Box<dyn StdError + Send + Sync + 'static>;

/// What a source's error means.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceErrorKind {
    /// It may work again by itself: connection reset, server restarting.
    Transient,
    /// It cannot be reached or refuses us: wrong address, wrong password.
    Unreachable,
    /// It is not set up for capture, or the configuration asks for what it does not have.
    Configuration,
    /// Somebody else uses it (slot in use, directory locked).
    InUse,
    /// Events between our position and what it can still send are gone.
    Gap,
    /// A position or token cannot be used here.
    Refused(TokenRefusal),
    /// Its data contradict themselves.
    Corrupt,
    /// It sent or holds something this software cannot decode.
    Unsupported,
    /// The local disk failed.
    Io,
}

/// An error of a [`WalSource`](crate::WalSource).
///
/// `Display` says what was attempted, on what, and what to do; the cause is in `source()`.
#[derive(Debug)]
pub struct SourceError {
    /// What it means.
    pub kind: SourceErrorKind,
    message: String,
    cause: Option<Cause>,
}

impl SourceError {
    /// An error without cause.
    pub fn new(kind: SourceErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            cause: None,
        }
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_cause(
        mut self,
        cause: impl Into<Box<dyn StdError + Send + Sync + 'static>>,
    ) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// True if trying again may help.
    pub const fn is_transient(&self) -> bool {
        matches!(self.kind, SourceErrorKind::Transient)
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for SourceError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

impl From<TokenRefusal> for SourceError {
    fn from(refusal: TokenRefusal) -> Self {
        Self::new(
            SourceErrorKind::Refused(refusal.clone()),
            refusal.to_string(),
        )
    }
}

/// What the failure of a delivery says about whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EmitErrorKind {
    /// The destination is unwell: refused, reset, timeout, 408, 425, 429, 5xx. It counts against
    /// the destination, never against an event.
    EndpointRetry {
        /// The destination's own wish (`Retry-After`).
        retry_after: Option<Duration>,
    },
    /// The destination refuses everything until a person acts: 401, 403, 404, 405, 3xx, 410.
    EndpointStop,
    /// The destination refuses this content: 400, 409, 413, 415, 422, encoding failed.
    Event,
    /// The emitter itself is broken (disk failed, state contradicts the checkpoint).
    Fatal,
}

impl EmitErrorKind {
    /// The name of every kind, in the order of [`class`](Self::class).
    pub const CLASSES: [&str; 4] = ["endpoint_retry", "endpoint_stop", "event", "fatal"];

    /// Which of [`CLASSES`](Self::CLASSES) this is.
    pub const fn class(self) -> usize {
        match self {
            Self::EndpointRetry { .. } => 0,
            Self::EndpointStop => 1,
            Self::Event => 2,
            Self::Fatal => 3,
        }
    }

    /// The name in dead letters, logs and metrics.
    pub const fn name(self) -> &'static str {
        Self::CLASSES[self.class()]
    }
}

/// What a lane does about a failed delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureAction {
    /// Send the same batch again after a backoff, at least this long.
    Retry {
        /// Shortest wait.
        floor: Duration,
    },
    /// Keep the batch, tell the operator, try again rarely.
    Probe,
    /// Find the culprit by halving the batch; dead-letter it when it is alone.
    Isolate,
    /// Stop the lane with the error.
    Halt,
}

/// Longest wait a destination may ask for with `Retry-After`.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// The one table from error kind to action.
pub fn failure_action(kind: EmitErrorKind) -> FailureAction {
    match kind {
        EmitErrorKind::EndpointRetry { retry_after } => FailureAction::Retry {
            floor: retry_after.unwrap_or_default().min(RETRY_AFTER_MAX),
        },
        EmitErrorKind::EndpointStop => FailureAction::Probe,
        EmitErrorKind::Event => FailureAction::Isolate,
        EmitErrorKind::Fatal => FailureAction::Halt,
    }
}

/// An error of an [`Emitter`](crate::Emitter): the whole batch was not taken, or the outcome is
/// unknown. It never holds row contents or secrets.
#[derive(Debug)]
pub struct EmitError {
    /// What it says about whom.
    pub kind: EmitErrorKind,
    /// The status the destination answered with, if it speaks HTTP.
    pub status: Option<u16>,
    /// At most [`EmitError::RESPONSE_MAX`] bytes of the destination's answer.
    pub response: Option<String>,
    message: String,
    cause: Option<Cause>,
}

impl EmitError {
    /// Longest excerpt of a response that is kept, in bytes.
    pub const RESPONSE_MAX: usize = 1024;

    /// An error without cause.
    pub fn new(kind: EmitErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            status: None,
            response: None,
            message: message.into(),
            cause: None,
        }
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_cause(
        mut self,
        cause: impl Into<Box<dyn StdError + Send + Sync + 'static>>,
    ) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// The same error with the destination's answer, cut to [`Self::RESPONSE_MAX`].
    #[must_use]
    pub fn with_response(mut self, status: u16, response: impl Into<String>) -> Self {
        let mut response = response.into();
        let mut end = response.len().min(Self::RESPONSE_MAX);
        while !response.is_char_boundary(end) {
            end -= 1;
        }
        response.truncate(end);
        self.status = Some(status);
        self.response = (!response.is_empty()).then_some(response);
        self
    }

    /// What was attempted, on what, and what to do.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for EmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for EmitError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

/// A transform failed on one event; the event is dead-lettered and the stream goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TransformError {
    /// What was attempted and why it failed, without row contents.
    pub message: String,
}

/// The dead letter queue could not take a letter: nothing is dropped. Full, or on a full disk, it blocks the
/// lane; any other failure halts it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DlqError {
    /// Its disk failed.
    #[error("dead letter queue: {what} {path}: {cause}; check the disk, then restart")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// Where.
        path: String,
        /// Why it failed.
        #[source]
        cause: std::io::Error,
    },
    /// It is at its configured bound.
    #[error(
        "append to the dead letter queue at {path}: it is full ({used} of {max} {unit}); redrive or discard letters, or raise {key}"
    )]
    Full {
        /// Where.
        path: String,
        /// What is used.
        used: u64,
        /// The bound.
        max: u64,
        /// `bytes` or `letters`.
        unit: &'static str,
        /// The configuration key of the bound.
        key: &'static str,
    },
    /// A replay remembers no more events that failed. Unlike a full queue it halts: nothing makes room.
    #[error(
        "replay to {emitter}: {max} events failed or wait behind one that did; mend the destination, or replay a shorter range"
    )]
    TooMany {
        /// To which emitter.
        emitter: String,
        /// How many are remembered.
        max: u64,
    },
    /// Its disk is full. Nothing of it was written; of what is written in parts, since it is too much for one
    /// (letters of more than 64 MiB, more than 4096 states), the first parts may be stored. With room the
    /// same call does all of it.
    #[error("dead letter queue: append to {path}: {cause}; make room on its disk")]
    NoSpace {
        /// Where.
        path: String,
        /// What the operating system said.
        #[source]
        cause: std::io::Error,
    },
    /// A letter is damaged in the middle of the queue.
    #[error(
        "read the dead letter queue at {path}: {what} at byte {offset}; the file is damaged, restore it or move it away"
    )]
    Corrupt {
        /// The file.
        path: String,
        /// Where in it, in bytes.
        offset: u64,
        /// What was wrong.
        what: String,
    },
    /// One letter cannot be stored: its event cannot be encoded, or is larger than the queue's
    /// format holds.
    #[error("store letter {event_id} in the dead letter queue at {path}: {what}")]
    Unstorable {
        /// Where.
        path: String,
        /// The event's id.
        event_id: String,
        /// Why not.
        what: &'static str,
        /// The encoder's reason, if it is one.
        #[source]
        cause: Option<Box<crate::envelope::EncodeError>>,
    },
    /// An earlier write failed, and what is on the disk is unknown.
    #[error(
        "use the dead letter queue at {path}: an earlier write failed; restart, which recovers what is on the disk"
    )]
    Dead {
        /// Where.
        path: String,
    },
    /// Another process has it open for writing.
    #[error(
        "open the dead letter queue at {path}: another process is using it; stop that process, or ask it to redrive"
    )]
    InUse {
        /// Where.
        path: String,
    },
}

/// A checkpoint could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Its disk failed.
    #[error("{what} checkpoints at {path}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// Where.
        path: String,
        /// Why it failed.
        #[source]
        cause: std::io::Error,
    },
    /// No valid slot is left.
    #[error(
        "read checkpoints at {path}: {what}; restore the file, or set positions anew with `position set --replace-damaged`"
    )]
    Corrupt {
        /// The file.
        path: String,
        /// What was wrong.
        what: String,
    },
    /// A later checkpoint is already stored.
    #[error(
        "store a checkpoint of {emitter} at {asked}: {stored} is already stored and a checkpoint never goes back"
    )]
    Backwards {
        /// The emitter.
        emitter: String,
        /// What was asked for.
        asked: Position,
        /// What is stored.
        stored: Position,
    },
    /// The stored checkpoint belongs to another source.
    #[error(
        "store a checkpoint of {emitter}: the stored one belongs to {stored}, this is {asked}; use another state_path for another source"
    )]
    OtherLineage {
        /// The emitter.
        emitter: String,
        /// Lineage that was asked for.
        asked: String,
        /// Lineage that is stored.
        stored: String,
    },
    /// The body outgrew its slot.
    #[error(
        "store checkpoints at {path}: {len} bytes do not fit into a slot of {max}; fewer emitters, or shorter names"
    )]
    TooLarge {
        /// The file.
        path: String,
        /// Bytes needed.
        len: usize,
        /// Bytes there are.
        max: usize,
    },
    /// An emitter's name or state is longer than a checkpoint can hold. Nothing is stored.
    #[error(
        "store a checkpoint of {emitter:.40}: its {what} has {len} bytes, and at most {max} fit"
    )]
    TooLong {
        /// The emitter.
        emitter: String,
        /// Its name or its state.
        what: &'static str,
        /// Bytes it has.
        len: usize,
        /// Bytes that fit.
        max: usize,
    },
    /// The handle is dead after an earlier failure.
    #[error(
        "store checkpoints at {path}: an earlier write failed, so what is on disk is unknown; restart"
    )]
    Dead {
        /// The file.
        path: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_action() {
        let hour = Duration::from_secs(3600);
        let retry = |retry_after| EmitErrorKind::EndpointRetry { retry_after };
        let table = [
            (
                retry(None),
                FailureAction::Retry {
                    floor: Duration::ZERO,
                },
            ),
            (
                retry(Some(Duration::from_secs(9))),
                FailureAction::Retry {
                    floor: Duration::from_secs(9),
                },
            ),
            (retry(Some(hour * 48)), FailureAction::Retry { floor: hour }),
            (EmitErrorKind::EndpointStop, FailureAction::Probe),
            (EmitErrorKind::Event, FailureAction::Isolate),
            (EmitErrorKind::Fatal, FailureAction::Halt),
        ];
        for (kind, action) in table {
            assert_eq!(failure_action(kind), action, "{kind:?}");
        }
    }

    #[test]
    fn responses_are_cut_at_a_character() {
        let error = EmitError::new(EmitErrorKind::Event, "x").with_response(400, "é".repeat(900));
        assert_eq!(error.response.unwrap().len(), 1024);
    }
}
