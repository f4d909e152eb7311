//! `check`: connect, and name every setting that is wrong, with its remedy; and what a start would
//! find. `run --dry-run` is the same with what would be delivered.

use std::ops::ControlFlow;
use std::path::Path;

use cdc_core::pipeline::LaneError;
use cdc_core::storage::StdStorage;
use cdc_core::{BatchLimit, EngineKind, Position, Relation};
use cdc_dlq::{DlqReader, LetterFilter};
use cdc_filter::TableFilter;
use cdc_wal::postgres::{self, Finding, PostgresConfig, Severity, SlotState};
use cdc_wal::rocksdb::RocksDbCheck;
use cdc_wal::{LogError, StartAt};
use serde_json::{Value, json};

use super::validate;
use crate::args::{CheckArgs, Global, require_source};
use crate::assemble::control;
use crate::assemble::outlook::{self, Held, Row, SourceState};
use crate::assemble::stages;
use crate::assemble::start::{LogView, Start};
use crate::assemble::state::StatePaths;
use crate::assemble::{lanes, source};
use crate::config::{Config, EmitterConfig, Source};
use crate::exit::Exit;
use crate::output::{answer, bytes_text};
use crate::report::CliError;

/// Tables of the source listed for one emitter.
const TABLES_SHOWN: usize = 50;

pub(crate) fn run(_args: &CheckArgs, global: &Global) -> Result<Exit, CliError> {
    let config = global.load()?;
    let source = require_source(&config)?;
    let examined = examine(&config, source)?;
    answer(
        global.output,
        || text(&source.to_string(), &examined.rows),
        || examined.json(source),
    )?;
    Ok(examined.exit())
}

/// `run --dry-run`: connects, reads, changes nothing.
///
/// # Errors
/// As for [`run`]; exit code 5 if `from` cannot be used.
pub(crate) fn dry_run(config: &Config, from: &Start, global: &Global) -> Result<Exit, CliError> {
    let source = require_source(config)?;
    let examined = examine(config, source)?;
    let deliveries: Vec<Delivery> = config
        .emitters
        .iter()
        .map(|emitter| delivery(config, source, emitter, from, &examined))
        .collect::<Result<_, _>>()?;
    answer(
        global.output,
        || {
            let mut out = text(&source.to_string(), &examined.rows);
            for delivery in &deliveries {
                out.push('\n');
                out.push_str(&delivery.text());
            }
            out.push_str("\nnothing was changed, neither at the source nor here\n");
            out
        },
        || {
            let mut value = examined.json(source);
            value["dry_run"] = true.into();
            value["emitters"] = deliveries.iter().map(Delivery::json).collect();
            value
        },
    )?;
    Ok(examined.exit())
}

/// Everything that was looked at.
struct Examined {
    rows: Vec<Row>,
    held: Option<Held>,
    /// Tables at the source, `schema.table`, if it was asked.
    tables: Option<Vec<Relation>>,
}

impl Examined {
    /// The code of the worst: what must be mended first.
    fn exit(&self) -> Exit {
        let errors = || {
            self.rows
                .iter()
                .filter(|row| row.finding.severity == Severity::Error)
        };
        [
            Exit::State,
            Exit::Unreachable,
            Exit::Configuration,
            Exit::Position,
        ]
        .into_iter()
        .find(|exit| errors().any(|row| row.exit == *exit))
        .unwrap_or_else(|| errors().next().map_or(Exit::Done, |row| row.exit))
    }

    fn json(&self, source: &Source) -> Value {
        let rows = self.rows.iter().map(|Row { finding: f, exit }| {
            json!({
                "severity": name(f.severity),
                "subject": f.subject,
                "found": f.found,
                "remedy": (!f.remedy.is_empty()).then_some(&f.remedy),
                "exit_code": (f.severity == Severity::Error).then_some(exit.code()),
            })
        });
        json!({
            "source": source.to_string(),
            "ok": self.exit() == Exit::Done,
            "findings": rows.collect::<Vec<_>>(),
        })
    }
}

