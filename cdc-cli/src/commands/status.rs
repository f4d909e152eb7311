//! `status`: how a pipeline is doing, asked of the running process or read from its files.

use std::fmt::Write as _;

use cdc_core::ResumeToken;
use cdc_core::storage::StdStorage;
use cdc_dlq::DlqReader;

use super::position::checkpoints;
use crate::args::{Global, StatusArgs};
use crate::assemble::control::{self, Reply, Request};
use crate::assemble::start::LogView;
use crate::assemble::state::StatePaths;
use crate::assemble::status::{LaneStatus, PipelineStatus, age_seconds};
use crate::config::{Config, Source};
use crate::exit::Exit;
use crate::output::{answer, bytes_text};
use crate::report::CliError;

pub(crate) fn run(_args: &StatusArgs, global: &Global) -> Result<Exit, CliError> {
    let config = global.load()?;
    let paths = StatePaths::new(&config.state_path);
    let asked = super::block_on(control::ask(&paths.control(), &Request::Status))?;
    let status = match asked {
        Ok(Some(Reply::Status(status))) => status,
        Ok(Some(Reply::Refused { reason })) => {
            return Err(CliError::new(
                Exit::Runtime,
                format!("ask the running process: {reason}"),
            ));
        }
        Ok(
            Some(Reply::Redrive(_) | Reply::Discarded { .. } | Reply::Done | Reply::Moved { .. })
            | None,
        ) => stopped(&config, &paths)?,
        Err(cause) => {
            return Err(CliError::new(
                Exit::from(&cause),
                format!(
                    "ask the process that runs on {}",
                    config.state_path.display()
                ),
            )
            .with_cause(cause));
        }
    };
    answer(
        global.output,
        || text(&status),
        || serde_json::json!(status),
    )?;
    Ok(Exit::Done)
}

/// What the files of a pipeline say that does not run.
fn stopped(config: &Config, paths: &StatePaths) -> Result<PipelineStatus, CliError> {
    let log = match &config.source {
        Some(Source::Wal(dir)) => dir.clone(),
        _ => paths.journal(),
    };
    // Only for the lag: `wal verify` says what is wrong with a log.
    let end = LogView::Directory(log).extent().ok();
    let letters = DlqReader::open(&StdStorage, &config.dead_letters.path)?.counts();
    let lanes = checkpoints(paths)?.into_iter().map(|(name, checkpoint)| {
        let configured = config.emitter(&name);
        let mut lane = LaneStatus {
            name,
            kind: configured.map(|emitter| emitter.destination.kind().to_owned()),
            position: checkpoint.position.to_string(),
            token: Some(ResumeToken::new(checkpoint.lineage, checkpoint.position).to_string()),
            checkpoint_age_seconds: age_seconds(checkpoint.stored_micros),
            ..LaneStatus::default()
        };
        if let Some(end) = &end {
            lane.lag(checkpoint.lineage.kind, checkpoint.position, end.end);
        }
        lane.letters(&letters);
        lane
    });
    Ok(PipelineStatus {
        running: false,
        source: config.source.as_ref().map(ToString::to_string),
        lanes: lanes.collect(),
        ..PipelineStatus::default()
    })
}

fn text(status: &PipelineStatus) -> String {
    let mut out = String::new();
    let source = status.source.as_deref().unwrap_or("no source");
    let _ = writeln!(
        out,
        "{source}: {}",
        if status.running {
            "running"
        } else {
            "not running"
        }
    );
    if let Some(state) = &status.source_state
        && state != "connected"
    {
        let away = status
            .source_away_seconds
            .map_or_else(String::new, |seconds| {
                format!(
                    " for {seconds:.0} s, {} attempts",
                    status.source_attempts.unwrap_or_default()
                )
            });
        let _ = writeln!(
            out,
            "source {state}{away}; what the journal holds is delivered"
        );
        if let Some(reason) = &status.source_reason {
            let _ = writeln!(out, "  {reason}");
        }
    }
    if let Some(captured) = &status.captured {
        let _ = writeln!(
            out,
            "captured {} events up to {captured}; confirmed to the source up to {}; held back {} times",
            status.captured_events.unwrap_or_default(),
            status.confirmed.as_deref().unwrap_or("nothing yet"),
            status.held_back.unwrap_or_default()
        );
    }
    for lane in &status.lanes {
        let _ = writeln!(
            out,
            "\n{} ({}) {}",
            lane.name,
            lane.kind.as_deref().unwrap_or("not configured"),
            lane.health.as_deref().unwrap_or("not running")
        );
        if let Some(reason) = &lane.reason {
            let _ = writeln!(out, "  {reason}");
        }
        let _ = writeln!(out, "  position  {}", lane.position);
        if let Some(token) = &lane.token {
            let _ = writeln!(out, "  token     {token}");
        }
        if let Some(age) = lane.checkpoint_age_seconds {
            let _ = writeln!(out, "  stored    {age:.1} s ago");
        }
        let lag = match (lane.lag_bytes, lane.lag_seconds) {
            (None, None) => None,
            (Some(0), _) => Some("none".to_owned()),
            (None, Some(age)) if age <= 0.0 => Some("none".to_owned()),
            (None, Some(age)) => Some(format!("{age:.1} s")),
            (Some(behind), None) => Some(bytes_text(behind)),
            (Some(behind), Some(age)) => Some(format!("{}, {age:.1} s", bytes_text(behind))),
        };
        if let Some(mut lag) = lag {
            if let Some(rate) = lane.delivered_per_second {
                let _ = write!(lag, "; {rate} events/s in the last minute");
            }
            let _ = writeln!(out, "  lag       {lag}");
        }
        match (lane.dead_letters, lane.parked_letters) {
            (None | Some(0), _) => {}
            (Some(letters), parked) => {
                let _ = writeln!(
                    out,
                    "  letters   {letters} dead, {} of them wait behind another",
                    parked.unwrap_or_default()
                );
            }
        }
        if let Some(counts) = &lane.counts {
            let _ = writeln!(
                out,
                "  read {} = filtered {} + delivered {} + dead-lettered {} + parked {} + taken back {} + in flight {}; retries {}",
                counts.read,
                counts.filtered,
                counts.delivered,
                counts.dead_lettered,
                counts.parked,
                counts.rewound,
                counts.in_flight,
                counts.retries
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    /// `jq` says nothing of a member that is not there.
    #[test]
    fn the_example_of_the_help_reads_what_is_printed() {
        let command = crate::args::Cli::command();
        let status = command.find_subcommand("status").unwrap();
        let help = status.get_after_help().unwrap().to_string();
        let path = help.split_once("jq '.").unwrap().1;
        let path = path.split_once('\'').unwrap().0;
        let (list, member) = path.split_once("[].").unwrap();
        let printed = serde_json::json!(PipelineStatus {
            lanes: vec![LaneStatus::default()],
            ..PipelineStatus::default()
        });
        assert!(printed[list][0][member].is_string(), "{path}");
    }
}
