//! `sim`: builds the simulator, with optimisations and debug assertions, and runs it.
//!
//! For a long run there is a second profile, half as fast again, of which nothing is kept for the next build.

use std::process::{Command, ExitCode};

use crate::ci::Counts;
use crate::{Error, Result, command};

/// `cargo xtask sim [--long] …`; the rest goes to the simulator.
///
/// # Errors
/// It cannot be built or started.
pub fn command(args: &[String]) -> Result<ExitCode> {
    let counts = run(args)?;
    Ok(if counts.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Builds and runs it with these arguments; one thing that holds or does not.
///
/// # Errors
/// As [`command()`].
pub fn run(args: &[String]) -> Result<Counts> {
    let (long, args): (Vec<&String>, Vec<_>) = args.iter().partition(|arg| *arg == "--long");
    let profile = if long.is_empty() { "sim" } else { "sim-long" };
    let mut build = command::cargo(&[
        "build",
        "--quiet",
        "--package",
        "cdc-cli",
        "--features",
        "sim",
        "--bin",
        "cdc-sim",
        "--profile",
        profile,
    ]);
    if !command::status(&mut build)?.success() {
        return Err(Error::new("build the simulator: see above"));
    }
    let mut simulator = Command::new(command::target_dir()?.join(profile).join("cdc-sim"));
    simulator.args(args);
    Ok(Counts::one(command::status(&mut simulator)?.success()))
}
