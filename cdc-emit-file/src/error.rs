//! Which failure of the disk means what to the lane.

use std::io;
use std::path::Path;

use cdc_core::{EmitError, EmitErrorKind};

/// True if nothing is wrong but room: the handle stays good and the same write may work later.
pub(crate) fn is_full(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// A failed call of the storage.
pub(crate) fn io_error(what: &str, path: &Path, cause: io::Error) -> EmitError {
    let (kind, remedy) = match cause.kind() {
        _ if is_full(&cause) => (
            EmitErrorKind::EndpointRetry { retry_after: None },
            "; the disk is full, free some space",
        ),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => (
            EmitErrorKind::EndpointStop,
            "; make the directory writable for this user",
        ),
        _ => (EmitErrorKind::EndpointRetry { retry_after: None }, ""),
    };
    EmitError::new(kind, format!("{what} {}{remedy}", path.display())).with_cause(cause)
}

/// The disk contradicts the checkpoint: only a person can say which is right.
pub(crate) fn contradiction(path: &Path, what: &str) -> EmitError {
    EmitError::new(
        EmitErrorKind::Fatal,
        format!(
            "continue at the checkpoint in {}: {what}; restore the file, or reset the emitter's position to begin a new file",
            path.display()
        ),
    )
}
