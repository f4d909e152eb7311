//! Segments that are gone: what says that they were durable is believed, and kept.

use cdc_core::BatchLimit;
use cdc_core::storage::{OpenMode, Storage, read_exact_at};
use cdc_core::testing::sim_storage::{Failure, SimStorage};
use cdc_core::testing::{relation, row};
use cdc_wal::inspect::Inspector;
use cdc_wal::repair::{RepairMode, plan};
use cdc_wal::{Log, LogConfig, LogError, LogErrorKind, Recovery, StartAt, SyncPolicy};

use crate::support::{clock, config, drain};

const SEGMENT: u64 = 64 << 10;

fn open(disk: &SimStorage, sync: SyncPolicy, recovery: Recovery) -> Result<Log, LogError> {
    Log::open(LogConfig {
        storage: disk.shared(),
        sync,
        recovery,
        ..config("/log".as_ref())
    })
}

/// Commits until the log's last commit is at or behind an LSN.
fn commit_to(log: &Log, lsn: u64) {
    while log.end().commit.0 < lsn {
        let mut tx = log.begin(1);
        tx.insert(&relation(), &row(1, &"x".repeat(2000), "1"))
            .expect("insert");
        tx.commit().expect("commit");
    }
}

fn file(segment: u64) -> String {
    format!("/log/{:016x}.wal", segment * SEGMENT)
}

fn remove(disk: &SimStorage, segment: u64) {
    disk.remove(file(segment).as_ref()).expect("a segment");
    disk.sync_dir("/log".as_ref()).expect("sync");
}

/// What stands in the directory: names and contents.
fn everything(disk: &SimStorage) -> Vec<(String, Vec<u8>)> {
    let names = disk.list("/log".as_ref()).expect("a directory");
    let read = |name: String| {
        let path = format!("/log/{name}");
        let file = disk.open(path.as_ref(), OpenMode::Read).expect("a file");
        let length = usize::try_from(file.len().expect("length")).expect("small");
        let mut bytes = vec![0; length];
        read_exact_at(file.as_ref(), &mut bytes, 0).expect("read");
        (name, bytes)
    };
    names.into_iter().map(read).collect()
}

/// Both ways to open that repair nothing refuse the log, name the segment and leave all as it is.
fn is_refused(disk: &SimStorage, sync: SyncPolicy, segment: u64) {
    let before = everything(disk);
    let name = file(segment).replace("/log/", "");
    for recovery in [Recovery::Strict, Recovery::Tail] {
        let opened = open(disk, sync, recovery).map(drop);
        let error = opened.expect_err("what was durable is lost");
        assert_eq!(error.kind, LogErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains(&name), "{error}");
        assert!(everything(disk) == before, "{recovery:?} changed something");
    }
}

#[test]
fn the_newest_segment_is_missed_if_something_in_it_was_durable() {
    for lost in [1, 2] {
        let disk = SimStorage::new();
        let log = open(&disk, SyncPolicy::Always, Recovery::Tail).unwrap();
        commit_to(&log, 2 * SEGMENT + 8000);
        let (end, flushed) = (log.end(), log.flushed_lsn());
        drop(log);
        (lost..3).for_each(|segment| remove(&disk, segment));
        is_refused(&disk, SyncPolicy::Always, lost);
        let opened = open(&disk, SyncPolicy::Always, Recovery::Tail).map(drop);
        let text = opened.unwrap_err().to_string();
        assert!(
            text.contains(&flushed.to_string()) && text.contains("wal repair"),
            "{text}"
        );

        let look = Inspector::open(disk.shared(), "/log").unwrap();
        let damage = look.verify().unwrap().damage.expect("a look tells of it");
        assert!(damage.path.ends_with(&file(lost)[5..]) && !damage.torn_tail);

        let losses = plan(&disk.shared(), "/log", RepairMode::Keep)
            .unwrap()
            .losses;
        assert_eq!(losses.len() as u64, 3 - lost);
        let log = open(&disk, SyncPolicy::Always, Recovery::Salvage).unwrap();
        assert_eq!(
            log.repaired().map(|report| report.losses.len()),
            Some(losses.len())
        );
        let mut tail = log.tail(StartAt::Earliest, clock()).unwrap();
        commit_to(&log, end.commit.0 + 1);
        let told = drain(&mut tail, BatchLimit::default()).unwrap_err();
        assert!(matches!(told.kind, LogErrorKind::Lost { .. }), "{told}");
    }
}

/// A crash between the seal and the next segment's name leaves a sealed one, and a crash right behind
/// the next opening one that says of the next segment only that it was made.
#[test]
fn a_next_segment_without_anything_in_it_is_not_missed() {
    let mut sealed = 0;
    for n in 0..20 {
        let disk = SimStorage::new();
        let log = open(&disk, SyncPolicy::Always, Recovery::Tail).unwrap();
        commit_to(&log, SEGMENT - 4000);
        disk.fail_after(n, Failure::Stop);
        let mut tx = log.begin(1);
        for _ in 0..3 {
            tx.insert(&relation(), &row(1, &"x".repeat(2000), "1"))
                .unwrap();
        }
        let _ = tx.commit();
        disk.kill();
        drop(log);
        if disk.exists(file(1).as_ref()) {
            continue;
        }
        let log = open(&disk, SyncPolicy::Always, Recovery::Tail).unwrap();
        disk.kill();
        drop(log);
        if disk.exists(file(1).as_ref()) {
            sealed += 1;
            remove(&disk, 1);
            open(&disk, SyncPolicy::Always, Recovery::Strict).unwrap();
        }
    }
    assert!(sealed > 0, "no seal was the last that was written");
}

/// Without the control file, segments themselves say what was durable.
#[test]
fn a_segment_behind_a_gap_says_what_was_durable_in_front_of_it() {
    let disk = SimStorage::new();
    let log = open(&disk, SyncPolicy::Always, Recovery::Tail).unwrap();
    commit_to(&log, 2 * SEGMENT + 8000);
    drop(log);
    disk.remove("/log/control".as_ref()).unwrap();
    remove(&disk, 1);
    is_refused(&disk, SyncPolicy::Always, 1);
}

/// Neither the control file nor the header is there to say so, but the frames are.
#[test]
fn frames_behind_a_broken_header_or_a_gap_say_what_was_durable() {
    for (lost, gap) in [(1, false), (1, true), (2, false)] {
        let disk = SimStorage::new();
        let log = open(&disk, SyncPolicy::Never, Recovery::Tail).unwrap();
        commit_to(&log, 2 * SEGMENT + 8000);
        log.flush().unwrap();
        // Says in its own header, as the header in front of it may not, how far the flush came.
        commit_to(&log, 2 * SEGMENT + 12_000);
        drop(log);
        disk.remove("/log/control".as_ref()).unwrap();
        if gap {
            remove(&disk, lost);
        } else {
            disk.damage(file(lost).as_ref(), 30, |byte| byte ^ 1)
                .unwrap();
        }
        is_refused(&disk, SyncPolicy::Never, lost);
        let log = open(&disk, SyncPolicy::Never, Recovery::Salvage).unwrap();
        assert!(log.end().commit.0 >= 2 * SEGMENT + 12_000);
    }
}
