//! Integration runs: the built `cdc-cli` against a real PostgreSQL, judged at the destination.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::error::Context;
use crate::options::Options;
use crate::{Error, Result, command};

/// The runs, in the order `all` takes them.
pub const NAMES: [&str; 0] = [];

/// How large a run is, and with which binary.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The binary under test.
    pub cli: PathBuf,
    /// How many transactions the writers commit, about.
    pub transactions: u64,
    /// Seed of everything random.
    pub seed: u64,
    /// How often `pg-kill` kills the binary.
    pub kills: u32,
    /// How often `pg-crash` kills the database.
    pub crashes: u32,
    /// Leave the folders.
    pub keep: bool,
}

impl Plan {
    /// The size that belongs into every test run.
    pub fn short(cli: PathBuf) -> Self {
        Self {
            cli,
            transactions: 4_000,
            seed: clock_seed(),
            kills: 5,
            crashes: 2,
            keep: false,
        }
    }
}

fn clock_seed() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |elapsed| elapsed.as_secs())
}

/// Builds `cdc-cli` as a user would and says where it is.
///
/// # Errors
/// It does not build.
pub fn build_cli(release: bool) -> Result<PathBuf> {
    let mut args = vec!["build", "--package", "cdc-cli"];
    if release {
        args.push("--release");
    }
    command::check(&mut command::cargo(&args)).context(|| "build cdc-cli")?;
    Ok(command::target_dir()?
        .join(if release { "release" } else { "debug" })
        .join("cdc-cli"))
}

/// Does one run and returns a line about it.
///
/// # Errors
/// What did not hold.
pub fn run(name: &str, _plan: &Plan) -> Result<String> {
    Err(Error::new(format!(
        "no run is called `{name}`; known: {}",
        NAMES.join(", ")
    )))
}

/// `cargo xtask run NAME|all`.
///
/// # Errors
/// Options that do not parse, or `cdc-cli` does not build.
pub fn command(args: &[String]) -> Result<ExitCode> {
    let options = Options::parse(
        args,
        &["--transactions", "--seed", "--kills", "--crashes", "--cli"],
        &["--release", "--keep"],
    )?;
    let _ = options;
    Ok(ExitCode::SUCCESS)
}
