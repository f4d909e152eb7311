//! Recovery where the random crash matrix seldom goes.

use cdc_core::storage::{OpenMode, Storage};
use cdc_core::testing::sim_storage::{Failure, SimStorage};
use cdc_core::testing::{relation, row};
use cdc_core::{BatchLimit, ChangeEvent};
use cdc_wal::inspect::Inspector;
use cdc_wal::{Log, LogConfig, LogErrorKind, Recovery, StartAt, SyncPolicy, Visibility};

use crate::frozen::frozen;

use crate::support::{clock, config, drain};

const FIRST: &str = "/log/0000000000000000.wal";

fn settings(disk: &SimStorage) -> LogConfig {
    LogConfig {
        storage: disk.shared(),
        sync: SyncPolicy::Never,
        visibility: Visibility::Written,
        ..config("/log".as_ref())
    }
}

fn open(disk: &SimStorage) -> Log {
    Log::open(settings(disk)).expect("open")
}

fn commit(log: &Log, id: u64) {
    let mut tx = log.begin(id);
    tx.insert(&relation(), &row(1, "name", "1"))
        .expect("insert");
    tx.commit().expect("commit");
}

fn events(log: &Log) -> Vec<ChangeEvent> {
    let mut tail = log.tail(StartAt::Earliest, clock()).expect("tail");
    drain(&mut tail, BatchLimit::default()).expect("drain")
}

#[test]
fn what_a_torn_tail_left_behind_never_comes_back() {
    let disk = SimStorage::new();
    let log = open(&disk);
    for id in 1..=3 {
        commit(&log, id);
    }
    assert_eq!(events(&log).len(), 3);
    disk.kill();
    drop(log);
    // The first frame was torn, the valid ones behind it were never durable.
    disk.damage(FIRST.as_ref(), 4100, |byte| byte ^ 1).unwrap();
    let log = open(&disk);
    assert!(log.recovered_cut_bytes() > 0);
    assert!(events(&log).is_empty());
    // New frames of the same size end exactly where an old one began.
    commit(&log, 9);
    assert_eq!(ids(&log), [9]);
    drop(log);
    assert_eq!(ids(&open(&disk)), [9]);
}

fn ids(log: &Log) -> Vec<u64> {
    events(log).iter().map(|e| e.transaction.id).collect()
}

/// Zeros that a failed sync left in the system's memory look as if they were on the disk.
#[test]
fn what_a_cut_that_failed_left_behind_never_comes_back() {
    let (mut n, mut refused) = (0, 0);
    loop {
        let disk = SimStorage::new();
        let log = open(&disk);
        (1..=3).for_each(|id| commit(&log, id));
        assert_eq!(ids(&log), [1, 2, 3]);
        disk.kill();
        drop(log);
        // All of it came to the disk by itself but for the first frame.
        let file = disk.open(FIRST.as_ref(), OpenMode::ReadWrite).unwrap();
        file.sync_data().unwrap();
        disk.damage(FIRST.as_ref(), 4100, |byte| byte ^ 1).unwrap();
        disk.fail_after(n, Failure::Forget);
        drop(Log::open(settings(&disk)));
        if !disk.has_failed() {
            break;
        }
        disk.kill();
        // A torn tail may look like none now, and is one.
        let strict = LogConfig {
            recovery: Recovery::Strict,
            ..settings(&disk)
        };
        if let Err(error) = Log::open(strict) {
            assert_eq!(error.kind, LogErrorKind::Corrupt, "call {n}: {error}");
            refused += 1;
        }
        let log = open(&disk);
        commit(&log, 9);
        log.flush().unwrap();
        disk.stop();
        drop(log);
        disk.crash(n);
        let log = open(&disk);
        assert_eq!(ids(&log), [9], "call {n}");
        commit(&log, 10);
        assert_eq!(ids(&log), [9, 10], "call {n}");
        let names = disk.list("/log".as_ref()).unwrap();
        assert_eq!(names.len(), 2, "call {n}: {names:?}");
        n += 1;
    }
    assert!(n > refused && refused > 4, "{n} calls, {refused} refusals");
}