fn examine(config: &Config, source: &Source) -> Result<Examined, CliError> {
    let mut tables = None;
    let (mut rows, mut state) = match source {
        Source::Postgres(url) => {
            let postgres = source::postgres(config, url, false)?;
            super::block_on(async {
                let found = server(config, &postgres).await;
                if found.1.is_some() {
                    tables = source::tables(&postgres).await.ok();
                }
                found
            })?
        }
        Source::Sqlite(path) => {
            let mut sqlite = source::sqlite(config, path);
            sqlite.state_dir = Some(StatePaths::new(&config.state_path).sqlite());
            match super::block_on(cdc_wal::sqlite::check(&sqlite))? {
                Ok(found) => {
                    tables = sqlite_tables(&found);
                    (found.into_iter().map(sqlite_row).collect(), None)
                }
                Err(error) => (vec![unreachable(&error)], None),
            }
        }
        Source::RocksDb(path) => {
            let rocksdb = source::rocksdb(config, path);
            match RocksDbCheck::read(&StdStorage::shared(), &rocksdb) {
                Ok(found) => (rocksdb_rows(&found), None),
                Err(error) => (vec![unreachable(&error)], None),
            }
        }
        Source::Wal(dir) => {
            let view = LogView::Directory(dir.clone());
            view.extent()
                .map_err(|error| source::wal_error(dir, error))?;
            (Vec::new(), None)
        }
    };
    let held = match Held::read(config, source) {
        Ok(held) => {
            if let (Source::Postgres(url), Some(state)) = (source, &mut state)
                && outlook::reaches_beyond(&held, state).is_some()
            {
                // A pipeline that runs captures meanwhile: what was captured was looked at later.
                let postgres = source::postgres(config, url, false)?;
                if let Ok(later) = super::block_on(postgres::look(&postgres))? {
                    (state.end, state.standby) = (later.end, later.standby);
                }
            }
            if let Some(state) = &state
                && outlook::of_other(&held, state)
            {
                // A start looks at that before it looks at the slot.
                let slots = rows.iter_mut();
                slots
                    .filter(|row| row.finding.subject.starts_with("slot "))
                    .filter(|row| row.finding.severity == Severity::Error)
                    .for_each(|row| row.exit = Exit::Position);
            }
            rows.extend(outlook::rows(config, &held, state.as_ref()));
            Some(held)
        }
        Err(error) => {
            rows.push(Row::new(
                Severity::Error,
                error.code(),
                "state",
                error.to_string(),
                "see what was found; `wal verify` and `wal repair` look into the journal",
            ));
            None
        }
    };
    let journal = held.as_ref().is_some_and(|held| held.log.is_some());
    for row in &mut rows {
        if row.exit == Exit::Unreachable && journal {
            row.finding.remedy = format!(
                "{}; `run` would deliver what the journal holds and connect meanwhile",
                row.finding.remedy
            );
        }
    }
    rows.extend(tables.iter().flat_map(|tables| unmatched(config, tables)));
    rows.extend(directories(config));
    rows.extend(config.emitters.iter().filter_map(destination));
    rows.extend(dead_letters(config, held.as_ref(), state.as_ref()));
    Ok(Examined { rows, held, tables })
}

/// Patterns that fit no table: most often misspelt.
fn unmatched(config: &Config, tables: &[Relation]) -> Vec<Row> {
    let there = || {
        let names = tables.iter().take(TABLES_SHOWN);
        let names: Vec<_> = names.map(Relation::qualified_name).collect();
        names.join(", ")
    };
    let row = |emitter: &EmitterConfig| {
        let filter = cdc_filter::EventFilter::new(&emitter.filter).ok()?;
        let patterns = filter.unmatched(tables);
        (!patterns.is_empty()).then(|| {
            Row::new(
                Severity::Warning,
                Exit::Done,
                format!("emitter {}", emitter.name),
                format!("fits no table at the source: {}", patterns.join(", ")),
                format!("there are: {}", there()),
            )
        })
    };
    config.emitters.iter().filter_map(row).collect()
}

/// The tables an SQLite database has, from what was found there.
fn sqlite_tables(found: &[cdc_wal::sqlite::Finding]) -> Option<Vec<Relation>> {
    let tables = found
        .iter()
        .find(|f| f.subject == "tables" && f.severity == cdc_wal::sqlite::Severity::Ok)?;
    let names = tables.found.split(", ").filter(|name| !name.is_empty());
    let relation =
        |name: &str| Relation::new(EngineKind::Relational, "main", name, Vec::new(), Vec::new());
    Some(names.map(relation).collect())
}

