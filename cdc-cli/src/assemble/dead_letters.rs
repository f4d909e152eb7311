//! Configuration to the dead letter queue.

use std::sync::{Arc, Mutex};

use cdc_core::storage::StdStorage;
use cdc_core::{DlqError, EventId, LetterState};
use cdc_dlq::{DlqOptions, FileDlq};

use crate::config::Config;
use crate::report::CliError;

/// Opens the queue for writing.
///
/// # Errors
/// Exit code 7 if another process has it or it is damaged, 1 if the disk refuses.
pub(crate) fn open(config: &Config) -> Result<FileDlq, CliError> {
    let options = DlqOptions {
        bytes_max: config.dead_letters.bytes_max,
        letters_max: config.dead_letters.letters_max,
        ..DlqOptions::default()
    };
    Ok(FileDlq::open(
        StdStorage::shared(),
        &config.dead_letters.path,
        options,
    )?)
}

/// The same, shared by lanes and the HTTP surface.
///
/// # Errors
/// As for [`open`].
pub(crate) fn open_shared(config: &Config) -> Result<Arc<Mutex<FileDlq>>, CliError> {
    Ok(Arc::new(Mutex::new(open(config)?)))
}

/// Gives up letters that no lane has, since their emitter is no longer configured. Gives how many.
///
/// # Errors
/// [`DlqError`]; a part may then be given up.
pub(crate) fn discard(
    queue: &mut FileDlq,
    emitter: &str,
    ids: &[EventId],
) -> Result<u64, DlqError> {
    let letters = ids.iter().map(|id| (emitter, *id));
    queue.set_states(letters, LetterState::Discarded)
}
