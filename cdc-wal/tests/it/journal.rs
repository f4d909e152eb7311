//! The journal of a foreign source.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cdc_core::pipeline::{Lane, LaneConfig, LaneControl, LaneEnd, Shutdown, Watermark};
use cdc_core::testing::fakes::{MemoryCheckpoints, MemoryDlq, ScriptedEmitter};
use cdc_core::testing::{Syncs, SyncsDisk, source, transaction};
use cdc_core::{
    BatchLimit, BoxEmitter, ChangeEvent, Checkpoint, CheckpointStore, EventBatch, Journal, Lineage,
    Lsn, Position, SourceInfo, SourceKind,
};
use cdc_wal::lane::LaneTails;
use cdc_wal::{FileJournal, JournalConfig, LogError, LogErrorKind, StartAt};

use crate::support::{clock, drain};

fn config(dir: &std::path::Path) -> JournalConfig {
    JournalConfig {
        segment_bytes: 64 << 10,
        background: false,
        ..JournalConfig::new(dir)
    }
}

fn events(journal: &FileJournal) -> Vec<ChangeEvent> {
    let mut tail = journal
        .tail(StartAt::Earliest, clock())
        .expect("a healthy journal");
    assert_eq!(cdc_core::WalSource::source(&tail), &source());
    drain(&mut tail, BatchLimit::default()).expect("a healthy journal")
}

#[test]
fn what_is_sent_again_is_there_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for _ in 0..3 {
        let mut journal = FileJournal::open(config(dir.path()), &source()).unwrap();
        for commit in 1..40 {
            journal.append(&transaction(commit * 10, 0, 9)).unwrap();
        }
        assert_eq!(journal.end(), Position::end_of(Lsn(390)));
        assert_eq!(journal.flush().unwrap(), journal.end());
        if expected.is_empty() {
            expected = events(&journal);
            let whole: Vec<_> = (1..40)
                .flat_map(|c| transaction(c * 10, 0, 9).into_events())
                .collect();
            assert_eq!(expected, whole);
        }
        assert_eq!(events(&journal), expected);
    }
}

#[test]
fn a_partial_transaction_is_replaced_when_it_begins_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = FileJournal::open(config(dir.path()), &source()).unwrap();
    let whole = transaction(10, 0, 3000);
    journal.append(&whole.slice(0..2000)).unwrap();
    assert_eq!(journal.end(), Position::ZERO);
    assert!(events(&journal).is_empty());
    journal.append(&whole.slice(0..500)).unwrap();
    journal.append(&whole.slice(500..3000)).unwrap();
    assert_eq!(events(&journal), whole.events());
    // A crash in the middle: what is open is gone, and comes again from its begin.
    let next = transaction(20, 0, 3000);
    journal.append(&next.slice(0..2000)).unwrap();
    drop(journal);
    let mut journal = FileJournal::open(config(dir.path()), &source()).unwrap();
    assert_eq!(journal.end(), Position::end_of(Lsn(10)));
    journal.append(&next).unwrap();
    let all = events(&journal);
    assert_eq!(all.len(), 6000);
    assert_eq!(&all[3000..], next.events());
}

#[test]
fn heartbeats_move_the_end_and_are_resumed_from() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = FileJournal::open(config(dir.path()), &source()).unwrap();
    journal.append(&transaction(10, 0, 2)).unwrap();
    let beat = Position::before(Lsn(500));
    for _ in 0..3 {
        journal
            .append(&EventBatch::heartbeat(source(), beat))
            .unwrap();
    }
    let written = journal.log().retained_bytes();
    journal
        .append(&EventBatch::heartbeat(source(), beat))
        .unwrap();
    assert_eq!(
        journal.log().retained_bytes(),
        written,
        "nothing is written if nothing moved"
    );
    assert_eq!(journal.end(), beat);
    let mut tail = journal
        .tail(StartAt::After(Position::end_of(Lsn(10))), clock())
        .unwrap();
    let batch = tail.poll_batch(&BatchLimit::default()).unwrap().unwrap();
    assert!(batch.is_empty());
    assert_eq!(batch.end(), beat);
    drop((journal, tail));
    let journal = FileJournal::open(config(dir.path()), &source()).unwrap();
    assert_eq!(journal.end(), beat);
}

#[test]
fn another_source_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    drop(FileJournal::open(config(dir.path()), &source()).unwrap());
    let other = SourceInfo::new("x", "x", Lineage::new(SourceKind::Postgres, [9; 16], 1));
    let error = FileJournal::open(config(dir.path()), &other).unwrap_err();
    assert_eq!(error.kind, LogErrorKind::OtherSource);
    assert!(error.to_string().contains("postgres-0909"), "{error}");
    let mut journal = FileJournal::open(config(dir.path()), &source()).unwrap();
    let foreign = EventBatch::heartbeat(Arc::new(other), Position::end_of(Lsn(7)));
    journal.append(&foreign).unwrap_err();
}

