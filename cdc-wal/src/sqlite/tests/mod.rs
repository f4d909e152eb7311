//! The decoder against SQLite itself: after each transaction of a random workload the changes,
//! applied one by one to a copy, must give the tables as SQLite reads them.

mod mirror;
mod oracle;
mod protocol;
mod workload;

use cdc_core::SourceError;
use oracle::Run;
use protocol::Protocol;
use workload::{Random, Workload};

use super::config::Mode;
use super::decoder::Decoder;
use super::pages::{Pages, Side};
use super::sink::Nowhere;

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

/// Pages of a database, some of them damaged.
struct Damaged {
    old: Vec<bytes::Bytes>,
    new: Vec<bytes::Bytes>,
}

impl Pages for Damaged {
    fn page(&self, side: Side, number: u32) -> Result<bytes::Bytes, SourceError> {
        let pages = if side == Side::Old {
            &self.old
        } else {
            &self.new
        };
        Ok(pages[number as usize - 1].clone())
    }

    fn count(&self, side: Side) -> u32 {
        let pages = if side == Side::Old {
            &self.old
        } else {
            &self.new
        };
        u32::try_from(pages.len()).unwrap()
    }
}

/// Whatever stands on a page: an error or some changes, in bounded time, and no panic.
#[test]
fn damaged_pages_are_an_error_or_other_rows_but_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let (_, total) = workloads(400);
    for seed in 0..total.div_ceil(100) {
        let mut random = Random::new(seed);
        let path = dir.path().join(format!("{seed}.db"));
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch("PRAGMA page_size = 512").unwrap();
        let mut workload = Workload::new(random.clone(), 512);
        for _ in 0..4 {
            let create = workload.create();
            db.execute_batch(&create).unwrap();
        }
        let pages = |path: &std::path::Path| -> Vec<bytes::Bytes> {
            let bytes = std::fs::read(path).unwrap();
            bytes
                .chunks(512)
                .map(bytes::Bytes::copy_from_slice)
                .collect()
        };
        for _ in 0..6 {
            workload.transaction(&db);
        }
        let old = pages(&path);
        for _ in 0..2 {
            workload.transaction(&db);
        }
        let new = pages(&path);
        for _ in 0..100 {
            let mut damaged = Damaged {
                old: old.clone(),
                new: new.clone(),
            };
            let sound = Damaged {
                old: old.clone(),
                new: old.clone(),
            };
            let mut decoder = Decoder::open(&sound, true, None).unwrap();
            for _ in 0..1 + random.below(6) {
                let at = usize::try_from(random.below(damaged.new.len() as u64)).unwrap();
                let mut page = damaged.new[at].to_vec();
                for _ in 0..1 + random.below(4) {
                    // Most of what matters stands at the front.
                    let bound = if random.one_in(2) { 24 } else { 512 };
                    let byte = usize::try_from(random.below(bound)).unwrap();
                    page[byte] = u8::try_from(random.below(256)).unwrap();
                }
                damaged.new[at] = page.into();
            }
            if random.one_in(4) {
                damaged.new.truncate(damaged.new.len() / 2 + 1);
            }
            let most = damaged.new.len().max(damaged.old.len());
            let changed: Vec<u32> = (1..=most)
                .filter(|n| damaged.old.get(n - 1) != damaged.new.get(n - 1))
                .map(|n| u32::try_from(n).unwrap())
                .collect();
            drop(decoder.transaction(&changed, &damaged, &mut Nowhere));
            drop(Decoder::open(&damaged, true, Some(&mut Nowhere)));
        }
    }
}
