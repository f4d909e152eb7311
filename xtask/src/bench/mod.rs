//! Benchmarks: counts are checked at the destination, ratios come from one run.

mod log;
mod measure;
mod postgres;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Map, Value};

use crate::options::Options;
use crate::{Error, Result, ensure, runs};

/// The benchmarks, in the order they run without a name.
const NAMES: [&str; 3] = ["postgres", "large", "log"];

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
