//! Group commit: nobody sleeps for ever, nobody is told too early, a failure reaches everybody.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use cdc_core::testing::sim_storage::{Failure, SimStorage};
use cdc_core::{Lsn, WalHook};
use cdc_wal::{Log, LogConfig, LogErrorKind, SyncPolicy, Visibility};
use shuttle::thread;

use crate::support::{commit, config, contents, explore, explore_more};

#[derive(Default)]
struct Told(AtomicU64);

impl WalHook for Told {
    fn on_commit(&self, end: Lsn) {
        self.0.fetch_max(end.0, Ordering::SeqCst);
    }
}

/// Committers, a flush beside them, with and without the log's own threads.
fn committers_and_a_flush(background: bool) {
    let disk = SimStorage::new();
    let log = Log::open(LogConfig {
        background,
        ..config(&disk)
    });
    let log = Arc::new(log.unwrap());
    let hook = Arc::new(Told::default());
    log.add_hook(hook.clone());
    let mut workers = Vec::new();
    for worker in 0..3 {
        let log = log.clone();
        workers.push(thread::spawn(move || {
            for n in 0..2 {
                let position = commit(&log, worker * 10 + n, 100).unwrap();
                assert!(log.flushed_lsn() > position.commit, "told too early");
            }
        }));
    }
    let beside = log.clone();
    workers.push(thread::spawn(move || {
        let end = beside.flush().unwrap();
        assert!(beside.flushed_lsn() >= end, "a flush that was none");
    }));
    for worker in workers {
        worker.join().unwrap();
    }
    let mut ids = contents(&log);
    ids.sort_unstable();
    assert_eq!(ids, [0, 1, 10, 11, 20, 21]);
    let flushed = log.flushed_lsn().0;
    // The thread that synced tells the hook after the committers; it has ended then.
    drop(log);
    assert_eq!(
        hook.0.load(Ordering::SeqCst),
        flushed,
        "a hook was not told of the last sync"
    );
}

#[test]
fn every_committer_returns_with_its_transaction_durable() {
    explore(|| committers_and_a_flush(true));
}

#[test]
fn every_committer_returns_without_threads_of_the_log() {
    explore(|| committers_and_a_flush(false));
}

/// Many commit once each, so that the committer of a sync is not yet woken when somebody comes to
/// wait for the sync after the next: those two share a signal.
fn all_come_home(visibility: Visibility, beside: usize) {
    let disk = SimStorage::new();
    let log = Log::open(LogConfig {
        visibility,
        ..config(&disk)
    });
    let log = Arc::new(log.unwrap());
    let mut workers: Vec<_> = (0..8)
        .map(|worker| {
            let log = log.clone();
            thread::spawn(move || {
                commit(&log, worker, 100).unwrap();
            })
        })
        .collect();
    workers.extend((0..beside).map(|_| {
        let log = log.clone();
        thread::spawn(move || drop(contents(&log)))
    }));
    for worker in workers {
        worker.join().unwrap();
    }
}

#[test]
fn who_is_woken_in_anothers_place_passes_it_on() {
    // Without that, five of five seeds saw somebody sleep for ever with 4000 schedules of each kind, two with
    // 1000.
    explore_more(160, || all_come_home(Visibility::Flushed, 0));
}

/// Opening a tail writes out what is buffered: the sync then shows tails nothing new.
#[test]
fn who_is_woken_wakes_the_others_whether_tails_see_more_or_not() {
    explore(|| all_come_home(Visibility::Written, 2));
}

