//! Repairing damaged logs: what can be read is kept as it was, what cannot is named, and no tail
//! passes it without being told.

use std::sync::Arc;

use cdc_core::storage::{OpenMode, Storage as _};
use cdc_core::testing::sim_storage::{Failure, SimStorage};
use cdc_core::testing::{relation, row};
use cdc_core::{BatchLimit, ChangeEvent, Position, Relation};
use cdc_wal::inspect::Inspector;
use cdc_wal::repair::{self, RepairMode, RepairReport};
use cdc_wal::{Log, LogConfig, LogError, LogErrorKind, Recovery, StartAt, SyncPolicy, Visibility};
use proptest::prelude::*;

use crate::support::{clock, config, drain};

const SEGMENT: u64 = 64 << 10;

fn open(disk: &SimStorage, recovery: Recovery) -> Result<Log, LogError> {
    Log::open(LogConfig {
        storage: disk.shared(),
        recovery,
        ..config("/log".as_ref())
    })
}

fn file(base: u64) -> String {
    format!("/log/{:016x}.wal", base / SEGMENT * SEGMENT)
}

/// A log of three segments: transactions of one frame, of several that others commit between, two
/// relations; and the events of it.
fn healthy() -> (SimStorage, Vec<ChangeEvent>) {
    let disk = SimStorage::new();
    let log = open(&disk, Recovery::Tail).expect("open");
    let mut other = Relation::clone(&relation());
    other.version = 7;
    let relations = [relation(), Arc::new(other)];
    let mut long = None;
    for id in 0..150u64 {
        if id % 30 == 0 {
            long = Some(log.begin(1000 + id));
        }
        if let Some(tx) = &mut long {
            let text = "y".repeat(4000);
            let n = i64::try_from(id).expect("small");
            tx.insert(&relations[1], &row(n, &text, "1"))
                .expect("insert");
        }
        if id % 30 == 12
            && let Some(tx) = long.take()
        {
            tx.commit().expect("commit");
        }
        let mut tx = log.begin(id);
        let text = "x".repeat(usize::try_from(id % 7).expect("small") * 100);
        let relation = &relations[usize::from(id % 10 == 9)];
        tx.insert(relation, &row(1, &text, "1")).expect("insert");
        tx.commit().expect("commit");
    }
    let mut tail = log.tail(StartAt::Earliest, clock()).expect("tail");
    let events = drain(&mut tail, BatchLimit::default()).expect("drain");
    assert!(log.end().commit.0 > 2 * SEGMENT, "three segments");
    (disk, events)
}

/// Everything a log gives to who accepts each loss, with the positions in front of losses.
fn read(log: &Log, mut start: StartAt) -> (Vec<ChangeEvent>, Vec<Position>) {
    let mut events: Vec<ChangeEvent> = Vec::new();
    let mut losses = Vec::new();
    loop {
        let mut tail = log.tail(start, clock()).expect("tail");
        let error = loop {
            match tail.poll_batch(&BatchLimit::default()) {
                Ok(Some(batch)) => events.extend_from_slice(batch.events()),
                Ok(None) => return (events, losses),
                Err(error) => break error,
            }
        };
        let LogErrorKind::Lost { resume } = error.kind else {
            panic!("{error}")
        };
        losses.push(events.last().map_or(Position::ZERO, |e| e.position));
        start = StartAt::After(resume);
    }
}

