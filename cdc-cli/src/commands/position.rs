//! `position`: where each emitter stands, and moving it.

use std::path::Path;

use cdc_core::checkpoint::FileCheckpoints;
use cdc_core::storage::StdStorage;
use cdc_core::{Checkpoint, CheckpointStore, Lineage, Position, ResumeToken, wall_micros};
use serde_json::json;

use crate::args::{Global, PositionCommand, PositionSetArgs, PositionShowArgs};
use crate::assemble::control::{self, Reply, Request};
use crate::assemble::source::wal_error;
use crate::assemble::start::{LogView, Start};
use crate::assemble::state::{State, StatePaths, is_there};
use crate::config::{Config, Source};
use crate::exit::Exit;
use crate::output::{answer, pairs};
use crate::report::CliError;

pub(crate) fn run(command: &PositionCommand, global: &Global) -> Result<Exit, CliError> {
    match command {
        PositionCommand::Show(args) => show(args, global),
        PositionCommand::Set(args) => set(args, global),
    }
}

/// Reads the checkpoints of a state directory, running or not.
///
/// # Errors
/// Exit code 7 if the file is damaged; a directory without checkpoints has none.
pub(crate) fn checkpoints(paths: &StatePaths) -> Result<Vec<(String, Checkpoint)>, CliError> {
    let path = paths.checkpoints();
    if !is_there(&path)? {
        return Ok(Vec::new());
    }
    Ok(FileCheckpoints::peek(&StdStorage, &path)?)
}

fn show(args: &PositionShowArgs, global: &Global) -> Result<Exit, CliError> {
    let config = global.load()?;
    let mut stored = checkpoints(&StatePaths::new(&config.state_path))?;
    if let Some(emitter) = &args.emitter {
        stored.retain(|(name, _)| name == emitter);
    }
    let token = |c: &Checkpoint| ResumeToken::new(c.lineage, c.position).to_string();
    answer(
        global.output,
        || match stored.as_slice() {
            [] => format!("no checkpoints in {}\n", config.state_path.display()),
            some => some
                .iter()
                .map(|(name, c)| {
                    let rows = [
                        ("emitter".to_owned(), name.clone()),
                        ("position".to_owned(), c.position.to_string()),
                        ("source".to_owned(), c.lineage.to_string()),
                        ("token".to_owned(), token(c)),
                    ];
                    pairs(&rows)
                })
                .collect::<Vec<_>>()
                .join("\n"),
        },
        || {
            let rows = stored.iter().map(|(name, c)| {
                json!({
                    "emitter": name,
                    "position": c.position.to_string(),
                    "lineage": c.lineage.to_string(),
                    "token": token(c),
                    "stored_micros": c.stored_micros,
                })
            });
            json!({ "checkpoints": rows.collect::<Vec<_>>() })
        },
    )?;
    Ok(Exit::Done)
}

fn set(args: &PositionSetArgs, global: &Global) -> Result<Exit, CliError> {
    let config = global.load()?;
    if config.emitter(&args.emitter).is_none() {
        let names: Vec<_> = config.emitters.iter().map(|e| e.name.as_str()).collect();
        return Err(CliError::new(
            Exit::Configuration,
            format!(
                "move emitter {}: there is none of this name; there are {}",
                args.emitter,
                names.join(", ")
            ),
        ));
    }
    let paths = StatePaths::new(&config.state_path);
    let log = match &config.source {
        Some(Source::Wal(dir)) => dir.clone(),
        _ => paths.journal(),
    };
    if args.replace_damaged {
        return replace_damaged(args, global, &config, &log);
    }
    let stored = checkpoints(&paths)?
        .into_iter()
        .find(|(name, _)| *name == args.emitter)
        .map(|(_, checkpoint)| checkpoint);
    let (lineage, position) = target(&args.to, &log, stored.as_ref())?;
    if let Some(stored) = &stored
        && !token_fits(&lineage, &stored.lineage)
    {
        return Err(CliError::new(
            Exit::Position,
            format!(
                "move emitter {}: the token belongs to source {lineage}, its checkpoint to {}; use a token of this source",
                args.emitter, stored.lineage
            ),
        ));
    }
    if !args.yes
        && stored
            .as_ref()
            .is_some_and(|stored| position > stored.position)
    {
        return Err(CliError::new(
            Exit::Position,
            format!(
                "move emitter {} forward to {position}: the events in between would never be delivered to it; say --yes if that is meant",
                args.emitter
            ),
        ));
    }
    let request = Request::Move {
        emitter: args.emitter.clone(),
        to: position.to_string(),
    };
    let asked = super::block_on(control::ask(&paths.control(), &request))?;
    let asked = asked.map_err(|cause| {
        let path = config.state_path.display();
        CliError::new(
            Exit::Runtime,
            format!("ask the process that runs on {path}"),
        )
        .with_cause(cause)
    })?;
    match asked {
        // The lane moves itself, between two requests.
        Some(Reply::Moved { from }) => return moved(args, global, Some(&from), position),
        Some(Reply::Refused { reason }) => {
            return Err(CliError::new(
                Exit::Position,
                format!("move emitter {}: {reason}", args.emitter),
            ));
        }
        Some(_) => {
            return Err(CliError::new(
                Exit::Runtime,
                "ask the running process: it answered something else; it may be of another version",
            ));
        }
        None => {}
    }
    // The lock: moving a position under a running process would be undone by its next checkpoint.
    let state = State::open(&config.state_path)?;
    // The emitter's own state belongs to the old position: without it a file emitter begins a new
    // file instead of cutting one in the wrong place.
    let target = Checkpoint {
        lineage,
        position,
        state: bytes::Bytes::new(),
        stored_micros: wall_micros(),
    };
    state.checkpoints.reset(&args.emitter, Some(&target))?;
    let before = stored.map(|c| c.position.to_string());
    moved(args, global, before.as_deref(), position)
}

