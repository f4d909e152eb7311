//! The log itself, measured by an example of its crate, and from our own log to a file and to a
//! queue, measured by `cdc-cli bench`. Instruction counts are the gate against regressions: unlike
//! times they are the same on a busy machine.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Map, Value, json};

use super::{Settings, example, example_by, verdicts};
use crate::error::Context;
use crate::{Error, Result, command, ensure};

/// Events at full size.
const EVENTS: u64 = 2_000_000;

/// What is asked for: a measure, and the least (true) or most (false) it may be.
const TARGETS: [(&str, bool, f64); 9] = [
    ("append_unsynced_m_events_s", true, 3.0),
    ("tail_columns_m_events_s", true, 8.0),
    ("group_commit_to_raw", true, 0.8),
    ("subscriber_throughput_loss_percent", false, 3.0),
    ("subscriber_p99_gain_percent", false, 3.0),
    ("large_open_ms", false, 1000.0),
    ("large_resume_ms_max", false, 100.0),
    ("large_second_half_to_first", false, 1.15),
    ("large_tail_last_to_first", false, 1.15),
];

/// What instructions are counted of.
const COUNTED: [&str; 3] = ["append", "tail", "columns"];
/// Transactions of the two runs whose difference is counted, so that what a process costs anyway
/// falls out; of ten events each.
const COUNTS: [u64; 2] = [4_000, 14_000];
/// Has the GNU C library take the variants of its functions that every x86-64 machine has.
const BASIC: &str = "glibc.cpu.hwcaps=-AVX2,-AVX512VL,-AVX512BW,-EVEX,-ERMS,-FSRM,-SSSE3,-SSE4_1";
/// Most that a count may be above its baseline, in percent. The same build counts within 0.1 % on one
/// machine. Another one may take other variants of `memcpy` and `memchr` from its C library: the most
/// basic ones are asked for, and what is left of the difference has to fit, as must a compiler's minor
/// release.
const TOLERANCE: f64 = 5.0;

/// Runs the example, then `cdc-cli bench` for each destination.
///
/// # Errors
/// Something fails, or its answer is no JSON.
pub(super) fn run(settings: &Settings) -> Result<Value> {
    let mut example = Command::new(example("cdc-wal", "throughput")?);
    example.args(["--scale", &settings.scale.to_string(), "--dir"]);
    example.arg(crate::root().join("target"));
    let text = command::output(&mut example)?;
    let measures: Map<String, Value> = serde_json::from_str(&text)
        .context(|| format!("parse the answer of `{}`", command::shown(&example)))?;
    Ok(json!({
        "measures": measures,
        "targets": verdicts(&TARGETS, &measures),
        "delivery": delivery(settings)?,
    }))
}

fn delivery(settings: &Settings) -> Result<Value> {
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

fn baseline() -> PathBuf {
    crate::root().join("xtask/baselines/log-instructions.json")
}

/// `bench log --instructions`: instructions an event, by callgrind, against the committed baseline.
///
/// # Errors
/// valgrind is missing, or a count is above its baseline by more than the tolerance.
pub(crate) fn instructions(write: bool) -> Result<Value> {
    let found = Command::new("valgrind").arg("--version").output();
    ensure!(
        found.is_ok_and(|output| output.status.success()),
        "count instructions: valgrind is not installed; install the package `valgrind`"
    );
    // What becomes one unit of several depends on the folder's path, and with it what is inlined:
    // the same sources gave 670 and 741 instructions an append in two folders. One unit gives one
    // number.
    let mut cargo = Command::new("cargo");
    cargo.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1").env(
        "CARGO_TARGET_DIR",
        crate::root().join("target/instructions"),
    );
    let example = example_by(cargo, "cdc-wal", "throughput", &[])?;
    let dir = crate::guard::TempDir::new("instructions")?;
    let mut counts = Map::new();
    for what in COUNTED {
        let mut totals = [0; 2];
        for (total, times) in totals.iter_mut().zip(COUNTS) {
            let mut valgrind = Command::new("valgrind");
            valgrind
                .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
                .arg(format!("--log-file={}", dir.join("log").display()))
                .arg(&example)
                .arg("--dir")
                .arg(dir.join("."))
                .args(["--count", what, &times.to_string()])
                .env("GLIBC_TUNABLES", BASIC);
            command::output(&mut valgrind)?;
            let log = std::fs::read_to_string(dir.join("log"))
                .context(|| "read what callgrind says".to_owned())?;
            *total = collected(&log)
                .ok_or_else(|| Error::new(format!("callgrind says no count: {log}")))?;
        }
        let events = (COUNTS[1] - COUNTS[0]) * 10;
        let each = totals[1].saturating_sub(totals[0]) / events;
        counts.insert(what.to_owned(), each.into());
    }
    if write {
        let text = format!("{:#}\n", Value::Object(counts.clone()));
        std::fs::write(baseline(), text).context(|| "write the baseline".to_owned())?;
        return Ok(Value::Object(counts));
    }
    let text = std::fs::read_to_string(baseline()).context(|| "read the baseline".to_owned())?;
    let before: Map<String, Value> =
        serde_json::from_str(&text).context(|| "parse the baseline".to_owned())?;
    let worse = regressions(&before, &counts);
    ensure!(
        worse.is_empty(),
        "more instructions an event than the baseline allows: {}; find out why, or write a new baseline with --write-baseline and say why in the commit",
        worse.join(", ")
    );
    Ok(json!({ "instructions_an_event": counts, "baseline": before }))
}

/// The total in callgrind's log.
fn collected(log: &str) -> Option<u64> {
    let line = log
        .lines()
        .find_map(|line| line.split_once("Collected : "))?;
    line.1.trim().parse().ok()
}

/// The counts that are above their baseline by more than the tolerance, or have none.
fn regressions(before: &Map<String, Value>, now: &Map<String, Value>) -> Vec<String> {
    now.iter()
        .filter_map(|(name, count)| {
            let count = count.as_f64()?;
            match before.get(name).and_then(Value::as_f64) {
                Some(before) if count <= before * (1.0 + TOLERANCE / 100.0) => None,
                Some(before) => Some(format!("{name} {count} (baseline {before})")),
                None => Some(format!("{name} {count} (no baseline)")),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_read_and_held_against_its_baseline() {
        let log = "==1== Events    : Ir\n==1== Collected : 25905667\n";
        assert_eq!(collected(log), Some(25_905_667));
        assert_eq!(collected("nothing"), None);
        let map = |append: u64| Map::from_iter([("append".to_owned(), append.into())]);
        assert!(regressions(&map(1000), &map(1049)).is_empty());
        assert!(regressions(&map(1000), &map(10)).is_empty());
        assert_eq!(regressions(&map(1000), &map(1051)).len(), 1);
        assert_eq!(regressions(&Map::new(), &map(1)).len(), 1);
    }
}
