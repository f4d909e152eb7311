//! The decoder against SQLite itself: after each transaction of a random workload the changes,
//! applied one by one to a copy, must give the tables as SQLite reads them.

mod mirror;
mod oracle;
mod workload;

use oracle::Run;

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