/// Checks a repaired log against what was in it.
fn check(disk: &SimStorage, before: &[ChangeEvent], what: &str) -> Vec<ChangeEvent> {
    let log = open(disk, Recovery::Tail).unwrap_or_else(|e| panic!("open: {e}: {what}"));
    let (found, losses) = read(&log, StartAt::Earliest);
    // A loss of the oldest segments is like trimming: what was there is refused.
    let oldest = log.oldest().expect("oldest");
    let mut left = before.iter().peekable();
    while left.next_if(|event| event.position <= oldest).is_some() {}
    let mut last = Position::ZERO;
    for event in &found {
        let mut skipped = false;
        while left
            .next_if(|other| other.position < event.position)
            .is_some()
        {
            skipped = true;
        }
        assert_eq!(left.next(), Some(event), "as it was: {what}");
        assert!(!skipped || losses.contains(&last), "silent loss: {what}");
        last = event.position;
    }
    // Who was at any place before the damage is told, or misses nothing.
    for at in (0..before.len()).step_by(17) {
        let position = before[at].position;
        let Ok(mut tail) = log.tail(StartAt::After(position), clock()) else {
            continue;
        };
        let mut expected = before[at + 1..].iter();
        loop {
            match tail.poll_batch(&BatchLimit::default()) {
                Ok(Some(batch)) => {
                    for event in batch.events() {
                        assert_eq!(Some(event), expected.next(), "after {position}: {what}");
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    assert!(matches!(error.kind, LogErrorKind::Lost { .. }), "{error}");
                    break;
                }
            }
        }
    }
    // The log works on, and no position comes twice.
    let mut tx = log.begin(9999);
    tx.insert(&relation(), &row(1, "after", "1"))
        .expect("insert");
    let position = tx.commit().expect("commit");
    assert!(before.iter().all(|e| e.position < position), "{what}");
    let (again, _) = read(&log, StartAt::Earliest);
    assert_eq!(again.len(), found.len() + 1, "{what}");
    drop(log);
    let report = Inspector::open(disk.shared(), "/log").expect("inspect");
    assert_eq!(report.verify().expect("verify").damage, None, "{what}");
    found
}

fn repaired(disk: &SimStorage) -> RepairReport {
    repair::repair(&disk.shared(), "/log", RepairMode::Keep).expect("repair")
}

#[derive(Clone, Debug)]
enum Harm {
    Bytes { at: u64, length: u64, to: u8 },
    Header { segment: u64 },
    Gone { segment: u64 },
    Control,
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        6 => (4096u64..160_000, 1u64..3000, any::<u8>())
            .prop_map(|(at, length, to)| Harm::Bytes { at, length, to }),
        1 => (0u64..3).prop_map(|segment| Harm::Header { segment }),
        1 => (0u64..3).prop_map(|segment| Harm::Gone { segment }),
        1 => Just(Harm::Control),
    ]
}