/// Everything about a server, and where it stands.
async fn server(config: &Config, postgres: &PostgresConfig) -> (Vec<Row>, Option<SourceState>) {
    let found = match postgres::check(postgres).await {
        Ok(found) => found,
        Err(error) => return (vec![unreachable(&error)], None),
    };
    let mut rows: Vec<Row> = found.into_iter().map(Row::configured).collect();
    let state = match postgres::look(postgres).await {
        Ok(state) => {
            let ours = |slot: &SlotState| slot.database == postgres.database;
            let slot = state.slot.filter(ours);
            if let Some(slot) = &slot {
                judge_slot(config, postgres, slot, &mut rows);
            }
            Some(SourceState {
                lineage: state.lineage,
                confirmed: slot.map(|slot| slot.confirmed_flush),
                end: state.end,
                standby: state.standby,
            })
        }
        // The role may not replicate: that is a finding already.
        Err(_) if rows.iter().any(|r| r.finding.severity == Severity::Error) => None,
        Err(error) => {
            rows.push(unreachable(&error));
            None
        }
    };
    (rows, state)
}

/// What a slot's state means for a start on this state directory: lost log is a gap, and a slot in use
/// keeps a start out, unless it is our own pipeline that runs.
fn judge_slot(config: &Config, postgres: &PostgresConfig, slot: &SlotState, rows: &mut [Row]) {
    let runs = control::is_served(&StatePaths::new(&config.state_path).control());
    let subject = format!("slot {}", postgres.slot);
    for row in rows.iter_mut().filter(|row| row.finding.subject == subject) {
        match row.finding.severity {
            Severity::Error if slot.wal_status == "lost" => row.exit = Exit::Position,
            Severity::Warning if row.finding.found.starts_with("in use") && !runs => {
                row.finding.severity = Severity::Error;
                row.exit = Exit::State;
            }
            _ => {}
        }
    }
}

fn unreachable(error: &cdc_core::SourceError) -> Row {
    Row::new(
        Severity::Error,
        Exit::of_source(error),
        "source",
        error.to_string(),
        "see to it that it answers",
    )
}

fn rocksdb_rows(found: &RocksDbCheck) -> Vec<Row> {
    let extent = match found.extent {
        Some((first, last)) => format!("sequence numbers {first} to {last}"),
        None => "none yet".to_owned(),
    };
    let families = found.families.join(", ");
    let (severity, kept) = match found.kept {
        Some([0, 0]) => (
            Severity::Error,
            "deleted as soon as their changes are in tables".to_owned(),
        ),
        Some([seconds, mib]) => (
            Severity::Ok,
            format!("WAL_ttl_seconds = {seconds}, WAL_size_limit_MB = {mib}"),
        ),
        None => (
            Severity::Warning,
            "unknown: there is no options file".to_owned(),
        ),
    };
    let remedy = match severity {
        Severity::Ok => "",
        _ => {
            "open the database with WAL_ttl_seconds longer than capture may be away, or WAL_size_limit_MB more than is written meanwhile"
        }
    };
    [
        (Severity::Ok, "column families", families, ""),
        (Severity::Ok, "changes in log files", extent, ""),
        (severity, "log files", kept, remedy),
    ]
    .map(|(severity, subject, found, remedy)| {
        Row::configured(Finding {
            severity,
            subject: subject.to_owned(),
            found,
            remedy: remedy.to_owned(),
        })
    })
    .into()
}

fn sqlite_row(found: cdc_wal::sqlite::Finding) -> Row {
    let severity = match found.severity {
        cdc_wal::sqlite::Severity::Ok => Severity::Ok,
        cdc_wal::sqlite::Severity::Warning => Severity::Warning,
        cdc_wal::sqlite::Severity::Error => Severity::Error,
    };
    let exit = match &*found.subject {
        cdc_wal::sqlite::RESUME => Exit::Position,
        cdc_wal::sqlite::STATE => Exit::State,
        _ => Exit::Configuration,
    };
    let mut row = Row::configured(Finding {
        severity,
        subject: found.subject,
        found: found.found,
        remedy: found.remedy,
    });
    if severity == Severity::Error {
        row.exit = exit;
    }
    row
}

/// What an emitter would get.
struct Delivery {
    name: String,
    destination: String,
    filter: String,
    after: Option<Position>,
    /// Events in the log behind that, and those of them that its filter keeps.
    waiting: Option<(u64, u64)>,
    tables: Option<Vec<String>>,
}

