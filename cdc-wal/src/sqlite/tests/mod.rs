//! The decoder against SQLite itself: after each transaction of a random workload the changes,
//! applied one by one to a copy, must give the tables as SQLite reads them.

mod corpora;
mod damage;
mod defaults;
mod following;
mod lock_page;
mod mirror;
mod oracle;
mod power;
mod protocol;
mod turned;
mod workload;

use oracle::Run;
use protocol::Protocol;

use super::config::Mode;

/// Workloads of one test run; `cargo xtask run sqlite-oracle` asks for more.
fn workloads(default: u64) -> (u64, u64) {
    let number = |name: &str, default: u64| match std::env::var(name) {
        Ok(text) => text.parse().expect("a number in the environment"),
        Err(_) => default,
    };
    (
        number("CDC_SQLITE_SEED", 1),
        number("CDC_SQLITE_WORKLOADS", default),
    )
}

fn sweep(stream: u64, count: u64) {
    let (first, total) = workloads(count * 4);
    for seed in first..first + total.div_ceil(4) {
        Run::new(seed * 4 + stream).all();
    }
}

/// Rows often take overflow pages over that others left, whose numbers are all that their cells differ in.
#[test]
fn random_workloads_of_long_keys_give_exactly_the_changes() {
    let (first, total) = workloads(40);
    for seed in first..first + total {
        Run::new(seed).with_long_keys().all();
    }
}

fn followed(stream: u64, count: u64, mode: Mode) {
    let (first, total) = workloads(count * 2);
    let (mut merged, mut whole) = (0, 0);
    for seed in first..first + total.div_ceil(2) {
        let mut run = Protocol::new(seed * 2 + stream, mode);
        run.all();
        merged += run.merged;
        whole += run.whole;
    }
    println!(
        "{}: {whole} transactions whole, {merged} merged",
        mode.name()
    );
    assert!(whole > 0);
}

#[test]
fn random_workloads_are_followed_exactly_with_the_log_held_one() {
    followed(0, 10, Mode::Pinned);
}

#[test]
fn random_workloads_are_followed_exactly_with_the_log_held_two() {
    followed(1, 10, Mode::Pinned);
}

/// A writer spills the first frames of a log and rolls back, another one begins the log once more.
#[test]
fn a_log_that_is_begun_twice_is_followed() {
    Protocol::new(200_104, Mode::Pinned).all();
}

/// Rolled-back transactions that spilled, with and without frames that have no checksums.
#[test]
fn what_was_rolled_back_lies_over_an_older_log_and_is_no_part_of_it() {
    for seed in [12_000_040, 12_000_471] {
        Protocol::new(seed, Mode::LockFree).all();
    }
}

/// A table without key that is altered, and whose rows a VACUUM numbers anew, in one merged transaction.
#[test]
fn an_altered_table_that_is_vacuumed_too_comes_in_one_merged_transaction() {
    for seed in [14_001_228, 40_000_415] {
        Protocol::new(seed, Mode::LockFree).all();
    }
}

/// Rows of two states that are far apart: most pages were given to other rows meanwhile.
#[test]
fn random_workloads_of_long_keys_are_followed_without_a_lock() {
    let (first, total) = workloads(6);
    for seed in first..first + total {
        Protocol::new(seed, Mode::LockFree).with_long_keys().all();
    }
}

#[test]
fn random_workloads_are_followed_without_a_lock_one() {
    followed(0, 10, Mode::LockFree);
}

#[test]
fn random_workloads_are_followed_without_a_lock_two() {
    followed(1, 10, Mode::LockFree);
}

// Four tests, so that they run beside each other.

#[test]
fn random_workloads_give_exactly_the_changes_one() {
    sweep(0, 50);
}

#[test]
fn random_workloads_give_exactly_the_changes_two() {
    sweep(1, 50);
}

#[test]
fn random_workloads_give_exactly_the_changes_three() {
    sweep(2, 50);
}

#[test]
fn random_workloads_give_exactly_the_changes_four() {
    sweep(3, 50);
}
