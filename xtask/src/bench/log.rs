//! From our own log to a file and to a queue: `cdc-cli bench` measures itself and checks its
//! counts; here its answers are collected.

use std::process::Command;

use serde_json::Value;

use super::Settings;
use crate::error::Context;
use crate::{Result, command};

/// Events at full size.
const EVENTS: u64 = 2_000_000;

/// Runs `cdc-cli bench` for each destination.
///
/// # Errors
/// It fails, or its answer is no JSON.
pub(super) fn run(settings: &Settings) -> Result<Value> {
    let events = settings.scaled(EVENTS).to_string();
    let mut results = Vec::new();
    for emitter in ["file", "queue"] {
        for round in 0..settings.rounds {
            eprintln!("bench: log to {emitter}: round {}", round + 1);
            let mut bench = Command::new(&settings.cli);
            bench.args([
                "bench",
                "--emitter",
                emitter,
                "--events",
                &events,
                "-o",
                "json",
            ]);
            let text = command::output(&mut bench)?;
            let result = serde_json::from_str(&text)
                .context(|| format!("parse the answer of `{}`", command::shown(&bench)))?;
            results.push(result);
        }
    }
    Ok(Value::Array(results))
}
