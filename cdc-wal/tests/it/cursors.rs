//! Cursors whose owner outlives the log, or knows of commits that a loss of power takes.

use std::sync::{Arc, Mutex, PoisonError};

use cdc_core::testing::sim_storage::SimStorage;
use cdc_core::testing::{relation, row};
use cdc_core::{BatchLimit, Lsn, Position, WalHook, WalSource};
use cdc_wal::{Log, LogConfig, StartAt, SyncPolicy, Visibility, WalTail};

use crate::support::{clock, config, drain};

fn settings(disk: &SimStorage, sync: SyncPolicy) -> LogConfig {
    LogConfig {
        storage: disk.shared(),
        retain_bytes: 0,
        sync,
        ..config("/log".as_ref())
    }
}

fn open(disk: &SimStorage) -> Log {
    Log::open(settings(disk, SyncPolicy::Always)).expect("open")
}

fn commit(log: &Log, id: u64) -> Position {
    let mut tx = log.begin(id);
    tx.insert(&relation(), &row(1, &"x".repeat(3000), "1"))
        .expect("insert");
    tx.commit().expect("commit")
}

/// Sixty commits: more than two segments.
fn fill(log: &Log) {
    for id in 1..=60 {
        commit(log, id);
    }
}

fn ids(tail: &mut WalTail) -> Vec<u64> {
    let events = drain(tail, BatchLimit::default()).expect("drain");
    events.iter().map(|event| event.transaction.id).collect()
}

fn confirm(tail: &mut WalTail, position: Position) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("runtime");
    runtime
        .block_on(WalSource::confirm(tail, position))
        .expect("confirm");
}

/// What a tail of a closed log confirms says nothing of the cursors and segments of who has the log now.
#[test]
fn a_tail_that_outlives_its_log_trims_nothing_of_the_next() {
    let disk = SimStorage::new();
    let log = open(&disk);
    let mut late = log.tail_cursor("late", StartAt::Earliest, clock()).unwrap();
    fill(&log);
    log.register_cursor("back", log.end()).unwrap();
    let (oldest, end) = (Position::ZERO, log.end());
    assert_eq!(ids(&mut late).len(), 60);
    drop(log);
    let log = open(&disk);
    log.register_cursor("back", oldest).unwrap();
    log.register_cursor("new", end).unwrap();
    confirm(&mut late, end);
    drop(log);
    let log = open(&disk);
    let cursors = log.cursors();
    assert_eq!(cursors["back"].position, oldest, "its place");
    assert!(cursors.contains_key("new"), "registered since");
    let mut back = log.tail(StartAt::After(oldest), clock()).unwrap();
    assert_eq!(ids(&mut back).len(), 60);
}

/// Lets go of the log when the next sync ends.
#[derive(Debug)]
struct LetsGo(Mutex<Option<Log>>);

impl WalHook for LetsGo {
    fn on_commit(&self, _end: Lsn) {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(log);
    }
}

/// A trim may have to sync, and who is told of that may be the last who has the log.
#[test]
fn a_log_may_be_let_go_of_while_it_is_trimmed() {
    let disk = SimStorage::new();
    let log = Log::open(LogConfig {
        visibility: Visibility::Written,
        ..settings(&disk, SyncPolicy::Never)
    })
    .unwrap();
    let mut tail = log.tail_cursor("one", StartAt::Earliest, clock()).unwrap();
    fill(&log);
    assert_eq!(ids(&mut tail).len(), 60);
    let hook = Arc::new(LetsGo(Mutex::new(None)));
    log.add_hook(hook.clone());
    *hook.0.lock().unwrap() = Some(log);
    let end = tail.end();
    confirm(&mut tail, end);
    assert!(hook.0.lock().unwrap().is_none(), "the trim had to sync");
    let log = open(&disk);
    assert_eq!(log.cursors()["one"].position, Position::ZERO, "not trimmed");
    assert_eq!(
        ids(&mut log.tail(StartAt::Earliest, clock()).unwrap()).len(),
        60
    );
}

/// A log whose last commit is not synced, in its third segment, and that commit.
fn unsynced(disk: &SimStorage) -> (Log, Position) {
    let policy = SyncPolicy::Group(std::time::Duration::from_secs(3600));
    let log = Log::open(settings(disk, policy)).expect("open");
    log.register_cursor("lane", Position::ZERO)
        .expect("a cursor");
    fill(&log);
    let end = log.end();
    assert!(log.flushed_lsn() < end.commit, "nothing has synced it");
    (log, end)
}

/// What a crash takes is committed anew with the same positions: a cursor there would pass over it.
#[test]
fn what_a_cursor_says_is_done_is_there_after_a_crash() {
    for seed in 0..20 {
        for registers in [true, false] {
            let disk = SimStorage::new();
            let (log, end) = unsynced(&disk);
            if registers {
                log.register_cursor("x", end).unwrap();
            } else {
                log.confirm("lane", end).unwrap();
            }
            disk.stop();
            drop(log);
            disk.crash(seed);
            let log = open(&disk);
            let cursors = log.cursors();
            let ahead = cursors.values().any(|cursor| cursor.position > log.end());
            assert!(!ahead, "seed {seed}: {cursors:?}, the end is {}", log.end());
            assert_eq!(cursors.contains_key("x"), registers, "seed {seed}");
        }
    }
}

#[test]
fn a_cursor_on_what_is_durable_syncs_nothing() {
    let disk = SimStorage::new();
    let (log, _) = unsynced(&disk);
    let flushed = log.flushed_lsn();
    let durable = Position::end_of(Lsn(flushed.0 - 1));
    log.register_cursor("x", durable).unwrap();
    log.confirm("lane", durable).unwrap();
    assert_eq!(log.flushed_lsn(), flushed);
}

#[test]
fn a_tail_that_begins_behind_a_commit_that_is_not_durable_makes_it_so() {
    for start in [None, Some(Position::end_of(Lsn(5000)))] {
        let disk = SimStorage::new();
        let (log, end) = unsynced(&disk);
        let after = start.unwrap_or(end);
        let tail = log.tail(StartAt::After(after), clock()).unwrap();
        assert_eq!(tail.end(), after);
        // Its end is given out as covered.
        assert_eq!(log.flushed_lsn() > end.commit, start.is_none());
    }
}

/// A lane that works off its backlog while the disk is full must not end over a file that tells of it.
#[test]
fn what_is_confirmed_on_a_full_disk_is_trimmed_when_there_is_room() {
    let disk = SimStorage::new();
    let log = open(&disk);
    log.register_cursor("lane", Position::ZERO).unwrap();
    fill(&log);
    disk.fill_mount("/log", 0, false);
    log.confirm("lane", log.end()).unwrap();
    assert_eq!(log.confirmed(), Some(log.end()));
    disk.empty_mounts();
    let end = commit(&log, 61);
    log.confirm("lane", end).unwrap();
    log.trim().unwrap();
    assert!(log.oldest().unwrap() > Position::ZERO);
    let files = cdc_core::storage::Storage::list(&disk, "/log".as_ref()).unwrap();
    let first = "0000000000000000.wal";
    assert!(!files.iter().any(|name| name == first), "{files:?}");
}
