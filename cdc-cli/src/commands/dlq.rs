//! `dlq`: dead letters, listed, shown, sent again, given up.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use cdc_core::storage::StdStorage;
use cdc_core::{EventId, LetterState};
use cdc_dlq::{DlqReader, LetterFilter, letter_json};
use serde_json::{Value, json};

use super::block_on;
use crate::args::{
    DlqCommand, DlqDiscardArgs, DlqExportArgs, DlqLsArgs, DlqRedriveArgs, DlqShowArgs, Global,
    LetterSelection, OutputFormat,
};
use crate::assemble::control::{self, Redriven, Reply, Request};
use crate::assemble::state::StatePaths;
use crate::assemble::{dead_letters, redrive};
use crate::config::Config;
use crate::exit::Exit;
use crate::output::{answer, finish, pairs, print, print_json};
use crate::report::CliError;
use crate::time;

pub(crate) fn run(command: &DlqCommand, global: &Global) -> Result<Exit, CliError> {
    let config = global.load()?;
    match command {
        DlqCommand::Ls(args) => ls(args, global, &config),
        DlqCommand::Show(args) => show(args, global, &config),
        DlqCommand::Redrive(args) => redrive(args, global, &config),
        DlqCommand::Discard(args) => discard(args, global, &config),
        DlqCommand::Export(args) => export(args, &config),
        DlqCommand::Stats(_) => stats(global, &config),
    }
}

fn reader(config: &Config) -> Result<DlqReader, CliError> {
    Ok(DlqReader::open(&StdStorage, &config.dead_letters.path)?)
}

fn filter(selection: &LetterSelection) -> Result<LetterFilter, CliError> {
    const OPEN: [LetterState; 3] = [
        LetterState::Pending,
        LetterState::Parked,
        LetterState::Redriving,
    ];
    let state =
        selection.state.as_ref().map(|name| {
            OPEN.into_iter().find(|state| state.name() == name).ok_or_else(|| {
            CliError::new(
                Exit::Usage,
                format!("select letters in state {name}: there are pending, parked and redriving"),
            )
        })
        });
    let micros = |text: &Option<String>| {
        let now = cdc_core::wall_micros();
        let parsed = text.as_ref().map(|text| {
            time::parse(text, now).ok_or_else(|| {
                let text: String = text.chars().take(80).collect();
                CliError::new(
                    Exit::Usage,
                    format!("read the time {text:?}; {}", time::TIME_HELP),
                )
            })
        });
        parsed.transpose()
    };
    Ok(LetterFilter {
        emitter: selection.emitter.clone(),
        table: selection.table.clone(),
        class: selection.class.clone(),
        state: state.transpose()?,
        since_micros: micros(&selection.since)?,
        until_micros: micros(&selection.until)?,
        ..LetterFilter::default()
    })
}

/// Ids by emitter: those that were named, or all that are selected.
fn selected(
    reader: &DlqReader,
    ids: &[String],
    selection: &LetterSelection,
) -> Result<BTreeMap<String, Vec<EventId>>, CliError> {
    let mut wanted = Vec::with_capacity(ids.len());
    for id in ids {
        let id: Result<EventId, _> = id.parse();
        wanted.push(id.map_err(|error| CliError::from_error(Exit::Usage, error))?);
    }
    let mut found: BTreeMap<String, Vec<EventId>> = BTreeMap::new();
    for (emitter, id) in reader.ids(&filter(selection)?)? {
        if wanted.is_empty() || wanted.contains(&id) {
            found.entry(emitter).or_default().push(id);
        }
    }
    for id in &wanted {
        if !found.values().any(|ids| ids.contains(id)) {
            return Err(CliError::new(
                Exit::Usage,
                format!("find dead letter {id}: there is none that is open; `dlq ls` lists them"),
            ));
        }
    }
    Ok(found)
}

fn ls(args: &DlqLsArgs, global: &Global, config: &Config) -> Result<Exit, CliError> {
    let reader = reader(config)?;
    let (mut letters, mut more) = (Vec::new(), false);
    reader.scan(&filter(&args.selection)?, |letter| {
        if letters.len() as u64 == u64::from(args.limit) {
            more = true;
            return ControlFlow::Break(());
        }
        letters.push(letter);
        ControlFlow::Continue(())
    })?;
    if global.output == OutputFormat::Json {
        let rows = letters.iter().map(|letter| {
            let mut text = Vec::new();
            letter_json(letter, &mut text);
            let mut row: Value = serde_json::from_slice(&text).unwrap_or_default();
            // The list names events; `dlq show` and `dlq export` show their rows.
            if let Some(object) = row.as_object_mut() {
                let event = object.remove("event").unwrap_or_default();
                for name in ["position", "op", "schema", "table"] {
                    object.insert(name.to_owned(), event[name].clone());
                }
            }
            row
        });
        print_json(&json!({ "letters": rows.collect::<Vec<_>>(), "more": more }))?;
        return Ok(Exit::Done);
    }
    if letters.is_empty() {
        print("no dead letters\n")?;
        return Ok(Exit::Done);
    }
    let mut text = String::new();
    for letter in &letters {
        let failure = &letter.failure;
        text.push_str(&format!(
            "{}  {:<8}  {}  {} {}  {} x{}  {}\n",
            letter.event_id(),
            letter.state.name(),
            letter.emitter,
            letter.event.op,
            letter.event.relation.qualified_name(),
            failure.class,
            letter.attempts,
            failure.message,
        ));
    }
    if more {
        text.push_str(&format!("and more; {} in all\n", reader.len()));
    }
    print(&text)?;
    Ok(Exit::Done)
}

