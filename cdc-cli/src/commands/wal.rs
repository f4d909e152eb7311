//! `wal`: a log on disk, described, printed, checked, repaired.

use std::io::{self, Write as _};
use std::path::PathBuf;

use cdc_core::storage::StdStorage;
use cdc_core::{Image, Lsn, SourceError};
use cdc_wal::inspect::{ChangeInfo, FrameInfo, Inspector};
use cdc_wal::repair::{self, RepairMode};
use cdc_wal::{LogError, LogErrorKind};
use serde_json::json;

use crate::args::{Global, OutputFormat, WalCommand, WalDumpArgs, WalRepairArgs};
use crate::assemble::source::wal_error;
use crate::assemble::state::StatePaths;
use crate::exit::Exit;
use crate::output::{answer, bytes_text, finish, pairs};
use crate::report::CliError;

pub(crate) fn run(command: &WalCommand, global: &Global) -> Result<Exit, CliError> {
    match command {
        WalCommand::Info(args) => info(&directory(args.directory.as_ref(), global)?, global),
        WalCommand::Verify(args) => verify(&directory(args.directory.as_ref(), global)?, global),
        WalCommand::Repair(args) => {
            repair_log(args, &directory(args.directory.as_ref(), global)?, global)
        }
        WalCommand::Dump(args) => dump(args, &directory(args.directory.as_ref(), global)?, global),
    }
}

/// The directory that was named, or the journal of the configured pipeline.
fn directory(named: Option<&PathBuf>, global: &Global) -> Result<PathBuf, CliError> {
    match named {
        Some(dir) => Ok(dir.clone()),
        None => Ok(StatePaths::new(global.load()?.state_path).journal()),
    }
}

fn open(dir: &PathBuf) -> Result<Inspector, CliError> {
    Inspector::open(StdStorage::shared(), dir).map_err(|error| wal_error(dir, error))
}

fn log_error(error: LogError) -> CliError {
    SourceError::from(error).into()
}

fn info(dir: &PathBuf, global: &Global) -> Result<Exit, CliError> {
    let log = open(dir)?;
    let segments = log.segments().map_err(log_error)?;
    let cursors = log.cursors().map_err(log_error)?;
    let source = log.source();
    let ends = segments.first().zip(segments.last());
    let bytes = ends.map_or(0, |(first, last)| last.end.0 - first.base.0);
    let position =
        |p: Option<cdc_core::Position>| p.map_or_else(|| "-".to_owned(), |p| p.to_string());
    let lsn = |lsn: Option<Lsn>| lsn.map_or_else(|| "-".to_owned(), |lsn| lsn.to_string());
    answer(
        global.output,
        || {
            let mut rows = vec![
                ("log".to_owned(), dir.display().to_string()),
                (
                    "source".to_owned(),
                    format!(
                        "{} ({}), database {}",
                        source.name, source.lineage.kind, source.database
                    ),
                ),
                ("lineage".to_owned(), source.lineage.to_string()),
                ("written".to_owned(), lsn(log.written_lsn())),
                ("flushed".to_owned(), lsn(log.flushed_lsn())),
                (
                    "segments".to_owned(),
                    format!(
                        "{} of {}, {} used",
                        segments.len(),
                        bytes_text(log.segment_bytes().into()),
                        bytes_text(bytes)
                    ),
                ),
            ];
            rows.extend(cursors.iter().map(|(name, cursor)| {
                let lost = if cursor.invalidated {
                    ", invalidated"
                } else {
                    ""
                };
                (
                    format!("cursor {name}"),
                    format!("{}{lost}", cursor.position),
                )
            }));
            let mut text = pairs(&rows);
            for segment in &segments {
                text.push_str(&format!(
                    "\n{}  {}\n  {} .. {}  positions {} .. {}\n  {} frames, {} commits, {} events, {} relations\n",
                    segment.path.file_name().unwrap_or_default().to_string_lossy(),
                    if segment.sealed { "sealed" } else { "active" },
                    segment.base,
                    segment.end,
                    position(segment.first),
                    position(segment.last),
                    segment.frames,
                    segment.commits,
                    segment.events,
                    segment.relations,
                ));
            }
            text
        },
        || {
            let rows = segments.iter().map(|segment| {
                json!({
                    "file": segment.path.display().to_string(),
                    "sealed": segment.sealed,
                    "base": segment.base.to_string(),
                    "end": segment.end.to_string(),
                    "first": segment.first.map(|p| p.to_string()),
                    "last": segment.last.map(|p| p.to_string()),
                    "frames": segment.frames,
                    "commits": segment.commits,
                    "events": segment.events,
                    "relations": segment.relations,
                })
            });
            json!({
                "directory": dir.display().to_string(),
                "source": source.name.as_ref(),
                "kind": source.lineage.kind.name(),
                "database": source.database.as_ref(),
                "lineage": source.lineage.to_string(),
                "segment_bytes": log.segment_bytes(),
                "bytes": bytes,
                "cursors": cursors
                    .iter()
                    .map(|(name, cursor)| json!({
                        "name": name,
                        "position": cursor.position.to_string(),
                        "invalidated": cursor.invalidated,
                    }))
                    .collect::<Vec<_>>(),
                "written": log.written_lsn().map(|lsn| lsn.to_string()),
                "flushed": log.flushed_lsn().map(|lsn| lsn.to_string()),
                "segments": rows.collect::<Vec<_>>(),
            })
        },
    )?;
    Ok(Exit::Done)
}