fn delivery(
    config: &Config,
    source: &Source,
    emitter: &EmitterConfig,
    from: &Start,
    examined: &Examined,
) -> Result<Delivery, CliError> {
    let view = LogView::Directory(match source {
        Source::Wal(dir) => dir.clone(),
        _ => StatePaths::new(&config.state_path).journal(),
    });
    let held = examined.held.as_ref();
    let log = held.and_then(|held| held.log.as_ref());
    let checkpoint = held.and_then(|held| held.checkpoint(&emitter.name));
    let after = match (checkpoint, log) {
        (Some(checkpoint), _) => Some(checkpoint.position),
        (None, Some(_)) => Some(view.locate(from)?),
        (None, None) => None,
    };
    let waiting = match (after, log) {
        // A position that is refused has its finding.
        (Some(after), Some(log)) if after >= log.oldest && after <= log.end => {
            let counted = count(emitter, &view, after, log.end)?;
            Some(counted.map_err(|error| CliError::from(cdc_core::SourceError::from(error)))?)
        }
        _ => None,
    };
    let tables = examined.tables.as_ref().map(|tables| {
        let filter = TableFilter::new(&emitter.filter.schemas, &emitter.filter.tables);
        let kept = tables.iter().filter(|table| {
            filter
                .as_ref()
                .is_ok_and(|filter| filter.keep_relation(table))
        });
        kept.map(Relation::qualified_name).collect()
    });
    Ok(Delivery {
        name: emitter.name.clone(),
        destination: validate::destination(emitter),
        filter: validate::filter(emitter),
        after,
        waiting,
        tables,
    })
}

/// Events of a range, and those of them that an emitter's filter keeps.
///
/// # Errors
/// Exit code 3 if there is no such filter; inside, the log's.
pub(crate) fn count(
    emitter: &EmitterConfig,
    view: &LogView,
    after: Position,
    stop_at: Position,
) -> Result<Result<(u64, u64), LogError>, CliError> {
    let filter = stages::filter(emitter)?;
    let (mut read, mut kept) = (0u64, 0u64);
    let mut counting = || -> Result<(u64, u64), LogError> {
        let mut tail = view.tail(StartAt::After(after))?;
        while let Some(batch) = tail.poll_batch(&BatchLimit::default())? {
            let inside = batch.events().iter().filter(|e| e.position <= stop_at);
            for event in inside {
                read += 1;
                kept += u64::from(filter.keep(event));
            }
            if batch.end() >= stop_at {
                break;
            }
        }
        Ok((read, kept))
    };
    Ok(counting())
}

impl Delivery {
    fn text(&self) -> String {
        let mut rows = vec![
            ("to".to_owned(), self.destination.clone()),
            ("gets".to_owned(), self.filter.clone()),
        ];
        match (self.after, self.waiting) {
            (Some(after), Some((read, kept))) => rows.push((
                "waiting".to_owned(),
                format!("{kept} of {read} events that are captured already, behind {after}"),
            )),
            (Some(after), None) => rows.push(("begins".to_owned(), format!("behind {after}"))),
            (None, _) => rows.push((
                "begins".to_owned(),
                "with what is captured first".to_owned(),
            )),
        }
        if let Some(tables) = &self.tables {
            let shown = tables.iter().take(TABLES_SHOWN).cloned();
            let mut shown = shown.collect::<Vec<_>>().join(", ");
            if tables.is_empty() {
                "none that is there".clone_into(&mut shown);
            } else if tables.len() > TABLES_SHOWN {
                shown.push_str(&format!(" and {} more", tables.len() - TABLES_SHOWN));
            }
            rows.push(("tables".to_owned(), shown));
        }
        let lines = crate::output::pairs(&rows);
        let lines: String = lines.lines().map(|line| format!("  {line}\n")).collect();
        format!("emitter {}\n{lines}", self.name)
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "destination": self.destination,
            "gets": self.filter,
            "after": self.after.map(|after| after.to_string()),
            "captured_events": self.waiting.map(|(read, _)| read),
            "kept_events": self.waiting.map(|(_, kept)| kept),
            "tables": self.tables,
        })
    }
}