fn inflict(disk: &SimStorage, harm: &Harm) {
    let path = |segment: u64| file(segment * SEGMENT);
    match harm {
        Harm::Bytes { at, length, to } => {
            for at in *at..at + length {
                let _ = disk.damage(file(at).as_ref(), at % SEGMENT, |_| *to);
            }
        }
        Harm::Header { segment } => {
            let _ = disk.damage(path(*segment).as_ref(), 30, |byte| byte ^ 1);
        }
        Harm::Gone { segment } => {
            let _ = disk.remove(path(*segment).as_ref());
            disk.sync_dir("/log".as_ref()).expect("sync");
        }
        Harm::Control => {
            disk.damage("/log/control".as_ref(), 20, |byte| byte ^ 1)
                .expect("a control file");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_damaged_the_rest_is_kept_and_no_loss_is_silent(
        harms in proptest::collection::vec(harm(), 1..4),
    ) {
        let (disk, before) = healthy();
        for harm in &harms {
            inflict(&disk, harm);
        }
        let what = format!("{harms:?}");
        match repair::plan(&disk.shared(), "/log", RepairMode::Keep) {
            Ok(plan) => {
                let report = repaired(&disk);
                prop_assert_eq!(&plan.losses, &report.losses);
                prop_assert_eq!(report.set_aside.is_some(), !plan.is_clean());
                let again = repair::plan(&disk.shared(), "/log", RepairMode::Keep).unwrap();
                prop_assert!(again.is_clean(), "{again}: {what}");
                let found = check(&disk, &before, &what);
                prop_assert_eq!(report.events, found.len() as u64, "{}", report);
            }
            Err(error) => {
                // The version in a header may be what is damaged.
                prop_assert!(matches!(
                    error.kind,
                    LogErrorKind::Corrupt | LogErrorKind::NotFound | LogErrorKind::Unsupported
                ), "{error}");
            }
        }
    }
}

#[test]
fn one_damaged_byte_loses_what_stood_there_and_nothing_else() {
    let (disk, before) = healthy();
    // In a transaction of one frame, while no other is open.
    let victim = before.iter().find(|e| e.transaction.id == 20).unwrap();
    let at = victim.position.commit.0;
    disk.damage(file(at).as_ref(), at % SEGMENT + 50, |byte| byte ^ 1)
        .unwrap();
    let calls = disk.calls();
    let plan = repair::plan(&disk.shared(), "/log", RepairMode::Keep).unwrap();
    assert_eq!(disk.calls(), calls, "a plan changes nothing");
    assert_eq!(plan.losses.len(), 1);
    assert_eq!((plan.losses[0].lsn.0, plan.set_aside), (at, None));
    assert!(plan.losses[0].after < victim.position);
    let damaged = bytes(&disk, &file(at));
    let report = repaired(&disk);
    let aside = report.set_aside.clone().unwrap();
    let name = file(at).replace("/log/", "");
    let kept = bytes(&disk, aside.join(name).to_str().unwrap());
    assert!(kept == damaged, "the damaged bytes are kept");
    let text = String::from_utf8(bytes(&disk, aside.join("report.txt").to_str().unwrap())).unwrap();
    assert!(text.contains(&format!("byte {}", at % SEGMENT)), "{text}");
    let found = check(&disk, &before, "one byte");
    let expected: Vec<_> = before.iter().filter(|e| *e != victim).cloned().collect();
    assert_eq!(found, expected);
}

fn bytes(disk: &SimStorage, path: &str) -> Vec<u8> {
    let file = disk.open(path.as_ref(), OpenMode::Read).expect("a file");
    let mut bytes = vec![0; usize::try_from(file.len().expect("length")).expect("small")];
    cdc_core::storage::read_exact_at(file.as_ref(), &mut bytes, 0).expect("read");
    bytes
}

#[test]
fn a_repair_that_a_crash_interrupts_is_done_again() {
    let harms = [
        Harm::Bytes {
            at: 20_000,
            length: 2000,
            to: 9,
        },
        Harm::Header { segment: 1 },
    ];
    let mut n = 0;
    loop {
        let (disk, before) = healthy();
        harms.iter().for_each(|harm| inflict(&disk, harm));
        disk.damage("/log/0000000000020000.wal".as_ref(), 5000, |byte| byte ^ 1)
            .unwrap();
        disk.fail_after(n, Failure::Stop);
        let result = repair::repair(&disk.shared(), "/log", RepairMode::Keep);
        let done = result.is_ok();
        disk.crash(n);
        let _ = repaired(&disk);
        check(&disk, &before, &format!("call {n}"));
        if done {
            break;
        }
        n += 1;
    }
    assert!(n > 20);
}

#[test]
fn a_file_that_cannot_be_looked_at_for_a_moment_is_neither_lost_nor_changed_without_a_copy() {
    let damaged = || {
        let (disk, before) = healthy();
        open(&disk, Recovery::Tail)
            .unwrap()
            .register_cursor("one", before[3].position)
            .unwrap();
        inflict(&disk, &Harm::Header { segment: 1 });
        disk.damage(file(0).as_ref(), 9000, |byte| byte ^ 1)
            .unwrap();
        disk.damage("/log/cursors".as_ref(), 15, |byte| byte ^ 1)
            .unwrap();
        (disk, before)
    };
    let (disk, before) = damaged();
    let planned = repair::plan(&disk.shared(), "/log", RepairMode::Keep).unwrap();
    let report = repaired(&disk);
    let copies = disk.list(&report.set_aside.unwrap()).unwrap();
    let positions = |events: Vec<ChangeEvent>| -> Vec<Position> {
        events.iter().map(|event| event.position).collect()
    };
    let kept = positions(check(&disk, &before, "every look"));
    for looks in 0.. {
        let (disk, before) = damaged();
        let failures = disk.failures();
        disk.fail_look_after(looks);
        if let Ok(report) = repair::plan(&disk.shared(), "/log", RepairMode::Keep) {
            assert_eq!(report, planned, "look {looks}");
        }
        disk.fail_look_after(looks);
        match repair::repair(&disk.shared(), "/log", RepairMode::Keep) {
            Ok(report) => {
                let aside = report.set_aside.unwrap();
                assert_eq!(disk.list(&aside).unwrap(), copies, "look {looks}");
            }
            Err(_) => {
                disk.clear_failure();
                repaired(&disk);
            }
        }
        let failed = disk.failures() > failures;
        disk.clear_failure();
        let found = check(&disk, &before, &format!("look {looks}"));
        assert_eq!(positions(found), kept, "look {looks}");
        if !failed {
            assert!(looks > 10, "{looks}");
            return;
        }
    }
}

#[test]
fn salvage_opens_what_tail_and_strict_refuse() {
    let (disk, before) = healthy();
    // In the newest segment, or only salvage looks at it.
    let at = before[before.len() - 3].position.commit.0;
    disk.damage(file(at).as_ref(), at % SEGMENT + 50, |byte| byte ^ 1)
        .unwrap();
    disk.damage(file(9000).as_ref(), 9000, |byte| byte ^ 1)
        .unwrap();
    for recovery in [Recovery::Strict, Recovery::Tail] {
        let error = open(&disk, recovery).unwrap_err();
        assert_eq!(error.kind, LogErrorKind::Corrupt);
    }
    let log = open(&disk, Recovery::Salvage).unwrap();
    let report = log.repaired().expect("it was damaged").clone();
    assert!(!report.losses.is_empty() && report.set_aside.is_some());
    drop(log);
    check(&disk, &before, "salvage");
    let log = open(&disk, Recovery::Salvage).unwrap();
    assert!(log.repaired().is_none(), "it is whole now");
}

#[test]
fn strict_refuses_a_torn_tail_and_changes_nothing() {
    let disk = SimStorage::new();
    let never = |recovery| {
        Log::open(LogConfig {
            storage: disk.shared(),
            sync: SyncPolicy::Never,
            visibility: Visibility::Written,
            recovery,
            ..config("/log".as_ref())
        })
    };
    let log = never(Recovery::Strict).unwrap();
    let mut tx = log.begin(1);
    tx.insert(&relation(), &row(1, "a", "1")).unwrap();
    tx.commit().unwrap();
    let mut tail = log.tail(StartAt::Earliest, clock()).unwrap();
    assert_eq!(drain(&mut tail, BatchLimit::default()).unwrap().len(), 1);
    disk.kill();
    drop((tail, log));
    disk.damage(file(0).as_ref(), 4100, |byte| byte ^ 1)
        .unwrap();
    let error = never(Recovery::Strict).unwrap_err();
    assert_eq!(error.kind, LogErrorKind::Corrupt);
    assert!(error.to_string().contains("at byte 4096"), "{error}");
    let log = never(Recovery::Tail).unwrap();
    assert!(log.recovered_cut_bytes() > 0);
    drop(log);
    let log = never(Recovery::Strict).unwrap();
    assert_eq!(log.recovered_cut_bytes(), 0);
}

#[test]
fn a_lost_cursors_file_is_set_aside() {
    let (disk, before) = healthy();
    open(&disk, Recovery::Tail)
        .unwrap()
        .register_cursor("one", before[3].position)
        .unwrap();
    disk.damage("/log/cursors".as_ref(), 15, |byte| byte ^ 1)
        .unwrap();
    assert_eq!(
        open(&disk, Recovery::Tail).unwrap_err().kind,
        LogErrorKind::Corrupt
    );
    let log = open(&disk, Recovery::Salvage).unwrap();
    assert!(log.repaired().unwrap().cursors_lost && log.cursors().is_empty());
    drop(log);
    assert_eq!(check(&disk, &before, "cursors").len(), before.len());
}

#[test]
fn only_a_journal_can_be_cut_and_its_source_fills_it_again() {
    use cdc_core::{EventBatch, Journal, Lineage, Lsn, SourceInfo, SourceKind};
    use cdc_wal::{FileJournal, JournalConfig};

    let (disk, _) = healthy();
    let error = repair::plan(&disk.shared(), "/log", RepairMode::Cut).unwrap_err();
    assert_eq!(error.kind, LogErrorKind::Configuration);

    let disk = SimStorage::new();
    let lineage = Lineage::new(SourceKind::Postgres, [7; 16], 1);
    let source = Arc::new(SourceInfo::new("shop", "shop", lineage));
    let journal = || {
        let config = JournalConfig {
            segment_bytes: 64 << 10,
            background: false,
            storage: disk.shared(),
            ..JournalConfig::new("/journal")
        };
        FileJournal::open(config, &source)
    };
    let batch = |n: u64| {
        let commit = Lsn(n * 16);
        let event = ChangeEvent {
            position: Position::new(commit, 0),
            relation: relation(),
            transaction: cdc_core::Transaction {
                id: n,
                commit_micros: 0,
            },
            last: true,
            op: cdc_core::Op::Insert,
            cause: cdc_core::Cause::Client,
            before: cdc_core::Image::Absent,
            after: cdc_core::Image::Full(row(1, &"x".repeat(900), "1")),
            meta: None,
        };
        EventBatch::new(source.clone(), vec![event], Position::end_of(commit))
    };
    let ids = |journal: &FileJournal| -> Vec<u64> {
        let mut tail = journal.tail(StartAt::Earliest, clock()).expect("tail");
        let events = drain(&mut tail, BatchLimit::default()).expect("drain");
        events.iter().map(|e| e.transaction.id).collect()
    };
    let mut first = journal().unwrap();
    (1..150).for_each(|n| first.append(&batch(n)).expect("append"));
    first.flush().unwrap();
    drop(first);
    disk.damage("/journal/0000000000000000.wal".as_ref(), 30_000, |b| b ^ 1)
        .unwrap();
    let storage = disk.shared();
    let report = repair::repair(&storage, "/journal", RepairMode::Cut).unwrap();
    assert_eq!(report.losses.len(), 1);
    let mut again = journal().unwrap();
    let kept = ids(&again);
    assert!(kept.len() > 10 && kept.len() < 60, "{}", kept.len());
    assert_eq!(again.end(), Position::end_of(Lsn(kept.len() as u64 * 16)));
    (1..200).for_each(|n| again.append(&batch(n)).expect("append"));
    assert_eq!(ids(&again), (1..200).collect::<Vec<_>>());
}
