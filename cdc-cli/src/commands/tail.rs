//! `tail`: look at a database's changes now; nothing configured, nothing left behind.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cdc_core::envelope::{Encoder, Format};
use cdc_core::storage::StdStorage;
use cdc_core::{
    BatchLimit, EventBatch, Filter, Op, SourceError, SourceErrorKind, SourceKind, SystemClock,
    WalSource,
};
use cdc_filter::{EventFilter, FilterConfig};
use cdc_wal::postgres::{PostgresConfig, PostgresSource, SqlSession};
use cdc_wal::rocksdb::{RocksDbConfig, RocksDbSource, RocksDbStart};
use cdc_wal::sqlite::{Mode, SqliteConfig, SqliteSource};
use cdc_wal::{StartAt, WalTail};

use crate::args::{Global, OutputFormat, TailArgs, WireFormat, require_source};
use crate::assemble::runner::Signals;
use crate::assemble::source;
use crate::config::{Paint, Source};
use crate::exit::Exit;
use crate::output::finish;
use crate::pretty::Pretty;
use crate::progress::Bar;
use crate::rate::Rate;
use crate::report::{CliError, paint};

/// How often the line that says how much came is drawn anew.
const RATE_INTERVAL: Duration = Duration::from_millis(500);

pub(crate) fn run(args: &TailArgs, global: &Global) -> Result<Exit, CliError> {
    let mut global = global.clone();
    global.source = Some(args.from.clone());
    let config = global.load()?;
    let source = require_source(&config)?.clone();
    let filter = EventFilter::new(&FilterConfig {
        schemas: args.schemas.clone(),
        tables: args.tables.clone(),
        operations: operations(&args.operations)?,
        predicate: args.predicate.clone(),
    })
    .map_err(|error| CliError::from_error(Exit::Usage, error))?;
    let mut shown = Shown::new(args, &global, filter);
    super::block_on(async move {
        match &source {
            Source::Postgres(url) => {
                // Slots and publications of two tails beside each other must not meet, in two containers
                // neither, where a process has the same number.
                let moment = cdc_core::wall_micros();
                let name = format!("weftkit_tail_{}_{moment:x}", std::process::id());
                let mut postgres = PostgresConfig {
                    temporary: true,
                    without_keyless: true,
                    slot: name.clone(),
                    publication: name,
                    ..source::postgres(&config, url, false)?
                };
                // A publication for some tables takes no superuser, one for all does.
                let plain = |pattern: &String| !pattern.contains(['*', '?', '!', '"']);
                if args.schemas.is_empty() && args.tables.iter().all(plain) {
                    postgres.tables.clone_from(&args.tables);
                }
                let mut signals = Signals::new()?;
                let Some(mut source) = connect(postgres, &mut signals).await? else {
                    return Ok(Exit::Done);
                };
                let outcome = follow(&mut source, &mut shown, args.count, &mut signals).await;
                // Also after an error: the publication must not stay behind.
                let closed = source.close().await;
                outcome?;
                closed?;
            }
            Source::Sqlite(path) => {
                let sqlite_config = SqliteConfig {
                    // Only what commits from now on, and nothing remembered.
                    snapshot: args.earliest,
                    ..source::sqlite(&config, path)
                };
                sqlite(sqlite_config, &mut shown, args.count).await?;
            }
            Source::RocksDb(path) => {
                let rocksdb = RocksDbConfig {
                    start: if args.earliest {
                        RocksDbStart::Oldest
                    } else {
                        RocksDbStart::Now
                    },
                    ..source::rocksdb(&config, path)
                };
                let clock = Arc::new(SystemClock::new());
                let mut source =
                    RocksDbSource::connect(StdStorage::shared(), clock, rocksdb, None)?;
                follow(&mut source, &mut shown, args.count, &mut Signals::new()?).await?;
            }
            Source::Wal(dir) => {
                let start = if args.earliest {
                    StartAt::Earliest
                } else {
                    StartAt::Latest
                };
                let clock = Arc::new(SystemClock::new());
                let mut tail = WalTail::open(StdStorage::shared(), dir, start, clock)
                    .map_err(|error| source::wal_error(dir, error))?;
                follow(&mut tail, &mut shown, args.count, &mut Signals::new()?).await?;
            }
        }
        Ok(Exit::Done)
    })?
}

