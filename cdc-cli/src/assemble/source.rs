//! Configuration to a source.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cdc_core::storage::StdStorage;
use cdc_core::{EngineKind, Position, Relation, SourceError, SystemClock};
use cdc_wal::postgres::{PostgresConfig, SqlSession};
use cdc_wal::rocksdb::RocksDbConfig;
use cdc_wal::sqlite::SqliteConfig;
use cdc_wal::{LogErrorKind, StartAt, WalTail};

use super::foreign::ForeignConfig;
use super::state::State;
use crate::config::{Config, PostgresUrl, Source};
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
        postgres.password = password(std::env::var_os("PGPASSWORD"))?;
    }
    postgres.name.clone_from(&config.name);
    // What the configuration names goes before what the address names, and that before the default.
    let default = PostgresConfig::default();
    if config.postgres.slot != default.slot {
        postgres.slot.clone_from(&config.postgres.slot);
    }
    if config.postgres.publication != default.publication {
        postgres
            .publication
            .clone_from(&config.postgres.publication);
    }
    postgres.tables.clone_from(&config.postgres.publish_tables);
    postgres
        .schemas
        .clone_from(&config.postgres.publish_schemas);
    postgres.create_slot = config.postgres.create_slot;
    postgres.create_publication = config.postgres.create_publication;
    postgres.accept_keyless = config.postgres.accept_keyless;
    postgres.connect_timeout = config.postgres.connect_timeout;
    if waits_for_end {
        postgres.status_interval = STATUS_INTERVAL_ONCE;
    }
    Ok(postgres)
}

/// The password that the environment has. An empty one is none, as for `psql`.
fn password(variable: Option<OsString>) -> Result<Option<String>, CliError> {
    let text = variable.map(OsString::into_string).transpose();
    let text = text.map_err(|_| {
        CliError::new(
            Exit::Configuration,
            "read PGPASSWORD: it is not UTF-8 text, as a password for PostgreSQL has to be here; set it anew, or unset it",
        )
    })?;
    Ok(text.filter(|password| !password.is_empty()))
}

/// The database a source names, as the runner connects to it.
///
/// # Errors
/// Exit code 3 if the source makes no sense, or is no database with a log of its own.
pub(crate) fn foreign(
    config: &Config,
    source: &Source,
    state: &State,
    waits_for_end: bool,
) -> Result<ForeignConfig, CliError> {
    match source {
        Source::Postgres(url) => postgres(config, url, waits_for_end)
            .map(|postgres| ForeignConfig::Postgres(Box::new(postgres))),
        Source::Sqlite(path) => {
            let mut sqlite = sqlite(config, path);
            sqlite.state_dir = Some(state.paths.sqlite());
            Ok(ForeignConfig::Sqlite(Box::new(sqlite)))
        }
        Source::RocksDb(path) => {
            let mut rocksdb = rocksdb(config, path);
            rocksdb.state_dir = Some(state.paths.rocksdb());
            Ok(ForeignConfig::RocksDb(Box::new(rocksdb)))
        }
        Source::Wal(dir) => Err(CliError::new(
            Exit::Configuration,
            format!("capture from wal:{}: it is read directly", dir.display()),
        )),
    }
}

/// How to follow a RocksDB database; without a state directory.
pub(crate) fn rocksdb(config: &Config, path: &Path) -> RocksDbConfig {
    RocksDbConfig {
        name: config.name.clone(),
        ..RocksDbConfig::new(path)
    }
}

/// How to follow an SQLite database; without a state directory.
pub(crate) fn sqlite(config: &Config, path: &Path) -> SqliteConfig {
    let mut sqlite = SqliteConfig::new(path);
    sqlite.name.clone_from(&config.name);
    sqlite.snapshot = config.sqlite.snapshot;
    sqlite.mode = config.sqlite.mode;
    sqlite.assist = config.sqlite.assist;
    sqlite.poll_interval = config.sqlite.poll_interval;
    sqlite.busy_timeout = config.sqlite.busy_timeout;
    sqlite.log_bytes_max = config.sqlite.log_bytes_max;
    sqlite.archive_bytes_max = config.sqlite.archive_bytes_max;
    sqlite.include_shadow_tables = config.sqlite.include_shadow_tables;
    sqlite
}