#[test]
fn a_full_journal_holds_the_source_until_the_cursor_confirms() {
    let dir = tempfile::tempdir().unwrap();
    let config = JournalConfig {
        retain_bytes: 0,
        retain_bytes_max: Some(512 << 10),
        ..config(dir.path())
    };
    let mut journal = FileJournal::open(config, &source()).unwrap();
    let mut commit = 0;
    while !journal.is_full() {
        commit += 1;
        journal.append(&transaction(commit, 0, 100)).unwrap();
        assert!(commit < 10_000, "it never fills");
    }
    let held = events(&journal);
    assert_eq!(
        held.len() as u64,
        commit * 100,
        "nothing is trimmed before it is confirmed"
    );
    journal.confirm(Position::end_of(Lsn(commit - 1))).unwrap();
    assert!(!journal.is_full());
    assert!(journal.log().retained_bytes() <= 128 << 10);
    let kept = events(&journal);
    assert_eq!(held[held.len() - kept.len()..], kept);
    assert!(kept.len() >= 100);
    let error = journal
        .tail(StartAt::After(Position::end_of(Lsn(1))), clock())
        .unwrap_err();
    let oldest = journal.log().oldest().unwrap();
    assert!(error.to_string().contains(&oldest.to_string()), "{error}");
}

#[test]
fn a_lane_ahead_of_what_a_crash_left_passes_over_what_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = FileJournal::open(config(dir.path()), &source()).unwrap();
    journal.append(&transaction(10, 0, 2)).unwrap();
    // The lane has delivered 20, the journal lost it.
    let mut tail = journal
        .tail(StartAt::After(Position::end_of(Lsn(20))), clock())
        .unwrap();
    for commit in [20, 30] {
        journal.append(&transaction(commit, 0, 2)).unwrap();
    }
    let events = drain(&mut tail, BatchLimit::default()).unwrap();
    assert_eq!(events, transaction(30, 0, 2).events());
    assert_eq!(tail.end(), Position::end_of(Lsn(30)));
}

#[test]
fn a_new_journal_says_where_its_stream_begins() {
    let dir = tempfile::tempdir().unwrap();
    let start = Position::end_of(Lsn(100));
    let config = JournalConfig {
        start,
        ..config(dir.path())
    };
    let mut journal = FileJournal::open(config, &source()).unwrap();
    assert_eq!(
        (journal.end(), journal.log().oldest().unwrap()),
        (start, start)
    );
    let error = journal
        .tail(StartAt::After(Position::end_of(Lsn(50))), clock())
        .unwrap_err();
    assert!(error.to_string().contains(&start.to_string()), "{error}");
    for commit in [90, 110] {
        journal.append(&transaction(commit, 0, 2)).unwrap();
    }
    assert_eq!(events(&journal), transaction(110, 0, 2).events());
}

/// A journal on a disk whose syncs the test holds back.
fn beside(disk: &SyncsDisk, dir: &std::path::Path) -> FileJournal {
    let config = JournalConfig {
        storage: Arc::new(disk.clone()),
        ..JournalConfig::new(dir)
    };
    FileJournal::open(config, &source()).expect("a journal")
}

#[test]
fn a_slow_sync_beside_holds_up_neither_the_source_nor_what_is_said_to_be_durable() {
    let (disk, dir) = (SyncsDisk::new(), tempfile::tempdir().unwrap());
    let mut journal = beside(&disk, dir.path());
    let end = |commit| Position::end_of(Lsn(commit));
    journal.append(&transaction(10, 0, 9)).unwrap();
    disk.set(Syncs::Wait);
    for commit in 2..50 {
        // Begins the first time; a later call neither waits for it nor begins another.
        assert_eq!(journal.flush_beside().unwrap(), Position::ZERO);
        journal.append(&transaction(commit * 10, 0, 9)).unwrap();
    }
    disk.set(Syncs::Work);
    // What the sync that waited stands for is only what was appended before it.
    let mut durable = Position::ZERO;
    while durable == Position::ZERO {
        durable = journal.flush_beside().unwrap();
        std::thread::yield_now();
    }
    assert_eq!(durable, end(10));
    while journal.flush_beside().unwrap() < end(490) {
        std::thread::yield_now();
    }
    assert_eq!(events(&journal).len(), 49 * 9);
}

