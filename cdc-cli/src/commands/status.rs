//! `status`: how a pipeline is doing, asked of the running process or read from its files.

use std::fmt::Write as _;

use cdc_core::ResumeToken;

use super::position::checkpoints;
use crate::args::{Global, StatusArgs};
use crate::assemble::control::{self, Reply, Request};
use crate::assemble::state::StatePaths;
use crate::assemble::status::{LaneStatus, PipelineStatus, age_seconds};
use crate::exit::Exit;
use crate::output::answer;
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
        ) => PipelineStatus {
            running: false,
            source: config.source.as_ref().map(ToString::to_string),
            lanes: checkpoints(&paths)?
                .into_iter()
                .map(|(name, checkpoint)| LaneStatus {
                    name,
                    position: checkpoint.position.to_string(),
                    token: Some(
                        ResumeToken::new(checkpoint.lineage, checkpoint.position).to_string(),
                    ),
                    checkpoint_age_seconds: age_seconds(checkpoint.stored_micros),
                    ..LaneStatus::default()
                })
                .collect(),
            ..PipelineStatus::default()
        },
        Err(cause) => {
            return Err(CliError::new(
                Exit::Runtime,
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
            lane.kind.as_deref().unwrap_or("checkpoint"),
            lane.health.as_deref().unwrap_or("")
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