/// Connects, unless somebody asks to end before: a slot is ready only when the transactions that are open
/// have ended, which may take hours. Nothing stays behind then either.
async fn connect(
    config: PostgresConfig,
    signals: &mut Signals,
) -> Result<Option<PostgresSource>, CliError> {
    tokio::select! {
        biased;
        connected = PostgresSource::connect(config.clone(), None) => return Ok(Some(connected?)),
        _ = signals.next() => {}
    }
    tokio::select! {
        cleared = clear_away(&config) => match cleared {
            // Nothing can have been made where nobody answers.
            Err(error) if error.kind != SourceErrorKind::Unreachable && error.kind != SourceErrorKind::Transient => {
                Err(error.into())
            }
            _ => Ok(None),
        },
        _ = signals.next() => Ok(None),
    }
}

/// Removes what a connection that was given up may have made.
async fn clear_away(config: &PostgresConfig) -> Result<(), SourceError> {
    let mut session = SqlSession::open(config).await?;
    // The server does not see that we are gone while it waits, and holds the slot.
    let waiting = format!(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{}' \
         AND temporary AND database = current_database()",
        config.slot
    );
    session.query(&waiting).await?;
    // Plain names, made above.
    let publication = format!("DROP PUBLICATION IF EXISTS {}", config.publication);
    session.query(&publication).await?;
    session.close().await;
    Ok(())
}

/// Follows an SQLite database. Without a lock that takes a copy of it, which is removed afterwards.
async fn sqlite(
    mut config: SqliteConfig,
    shown: &mut Shown,
    limit: Option<u64>,
) -> Result<(), CliError> {
    // Of this process alone: what another left behind, or prepared, would be taken for its own.
    let new = || tempfile::Builder::new().prefix("weftkit-tail-").tempdir();
    let copy = (config.mode == Mode::LockFree).then(new).transpose();
    let copy = copy.map_err(|cause| {
        let place = std::env::temp_dir();
        let what = format!(
            "make a directory for a copy of the database in {}; set TMPDIR to a place with room",
            place.display()
        );
        CliError::new(Exit::Runtime, what).with_cause(cause)
    })?;
    config.state_dir = copy.as_ref().map(|copy| copy.path().to_path_buf());
    let outcome = match SqliteSource::connect(config, None).await {
        Ok(mut source) => {
            let outcome = match Signals::new() {
                Ok(mut signals) => follow(&mut source, shown, limit, &mut signals).await,
                Err(error) => Err(error),
            };
            let closed = source.close().await;
            outcome.and(closed.map_err(CliError::from))
        }
        Err(error) => Err(error.into()),
    };
    if let Some(copy) = copy {
        let path = copy.path().to_path_buf();
        copy.close().map_err(|cause| {
            let what = format!("remove the copy of the database in {}", path.display());
            CliError::new(Exit::Runtime, what).with_cause(cause)
        })?;
    }
    outcome
}

/// Shows events until ctrl-c, SIGTERM, SIGHUP, the limit, or a reader that went away.
async fn follow(
    source: &mut impl WalSource,
    shown: &mut Shown,
    limit: Option<u64>,
    signals: &mut Signals,
) -> Result<(), CliError> {
    shown.note(&format!(
        "tailing {} (ctrl-c ends it)",
        source.source().name
    ));
    let batch_limit = BatchLimit {
        linger: Duration::from_millis(100),
        ..BatchLimit::default()
    };
    loop {
        let batch = tokio::select! {
            _ = signals.next() => break,
            batch = source.next_batch(batch_limit) => {
                batch.map_err(|error| ended(error, source.source().lineage.kind))?
            }
        };
        let Some(batch) = batch else { break };
        let end = batch.end();
        if !shown.show(&batch, limit)? {
            break;
        }
        shown.rate();
        source.confirm(end).await?;
    }
    shown.bar.clear();
    shown.note(&format!("{} events shown", shown.count));
    Ok(())
}

/// Why there is nothing more to look at. What `run` says of a slot that is gone is no advice here:
/// the slot of a tail goes with its connection.
fn ended(error: SourceError, kind: SourceKind) -> CliError {
    if kind != SourceKind::Postgres || error.kind != SourceErrorKind::Gap {
        return error.into();
    }
    CliError::new(
        Exit::Unreachable,
        "tail: the connection was lost, as by a restart of the server, and the temporary replication slot went with it; what was committed meanwhile cannot be shown; start tail again",
    )
    .with_cause(error)
}