/// Tables listed in one warning.
const TABLES_SHOWN: usize = 20;

/// Warns of patterns that fit no table at the source, and says what is there. Only a look: a
/// server that does not answer is the capture's to report.
pub(crate) async fn warn_unmatched(config: &Config, postgres: &PostgresConfig) {
    match tables(postgres).await {
        Ok(tables) => {
            for emitter in &config.emitters {
                let Ok(filter) = cdc_filter::EventFilter::new(&emitter.filter) else {
                    continue;
                };
                let unmatched = filter.unmatched(&tables);
                if unmatched.is_empty() {
                    continue;
                }
                let names: Vec<_> = tables
                    .iter()
                    .take(TABLES_SHOWN)
                    .map(Relation::qualified_name)
                    .collect();
                let more = tables.len().saturating_sub(TABLES_SHOWN);
                tracing::warn!(
                    emitter = %emitter.name,
                    patterns = %unmatched.join(", "),
                    there_are = %names.join(", "),
                    and_more = more,
                    "patterns match no table at the source"
                );
            }
        }
        Err(error) => tracing::debug!(error = %error, "list the source's tables"),
    }
}

/// The tables of a database, without columns.
///
/// # Errors
/// From the server.
pub(crate) async fn tables(postgres: &PostgresConfig) -> Result<Vec<Relation>, SourceError> {
    let mut session = SqlSession::open(postgres).await?;
    let rows = session
        .query(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
             ORDER BY 1, 2 LIMIT 100000",
        )
        .await;
    session.close().await;
    let relation = |row: Vec<Option<String>>| match <[Option<String>; 2]>::try_from(row) {
        Ok([Some(schema), Some(table)]) => Some(Relation::new(
            EngineKind::Relational,
            schema,
            table,
            Vec::new(),
            Vec::new(),
        )),
        _ => None,
    };
    Ok(rows?.into_iter().filter_map(relation).collect())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Layers, load};

    fn names(sets: &[&str]) -> (String, String) {
        let layers = Layers {
            sets: sets.iter().map(|&set| set.to_owned()).collect(),
            ..Layers::default()
        };
        let config = load(&layers).unwrap_or_else(|error| panic!("{error:?}"));
        let Some(Source::Postgres(url)) = &config.source else {
            panic!("a PostgreSQL source");
        };
        let postgres = postgres(&config, url, false).expect("an address");
        (postgres.slot, postgres.publication)
    }

    #[test]
    fn a_password_that_is_no_text_is_refused_by_its_variables_name() {
        use std::os::unix::ffi::OsStringExt as _;
        for (bytes, expected) in [
            (None, None),
            (Some(&b""[..]), None),
            (Some(b"gehe\xc3\xafm"), Some("gehe\u{ef}m")),
        ] {
            let variable = bytes.map(|bytes| OsString::from_vec(bytes.to_vec()));
            assert_eq!(password(variable).unwrap().as_deref(), expected);
        }
        let error = password(Some(OsString::from_vec(b"gehe\xefm".to_vec()))).unwrap_err();
        assert_eq!(error.code(), Exit::Configuration);
        let said = format!("{error:?}");
        assert!(
            said.contains("PGPASSWORD") && !said.contains("gehe"),
            "{said}"
        );
    }

    #[test]
    fn slot_and_publication_may_stand_in_the_address() {
        let plain = "source=postgres://h/db";
        let named = "source=postgres://h/db?slot=page&publication=p";
        let of = |slot: &str, publication: &str| (slot.to_owned(), publication.to_owned());
        assert_eq!(names(&[plain]), of("weftkit_cdc", "weftkit_cdc"));
        assert_eq!(names(&[named]), of("page", "p"));
        assert_eq!(names(&[named, "postgres.slot=mine"]), of("mine", "p"));
    }
}
