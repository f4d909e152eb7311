//! Group commit under contention: nobody sleeps forever, nobody is told too early.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cdc_core::testing::sim_storage::SimStorage;
use cdc_core::testing::{relation, row};
use cdc_core::{BatchLimit, Lsn, WalHook};
use cdc_wal::{Log, LogConfig, StartAt, SyncPolicy};

use crate::support::{clock, config, drain};

/// The greatest end it was told, and how often.
#[derive(Default)]
struct Told(AtomicU64, AtomicU64);

impl WalHook for Told {
    fn on_commit(&self, end: Lsn) {
        self.0.fetch_max(end.0, Ordering::SeqCst);
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

const THREADS: u64 = 6;
const EACH: u64 = 150;

/// Commits of all sizes, so that frames fill, segments are left and writes come between the syncs;
/// some threads also flush and open tails.
fn work(log: &Log, worker: u64) {
    let relation = relation();
    for n in 0..EACH {
        let id = worker * EACH + n;
        let mut tx = log.begin(id);
        let text = "x".repeat(usize::try_from(id * 7919 % 9000).expect("small"));
        for _ in 0..=id % 3 {
            tx.insert(&relation, &row(1, &text, "1")).expect("insert");
        }
        match id % 11 {
            0 => tx.abort().expect("abort"),
            1 => {
                let position = tx.commit_unsynced().expect("commit");
                log.flush().expect("flush");
                assert!(log.flushed_lsn() > position.commit);
            }
            _ => {
                let position = tx.commit().expect("commit");
                assert!(log.flushed_lsn() > position.commit, "told too early");
            }
        }
        if id.is_multiple_of(37) {
            let start = if n.is_multiple_of(2) {
                StartAt::Latest
            } else {
                StartAt::Earliest
            };
            let mut tail = log.tail(start, clock()).expect("tail");
            let _some = tail.poll_batch(&BatchLimit::default()).expect("read");
        }
    }
}

#[test]
fn committers_flushes_and_tails_at_once_all_come_to_an_end() {
    for background in [true, false] {
        let log = Log::open(LogConfig {
            background,
            sync: SyncPolicy::Always,
            storage: Arc::new(SimStorage::new()),
            ..config(std::path::Path::new("/log"))
        })
        .unwrap();
        let hook = Arc::new(Told::default());
        log.add_hook(hook.clone());
        std::thread::scope(|scope| {
            for worker in 0..THREADS {
                let log = &log;
                scope.spawn(move || work(log, worker));
            }
        });
        log.flush().unwrap();
        let events = drain(
            &mut log.tail(StartAt::Earliest, clock()).unwrap(),
            BatchLimit::default(),
        );
        let mut ids: Vec<u64> = events.unwrap().iter().map(|e| e.transaction.id).collect();
        ids.dedup();
        ids.sort_unstable();
        let expected: Vec<u64> = (0..THREADS * EACH).filter(|id| id % 11 != 0).collect();
        assert_eq!(ids, expected);
        let flushed = log.flushed_lsn().0;
        // The log's threads tell hooks after those who committed; they have ended then.
        drop(log);
        assert_eq!(hook.0.load(Ordering::SeqCst), flushed);
    }
}

/// A hook that breaks its contract.
struct Panics;

impl WalHook for Panics {
    fn on_commit(&self, _end: Lsn) {
        panic!("a hook must not");
    }
}

#[test]
fn a_hook_that_panics_keeps_nothing_from_anybody() {
    let policies = [
        (SyncPolicy::Always, true),
        (SyncPolicy::Always, false),
        (SyncPolicy::Group(Duration::ZERO), true),
    ];
    for (sync, background) in policies {
        let log = Log::open(LogConfig {
            background,
            sync,
            storage: Arc::new(SimStorage::new()),
            ..config(std::path::Path::new("/log"))
        })
        .unwrap();
        let after = Arc::new(Told::default());
        log.add_hook(Arc::new(Panics));
        log.add_hook(after.clone());
        let relation = relation();
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let (log, relation) = (&log, &relation);
                scope.spawn(move || {
                    for n in 0..40 {
                        let mut tx = log.begin(worker * 40 + n);
                        tx.insert(relation, &row(1, "x", "1")).expect("insert");
                        tx.commit().expect("commit");
                    }
                });
            }
        });
        log.flush().unwrap();
        let events = drain(
            &mut log.tail(StartAt::Earliest, clock()).unwrap(),
            BatchLimit::default(),
        );
        assert_eq!(events.unwrap().len(), 160);
        let flushed = log.flushed_lsn().0;
        drop(log);
        assert_eq!(after.0.load(Ordering::SeqCst), flushed, "{sync:?}");
    }
}