#[test]
fn segments_are_left_while_others_commit() {
    explore(|| {
        let disk = SimStorage::new();
        let log = Arc::new(Log::open(config(&disk)).unwrap());
        let workers: Vec<_> = (0..3)
            .map(|worker| {
                let log = log.clone();
                thread::spawn(move || {
                    for n in 0..3 {
                        commit(&log, worker * 10 + n, 24 << 10).unwrap();
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        let mut ids = contents(&log);
        ids.sort_unstable();
        assert_eq!(ids, [0, 1, 2, 10, 11, 12, 20, 21, 22]);
    });
}

#[test]
fn writes_without_a_sync_go_between_the_syncs_of_others() {
    explore(|| {
        let disk = SimStorage::new();
        let log = Arc::new(Log::open(config(&disk)).unwrap());
        let mut workers = Vec::new();
        for worker in 0..2 {
            let log = log.clone();
            workers.push(thread::spawn(move || {
                commit(&log, worker, 100).unwrap();
                commit(&log, worker + 10, 100).unwrap();
            }));
        }
        let beside = log.clone();
        workers.push(thread::spawn(move || {
            // Opening a tail writes out what is buffered, and waits for its turn to do so.
            for _ in 0..2 {
                let _ids = contents(&beside);
            }
        }));
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(contents(&log).len(), 4);
    });
}

#[test]
fn what_was_acknowledged_before_the_power_went_is_there() {
    explore(|| {
        let disk = SimStorage::new();
        let log = Arc::new(Log::open(config(&disk)).unwrap());
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let workers: Vec<_> = (0..3)
            .map(|worker| {
                let (log, acknowledged) = (log.clone(), acknowledged.clone());
                thread::spawn(move || {
                    for n in 0..2 {
                        let id = worker * 10 + n;
                        match commit(&log, id, 3000) {
                            Ok(_) => acknowledged.lock().unwrap().push(id),
                            Err(error) => assert!(
                                matches!(error.kind, LogErrorKind::Io | LogErrorKind::Dead),
                                "{error}"
                            ),
                        }
                    }
                })
            })
            .collect();
        let power = {
            let disk = disk.clone();
            thread::spawn(move || {
                for _ in 0..shuttle::rand::RngCore::next_u32(&mut shuttle::rand::thread_rng()) % 40
                {
                    thread::yield_now();
                }
                disk.crash(7);
            })
        };
        for worker in workers {
            worker.join().unwrap();
        }
        power.join().unwrap();
        drop(log);
        let log = Log::open(LogConfig {
            background: false,
            ..config(&disk)
        });
        let found = contents(&log.unwrap());
        for id in acknowledged.lock().unwrap().iter() {
            assert!(found.contains(id), "acknowledged, and gone");
        }
    });
}

#[test]
fn a_disk_that_fails_sends_everybody_home() {
    explore(|| {
        let disk = SimStorage::new();
        let log = Arc::new(Log::open(config(&disk)).unwrap());
        let after = shuttle::rand::RngCore::next_u32(&mut shuttle::rand::thread_rng()) % 12;
        disk.fail_after(after.into(), Failure::Once);
        let workers: Vec<_> = (0..3)
            .map(|worker| {
                let log = log.clone();
                thread::spawn(move || {
                    let mut failed = false;
                    for n in 0..3 {
                        let done = commit(&log, worker * 10 + n, 100).is_ok();
                        assert!(!(failed && done), "a dead log took a transaction");
                        failed |= !done;
                    }
                    failed
                })
            })
            .collect();
        let mut failed = false;
        for worker in workers {
            failed |= worker.join().unwrap();
        }
        assert!(
            failed || !disk.has_failed(),
            "nobody was told of the failure"
        );
    });
}

#[test]
fn a_log_that_is_closed_leaves_nothing_behind() {
    explore(|| {
        let disk = SimStorage::new();
        let log = Log::open(LogConfig {
            sync: SyncPolicy::Never,
            ..config(&disk)
        });
        let log = log.unwrap();
        let transactions: Vec<_> = (0..2).map(|id| log.begin(id)).collect();
        // The last handle is dropped by whichever thread is last.
        let workers: Vec<_> = transactions
            .into_iter()
            .map(|mut tx| {
                thread::spawn(move || {
                    let row = cdc_core::testing::row(1, "x", "1");
                    tx.insert(&cdc_core::testing::relation(), &row).unwrap();
                    tx.commit().unwrap();
                })
            })
            .collect();
        drop(log);
        for worker in workers {
            worker.join().unwrap();
        }
        let log = Log::open(LogConfig {
            background: false,
            ..config(&disk)
        });
        assert_eq!(contents(&log.unwrap()).len(), 2);
    });
}