fn show(args: &DlqShowArgs, global: &Global, config: &Config) -> Result<Exit, CliError> {
    let reader = reader(config)?;
    let selection = LetterSelection {
        emitter: args.emitter.clone(),
        ..LetterSelection::default()
    };
    for (emitter, ids) in selected(&reader, std::slice::from_ref(&args.id), &selection)? {
        for id in ids {
            let Some(letter) = reader.get(&emitter, id)? else {
                continue;
            };
            let mut text = Vec::new();
            letter_json(&letter, &mut text);
            let row: Value = serde_json::from_slice(&text).unwrap_or_default();
            if global.output == OutputFormat::Json {
                print_json(&row)?;
                continue;
            }
            let rows: Vec<_> = row
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(name, value)| *name != "event" && !value.is_null())
                .map(|(name, value)| {
                    let plain = value
                        .as_str()
                        .map_or_else(|| value.to_string(), str::to_owned);
                    (name.clone(), plain)
                })
                .collect();
            print(&format!("{}event\n{:#}\n", pairs(&rows), row["event"]))?;
        }
    }
    Ok(Exit::Done)
}

fn redrive(args: &DlqRedriveArgs, global: &Global, config: &Config) -> Result<Exit, CliError> {
    let found = selected(&reader(config)?, &args.ids, &args.selection)?;
    if args.dry_run {
        return counted("would be redriven", &found, global);
    }
    let everything = args.ids.is_empty()
        && args.selection.table.is_none()
        && args.selection.class.is_none()
        && args.selection.state.is_none()
        && args.selection.since.is_none()
        && args.selection.until.is_none()
        && args.rate.is_none();
    let mut reports = Vec::new();
    for (emitter, ids) in found {
        // All of an emitter: also what dies while this runs.
        let ids = if everything { Vec::new() } else { ids };
        let report = match args.rate {
            Some(rate) => redrive_slowly(config, &emitter, &ids, args.as_was, rate)?,
            None => redrive_one(config, &emitter, ids, args.as_was)?,
        };
        reports.push((emitter, report));
    }
    let failed = reports
        .iter()
        .any(|(_, r)| r.failed > 0 || r.stopped.is_some());
    answer(
        global.output,
        || {
            if reports.is_empty() {
                return "no dead letters\n".to_owned();
            }
            let line = |(emitter, r): &(String, Redriven)| {
                let stopped = r
                    .stopped
                    .as_ref()
                    .map_or_else(String::new, |why| format!("; stopped: {why}"));
                format!(
                    "{emitter}: {} delivered, {} failed again, {} left alone{stopped}\n",
                    r.delivered, r.failed, r.skipped
                )
            };
            reports.iter().map(line).collect()
        },
        || json!({ "redriven": reports.iter().map(|(e, r)| (e.clone(), json!(r))).collect::<serde_json::Map<_, _>>() }),
    )?;
    Ok(if failed { Exit::Partly } else { Exit::Done })
}

/// A second's worth of letters at a time, in order; a key's later letters follow in a later part.
fn redrive_slowly(
    config: &Config,
    emitter: &str,
    ids: &[EventId],
    as_was: bool,
    rate: u32,
) -> Result<Redriven, CliError> {
    let mut sum = Redriven::default();
    let mut due = Instant::now();
    let progress = io::stderr().is_terminal();
    for part in ids.chunks(usize::try_from(rate).unwrap_or(usize::MAX)) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due = Instant::now() + Duration::from_secs(1);
        let report = redrive_one(config, emitter, part.to_vec(), as_was)?;
        sum.delivered += report.delivered;
        sum.failed += report.failed;
        sum.stopped = report.stopped;
        if progress {
            let line = format!(
                "\r{emitter}: {} of {} delivered, {} failed",
                sum.delivered,
                ids.len(),
                sum.failed
            );
            drop(io::stderr().write_all(line.as_bytes()));
        }
        if sum.stopped.is_some() {
            break;
        }
    }
    if progress {
        drop(io::stderr().write_all(b"\r\x1b[K"));
    }
    // Each part leaves the letters of all others alone: what counts is what nobody dealt with.
    sum.skipped = (ids.len() as u64).saturating_sub(sum.delivered + sum.failed);
    Ok(sum)
}

