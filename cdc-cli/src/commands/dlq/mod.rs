//! `dlq`: dead letters, listed, shown, sent again, given up, taken elsewhere.

mod import;
mod redrive;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::ops::ControlFlow;

use cdc_core::storage::StdStorage;
use cdc_core::{DlqError, EventId, LetterState};
use cdc_dlq::{DlqReader, LetterFilter};
use serde_json::json;

use super::block_on;
use crate::args::{
    DlqCommand, DlqDiscardArgs, DlqExportArgs, DlqLsArgs, DlqShowArgs, Global, LetterSelection,
    OutputFormat,
};
use crate::assemble::control::{self, Reply, Request};
use crate::assemble::dead_letters;
use crate::assemble::state::StatePaths;
use crate::config::Config;
use crate::exit::Exit;
use crate::output::{answer, finish, pairs, print, print_json};
use crate::pretty;
use crate::report::CliError;
use crate::time;

pub(crate) fn run(command: &DlqCommand, global: &Global) -> Result<Exit, CliError> {
    let config = global.load()?;
    match command {
        DlqCommand::Ls(args) => ls(args, global, &config),
        DlqCommand::Show(args) => show(args, global, &config),
        DlqCommand::Redrive(args) => redrive::run(args, global, &config),
        DlqCommand::Discard(args) => discard(args, global, &config),
        DlqCommand::Export(args) => export(args, global, &config),
        DlqCommand::Import(args) => import::run(args, global, &config),
        DlqCommand::Stats(_) => stats(global, &config),
    }
}

/// Most ids of one request to a running process: far below what it reads of one line.
const IDS_MAX: usize = 100_000;

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
    let key = selection.key.as_deref().map(|key| {
        key.parse()
            .map_err(|error| CliError::from_error(Exit::Usage, error))
    });
    Ok(LetterFilter {
        emitter: selection.emitter.clone(),
        table: selection.table.clone(),
        key: key.transpose()?,
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
    let mut wanted = BTreeSet::new();
    for id in ids {
        let id: Result<EventId, _> = id.parse();
        wanted.insert(id.map_err(|error| CliError::from_error(Exit::Usage, error))?);
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

/// Refuses to work on the letters of an emitter that nobody knows: most likely its name is misspelt.
fn known(
    config: &Config,
    selection: &LetterSelection,
    found: &BTreeMap<String, Vec<EventId>>,
) -> Result<(), CliError> {
    let Some(name) = &selection.emitter else {
        return Ok(());
    };
    if !found.is_empty() || config.emitter(name).is_some() {
        return Ok(());
    }
    let name: String = name.chars().take(80).collect();
    let names = config.emitters.iter().map(|emitter| emitter.name.as_str());
    Err(CliError::new(
        Exit::Usage,
        format!(
            "select dead letters of emitter {name:?}: none are open, and the configuration has no such emitter, only {}; `dlq ls` lists all",
            names.collect::<Vec<_>>().join(", ")
        ),
    ))
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
        // The list names events; `dlq show` and `dlq export` show their rows.
        let rows = letters.iter().map(|letter| pretty::letter(letter, false));
        print_json(&json!({ "letters": rows.collect::<Vec<_>>(), "more": more }))?;
        return Ok(Exit::Done);
    }
    if letters.is_empty() {
        print(&nothing(&reader)?)?;
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

/// What is said where no letter was selected: a name that is spelled wrongly should not read as an empty
/// queue.
fn nothing(reader: &DlqReader) -> Result<String, CliError> {
    let mut open: BTreeMap<String, u64> = BTreeMap::new();
    for (emitter, _) in reader.ids(&LetterFilter::default())? {
        *open.entry(emitter).or_default() += 1;
    }
    if open.is_empty() {
        return Ok("no dead letters\n".into());
    }
    let open = open
        .iter()
        .map(|(emitter, count)| format!("{count} of {emitter}"));
    let open: Vec<_> = open.collect();
    Ok(format!(
        "no dead letter is selected; open are {}\n",
        open.join(", ")
    ))
}

fn show(args: &DlqShowArgs, global: &Global, config: &Config) -> Result<Exit, CliError> {
    let reader = reader(config)?;
    let mut shown = false;
    for (emitter, ids) in selected(&reader, &args.ids, &args.selection)? {
        for id in ids {
            let Some(letter) = reader.get(&emitter, id)? else {
                continue;
            };
            let row = pretty::letter(&letter, true);
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
            let gap = if shown { "\n" } else { "" };
            shown = true;
            print(&format!("{gap}{}event\n{:#}\n", pairs(&rows), row["event"]))?;
        }
    }
    if !shown && global.output == OutputFormat::Text {
        print(&nothing(&reader)?)?;
    }
    Ok(Exit::Done)
}

fn discard(args: &DlqDiscardArgs, global: &Global, config: &Config) -> Result<Exit, CliError> {
    let found = selected(&reader(config)?, &args.ids, &args.selection)?;
    known(config, &args.selection, &found)?;
    if !args.yes && args.ids.is_empty() {
        counted("would be discarded", &found, global)?;
        return Err(CliError::new(
            Exit::Usage,
            "discard dead letters by selection: their events will never be delivered; say --yes if that is meant",
        ));
    }
    let mut done: BTreeMap<String, u64> = BTreeMap::new();
    for (emitter, ids) in found {
        let mut count = 0;
        for ids in ids.chunks(IDS_MAX) {
            let request = Request::Discard {
                emitter: emitter.clone(),
                ids: ids.iter().map(ToString::to_string).collect(),
            };
            count += match ask(config, &request)? {
                Some(Reply::Discarded { count }) => count,
                Some(other) => return Err(refused(other)),
                None => {
                    let letters = ids.iter().map(|id| (emitter.as_str(), *id));
                    dead_letters::open(config)?.set_states(letters, LetterState::Discarded)?
                }
            };
        }
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

fn export(args: &DlqExportArgs, global: &Global, config: &Config) -> Result<Exit, CliError> {
    let reader = reader(config)?;
    let filter = filter(&args.selection)?;
    let Some(path) = &args.to else {
        let mut out = io::BufWriter::new(io::stdout().lock());
        match reader.export(&filter, &mut out) {
            // `| head`
            Err(DlqError::Io { cause, .. }) if cause.kind() == io::ErrorKind::BrokenPipe => {
                return Ok(Exit::Done);
            }
            written => drop(written?),
        }
        finish(out.flush())?;
        return Ok(Exit::Done);
    };
    use std::os::unix::fs::OpenOptionsExt as _;
    let refuse = |cause| {
        CliError::new(
            Exit::Runtime,
            format!(
                "write dead letters to {}: name a file that is not there yet, on a disk with room",
                path.display()
            ),
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
    let count = reader.export(&filter, &mut out)?;
    let file = out
        .into_inner()
        .map_err(|error| refuse(error.into_error()))?;
    file.sync_all().map_err(refuse)?;
    answer(
        global.output,
        || format!("{}: {count} letters\n", path.display()),
        || json!({ "file": path.display().to_string(), "letters": count }),
    )?;
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
