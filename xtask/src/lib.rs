//! Automation of this workspace: set-up, tests, benchmarks and house rules, in plain Rust.
//!
//! No other crate needs this one, and it needs none of theirs: the integration runs drive the
//! built `cdc-cli` from outside, as a user would, and judge it by what arrives at the
//! destination.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool"
)]

pub mod bench;
pub mod ci;
pub mod command;
pub mod error;
pub mod fuzz;
pub mod guard;
pub mod json;
pub mod model;
pub mod options;
pub mod postgres;
pub mod runs;
pub mod sanitize;
pub mod seeded;
pub mod setup;
pub mod sim;
pub mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

pub use error::{Error, Result};

const USAGE: &str = "\
Automation of this workspace.

Usage: cargo xtask COMMAND

  setup                  install what the tests need: PostgreSQL, sqlite3, RocksDB, valgrind, …
  test [FILTER…]         tidy, every test, doctests, integration runs against a private PostgreSQL
                         (with filters: only the unit and integration tests they match)
  ci                     formatting, clippy, documentation, then all of `test`
  tidy                   the house rules: crate edges, lints, dependencies, files, words, links
  pg [-- CMD…]           run CMD with CDC_TEST_POSTGRES set to a private PostgreSQL, which is
                         stopped afterwards; without CMD, keep it until ctrl-c or end of input
  sim [OPTIONS]          the whole pipeline in a simulated world: --seed N, --count N, --minutes M;
                         `sim --help` lists the others, docs/simulator.md explains
  model [NAME] [OPTIONS] what threads share, under many orders of turns: --schedules N, --seed N, --replay SCHEDULE
  sanitize [NAME]        the most threaded tests under a sanitizer: address, thread, or both
  fuzz [TARGET…|all]     run the fuzz targets: --secs N each (default 60), --jobs N at once (1), --sanitizer none|address,
                         --keep what covers more, --list
  seeded-bugs [NAME…]    put each deliberate fault of xtask/seeded-bugs.txt into a copy and show which tests see it
  crash [OPTIONS]        a storm of kills and faults over every emitter at once: --minutes M, --kills N, --seed N
  soak [OPTIONS]         a steady load with faults; memory, handles and disk stay flat: --minutes M, --rate N (events/s)
  run NAME|all [OPTIONS] one integration run of cdc-cli, or all of them
  bench [NAME] [OPTIONS] measure; counts are checked at the destination
  help                   this text

Runs: pg-mirror, pg-kill, pg-crash, pg-state, webhook-poison, crash-table, crash-storm, soak, memory-ceiling; and, not in `all`, kinds
(conformance of the typed logs), sqlite-oracle, sqlite-kill, sqlite-corpora, sqlite-power, rocksdb-kill
  --transactions N       how many transactions the writers commit (default 4000; long: 200000)
  --seed N               seed of everything random (default: from the clock, always printed)
  --kills N              pg-kill: how often cdc-cli is killed (default 5); sqlite-kill, rocksdb-kill
  --workloads N          kinds: random workloads of each of the eight kinds (default 1000)
  --mib N                memory-ceiling: size of its one transaction (default 96; long: 4096)
  --crashes N            pg-crash: how often the database is killed (default 2)
  --cli PATH             use this cdc-cli instead of building one
  --release              build cdc-cli with optimisations
  --keep                 leave the run's directory and say where it is

Benchmarks: postgres (catch-up beside pg_recvlogical), large (one transaction of 5M rows), log,
dlq (opening a million letters), delivery (rates, latency, dead keys, memory)
  -o table|json          form of the result (default table)
  --scale F              fraction of the full size (default 1.0)
  --rounds N             measured rounds, alternating; the median is reported (default 3)
  --cli PATH             use this cdc-cli instead of building one
  --instructions         log: count instructions an event with valgrind, against the baseline
  --write-baseline       log: count, and write a new baseline
";

/// Runs one command line (without the program's name).
///
/// # Errors
/// A message for the terminal: what was attempted, on what, and what to do.
pub fn run(args: &[String]) -> Result<ExitCode> {
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", args),
    };
    match command {
        "setup" => setup::run(rest),
        "test" => ci::test(rest),
        "ci" => ci::ci(rest),
        "tidy" => tidy::command(rest),
        "pg" => postgres::command(rest),
        "run" => runs::command(rest),
        "bench" => bench::command(rest),
        "sim" => sim::command(rest),
        "model" => model::command(rest),
        "sanitize" => sanitize::command(rest),
        "fuzz" => fuzz::command(rest),
        "seeded-bugs" => seeded::command(rest),
        "crash" => runs::storm::command(rest),
        "soak" => runs::soak::command(rest),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        other => Err(Error::new(format!(
            "unknown command `{other}`; `cargo xtask help` lists them"
        ))),
    }
}

/// The root of the workspace.
pub fn root() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root
}