#[test]
fn transactions_that_lost_their_writer_hold_nothing_back() {
    let disk = SimStorage::new();
    let log = open(&disk);
    let mut lost = log.begin(1);
    for n in 0..1000 {
        lost.insert(
            &relation(),
            &row(n, "large enough to be in the log early", "1"),
        )
        .unwrap();
    }
    log.flush().unwrap();
    let mut tail = log.tail(StartAt::Earliest, clock()).unwrap();
    assert!(drain(&mut tail, BatchLimit::default()).unwrap().is_empty());
    assert!(
        tail.restart_lsn() < log.written_lsn(),
        "an open transaction is held"
    );
    disk.kill();
    drop((lost, tail, log));
    let log = open(&disk);
    commit(&log, 2);
    log.flush().unwrap();
    let mut tail = log.tail(StartAt::Earliest, clock()).unwrap();
    assert_eq!(drain(&mut tail, BatchLimit::default()).unwrap().len(), 1);
    assert_eq!(tail.restart_lsn(), log.written_lsn());
}

#[test]
fn a_torn_tail_is_cut_at_every_length() {
    let whole = {
        let disk = SimStorage::new();
        let log = open(&disk);
        commit(&log, 1);
        let _ = events(&log);
        log.written_lsn().0
    };
    for cut in (4096..whole).step_by(7) {
        let disk = SimStorage::new();
        let log = open(&disk);
        commit(&log, 1);
        assert_eq!(events(&log).len(), 1);
        disk.kill();
        drop(log);
        for offset in cut..whole {
            disk.damage(FIRST.as_ref(), offset, |_| 0).unwrap();
        }
        let log = open(&disk);
        assert!(events(&log).len() <= 1);
        commit(&log, 2);
        assert_eq!(events(&log).last().unwrap().transaction.id, 2);
    }
}

#[test]
fn the_inspector_counts_finds_and_names_damage() {
    let dir = tempfile::tempdir().unwrap();
    let expected = frozen(dir.path());
    let storage = cdc_core::storage::StdStorage::shared;
    let inspector = Inspector::open(storage(), dir.path()).unwrap();
    let segments = inspector.segments().unwrap();
    assert_eq!(segments.len(), 2);
    assert!(segments[0].sealed && !segments[1].sealed);
    assert_eq!(
        segments.iter().map(|s| s.events).sum::<u64>(),
        expected.len() as u64
    );
    assert_eq!(
        segments[1].last,
        expected
            .last()
            .map(|e| cdc_core::Position::end_of(e.position.commit))
    );
    let frames: Vec<_> = inspector
        .frames(inspector.first_lsn())
        .collect::<Result<_, _>>()
        .unwrap();
    let kinds: std::collections::HashSet<_> = frames.iter().map(|f| f.kind.name()).collect();
    for kind in [
        "relation", "changes", "commit", "abort", "restart", "seal", "rollback",
    ] {
        assert!(kinds.contains(kind), "{kind} in {kinds:?}");
    }
    let last = frames.iter().rfind(|f| f.commit.is_some()).unwrap();
    let changes = inspector.changes(last.lsn).unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].after, expected.last().unwrap().after);
    inspector
        .changes(cdc_core::Lsn(last.lsn.0 + 8))
        .unwrap_err();

    let damaged = &frames[frames.len() / 2];
    let path = dir.path().join(&damaged.file);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[usize::try_from(damaged.offset).unwrap() + 40] ^= 4;
    std::fs::write(&path, bytes).unwrap();
    let report = Inspector::open(storage(), dir.path())
        .unwrap()
        .verify()
        .unwrap();
    let damage = report.damage.unwrap();
    assert_eq!((damage.path, damage.offset), (path, damaged.offset));
    assert!(!damage.torn_tail);
    assert_eq!(report.frames, frames.len() as u64 / 2);
}