/// Moves an emitter whose checkpoint cannot be read any more: a new file, with a checkpoint of every
/// emitter, takes the place of the damaged one, which is kept. One without a checkpoint would begin
/// where a new one begins, and skip what was not delivered.
fn replace_damaged(
    args: &PositionSetArgs,
    global: &Global,
    config: &Config,
    log: &Path,
) -> Result<Exit, CliError> {
    let (lineage, position) = target(&args.to, log, None)?;
    let earliest = target("earliest", log, None)?;
    if !token_fits(&lineage, &earliest.0) {
        return Err(CliError::new(
            Exit::Position,
            format!(
                "move emitter {}: the token belongs to source {lineage}, what is captured here to {}; use a token of this source",
                args.emitter, earliest.0
            ),
        ));
    }
    if !args.yes && position > earliest.1 {
        return Err(CliError::new(
            Exit::Position,
            format!(
                "move emitter {} to {position}: nobody knows how far it was, and what is between {} and there would not be delivered again; say earliest, or --yes if that is meant",
                args.emitter, earliest.1
            ),
        ));
    }
    let stored_micros = wall_micros();
    let entries = config.emitters.iter().map(|emitter| {
        let (lineage, position) = if emitter.name == args.emitter {
            (lineage, position)
        } else {
            earliest
        };
        let checkpoint = Checkpoint {
            lineage,
            position,
            state: bytes::Bytes::new(),
            stored_micros,
        };
        (emitter.name.clone(), checkpoint)
    });
    let kept = State::replace_damaged(&config.state_path, &entries.collect::<Vec<_>>())?;
    let others: Vec<_> = config.emitters.iter().map(|e| e.name.as_str()).collect();
    let others: Vec<_> = others.into_iter().filter(|n| *n != args.emitter).collect();
    answer(
        global.output,
        || {
            let mut text = format!("emitter {}: damaged -> {position}\n", args.emitter);
            for name in &others {
                text.push_str(&format!("emitter {name}: damaged -> {}\n", earliest.1));
            }
            text.push_str(&format!(
                "the damaged checkpoints are in {}\n",
                kept.display()
            ));
            text
        },
        || {
            json!({
                "emitter": args.emitter,
                "before": null,
                "after": position.to_string(),
                "others": others,
                "others_after": earliest.1.to_string(),
                "damaged": kept,
            })
        },
    )?;
    Ok(Exit::Done)
}

/// Says what happened.
fn moved(
    args: &PositionSetArgs,
    global: &Global,
    before: Option<&str>,
    position: Position,
) -> Result<Exit, CliError> {
    answer(
        global.output,
        || {
            format!(
                "emitter {}: {} -> {position}\n",
                args.emitter,
                before.unwrap_or("no checkpoint"),
            )
        },
        || json!({ "emitter": args.emitter, "before": before, "after": position.to_string() }),
    )?;
    Ok(Exit::Done)
}

fn token_fits(token: &Lineage, stored: &Lineage) -> bool {
    token.same_source(stored)
}

/// The position a text names: a resume token, a position of the checkpoint's source, or an end of
/// the log the lanes read: the journal, or the engine's own. A token or a position that the log does
/// not have is refused as it is with `--from`; where the log cannot be read nobody knows, and the
/// next start looks.
fn target(
    to: &str,
    log: &Path,
    stored: Option<&Checkpoint>,
) -> Result<(Lineage, Position), CliError> {
    let to = to.trim();
    let view = LogView::Directory(log.to_path_buf());
    let extent = view.extent();
    let refused = |refusal| CliError::from_error(Exit::Position, refusal);
    if ResumeToken::is_meant(to) {
        let token: ResumeToken = to.parse()?;
        let named = (*token.lineage(), token.position());
        if let Ok(extent) = extent {
            extent.position(&Start::Token(token)).map_err(refused)?;
        }
        return Ok(named);
    }
    if ["earliest", "latest"].contains(&to)
        || to.starts_with("position:")
        || to.starts_with("time:")
    {
        let extent = extent.map_err(|error| wal_error(log, error))?;
        let position = view.locate(&to.parse::<Start>()?)?;
        return Ok((*extent.lineage(), position));
    }
    let position: Position = to
        .parse()
        .map_err(|error| CliError::from_error(Exit::Position, error))?;
    match (stored, extent) {
        (Some(_), Ok(extent)) => {
            let position = extent.position(&Start::Position(position));
            Ok((*extent.lineage(), position.map_err(refused)?))
        }
        (Some(stored), Err(_)) => Ok((stored.lineage, position)),
        (None, _) => Err(CliError::new(
            Exit::Position,
            "it has no checkpoint that says which source it belongs to; give a resume token instead of a position",
        )),
    }
}
