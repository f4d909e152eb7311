//! A hook or a waker is another's code: it may use the log, and be the last to have it.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use cdc_core::testing::sim_storage::{Failure, SimStorage};
use cdc_core::testing::{relation, row};
use cdc_core::{BatchLimit, Lsn, WalHook, WalSource};
use cdc_wal::{Log, LogConfig, StartAt, SyncPolicy, Transaction, Visibility, WalTail};
use shuttle::{future, thread};

use crate::support::{Seen, clock, commit, config, contents, explore, explore_more, follow};

/// Lets go of what it holds when it is called.
struct Lets<T>(Mutex<Option<T>>);

impl<T> Lets<T> {
    fn go(&self) {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(held);
    }
}

impl Wake for Lets<Log> {
    fn wake(self: Arc<Self>) {
        Self::go(&self);
    }
}

/// As an executor that runs a task where it is woken.
struct Runs(Mutex<Option<WalTail>>);

impl Wake for Runs {
    fn wake(self: Arc<Self>) {
        if let Some(tail) = &mut *self.0.lock().unwrap() {
            tail.poll_batch(&BatchLimit::default()).unwrap();
        }
    }
}

/// Has a tail wait with this waker.
fn wait(tail: &mut WalTail, waker: &Waker) {
    let mut next = pin!(tail.next_batch(BatchLimit::default()));
    let polled = next.as_mut().poll(&mut Context::from_waker(waker));
    assert!(matches!(polled, Poll::Pending), "there was something");
}

/// Twice at once: a schedule is one of several threads, and these have one.
fn beside(model: fn()) {
    explore(move || {
        let other = thread::spawn(model);
        model();
        other.join().unwrap();
    });
}

fn written(disk: &SimStorage) -> Log {
    let log = Log::open(LogConfig {
        sync: SyncPolicy::Never,
        visibility: Visibility::Written,
        background: false,
        ..config(disk)
    });
    log.unwrap()
}

/// What another tail writes out, or fails to, wakes the one that waits.
fn a_waker_has_the_log(fails: bool) {
    let disk = SimStorage::new();
    let log = written(&disk);
    let mut waits = log.tail(StartAt::Earliest, clock()).unwrap();
    let mut other = log.tail(StartAt::Earliest, clock()).unwrap();
    let task = Arc::new(Lets(Mutex::new(None)));
    wait(&mut waits, &Waker::from(task.clone()));
    commit(&log, 1, 100).unwrap();
    *task.0.lock().unwrap() = Some(log);
    if fails {
        disk.fail_after(0, Failure::Once);
    }
    let polled = other.poll_batch(&BatchLimit::default());
    assert_eq!(polled.is_err(), fails);
    assert!(task.0.lock().unwrap().is_none(), "nobody was woken");
    if !fails {
        assert_eq!(contents(&written(&disk)), [1]);
    }
}

#[test]
fn a_waker_may_be_the_last_that_has_the_log() {
    beside(|| a_waker_has_the_log(false));
}

#[test]
fn a_waker_may_be_the_last_that_has_a_log_that_dies() {
    beside(|| a_waker_has_the_log(true));
}

#[test]
fn a_waker_may_run_its_task_where_a_segment_is_left() {
    beside(|| {
        let disk = SimStorage::new();
        let log = written(&disk);
        let mut waits = log.tail(StartAt::Earliest, clock()).unwrap();
        let runs = log.tail(StartAt::Earliest, clock()).unwrap();
        let task = Arc::new(Runs(Mutex::new(Some(runs))));
        for id in 0..6 {
            // Each of them begins a segment.
            commit(&log, id, 40 << 10).unwrap();
            while waits.poll_batch(&BatchLimit::default()).unwrap().is_some() {}
            wait(&mut waits, &Waker::from(task.clone()));
        }
        assert_eq!(contents(&log).len(), 6);
    });
}

/// Lets go of the log where the log's thread calls it, when the others have had their turns.
struct OnTheFlusher(Lets<Log>);

impl WalHook for OnTheFlusher {
    fn on_commit(&self, _end: Lsn) {
        if thread::current().name() == Some("cdc-wal-sync") {
            for _ in 0..8 {
                thread::yield_now();
            }
            self.0.go();
        }
    }
}

fn filled(log: &Log, id: u64) -> Transaction {
    let mut tx = log.begin(id);
    tx.insert(&relation(), &row(1, "x", "1")).unwrap();
    tx
}

#[test]
fn a_hook_may_let_go_of_the_log_on_the_logs_own_thread() {
    explore_more(20, || {
        let disk = SimStorage::new();
        let log = Log::open(config(&disk)).unwrap();
        let hook = Arc::new(OnTheFlusher(Lets(Mutex::new(None))));
        log.add_hook(hook.clone());
        let tail = log.tail(StartAt::Earliest, clock()).unwrap();
        let seen = Seen::default();
        let shown = seen.clone();
        let tail =
            thread::spawn(move || future::block_on(follow(tail, shown, usize::MAX)).unwrap());
        let workers: Vec<_> = (0..4)
            .map(|id| (id, filled(&log, id)))
            .map(|(id, tx)| {
                thread::spawn(move || {
                    if id == 3 {
                        tx.commit_unsynced().unwrap();
                    } else {
                        tx.commit().unwrap();
                    }
                })
            })
            .collect();
        *hook.0.0.lock().unwrap() = Some(log);
        for worker in workers {
            worker.join().unwrap();
        }
        hook.0.go();
        // Nothing but the end of the log ends it.
        tail.join().unwrap();
        let mut ids = seen.lock().unwrap().clone();
        ids.sort_unstable();
        assert_eq!(ids, [0, 1, 2, 3], "closed before it was read");
    });
}