/// Everything committed before, found by a process that starts on what a killed one left, and
/// flushed by it, is there after the power went.
fn survives_what_is_flushed_after(disk: &SimStorage, expected: usize, seed: u64) {
    disk.kill();
    let log = open(disk);
    assert_eq!(events(&log).len(), expected, "the machine went on");
    commit(&log, 100);
    log.flush().expect("flush");
    disk.stop();
    drop(log);
    disk.crash(seed);
    assert_eq!(events(&open(disk)).len(), expected + 1, "seed {seed}");
}

#[test]
fn a_failed_sync_takes_nothing_that_a_later_one_promises() {
    for seed in 0..20 {
        let disk = SimStorage::new();
        let log = open(&disk);
        for id in 1..=3 {
            commit(&log, id);
        }
        // The flush writes, then syncs: the system forgets that these bytes were never written.
        disk.fail_after(1, Failure::Forget);
        log.flush().expect_err("the sync fails");
        drop(log);
        survives_what_is_flushed_after(&disk, 3, seed);
    }
}

#[test]
fn the_name_of_a_segment_made_before_a_kill_becomes_durable() {
    for seed in 0..20 {
        let disk = SimStorage::new();
        let log = open(&disk);
        let mut count = 0;
        while log.end().commit.0 < 70_000 {
            count += 1;
            commit(&log, count);
        }
        events(&log);
        disk.stop();
        drop(log);
        survives_what_is_flushed_after(&disk, usize::try_from(count).unwrap(), seed);
    }
}

/// Of a segment that was never synced, a loss of power may leave the frames and not the length.
#[test]
fn a_segment_that_lost_its_length_takes_frames_to_its_end_again() {
    let mut shorter = 0;
    for seed in 0..60 {
        let disk = SimStorage::new();
        let log = open(&disk);
        // The first segment is durable but for its end, the second has some frames.
        let mut id = 0;
        for (end, flush) in [(65_000, true), (72_000, false)] {
            while log.end().commit.0 < end {
                id += 1;
                commit(&log, id);
            }
            if flush {
                log.flush().expect("flush");
            }
        }
        events(&log);
        disk.stop();
        drop(log);
        disk.crash(seed);
        let second = std::path::Path::new("/log/0000000000010000.wal");
        let file = disk.open(second, OpenMode::Read);
        let short = file.is_ok_and(|file| file.len().expect("length") < 65_536);
        let log = open(&disk);
        shorter += u32::from(short && log.end().commit.0 > 65_536);
        let mut expected = events(&log).len();
        while log.end().commit.0 < 160_000 {
            commit(&log, 1000 + expected as u64);
            expected += 1;
        }
        assert_eq!(events(&log).len(), expected, "seed {seed}");
        disk.kill();
        drop(log);
        let log = open(&disk);
        assert_eq!(events(&log).len(), expected, "seed {seed}");
        let file = disk.open(second, OpenMode::Read).expect("open");
        assert_eq!(file.len().expect("length"), 65_536, "seed {seed}");
    }
    assert!(
        shorter > 0,
        "no crash took a length: the test proves nothing"
    );
}

/// A frame that is being written while another process looks is not damage.
#[test]
fn a_look_at_the_frames_ends_where_the_writer_is_writing() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(config(dir.path())).unwrap();
    let mut tx = log.begin(1);
    tx.insert(&relation(), &row(1, "x", "1")).unwrap();
    tx.commit().unwrap();
    let real = || cdc_core::storage::StdStorage::shared();
    let look = Inspector::open(real(), dir.path()).unwrap();
    let whole = look.frames(look.first_lsn()).map(Result::unwrap).count();
    let written = look.written_lsn().unwrap().0;
    let path = dir.path().join(format!("{:016x}.wal", 0));
    let mut bytes = std::fs::read(&path).unwrap();
    let at = usize::try_from(written).unwrap();
    bytes[at..at + 100].fill(0xee);
    std::fs::write(&path, &bytes).unwrap();
    let frames = look.frames(look.first_lsn());
    assert_eq!(frames.map(Result::unwrap).count(), whole);
    assert!(look.verify().unwrap().damage.unwrap().torn_tail);
    // Below, it is.
    bytes[at - 20] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let frames = look.frames(look.first_lsn());
    assert_eq!(frames.filter(Result::is_err).count(), 1);
}