/// Asks the running process, or does it here if there is none.
fn redrive_one(
    config: &Config,
    emitter: &str,
    ids: Vec<EventId>,
    as_was: bool,
) -> Result<Redriven, CliError> {
    let request = Request::Redrive {
        emitter: emitter.to_owned(),
        ids: ids.iter().map(ToString::to_string).collect(),
        as_was,
    };
    match ask(config, &request)? {
        Some(Reply::Redrive(report)) => Ok(report),
        Some(other) => Err(refused(other)),
        None => redrive::offline(config, emitter, ids, as_was),
    }
}

fn discard(args: &DlqDiscardArgs, global: &Global, config: &Config) -> Result<Exit, CliError> {
    let found = selected(&reader(config)?, &args.ids, &args.selection)?;
    if !args.yes && args.ids.is_empty() {
        counted("would be discarded", &found, global)?;
        return Err(CliError::new(
            Exit::Usage,
            "discard dead letters by selection: their events will never be delivered; say --yes if that is meant",
        ));
    }
    let mut done: BTreeMap<String, u64> = BTreeMap::new();
    for (emitter, ids) in found {
        let request = Request::Discard {
            emitter: emitter.clone(),
            ids: ids.iter().map(ToString::to_string).collect(),
        };
        let count = match ask(config, &request)? {
            Some(Reply::Discarded { count }) => count,
            Some(other) => return Err(refused(other)),
            None => {
                let letters = ids.iter().map(|id| (emitter.as_str(), *id));
                dead_letters::open(config)?.set_states(letters, LetterState::Discarded)?
            }
        };
        done.insert(emitter, count);
    }
    answer(
        global.output,
        || {
            done.iter()
                .map(|(emitter, count)| format!("{emitter}: {count} discarded\n"))
                .collect()
        },
        || json!({ "discarded": done }),
    )?;
    Ok(Exit::Done)
}

fn ask(config: &Config, request: &Request) -> Result<Option<Reply>, CliError> {
    let path = StatePaths::new(&config.state_path).control();
    block_on(control::ask(&path, request))?.map_err(|cause| {
        CliError::new(
            Exit::Runtime,
            format!(
                "ask the process that runs on {}",
                config.state_path.display()
            ),
        )
        .with_cause(cause)
    })
}

fn refused(reply: Reply) -> CliError {
    let reason = match reply {
        Reply::Refused { reason } => reason,
        _ => "it answered something else; it may be of another version".to_owned(),
    };
    CliError::new(Exit::Runtime, format!("ask the running process: {reason}"))
}

fn counted(
    what: &str,
    found: &BTreeMap<String, Vec<EventId>>,
    global: &Global,
) -> Result<Exit, CliError> {
    answer(
        global.output,
        || {
            found
                .iter()
                .map(|(emitter, ids)| format!("{emitter}: {} {what}\n", ids.len()))
                .collect()
        },
        || json!({ "dry_run": true, "letters": found.iter().map(|(e, ids)| (e.clone(), json!(ids.len()))).collect::<serde_json::Map<_, _>>() }),
    )?;
    Ok(Exit::Done)
}

fn export(args: &DlqExportArgs, config: &Config) -> Result<Exit, CliError> {
    let reader = reader(config)?;
    let filter = filter(&args.selection)?;
    let Some(path) = &args.to else {
        let mut out = io::BufWriter::new(io::stdout().lock());
        reader.export(&filter, &mut out)?;
        finish(out.flush())?;
        return Ok(Exit::Done);
    };
    use std::os::unix::fs::OpenOptionsExt as _;
    let refuse = |cause| {
        CliError::new(
            Exit::Runtime,
            format!("write dead letters to {}", path.display()),
        )
        .with_cause(cause)
    };
    // 0600: letters hold rows.
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let mut out = io::BufWriter::new(file.map_err(refuse)?);
    reader.export(&filter, &mut out)?;
    out.flush().map_err(refuse)?;
    Ok(Exit::Done)
}

fn stats(global: &Global, config: &Config) -> Result<Exit, CliError> {
    let stats = reader(config)?.stats();
    answer(
        global.output,
        || {
            let mut text = format!("{} open letters in {} bytes\n", stats.letters, stats.bytes);
            for group in &stats.groups {
                text.push_str(&format!(
                    "  {:<20} {:<9} {:<14} {}\n",
                    group.emitter,
                    group.state.name(),
                    group.class,
                    group.letters
                ));
            }
            text
        },
        || {
            let groups = stats.groups.iter().map(|group| {
                json!({
                    "emitter": group.emitter,
                    "state": group.state.name(),
                    "class": group.class,
                    "letters": group.letters,
                    "oldest_micros": group.oldest_micros,
                })
            });
            json!({
                "letters": stats.letters,
                "bytes": stats.bytes,
                "live_bytes": stats.live_bytes,
                "segments": stats.segments,
                "groups": groups.collect::<Vec<_>>(),
            })
        },
    )?;
    Ok(Exit::Done)
}
