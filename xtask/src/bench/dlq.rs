//! Opening a dead letter queue of a million letters, measured by an example of its crate.

use std::process::Command;

use serde_json::{Map, Value, json};

use super::{Settings, example, verdicts};
use crate::error::Context;
use crate::{Result, command};

/// Letters at full size.
const LETTERS: u64 = 1_000_000;

/// What is asked for: a measure, and the least (true) or most (false) it may be.
const TARGETS: [(&str, bool, f64); 2] =
    [("open_writer_s", false, 2.0), ("open_reader_s", false, 2.0)];

/// Runs the example.
///
/// # Errors
/// It fails, or its answer is no JSON.
pub(super) fn run(settings: &Settings) -> Result<Value> {
    let mut run = Command::new(example("cdc-dlq", "million")?);
    run.args(["--letters", &settings.scaled(LETTERS).to_string(), "--dir"]);
    run.arg(crate::root().join("target"));
    let text = command::output(&mut run)?;
    let measures: Map<String, Value> = serde_json::from_str(&text)
        .context(|| format!("parse the answer of `{}`", command::shown(&run)))?;
    Ok(json!({ "targets": verdicts(&TARGETS, &measures), "measures": measures }))
}