/// What of the dead letters a start would stumble over, if anything: the queue does not open, or has
/// letters of another history.
fn dead_letters(config: &Config, held: Option<&Held>, source: Option<&SourceState>) -> Option<Row> {
    let row = |exit, error: String| {
        let subject = "dead letters";
        Some(Row::new(Severity::Error, exit, subject, error, ""))
    };
    let letters = match DlqReader::open(&StdStorage, &config.dead_letters.path) {
        Ok(letters) => letters,
        Err(error) => return row(Exit::of_dead_letters(&error), error.to_string()),
    };
    let log = held.and_then(|held| held.log.as_ref());
    let lineage = match (source, log) {
        (Some(source), _) => source.lineage,
        (None, log) => log?.source.lineage,
    };
    let begins = match (log, source) {
        (Some(log), _) => log.oldest,
        (None, source) => Position::before(source.map(|s| s.confirmed.unwrap_or(s.end))?),
    };
    for emitter in &config.emitters {
        let stored = held.and_then(|held| held.checkpoint(&emitter.name));
        let behind = stored.map_or(begins, |checkpoint| checkpoint.position);
        let mut other = None;
        let looked = letters.scan(&LetterFilter::emitter(&*emitter.name), |letter| {
            if letter.is_of(&lineage, behind) {
                return ControlFlow::Continue(());
            }
            other = Some(letter);
            ControlFlow::Break(())
        });
        if let Err(error) = looked {
            return row(Exit::of_dead_letters(&error), error.to_string());
        }
        if let Some(letter) = other {
            let error = LaneError::OtherHistory {
                emitter: emitter.name.as_str().into(),
                event: letter.event_id().to_string(),
                found: letter.source.lineage,
                lineage,
            };
            return row(Exit::Position, error.to_string());
        }
    }
    None
}

/// A destination that a start could not make: certificates that cannot be read, say.
fn destination(emitter: &EmitterConfig) -> Option<Row> {
    let error = lanes::can_be_made(emitter).err()?;
    let subject = format!("{} of {}", emitter.destination.kind(), emitter.name);
    let remedy = "mend that, or the key that names it; `run` would stop this emitter";
    Some(Row::new(
        Severity::Error,
        Exit::EmitterStopped,
        subject,
        error.line(),
        remedy,
    ))
}

/// The directories `run` writes to: there and writable, or creatable.
fn directories(config: &Config) -> Vec<Row> {
    [
        ("state_path", &config.state_path),
        ("dlq_path", &config.dead_letters.path),
    ]
    .into_iter()
    .map(|(key, path)| {
        // A relative path begins where we are.
        let here = |path: &Path| path.as_os_str().is_empty();
        let nearest = path.ancestors().find(|p| p.exists() || here(p));
        let nearest = nearest.filter(|path| !here(path)).unwrap_or(Path::new("."));
        let writable = if nearest.is_dir() {
            let all = rustix::fs::Access::READ_OK
                | rustix::fs::Access::WRITE_OK
                | rustix::fs::Access::EXEC_OK;
            rustix::fs::access(nearest, all)
        } else {
            Err(rustix::io::Errno::NOTDIR)
        };
        match writable {
            Ok(()) => room(key, path, nearest),
            Err(error) => Row::new(
                Severity::Error,
                Exit::State,
                key,
                format!(
                    "{} cannot be written: {}",
                    path.display(),
                    std::io::Error::from(error)
                ),
                "create the directory for this user, or set the key to another one",
            ),
        }
    })
    .collect()
}

/// A directory that may be written, and the room it has.
fn room(key: &str, path: &Path, nearest: &Path) -> Row {
    /// A segment of the journal: less would stop capture at the next one.
    const NEEDED: u64 = 64 << 20;
    let found = format!("{} is writable", path.display());
    let Ok(disk) = rustix::fs::statvfs(nearest) else {
        return Row::ok(key, found);
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let found = format!("{found}, {} free", bytes_text(free));
    if free >= NEEDED {
        return Row::ok(key, found);
    }
    Row::new(
        Severity::Warning,
        Exit::Done,
        key,
        found,
        "free some space: capture and dead letters wait or stop where there is none",
    )
}

const fn name(severity: Severity) -> &'static str {
    match severity {
        Severity::Ok => "ok",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

fn text(source: &str, rows: &[Row]) -> String {
    let mut out = format!("{source}\n");
    let width = rows
        .iter()
        .map(|row| row.finding.subject.chars().count())
        .max()
        .unwrap_or(0);
    for Row { finding: f, .. } in rows {
        out.push_str(&format!(
            "  {:<7}  {:<width$}  {}\n",
            name(f.severity),
            f.subject,
            f.found
        ));
        if !f.remedy.is_empty() {
            out.push_str(&format!("  {:<7}  {:<width$}  -> {}\n", "", "", f.remedy));
        }
    }
    out
}
