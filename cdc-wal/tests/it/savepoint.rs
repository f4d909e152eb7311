//! Savepoints: what was rolled back is never seen, wherever it stood when it was undone.

use cdc_core::testing::{relation, row};
use cdc_core::{BatchLimit, ChangeEvent, ValueRef};
use cdc_wal::{Log, LogErrorKind, StartAt, Transaction};

use crate::support::{clock, config, drain};

/// Adds rows with these numbers, each of about `bytes`.
fn add(tx: &mut Transaction, numbers: std::ops::Range<i64>, bytes: usize) {
    for n in numbers {
        let inserted = tx.insert(&relation(), &row(n, &"x".repeat(bytes), "1"));
        inserted.expect("insert");
    }
}

fn events(log: &Log) -> Vec<ChangeEvent> {
    let mut tail = log.tail(StartAt::Earliest, clock()).expect("tail");
    drain(&mut tail, BatchLimit::default()).expect("drain")
}

/// Transaction and number of each row that a tail gives; ordinals must be dense.
fn numbers(log: &Log) -> Vec<(u64, i64)> {
    let mut ordinal = 0;
    let number = |event: &ChangeEvent| {
        assert_eq!(event.position.ordinal, ordinal, "ordinals have no holes");
        ordinal = if event.last { 0 } else { ordinal + 1 };
        match event.after.row().and_then(|row| row.get(0).ok().flatten()) {
            Some(ValueRef::Int(n)) => (event.transaction.id, n),
            other => panic!("{other:?}"),
        }
    };
    events(log).iter().map(number).collect()
}

#[test]
fn what_is_rolled_back_is_never_seen_in_the_buffer_in_the_log_or_across_both() {
    // Frames have at most 15 KiB here: nothing of the first is in the log before the commit, much of
    // the second, and of the third each row is a record in parts.
    for (bytes, rows) in [(10, 5), (2000, 30), (40_000, 3)] {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(config(dir.path())).unwrap();
        let mut tx = log.begin(1);
        let start = tx.savepoint().unwrap();
        add(&mut tx, 0..rows, bytes);
        let first = tx.savepoint().unwrap();
        add(&mut tx, 100..100 + rows, bytes);
        let second = tx.savepoint().unwrap();
        add(&mut tx, 200..200 + rows, bytes);
        // Another transaction commits between.
        let mut other = log.begin(2);
        add(&mut other, 0..2, bytes);
        other.commit().unwrap();
        tx.rollback_to(&second).unwrap();
        add(&mut tx, 300..302, bytes);
        tx.rollback_to(&first).unwrap();
        let gone = tx.rollback_to(&second).unwrap_err();
        assert_eq!(gone.kind, LogErrorKind::NotFound);
        add(&mut tx, 400..401, bytes);
        tx.rollback_to(&first).unwrap();
        tx.rollback_to(&first).unwrap();
        add(&mut tx, 500..500 + rows, bytes);
        assert_eq!(u64::from(tx.event_count()), 2 * rows.unsigned_abs());
        tx.commit().unwrap();
        let mut undone = log.begin(3);
        let all = undone.savepoint().unwrap();
        add(&mut undone, 0..rows, bytes);
        assert_eq!(
            undone.rollback_to(&start).unwrap_err().kind,
            LogErrorKind::NotFound,
            "a savepoint of another transaction"
        );
        undone.rollback_to(&all).unwrap();
        let before = log.end();
        assert_eq!(
            undone.commit().unwrap(),
            before,
            "nothing is left to commit"
        );
        let mut last = log.begin(4);
        let released = last.savepoint().unwrap();
        add(&mut last, 0..1, bytes);
        last.release(&released).unwrap();
        assert_eq!(
            last.rollback_to(&released).unwrap_err().kind,
            LogErrorKind::NotFound
        );
        last.commit().unwrap();
        let expected: Vec<_> = [(2, 0), (2, 1)]
            .into_iter()
            .chain((0..rows).map(|n| (1, n)))
            .chain((500..500 + rows).map(|n| (1, n)))
            .chain([(4, 0)])
            .collect();
        assert_eq!(numbers(&log), expected, "rows of {bytes} bytes");
        // The same from every position, and after opening again.
        let all = events(&log);
        for at in 0..all.len() {
            let from = StartAt::After(all[at].position);
            let mut tail = log.tail(from, clock()).unwrap();
            let rest = drain(&mut tail, BatchLimit::default()).unwrap();
            assert_eq!(rest, all[at + 1..], "after event {at}");
        }
        drop(log);
        let log = Log::open(config(dir.path())).unwrap();
        assert_eq!(numbers(&log), expected);
    }
}

#[test]
fn what_a_tail_no_longer_holds_in_memory_is_rolled_back_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(cdc_wal::LogConfig {
        segment_bytes: 8 << 20,
        sync: cdc_wal::SyncPolicy::Never,
        visibility: cdc_wal::Visibility::Written,
        ..config(dir.path())
    })
    .unwrap();
    let mut tail = log.tail(StartAt::Earliest, clock()).unwrap();
    let row_bytes = 100_000;
    let mut first = log.begin(1);
    let mut second = log.begin(2);
    let mut highest = 0;
    let mut expected = Vec::new();
    for round in 0..16 {
        for (id, tx) in [(1, &mut first), (2, &mut second)] {
            add(tx, round * 100..round * 100 + 13, row_bytes);
            let savepoint = tx.savepoint().unwrap();
            add(tx, round * 100 + 50..round * 100 + 63, row_bytes);
            tx.rollback_to(&savepoint).unwrap();
            expected.extend((0..13).map(|n| (id, round * 100 + n)));
        }
        assert!(tail.poll_batch(&BatchLimit::default()).unwrap().is_none());
        highest = highest.max(tail.held_bytes());
        assert!(
            tail.held_bytes() <= cdc_wal::TAIL_MEMORY_BYTES,
            "{} bytes are held",
            tail.held_bytes()
        );
    }
    assert!(
        highest > cdc_wal::TAIL_MEMORY_BYTES / 4,
        "large enough to be held back: {highest}"
    );
    first.commit().unwrap();
    second.commit().unwrap();
    expected.sort_unstable();
    assert_eq!(numbers(&log), expected);
    let live = drain(&mut tail, BatchLimit::default()).unwrap();
    assert_eq!(live.len(), expected.len());
    drop(live);
    assert_eq!(tail.held_bytes(), 0);
}