fn verify(dir: &PathBuf, global: &Global) -> Result<Exit, CliError> {
    let report = open(dir)?.verify().map_err(log_error)?;
    let damage = report.damage.as_ref();
    answer(
        global.output,
        || {
            let mut text = format!(
                "{} segments, {} bytes, {} frames, {} commits, {} events\n",
                report.segments, report.bytes, report.frames, report.commits, report.events
            );
            match damage {
                None => text.push_str("every frame is whole\n"),
                Some(damage) => text.push_str(&format!(
                    "{} at byte {} of {} (LSN {}): {}\n",
                    if damage.torn_tail {
                        "torn tail"
                    } else {
                        "DAMAGE"
                    },
                    damage.offset,
                    damage.path.display(),
                    damage.lsn,
                    damage.what
                )),
            }
            text
        },
        || {
            json!({
                "segments": report.segments,
                "bytes": report.bytes,
                "frames": report.frames,
                "commits": report.commits,
                "events": report.events,
                "ok": damage.is_none_or(|damage| damage.torn_tail),
                "damage": damage.map(|damage| json!({
                    "file": damage.path.display().to_string(),
                    "offset": damage.offset,
                    "lsn": damage.lsn.to_string(),
                    "torn_tail": damage.torn_tail,
                    "what": damage.what,
                })),
            })
        },
    )?;
    // A torn tail is what a crash leaves: the next writer cuts it.
    Ok(match damage {
        Some(damage) if !damage.torn_tail => Exit::State,
        _ => Exit::Done,
    })
}

/// Says what a repair would do, or does it. A plan that finds damage ends with the exit code of a
/// damaged state, so that scripts notice.
fn repair_log(args: &WalRepairArgs, dir: &PathBuf, global: &Global) -> Result<Exit, CliError> {
    if !dir.is_dir() {
        // Says that there is no log, as the other commands do.
        open(dir)?;
    }
    let storage = StdStorage::shared();
    let mode = if args.cut {
        RepairMode::Cut
    } else {
        RepairMode::Keep
    };
    let report = if args.apply {
        repair::repair(&storage, dir, mode)
    } else {
        repair::plan(&storage, dir, mode)
    };
    let report = report.map_err(|error| wal_error(dir, error))?;
    answer(
        global.output,
        || {
            if report.is_clean() {
                return format!(
                    "nothing is damaged: {} transactions with {} events\n",
                    report.commits, report.events
                );
            }
            let end = match &report.set_aside {
                Some(aside) => format!("repaired; the files as they were: {}\n", aside.display()),
                None => "nothing was changed; --apply does it\n".to_owned(),
            };
            format!("{report}{end}")
        },
        || {
            let losses = report.losses.iter().map(|loss| {
                json!({
                    "file": loss.path.display().to_string(),
                    "offset": loss.offset,
                    "lsn": loss.lsn.to_string(),
                    "bytes": loss.bytes,
                    "what": loss.what,
                    "after": loss.after.to_string(),
                    "commit": loss.commit.map(|p| p.commit.to_string()),
                })
            });
            json!({
                "ok": report.is_clean() || args.apply,
                "applied": report.set_aside.is_some(),
                "losses": losses.collect::<Vec<_>>(),
                "lost_bytes": report.lost_bytes(),
                "transactions": report.commits,
                "events": report.events,
                "headers": report.headers.iter().map(|p| p.display().to_string()).collect::<Vec<_>>(),
                "cursors_lost": report.cursors_lost,
                "set_aside": report.set_aside.as_ref().map(|p| p.display().to_string()),
            })
        },
    )?;
    Ok(if report.is_clean() || args.apply {
        Exit::Done
    } else {
        Exit::State
    })
}

