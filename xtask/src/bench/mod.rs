//! Benchmarks: counts are checked at the destination, ratios come from one run.

mod delivery;
mod dlq;
mod log;
mod measure;
mod postgres;
mod report;
mod sqlite;

pub(crate) use log::instructions;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use serde_json::{Map, Value};

use crate::options::Options;
use crate::{Error, Result, command, ensure, runs};

/// The benchmarks, in the order they run without a name.
const NAMES: [&str; 6] = ["postgres", "large", "log", "dlq", "delivery", "sqlite"];

/// How a benchmark is done.
#[derive(Debug)]
struct Settings {
    cli: PathBuf,
    /// Fraction of the full size.
    scale: f64,
    /// Measured rounds; the median is reported.
    rounds: u32,
}

impl Settings {
    /// A count at this scale, at least 1000.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "scale is between 0 and 100, counts are millions"
    )]
    fn scaled(&self, count: u64) -> u64 {
        ((measure::number(count) * self.scale) as u64).max(1000)
    }
}

/// `cargo xtask bench [NAME]`.
///
/// # Errors
/// A benchmark fails, or does not deliver what it should.
pub fn command(args: &[String]) -> Result<ExitCode> {
    let options = Options::parse(
        args,
        &["-o", "--scale", "--rounds", "--cli"],
        &["--instructions", "--write-baseline"],
    )?;
    let names = match options.words() {
        [] => NAMES.to_vec(),
        [name] => vec![name.as_str()],
        _ => {
            return Err(Error::new(format!(
                "name one benchmark of {}, or none",
                NAMES.join(", ")
            )));
        }
    };
    let form = options.text("-o").unwrap_or("table");
    ensure!(
        ["table", "json"].contains(&form),
        "`-o {form}`: table or json"
    );
    let write = options.flag("--write-baseline");
    if write || options.flag("--instructions") {
        ensure!(
            names == ["log"],
            "instructions are counted of `bench log` alone"
        );
        println!("{:#}", instructions(write)?);
        return Ok(ExitCode::SUCCESS);
    }
    let settings = Settings {
        scale: options.get("--scale", 1.0)?,
        rounds: options.get("--rounds", 3)?,
        cli: PathBuf::new(),
    };
    ensure!(
        settings.scale > 0.0 && settings.scale <= 100.0 && settings.rounds > 0,
        "`--scale` is between 0 and 100, `--rounds` at least 1"
    );
    for name in &names {
        ensure!(
            NAMES.contains(name),
            "no benchmark is called `{name}`; known: {}",
            NAMES.join(", ")
        );
    }
    let settings = Settings {
        cli: runs::cli(&options, true)?,
        ..settings
    };
    let mut results = Map::new();
    results.insert("machine".to_owned(), report::machine());
    let mut failed = Vec::new();
    for name in names {
        let result = match name {
            "postgres" => postgres::catch_up(&settings),
            "large" => postgres::large(&settings),
            "sqlite" => sqlite::run(&settings),
            "dlq" => dlq::run(&settings),
            "delivery" => delivery::run(&settings),
            _ => log::run(&settings),
        };
        // What the others measured in half an hour is not lost with it.
        let result = result.unwrap_or_else(|error| {
            eprintln!("bench: {name} failed: {error}");
            failed.push(name);
            Value::String(format!("failed: {error}"))
        });
        if form == "table" {
            let one = Map::from_iter([(name.to_owned(), result.clone())]);
            print!("{}", report::table(&Value::Object(one)));
        }
        results.insert(name.to_owned(), result);
    }
    if form == "json" {
        println!("{:#}", Value::Object(results));
    } else {
        let machine = Map::from_iter([("machine".to_owned(), report::machine())]);
        print!("{}", report::table(&Value::Object(machine)));
    }
    ensure!(
        failed.is_empty(),
        "these benchmarks failed: {}",
        failed.join(", ")
    );
    Ok(ExitCode::SUCCESS)
}

/// Builds an example of a crate; its executable.
fn example(package: &str, name: &str) -> Result<PathBuf> {
    example_with(package, name, &[])
}

/// The same, with features.
fn example_with(package: &str, name: &str, features: &[&str]) -> Result<PathBuf> {
    example_by(Command::new("cargo"), package, name, features)
}

/// The same, with this cargo.
fn example_by(mut build: Command, package: &str, name: &str, features: &[&str]) -> Result<PathBuf> {
    build
        .args(["build", "--quiet", "--release", "--package", package])
        .arg(format!("--features={}", features.join(",")))
        .args(["--example", name, "--message-format", "json"])
        .current_dir(crate::root());
    let text = command::output(&mut build)?;
    let executable = text.lines().rev().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == name)
            .then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    executable.ok_or_else(|| {
        Error::new(format!(
            "build the example {name}: cargo names no executable"
        ))
    })
}

/// What is asked for: a measure, and the least (true) or most (false) it may be.
type Target = (&'static str, bool, f64);

/// Whether the measures hold what is asked for.
fn verdicts(targets: &[Target], measures: &Map<String, Value>) -> Map<String, Value> {
    let verdict = |target: &Target| Some((target.0.to_owned(), verdict(target, measures)?.into()));
    targets.iter().filter_map(verdict).collect()
}

/// Holds, is missed, or cannot be told: where a measure comes with the range it is in at 95 %
/// (`_low`, `_high`), it holds if the measure itself is on the right side, and is missed only if all
/// of the range is on the wrong one.
fn verdict((name, least, bound): &Target, measures: &Map<String, Value>) -> Option<String> {
    let get = |suffix: &str| measures.get(&format!("{name}{suffix}"))?.as_f64();
    let value = get("")?;
    let good = |value: f64| {
        if *least {
            value >= *bound
        } else {
            value <= *bound
        }
    };
    let range = get("_low").zip(get("_high"));
    let word = match range {
        _ if good(value) => "holds",
        Some((low, high)) if good(low) || good(high) => "NOT DECIDED",
        _ => "MISSED",
    };
    let side = if *least { "at least" } else { "at most" };
    let mut text = format!("{word}: {value:.2}, {side} {bound} is asked for");
    if let Some((low, high)) = range {
        text += &format!("; with 95 % or more between {low:.2} and {high:.2}");
    }
    if let Some((low, high)) = get("_of_nothing_low").zip(get("_of_nothing_high")) {
        text += &format!("; nothing against nothing: {low:.2} to {high:.2}");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_says_what_the_range_allows() {
        let judge = |value: f64, range: Option<(f64, f64)>, least: bool| {
            let mut measures = Map::from_iter([("x".to_owned(), value.into())]);
            if let Some((low, high)) = range {
                measures.insert("x_low".to_owned(), low.into());
                measures.insert("x_high".to_owned(), high.into());
            }
            verdict(&("x", least, 3.0), &measures).unwrap()
        };
        for (value, range, least, expected) in [
            (2.0, None, false, "holds"),
            (4.0, None, false, "MISSED"),
            (4.0, None, true, "holds"),
            (4.0, Some((2.0, 6.0)), false, "NOT DECIDED"),
            (4.0, Some((3.5, 6.0)), false, "MISSED"),
            (2.0, Some((1.0, 6.0)), false, "holds"),
            (2.0, Some((1.0, 2.5)), true, "MISSED"),
        ] {
            let text = judge(value, range, least);
            assert!(text.starts_with(expected), "{value} {range:?}: {text}");
        }
        assert!(verdict(&("y", true, 3.0), &Map::new()).is_none());
    }
}
