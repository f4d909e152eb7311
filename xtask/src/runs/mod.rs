//! Integration runs: the built `cdc-cli` against a real PostgreSQL, judged at the destination.

mod capture;
mod ceiling;
mod compare;
mod event;
mod kinds;
mod limit;
mod mirror;
mod postgres;
mod random;
mod receiver;
mod repeats;
mod rocksdb;
mod scraper;
pub mod soak;
mod sqlite;
pub mod storm;
mod workload;

pub(crate) use event::files as event_files;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use crate::error::Context;
use crate::options::Options;
use crate::postgres::{self as postgres_server, Postgres};
use crate::{Error, Result, command, ensure};

/// The runs, in the order `all` takes them.
pub const NAMES: [&str; 9] = [
    "pg-mirror",
    "pg-kill",
    "pg-crash",
    "pg-state",
    "webhook-poison",
    "crash-table",
    "crash-storm",
    "soak",
    "memory-ceiling",
];

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
    /// Size of the one transaction of `memory-ceiling`, in MiB.
    pub mib: u64,
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
            mib: 96,
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

/// The binary named by `--cli`, or a fresh build.
///
/// # Errors
/// It does not exist or does not build.
pub fn cli(options: &Options, release: bool) -> Result<PathBuf> {
    match options.text("--cli") {
        Some(path) => std::fs::canonicalize(path).context(|| format!("find the binary {path}")),
        None => build_cli(release),
    }
}

/// Does one run and returns a line about it.
///
/// # Errors
/// What did not hold.
pub fn run(name: &str, plan: &Plan) -> Result<String> {
    match name {
        "pg-mirror" => postgres::mirror(plan),
        "pg-kill" => postgres::kill(plan),
        "pg-crash" => postgres::crash(plan),
        "pg-state" => postgres::state(plan),
        "webhook-poison" => postgres::webhook_poison(plan),
        "crash-table" => crash_table(),
        "crash-storm" => storm::short(plan),
        "soak" => soak::short(plan),
        "memory-ceiling" => ceiling::run(plan),
        _ => Err(Error::new(format!(
            "no run is called `{name}`; known: {}",
            NAMES.join(", ")
        ))),
    }
}

/// Kills a `cdc-cli` of its own build at every named point, with every emitter, reading an engine's log
/// and a PostgreSQL of its own.
///
/// # Errors
/// It does not build, or a row of the table does not hold.
fn crash_table() -> Result<String> {
    let server = Postgres::start()?;
    let mut test = command::cargo(&[
        "nextest",
        "run",
        "--package=cdc-cli",
        "--features=crash-points",
        "crash::",
    ]);
    test.env(postgres_server::URL_VARIABLE, server.url());
    command::check(&mut test).context(|| "kill cdc-cli at every point of the crash table")?;
    Ok(
        "both sources, every emitter, every point: nothing missing, each row in order, files without repeats"
            .into(),
    )
}

/// `cargo xtask run NAME|all`.
///
/// # Errors
/// Options that do not parse, or `cdc-cli` does not build.
pub fn command(args: &[String]) -> Result<ExitCode> {
    let options = Options::parse(
        args,
        &[
            "--transactions",
            "--seed",
            "--kills",
            "--crashes",
            "--cli",
            "--workloads",
            "--mib",
        ],
        &["--release", "--keep"],
    )?;
    let [name] = options.words() else {
        return Err(Error::new(format!(
            "name one run of {}, or all",
            NAMES.join(", ")
        )));
    };
    // No binary and no database; a small number of their workloads is in the tests.
    let library: Option<fn(&Options) -> Result<String>> = match name.as_str() {
        "kinds" => Some(kinds::run),
        "sqlite-oracle" => Some(sqlite::oracle),
        "sqlite-kill" => Some(sqlite::kill),
        "sqlite-corpora" => Some(sqlite::corpora),
        "sqlite-power" => Some(sqlite::power),
        "rocksdb-kill" => Some(rocksdb::kill),
        _ => None,
    };
    if let Some(run) = library {
        let start = Instant::now();
        let report = run(&options)?;
        let seconds = start.elapsed().as_secs_f64();
        println!("{name}: held in {seconds:.1} s: {report}");
        return Ok(ExitCode::SUCCESS);
    }
    let names = if name == "all" {
        NAMES.to_vec()
    } else {
        vec![name.as_str()]
    };
    for name in &names {
        ensure!(
            NAMES.contains(name),
            "no run is called `{name}`; known: {}",
            NAMES.join(", ")
        );
    }
    let mut plan = Plan::short(cli(&options, options.flag("--release"))?);
    plan.transactions = options.get("--transactions", plan.transactions)?;
    plan.seed = options.get("--seed", plan.seed)?;
    plan.kills = options.get("--kills", plan.kills)?;
    plan.crashes = options.get("--crashes", plan.crashes)?;
    plan.mib = options.get("--mib", plan.mib)?;
    plan.keep = options.flag("--keep");
    let mut failed = 0;
    for name in &names {
        let start = Instant::now();
        let outcome = run(name, &plan);
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Ok(report) => println!("{name}: held in {seconds:.1} s: {report}"),
            Err(error) => {
                failed += 1;
                println!("{name}: FAILED in {seconds:.1} s: {error}");
            }
        }
    }
    println!("{} passed, {failed} failed", names.len() - failed);
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
