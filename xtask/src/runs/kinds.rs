//! The conformance kit of `cdc-wal` over many workloads: every kind of engine, killed and recovered.

use crate::options::Options;
use crate::{Result, command, ensure};

/// Workloads of each kind, unless the options say another number.
const WORKLOADS: u64 = 1_000;

/// `cargo xtask run kinds`: builds with optimisations and runs the kit's tests.
///
/// # Errors
/// Options that do not parse, or something that did not hold.
pub(super) fn run(options: &Options) -> Result<String> {
    let workloads = options.get("--workloads", WORKLOADS)?;
    let seed: u64 = options.get("--seed", 0)?;
    ensure!(workloads > 0, "`--workloads` is 0; give at least 1");
    let args = [
        "nextest",
        "run",
        "--package",
        "cdc-wal",
        "--release",
        "kinds::conformance",
    ];
    let mut nextest = command::cargo(&args);
    nextest
        .env("CDC_KINDS_WORKLOADS", workloads.to_string())
        .env("CDC_KINDS_SEED", seed.to_string());
    command::check(&mut nextest)?;
    Ok(format!(
        "8 kinds, {workloads} workloads each from seed {seed}"
    ))
}
