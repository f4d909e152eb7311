//! `replay`: a retained range of events to an emitter once more.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cdc_core::pipeline::{LaneEnd, LaneMetrics, Replay, ReplayReport, Shutdown};
use cdc_core::{Position, ResumeToken, SystemClock};
use cdc_wal::StartAt;
use serde_json::json;

use crate::args::{Global, ReplayArgs, require_source};
use crate::assemble::lanes::{self, Built, Range};
use crate::assemble::source::wal_error;
use crate::assemble::start::{Extent, LogView, Start};
use crate::assemble::state::StatePaths;
use crate::assemble::{runner, stages};
use crate::config::{Config, Destination, EmitterConfig, Source};
use crate::exit::Exit;
use crate::output::{answer, answer_beside};
use crate::progress::Bar;
use crate::report::CliError;

/// How often progress is shown.
const PROGRESS: Duration = Duration::from_millis(200);

pub(crate) fn run(args: &ReplayArgs, global: &Global) -> Result<Exit, CliError> {
    let config = global.load()?;
    let emitter = config.emitter(&args.emitter).ok_or_else(|| {
        let names: Vec<_> = config.emitters.iter().map(|e| e.name.as_str()).collect();
        CliError::new(
            Exit::Configuration,
            format!(
                "replay to emitter {}: there is none of this name; there are {}",
                args.emitter,
                names.join(", ")
            ),
        )
    })?;
    let directory = match require_source(&config)? {
        Source::Wal(directory) => directory.clone(),
        Source::Postgres(_) | Source::Sqlite(_) | Source::RocksDb(_) => {
            StatePaths::new(&config.state_path).journal()
        }
    };
    let view = LogView::Directory(directory.clone());
    let extent = view
        .extent()
        .map_err(|error| wal_error(&directory, error))?;
    let start = view.locate(&args.from.parse::<Start>()?)?;
    let stop_at = view.locate(&args.to.parse::<Start>()?)?;
    if stop_at <= start {
        return Err(CliError::new(
            Exit::Usage,
            format!(
                "replay from {start} to {stop_at}: the range is empty; --from must be before --to"
            ),
        ));
    }
    let range = Range {
        start,
        stop_at: Some(stop_at),
    };
    if args.dry_run {
        return count(emitter, &view, &extent, range, global);
    }
    let emitter = &own_destination(emitter, args.path.as_deref())?;
    let (report, token) = deliver(&config, emitter, &view, &extent, range, global)?;
    let complete = report.is_complete();
    answer_beside(
        emitter.destination.prints(),
        global.output,
        || text(&args.emitter, &report, &token),
        || {
            let failures = report.failures.iter().map(|failure| {
                json!({
                    "event_id": failure.id.to_string(),
                    "position": failure.position.to_string(),
                    "message": failure.message,
                    "status": failure.status,
                })
            });
            json!({
                "emitter": args.emitter,
                "complete": complete,
                "through": token,
                "read": report.read,
                "filtered": report.filtered,
                "delivered": report.delivered,
                "failed": report.failed,
                "held_back": report.held_back,
                "failures": failures.collect::<Vec<_>>(),
            })
        },
    )?;
    Ok(if complete { Exit::Done } else { Exit::Partly })
}

/// The emitter with a destination that the live one does not also write to.
fn own_destination(
    emitter: &EmitterConfig,
    path: Option<&Path>,
) -> Result<EmitterConfig, CliError> {
    let refused = |what: String| {
        let name = &emitter.name;
        CliError::new(Exit::Usage, format!("replay to emitter {name}: {what}"))
    };
    let mut own = emitter.clone();
    match (&mut own.destination, path) {
        (Destination::Pull(_), _) => {
            return Err(refused(
                "its consumers fetch; they can read any retained range themselves, with /v1/stream?from= or /v1/events?after=".into(),
            ));
        }
        // Its files, their manifest and its checkpoint belong together.
        (Destination::File(_), None) => {
            return Err(refused(
                "it writes files; name a directory for the events of the replay with --path".into(),
            ));
        }
        (Destination::File(file), Some(path)) => {
            if std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) {
                return Err(refused(format!(
                    "{} is not empty; name a directory that is, or is not there yet",
                    path.display()
                )));
            }
            path.clone_into(&mut file.path);
        }
        (_, Some(_)) => return Err(refused("--path is for emitters that write files".into())),
        (_, None) => {}
    }
    Ok(own)
}

