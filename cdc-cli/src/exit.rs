//! Exit codes: a contract with scripts, printed in the man page.

use cdc_core::{CheckpointError, DlqError, EmitErrorKind, SourceError, SourceErrorKind};

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done, or drained after ctrl-c.
    Done = 0,
    /// It failed while running.
    Runtime = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The configuration is wrong.
    Configuration = 3,
    /// The source cannot be reached or refuses us.
    Unreachable = 4,
    /// A position or token was refused, or events are missing.
    Position = 5,
    /// An emitter stopped and needs a person.
    EmitterStopped = 6,
    /// The state directory is in use or damaged.
    State = 7,
    /// A part of what was asked is done.
    Partly = 8,
}

impl Exit {
    /// Every code, in order.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 9] = [
        Self::Done,
        Self::Runtime,
        Self::Usage,
        Self::Configuration,
        Self::Unreachable,
        Self::Position,
        Self::EmitterStopped,
        Self::State,
        Self::Partly,
    ];

    /// The number the system sees.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    /// The word in JSON errors.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Runtime => "runtime",
            Self::Usage => "usage",
            Self::Configuration => "configuration",
            Self::Unreachable => "source_unreachable",
            Self::Position => "position_refused",
            Self::EmitterStopped => "emitter_stopped",
            Self::State => "state_unusable",
            Self::Partly => "partly_done",
        }
    }

    /// What it means, for the man page and the help.
    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done, or drained after ctrl-c",
            Self::Runtime => "failed while running",
            Self::Usage => "the command line makes no sense",
            Self::Configuration => "the configuration is wrong",
            Self::Unreachable => "the source cannot be reached or refuses us",
            Self::Position => "a position or token is refused, or there is a gap",
            Self::EmitterStopped => "an emitter stopped and needs a person",
            Self::State => "the state is locked by another process, not writable, or damaged",
            Self::Partly => "partly done: some of what was asked failed",
        }
    }

    /// The code of a source's error.
    pub(crate) fn of_source(error: &SourceError) -> Self {
        match error.kind {
            SourceErrorKind::Transient | SourceErrorKind::Unreachable => Self::Unreachable,
            SourceErrorKind::Configuration | SourceErrorKind::Unsupported => Self::Configuration,
            SourceErrorKind::InUse | SourceErrorKind::Corrupt => Self::State,
            SourceErrorKind::Gap | SourceErrorKind::Refused(_) => Self::Position,
            // Io, and kinds that are added later.
            _ => Self::Runtime,
        }
    }

    /// The code of an emitter's error that ended its lane.
    pub(crate) const fn of_emitter(kind: EmitErrorKind) -> Self {
        match kind {
            EmitErrorKind::EndpointStop | EmitErrorKind::Event | EmitErrorKind::Fatal => {
                Self::EmitterStopped
            }
            _ => Self::Runtime,
        }
    }

    /// The code of a checkpoint store's error.
    pub(crate) const fn of_checkpoint(error: &CheckpointError) -> Self {
        match error {
            CheckpointError::Corrupt { .. } => Self::State,
            CheckpointError::Backwards { .. } | CheckpointError::OtherLineage { .. } => {
                Self::Position
            }
            _ => Self::Runtime,
        }
    }

    /// The code of a dead letter queue's error.
    pub(crate) fn of_dead_letters(error: &DlqError) -> Self {
        match error {
            DlqError::Corrupt { .. } | DlqError::InUse { .. } => Self::State,
            DlqError::Full { .. } => Self::EmitterStopped,
            DlqError::Io { cause, .. } => Self::from(cause),
            _ => Self::Runtime,
        }
    }
}

impl From<&std::io::Error> for Exit {
    /// The code of a failed look at the state, or of a write to it.
    fn from(cause: &std::io::Error) -> Self {
        if not_writable(cause) {
            Self::State
        } else {
            Self::Runtime
        }
    }
}

/// True if no retry will help before somebody changes rights or the mount.
fn not_writable(cause: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, PermissionDenied, ReadOnlyFilesystem};
    matches!(
        cause.kind(),
        NotADirectory | PermissionDenied | ReadOnlyFilesystem
    )
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cdc_core::{Position, TokenRefusal};

    #[test]
    fn kinds_have_their_codes() {
        let refused = TokenRefusal::Expired {
            token: Position::ZERO,
            oldest: Position::MAX,
        };
        for (kind, code) in [
            (SourceErrorKind::Transient, 4),
            (SourceErrorKind::Unreachable, 4),
            (SourceErrorKind::Configuration, 3),
            (SourceErrorKind::InUse, 7),
            (SourceErrorKind::Gap, 5),
            (SourceErrorKind::Refused(refused), 5),
            (SourceErrorKind::Corrupt, 7),
            (SourceErrorKind::Unsupported, 3),
            (SourceErrorKind::Io, 1),
        ] {
            let error = SourceError::new(kind.clone(), "x");
            assert_eq!(Exit::of_source(&error).code(), code, "{kind:?}");
        }
        for (cause, code) in [
            (std::io::ErrorKind::ReadOnlyFilesystem, 7),
            (std::io::ErrorKind::PermissionDenied, 7),
            (std::io::ErrorKind::StorageFull, 1),
        ] {
            let error = DlqError::Io {
                what: "open",
                path: "dlq".into(),
                cause: cause.into(),
            };
            assert_eq!(Exit::of_dead_letters(&error).code(), code, "{cause:?}");
        }
        for (at, exit) in Exit::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(exit.code()), at);
        }
    }
}