#[test]
fn a_sync_beside_that_fails_shows_at_a_later_call_and_nothing_is_said_to_be_durable() {
    let (disk, dir) = (SyncsDisk::new(), tempfile::tempdir().unwrap());
    let mut journal = beside(&disk, dir.path());
    journal.append(&transaction(10, 0, 9)).unwrap();
    disk.set(Syncs::Fail);
    let error = loop {
        match journal.flush_beside() {
            Ok(durable) => assert_eq!(durable, Position::ZERO),
            Err(error) => break error,
        }
        std::thread::yield_now();
    };
    assert!(error.to_string().contains("sync"), "{error}");
    disk.set(Syncs::Work);
    assert!(journal.append(&transaction(20, 0, 9)).is_err());
    drop(journal);
    let mut journal = beside(&disk, dir.path());
    journal.append(&transaction(10, 0, 9)).unwrap();
    assert_eq!(journal.flush().unwrap(), Position::end_of(Lsn(10)));
    assert_eq!(events(&journal).len(), 9);
}

#[test]
fn a_transaction_larger_than_the_journal_may_grow_is_taken_whole() {
    let dir = tempfile::tempdir().unwrap();
    let config = JournalConfig {
        retain_bytes: 0,
        retain_bytes_max: Some(512 << 10),
        ..config(dir.path())
    };
    let mut journal = FileJournal::open(config, &source()).unwrap();
    journal.append(&transaction(1, 0, 10)).unwrap();
    let large = transaction(2, 10, 30_000);
    let mut given = 0;
    // The source is held back for an emitter that has not even what was before.
    while !journal.is_full() {
        journal.append(&large.slice(given..given + 100)).unwrap();
        given += 100;
    }
    assert!(given < large.len() / 2, "{given}");
    journal.confirm(Position::end_of(Lsn(1))).unwrap();
    // Nobody has anything to confirm: without the rest there is never room.
    while given < large.len() {
        assert!(!journal.is_full(), "waits for itself behind {given} events");
        journal.append(&large.slice(given..given + 100)).unwrap();
        given += 100;
    }
    assert_eq!(journal.end(), Position::end_of(Lsn(2)));
    assert!(journal.is_full(), "now an emitter has something to do");
    assert_eq!(events(&journal)[10..], *large.events());
    journal.confirm(journal.end()).unwrap();
    assert!(!journal.is_full());
}

/// Runs a lane that has done everything up to `at` over its journal for a while.
async fn run_a_lane(tails: &LaneTails, at: Position) {
    let checkpoints = Arc::new(MemoryCheckpoints::default());
    let checkpoint = Checkpoint {
        lineage: source().lineage,
        position: at,
        state: bytes::Bytes::new(),
        stored_micros: 0,
    };
    let stored = checkpoints.reset("hook", Some(&checkpoint));
    stored.expect("a store in memory");
    let tails = tails.clone();
    let (trigger, shutdown) = Shutdown::new();
    let (_control, control) = LaneControl::new();
    let lane = Lane {
        config: LaneConfig::new("hook", source().lineage, Position::ZERO),
        open: move |after| Ok(tails.open("hook", after, clock())?),
        filter: Box::new(|_: &ChangeEvent| true),
        transforms: Vec::new(),
        emitter: BoxEmitter::new(ScriptedEmitter::default()),
        dlq: Arc::new(Mutex::new(MemoryDlq::default())),
        checkpoints,
        watermark: Watermark::new().register("hook", Some(at)),
        clock: clock(),
        metrics: Arc::default(),
        control,
        shutdown,
    };
    let stop = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        trigger.trigger();
    };
    let (end, ()) = tokio::join!(lane.run(), stop);
    assert_eq!(end.expect("a healthy lane"), LaneEnd::Drained);
}

/// What held it may have been written down further back than the lane is: an operator moved the emitter past
/// what filled the journal, or the process died before it was said.
#[tokio::test(start_paused = true)]
async fn a_full_journal_hears_of_a_lane_that_starts_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let config = || JournalConfig {
        retain_bytes: 0,
        retain_bytes_max: Some(512 << 10),
        ..config(dir.path())
    };
    let mut journal = FileJournal::open(config(), &source()).unwrap();
    let begin = journal.log().oldest().unwrap();
    LaneTails::new(journal.log().clone())
        .hold([("hook", begin)])
        .unwrap();
    let mut commit = 0;
    while !journal.is_full() {
        commit += 1;
        journal.append(&transaction(commit, 0, 100)).unwrap();
        assert!(commit < 10_000, "it never fills");
    }
    journal.flush().unwrap();
    drop(journal);
    let mut journal = FileJournal::open(config(), &source()).unwrap();
    let end = journal.end();
    let tails = LaneTails::new(journal.log().clone());
    tails.hold([("hook", end)]).unwrap();
    journal.confirm(end).unwrap();
    assert!(journal.is_full(), "for the lane");
    run_a_lane(&tails, end).await;
    assert!(!journal.is_full(), "nobody needs anything");
}

