//! Configuration to a source.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cdc_core::storage::StdStorage;
use cdc_core::{Position, SourceError, SystemClock};
use cdc_wal::postgres::PostgresConfig;
use cdc_wal::{LogErrorKind, StartAt, WalTail};

use crate::config::{Config, PostgresUrl};
use crate::exit::Exit;
use crate::report::CliError;

/// How often the server is asked where its log ends while somebody waits for that.
const STATUS_INTERVAL_ONCE: Duration = Duration::from_millis(200);

/// What to connect to, from the URL, the environment's `PGPASSWORD` and the configuration.
///
/// # Errors
/// Exit code 3 if the URL makes no sense.
pub(crate) fn postgres(
    config: &Config,
    url: &PostgresUrl,
    waits_for_end: bool,
) -> Result<PostgresConfig, CliError> {
    let mut postgres = PostgresConfig::parse(url.expose())?;
    if postgres.password.is_none() {
        postgres.password = std::env::var("PGPASSWORD")
            .ok()
            .filter(|password| !password.is_empty());
    }
    postgres.name.clone_from(&config.name);
    postgres.slot.clone_from(&config.postgres.slot);
    postgres
        .publication
        .clone_from(&config.postgres.publication);
    postgres.create_slot = config.postgres.create_slot;
    postgres.create_publication = config.postgres.create_publication;
    postgres.connect_timeout = config.postgres.connect_timeout;
    if waits_for_end {
        postgres.status_interval = STATUS_INTERVAL_ONCE;
    }
    Ok(postgres)
}

/// Opens a tail of another process's log strictly behind a position.
///
/// # Errors
/// From the log.
pub(crate) fn wal_tail(dir: &Path, after: Position) -> Result<WalTail, SourceError> {
    let start = if after == Position::ZERO {
        StartAt::Earliest
    } else {
        StartAt::After(after)
    };
    let clock = Arc::new(SystemClock::new());
    Ok(WalTail::open(StdStorage::shared(), dir, start, clock)?)
}

/// Says what to do about a log that is not there.
pub(crate) fn wal_error(dir: &Path, error: cdc_wal::LogError) -> CliError {
    let absent = std::error::Error::source(&error)
        .and_then(|cause| cause.downcast_ref::<io::Error>())
        .is_some_and(|cause| {
            matches!(
                cause.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            )
        });
    // A file that is missing inside a log is another matter than a log that is not there.
    if error.kind == LogErrorKind::NotFound || (absent && !dir.join("control").is_file()) {
        return CliError::new(
            Exit::Unreachable,
            format!(
                "open the log {}: there is none; name the directory an engine writes its log to",
                dir.display()
            ),
        )
        .with_cause(error);
    }
    SourceError::from(error).into()
}