fn dump(args: &WalDumpArgs, dir: &PathBuf, global: &Global) -> Result<Exit, CliError> {
    let log = open(dir)?;
    let from = match &args.from {
        Some(text) => text
            .parse()
            .map_err(|error| CliError::from_error(Exit::Usage, error))?,
        None => log.first_lsn(),
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let limit = usize::try_from(args.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let mut frames = log.frames(from);
    for _ in 0..limit {
        let next = frames.next().transpose();
        let Some(frame) = next.map_err(|error| not_a_frame(&log, from, error))? else {
            break;
        };
        let changes = if args.rows {
            frames.changes().map_err(log_error)?
        } else {
            Vec::new()
        };
        let written = match global.output {
            OutputFormat::Json => {
                let mut json = frame_json(&frame);
                if args.rows {
                    json["rows"] = changes.iter().map(change_json).collect();
                }
                writeln!(out, "{json}")
            }
            OutputFormat::Text => {
                let lines = std::iter::once(frame_text(&frame));
                let mut lines = lines.chain(changes.iter().map(change_text));
                lines.try_for_each(|line| writeln!(out, "{line}"))
            }
        };
        if let Err(error) = &written
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            return Ok(Exit::Done);
        }
        finish(written)?;
    }
    finish(out.flush())?;
    Ok(Exit::Done)
}

/// What stands where nothing begins looks damaged; says so only of what is.
fn not_a_frame(log: &Inspector, from: Lsn, error: LogError) -> CliError {
    match log.changes(from) {
        Err(absent) if absent.kind == LogErrorKind::NotFound => {
            CliError::from_error(Exit::Usage, absent)
        }
        _ => log_error(error),
    }
}

fn frame_text(frame: &FrameInfo) -> String {
    let mut text = format!(
        "{:<14} {}:{:<9} {:>8} B  {:?}",
        frame.lsn.to_string(),
        frame.file,
        frame.offset,
        frame.len,
        frame.kind
    );
    if frame.changes > 0 {
        text.push_str(&format!("  {} changes", frame.changes));
    }
    if let Some(tx) = frame.tx {
        text.push_str(&format!("  tx {tx}"));
    }
    if let Some(position) = frame.position {
        text.push_str(&format!("  -> {position}"));
    }
    if let Some((id, relation)) = &frame.relation {
        text.push_str(&format!(
            "  #{id} {} ({} columns)",
            relation.qualified_name(),
            relation.columns.len()
        ));
    }
    text
}

fn frame_json(frame: &FrameInfo) -> serde_json::Value {
    json!({
        "lsn": frame.lsn.to_string(),
        "file": frame.file,
        "offset": frame.offset,
        "length": frame.len,
        "kind": format!("{:?}", frame.kind),
        "tx": frame.tx.map(|tx| tx.to_string()),
        "changes": frame.changes,
        "position": frame.position.map(|p| p.to_string()),
        "relation": frame.relation.as_ref().map(|(_, relation)| relation.qualified_name()),
    })
}

fn change_text(change: &ChangeInfo) -> String {
    format!(
        "    {:>8} +{:<6} {} {}  before {}  after {}",
        change.offset,
        change.len,
        change.op,
        change.relation.qualified_name(),
        image(&change.before),
        image(&change.after)
    )
}

fn change_json(change: &ChangeInfo) -> serde_json::Value {
    json!({
        "offset": change.offset,
        "length": change.len,
        "op": change.op.name(),
        "relation": change.relation.qualified_name(),
        "before": image(&change.before),
        "after": image(&change.after),
    })
}

/// A row on one line; asked for with --rows.
fn image(image: &Image) -> String {
    let Some(row) = image.row() else {
        return image.kind_name().to_owned();
    };
    let Ok(columns) = row.columns() else {
        return "damaged".to_owned();
    };
    let shown = columns.map(|value| match value {
        Ok(value) => crate::pretty::value(&value),
        Err(_) => "damaged".to_owned(),
    });
    format!(
        "{}({})",
        image.kind_name(),
        shown.collect::<Vec<_>>().join(", ")
    )
}