/// Appends transactions of ten events up to a position of the source.
fn fill(journal: &mut FileJournal, from: u64, to: u64) {
    for commit in from..to {
        let batch = transaction(commit * 10, 0, 10);
        journal.append(&batch).expect("a healthy journal");
    }
}

#[test]
fn a_lane_that_is_moved_back_holds_what_it_is_to_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let config = || JournalConfig {
        retain_bytes: 256 << 10,
        ..config(dir.path())
    };
    let at = |commit: u64| Position::end_of(Lsn(commit * 10));
    let mut journal = FileJournal::open(config(), &source()).unwrap();
    let tails = LaneTails::new(journal.log().clone());
    let begin = journal.log().oldest().unwrap();
    tails.hold([("one", begin), ("two", begin)]).unwrap();
    // Both lanes have everything, and the source was told: what is there is there for replay.
    let done = |journal: &mut FileJournal, commit: u64| {
        for cursor in ["lane:one", "lane:two"] {
            journal.log().confirm(cursor, at(commit)).unwrap();
        }
        journal.confirm(at(commit)).unwrap();
        journal.log().trim().unwrap();
    };
    fill(&mut journal, 1, 1000);
    done(&mut journal, 999);
    let back = journal.log().oldest().unwrap();
    assert!(back > begin && back < at(900), "{back}");
    // An operator moves one back. Its new tail may be long in coming, and a slow one in reading.
    drop(tails.open("one", back, clock()).unwrap());
    let go_on = |journal: &mut FileJournal, from: u64| {
        fill(journal, from, from + 1000);
        journal.log().confirm("lane:two", at(from + 999)).unwrap();
        journal.log().trim().unwrap();
    };
    go_on(&mut journal, 1000);
    let read = |tails: &LaneTails| {
        let mut tail = tails.open("one", back, clock())?;
        Ok::<_, LogError>(drain(&mut tail, BatchLimit::default())?.len())
    };
    let behind = |end: u64| usize::try_from(end - back.commit.0 / 10).unwrap() * 10;
    assert_eq!(read(&tails).unwrap(), behind(1999));
    // The next process finds the checkpoint where it was moved to.
    journal.flush().unwrap();
    drop((tails, journal));
    let mut journal = FileJournal::open(config(), &source()).unwrap();
    let tails = LaneTails::new(journal.log().clone());
    tails.hold([("one", back), ("two", at(1999))]).unwrap();
    go_on(&mut journal, 2000);
    assert_eq!(read(&tails).unwrap(), behind(2999));
    // Without the lane it may go.
    tails.hold([("two", at(2999))]).unwrap();
    assert!(!journal.log().cursors().contains_key("lane:one"));
    journal.confirm(at(2999)).unwrap();
    journal.log().trim().unwrap();
    let refused = read(&tails).unwrap_err();
    assert!(
        matches!(refused.kind, LogErrorKind::Refused(_)),
        "{refused}"
    );
    // Nothing can be held of it, and the start is not hindered.
    tails.hold([("one", back), ("two", at(2999))]).unwrap();
}

#[test]
fn what_a_lane_needs_that_was_moved_back_while_nothing_ran_is_held_from_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let config = |retain_bytes, lanes| JournalConfig {
        retain_bytes,
        lanes,
        ..config(dir.path())
    };
    let at = |commit: u64| Position::end_of(Lsn(commit * 10));
    let mut journal = FileJournal::open(config(1 << 30, Vec::new()), &source()).unwrap();
    let tails = LaneTails::new(journal.log().clone());
    tails.hold([("one", Position::ZERO)]).unwrap();
    fill(&mut journal, 1, 1000);
    journal.flush().unwrap();
    journal.log().confirm("lane:one", at(999)).unwrap();
    journal.confirm(at(999)).unwrap();
    // Stores where the others stand.
    journal.log().register_cursor("other", at(999)).unwrap();
    drop((tails, journal));
    // Only its age has kept this, and it has grown old.
    for (moved_to, held) in [(at(500), 500), (at(999), 0)] {
        let lanes = vec![("one".to_owned(), moved_to), ("new".to_owned(), at(5000))];
        let journal = FileJournal::open(config(0, lanes), &source()).unwrap();
        journal.log().trim().unwrap();
        let tails = LaneTails::new(journal.log().clone());
        let read = tails.open("one", at(500), clock());
        match held {
            0 => assert!(matches!(read.unwrap_err().kind, LogErrorKind::Refused(_))),
            _ => {
                let mut tail = read.unwrap();
                let found = drain(&mut tail, BatchLimit::default()).unwrap();
                assert_eq!(found.len(), 10 * (999 - held));
                drop(tail);
                journal.log().confirm("lane:one", at(999)).unwrap();
            }
        }
    }
}
