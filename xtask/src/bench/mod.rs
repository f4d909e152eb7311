//! Benchmarks: counts are checked at the destination, ratios come from one run.

mod dlq;
mod log;
mod measure;
mod postgres;
mod report;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use serde_json::{Map, Value};

use crate::options::Options;
use crate::{Error, Result, command, ensure, runs};

/// The benchmarks, in the order they run without a name.
const NAMES: [&str; 4] = ["postgres", "large", "log", "dlq"];

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
        println!("{:#}", log::instructions(write)?);
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
    for name in names {
        let result = match name {
            "postgres" => postgres::catch_up(&settings)?,
            "large" => postgres::large(&settings)?,
            "dlq" => dlq::run(&settings)?,
            _ => log::run(&settings)?,
        };
        results.insert(name.to_owned(), result);
    }
    let results = Value::Object(results);
    if form == "json" {
        println!("{results:#}");
    } else {
        print!("{}", report::table(&results));
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds an example of a crate; its executable.
fn example(package: &str, name: &str) -> Result<PathBuf> {
    let mut build = Command::new("cargo");
    build
        .args(["build", "--quiet", "--release", "--package", package])
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
    let verdict = |(name, least, bound): &Target| {
        let value = measures.get(*name)?.as_f64()?;
        let holds = if *least {
            value >= *bound
        } else {
            value <= *bound
        };
        let word = if holds { "holds" } else { "MISSED" };
        let side = if *least { "at least" } else { "at most" };
        let verdict = format!("{word}: {value:.2}, {side} {bound} is asked for");
        Some(((*name).to_owned(), verdict.into()))
    };
    targets.iter().filter_map(verdict).collect()
}
