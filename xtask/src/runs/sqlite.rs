//! The tests of the SQLite reader, in numbers that are too large for every run of the tests.

use crate::options::Options;
use crate::{Result, command, ensure};

/// Random workloads, unless the options say another number.
const WORKLOADS: u64 = 5_000;
/// Kills, unless the options say another number.
const KILLS: u64 = 200;
/// How often each corpus is followed in each mode and each way, and how often power is lost, unless the
/// options say another number.
const REPLAYS: u64 = 24;
const POWER_CUTS: u64 = 2_000;

/// `cargo xtask run sqlite-oracle`: random workloads, each transaction's changes applied to a copy
/// that must equal the tables as SQLite reads them.
///
/// # Errors
/// Options that do not parse, or something that did not hold.
pub(super) fn oracle(options: &Options) -> Result<String> {
    let workloads = options.get("--workloads", WORKLOADS)?;
    let seed: u64 = options.get("--seed", super::clock_seed())?;
    ensure!(workloads > 0, "`--workloads` is 0; give at least 1");
    let mut test = cargo_test(&["--lib", "sqlite::tests::random_workloads"]);
    test.env("CDC_SQLITE_WORKLOADS", workloads.to_string())
        .env("CDC_SQLITE_SEED", seed.to_string());
    command::check(&mut test)?;
    Ok(format!("{workloads} workloads from seed {seed}"))
}

/// `cargo xtask run sqlite-kill`: the follower killed at random beside a writer that is killed too.
///
/// # Errors
/// Options that do not parse, or something that did not hold.
pub(super) fn kill(options: &Options) -> Result<String> {
    let kills = options.get("--kills", KILLS)?;
    let seed: u64 = options.get("--seed", super::clock_seed())?;
    let mut test = cargo_test(&["--test", "it", "sqlite::kill", "--", "--nocapture"]);
    test.env("CDC_SQLITE_KILLS", kills.to_string())
        .env("CDC_SQLITE_SEED", seed.to_string());
    command::check(&mut test)?;
    Ok(format!("{kills} kills from seed {seed}"))
}

/// `cargo xtask run sqlite-corpora`: workloads that others wrote, run by the `sqlite3` command over
/// random page sizes and encodings while they are followed, step by step and beside the writer, in
/// both modes; `--workloads` says how often.
///
/// # Errors
/// Options that do not parse, or something that did not hold.
pub(super) fn corpora(options: &Options) -> Result<String> {
    let replays = options.get("--workloads", REPLAYS)?;
    let seed: u64 = options.get("--seed", super::clock_seed())?;
    let mut test = cargo_test(&["--lib", "sqlite::tests::corpora", "--", "--nocapture"]);
    test.env("CDC_SQLITE_REPLAYS", replays.to_string())
        .env("CDC_SQLITE_SEED", seed.to_string());
    command::check(&mut test)?;
    Ok(format!(
        "each corpus {replays} times in each mode, twice, from seed {seed}"
    ))
}

/// `cargo xtask run sqlite-power`: power lost at random, of what is kept for a restart and of the
/// application's log; `--crashes` says how often in each mode.
///
/// # Errors
/// Options that do not parse, or something that did not hold.
pub(super) fn power(options: &Options) -> Result<String> {
    let cuts = options.get("--crashes", POWER_CUTS)?;
    let seed: u64 = options.get("--seed", super::clock_seed())?;
    let mut test = cargo_test(&["--lib", "sqlite::tests::power", "--", "--nocapture"]);
    test.env("CDC_SQLITE_POWER_CUTS", cuts.to_string())
        .env("CDC_SQLITE_SEED", seed.to_string());
    command::check(&mut test)?;
    Ok(format!(
        "{cuts} losses of power in each mode from seed {seed}"
    ))
}

fn cargo_test(which: &[&str]) -> std::process::Command {
    let mut args = vec![
        "test",
        "--package",
        "cdc-wal",
        "--features",
        "sqlite",
        "--release",
    ];
    args.extend_from_slice(which);
    command::cargo(&args)
}