fn deliver(
    config: &Config,
    emitter: &EmitterConfig,
    view: &LogView,
    extent: &Extent,
    range: Range,
    global: &Global,
) -> Result<(ReplayReport, String), CliError> {
    let metrics = Arc::new(LaneMetrics::default());
    let (trigger, shutdown) = Shutdown::new();
    let Built {
        emitter: make,
        printer,
        ..
    } = lanes::build(emitter)?;
    let view = view.clone();
    let settings = lanes::settings(config, emitter, *extent.lineage(), range);
    let (filter, transforms) = (stages::filter(emitter)?, stages::transforms(emitter)?);
    let ended = super::block_on(async {
        let mut signals = runner::Signals::new()?;
        // What needs a runtime is made inside one.
        let replay = Replay {
            config: settings,
            open: move |after| Ok(view.tail(StartAt::After(after))?),
            filter,
            transforms,
            emitter: make()?,
            clock: Arc::new(SystemClock::new()),
            metrics: metrics.clone(),
            shutdown,
        };
        let mut bar = Bar::new(global);
        let end = range.stop_at.unwrap_or(Position::MAX).commit.0;
        let all = end.saturating_sub(range.start.commit.0);
        let replaying = replay.run();
        tokio::pin!(replaying);
        loop {
            tokio::select! {
                ended = &mut replaying => {
                    bar.clear();
                    return ended.map_err(runner::lane_error);
                }
                _ = signals.next() => trigger.trigger(),
                () = tokio::time::sleep(PROGRESS) => {
                    let counts = metrics.counts();
                    let done = counts.position.commit.0.saturating_sub(range.start.commit.0);
                    bar.show(done, all, &format!("{} delivered", counts.delivered));
                }
            }
        }
    })?;
    let report = ended?;
    // The printer ends when the queue is closed, which dropping the emitter did.
    if let Some(Ok(Err(cause))) = printer.map(std::thread::JoinHandle::join) {
        return Err(
            CliError::new(Exit::EmitterStopped, "write events to standard output")
                .with_cause(cause),
        );
    }
    let token = ResumeToken::new(*extent.lineage(), report.through).to_string();
    Ok((report, token))
}

fn text(emitter: &str, report: &ReplayReport, token: &str) -> String {
    let mut out = format!(
        "{emitter}: {} events read, {} filtered out, {} delivered, {} failed, {} held back behind failed ones\n",
        report.read, report.filtered, report.delivered, report.failed, report.held_back
    );
    for failure in &report.failures {
        out.push_str(&format!("  {}: {}\n", failure.id, failure.message));
    }
    if report.end == LaneEnd::Drained {
        out.push_str(&format!("stopped early; go on with --from {token}\n"));
    }
    out
}

/// Counts what would be delivered.
fn count(
    emitter: &EmitterConfig,
    view: &LogView,
    extent: &Extent,
    range: Range,
    global: &Global,
) -> Result<Exit, CliError> {
    let stop_at = range.stop_at.unwrap_or(extent.end);
    let counted = super::check::count(emitter, view, range.start, stop_at)?;
    let (read, kept) =
        counted.map_err(|error| CliError::from(cdc_core::SourceError::from(error)))?;
    let name = &emitter.name;
    answer(
        global.output,
        || format!("{name}: {kept} of {read} events would be replayed\n"),
        || json!({ "dry_run": true, "emitter": name, "read": read, "kept": kept }),
    )?;
    Ok(Exit::Done)
}
