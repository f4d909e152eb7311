//! `model`: the models of what threads share, under many orders of turns.

use std::process::{Command, ExitCode};

use crate::ci::{self, Counts};
use crate::options::Options;
use crate::{Result, command, ensure};

/// Where the models are: the arguments that build and run one crate's.
pub(crate) const MODELS: [&[&str]; 2] = [
    // The log's threads: group commit, ring, tails.
    &[
        "--package",
        "cdc-wal",
        "--features",
        "model",
        "--test",
        "model",
        "--",
    ],
    // The acknowledgement window and the watermark.
    &[
        "--package",
        "cdc-core",
        "--features",
        "model",
        "--lib",
        "--",
        "model::",
    ],
];

/// `cargo xtask model [NAME] [--schedules N] [--seed N] [--replay SCHEDULE]`.
///
/// # Errors
/// The options do not parse, or cargo cannot be started.
pub fn command(args: &[String]) -> Result<ExitCode> {
    let options = Options::parse(args, &["--schedules", "--seed", "--replay"], &[])?;
    ensure!(
        options.words().len() <= 1,
        "name one model, or none for all of them"
    );
    let name = options.words().first();
    ensure!(
        options.text("--replay").is_none() || name.is_some(),
        "a schedule is of one model: name it before --replay"
    );
    let counts = run(|cargo| {
        cargo.args(name);
        for (option, variable) in [
            ("--schedules", "WEFTKIT_MODEL_SCHEDULES"),
            ("--seed", "WEFTKIT_MODEL_SEED"),
            ("--replay", "WEFTKIT_MODEL_REPLAY"),
        ] {
            if let Some(text) = options.text(option) {
                cargo.env(variable, text);
            }
        }
    })?;
    println!("{} models held, {} failed", counts.passed, counts.failed);
    Ok(if counts.failed == 0 && counts.passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Builds and runs all models; `set` says which and how many schedules.
///
/// # Errors
/// Cargo cannot be started.
pub fn run(set: impl Fn(&mut Command)) -> Result<Counts> {
    let mut counts = Counts::default();
    for model in MODELS {
        let mut cargo = command::cargo(&[&["test"], model].concat());
        set(&mut cargo);
        counts.add(ci::counted(&mut cargo, ci::doctest_counts)?);
    }
    Ok(counts)
}
