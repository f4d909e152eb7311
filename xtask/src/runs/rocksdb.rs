//! The kill test of the RocksDB reader, in numbers that are too large for every run of the tests.

use crate::options::Options;
use crate::{Result, command};

/// Kills, unless the options say another number.
const KILLS: u64 = 100;

/// `cargo xtask run rocksdb-kill`: a real RocksDB whose writer is killed again and again while its log
/// is followed; the events must be what it recovers.
///
/// # Errors
/// Options that do not parse, or something that did not hold.
pub(super) fn kill(options: &Options) -> Result<String> {
    let kills = options.get("--kills", KILLS)?;
    let seed: u64 = options.get("--seed", super::clock_seed() & 0xffff)?;
    let mut test = command::cargo(&[
        "test",
        "--package",
        "cdc-wal",
        "--release",
        "--test",
        "it",
        "rocksdb::kill",
        "--",
        "--nocapture",
    ]);
    test.env("CDC_ROCKSDB_KILLS", kills.to_string())
        .env("CDC_ROCKSDB_SEED", seed.to_string());
    command::check(&mut test)?;
    Ok(format!("{kills} kills from seed {seed}"))
}