struct Shown {
    pretty: Option<Pretty>,
    encoder: Encoder,
    filter: EventFilter,
    notes: bool,
    count: u64,
    begun: Instant,
    rate: Rate,
    drawn: Option<Duration>,
    bar: Bar,
    text: String,
    bytes: Vec<u8>,
}

impl Shown {
    fn new(args: &TailArgs, global: &Global, filter: EventFilter) -> Self {
        let terminal = io::stdout().is_terminal();
        let pretty = global.output == OutputFormat::Text;
        Self {
            pretty: pretty.then(|| Pretty::new(paint(terminal) == Paint::Color)),
            encoder: Encoder::new(format(args.format)),
            filter,
            notes: io::stderr().is_terminal(),
            count: 0,
            begun: Instant::now(),
            rate: Rate::default(),
            drawn: None,
            bar: Bar::new(global),
            text: String::new(),
            bytes: Vec::new(),
        }
    }

    /// Writes what passes the filter; false when it is time to end.
    fn show(&mut self, batch: &EventBatch, limit: Option<u64>) -> Result<bool, CliError> {
        self.text.clear();
        self.bytes.clear();
        let (mut more, before, mut transactions) = (true, self.count, 0);
        for event in batch
            .events()
            .iter()
            .filter(|event| self.filter.keep(event))
        {
            let encoded = match &mut self.pretty {
                Some(pretty) => pretty.event(batch.source(), event, &mut self.text),
                None => {
                    let encoded = self.encoder.encode(batch.source(), event, &mut self.bytes);
                    self.bytes.push(b'\n');
                    encoded
                }
            };
            encoded.map_err(|error| CliError::from_error(Exit::Runtime, error))?;
            self.count += 1;
            transactions += u64::from(event.last);
            if limit.is_some_and(|limit| self.count >= limit) {
                more = false;
                break;
            }
        }
        if self.count == before {
            return Ok(more);
        }
        self.rate.add(self.count - before, transactions);
        self.bar.clear();
        self.drawn = None;
        let mut out = io::stdout().lock();
        let written = out
            .write_all(self.text.as_bytes())
            .and_then(|()| out.write_all(&self.bytes))
            .and_then(|()| out.flush());
        if let Err(error) = &written
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            return Ok(false);
        }
        finish(written)?;
        Ok(more)
    }

    /// How much came, below what is shown, for a person at a terminal.
    fn rate(&mut self) {
        let now = self.begun.elapsed();
        if self.drawn.is_none_or(|drawn| now - drawn >= RATE_INTERVAL) {
            self.drawn = Some(now);
            let line = self.rate.line(now);
            if self.pretty.is_some() {
                self.bar.words(&line);
            }
        }
    }

    /// A line for a person at a terminal.
    fn note(&self, text: &str) {
        if self.notes && self.pretty.is_some() {
            let _closed = writeln!(io::stderr(), "{text}");
        }
    }
}

fn operations(names: &[String]) -> Result<Vec<Op>, CliError> {
    names
        .iter()
        .map(|name| {
            Op::from_name(name).ok_or_else(|| {
                let known: Vec<_> = Op::ALL.iter().map(|op| op.name()).collect();
                CliError::new(
                    Exit::Usage,
                    format!(
                        "select operation {name}: there is none; there are {}",
                        known.join(", ")
                    ),
                )
            })
        })
        .collect()
}

const fn format(wire: WireFormat) -> Format {
    match wire {
        WireFormat::Json => Format::Json,
        WireFormat::Debezium => Format::Debezium,
        WireFormat::Cloudevents => Format::CloudEvents,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_that_lost_its_slot_is_not_told_what_run_would_be_told() {
        let gone = || SourceError::new(SourceErrorKind::Gap, "copy the tables anew");
        let error = ended(gone(), SourceKind::Postgres);
        assert_eq!(error.code(), Exit::Unreachable);
        let error = ended(gone(), SourceKind::Wal);
        assert_eq!(error.code(), Exit::Position);
    }
}
