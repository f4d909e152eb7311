//! A log on a real file system: append, tail, reopen.

use cdc_core::testing::{relation, row};
use cdc_core::{BatchLimit, Image, Op, Position};
use cdc_wal::{Log, LogErrorKind, StartAt};

use crate::support::{clock, config, drain};

#[test]
fn what_is_committed_is_tailed_in_order_and_survives_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let mut positions = Vec::new();
    let relation = relation();
    for session in 0..3 {
        let log = Log::open(config(dir.path())).unwrap();
        for n in 0..50 {
            let mut tx = log.begin(session * 50 + n);
            for i in 0..7 {
                tx.insert(&relation, &row(i, "a name", "1.25")).unwrap();
            }
            tx.update(&relation, &Image::Full(row(1, "b", "2")), &row(1, "c", "3"))
                .unwrap();
            positions.push(tx.commit().unwrap());
        }
        let mut tail = log.tail(StartAt::Earliest, clock()).unwrap();
        let events = drain(&mut tail, BatchLimit::default()).unwrap();
        assert_eq!(events.len(), positions.len() * 8);
        assert!(events.windows(2).all(|w| w[0].position < w[1].position));
        for (chunk, end) in events.chunks(8).zip(&positions) {
            assert_eq!(chunk[0].position, Position::new(end.commit, 0));
            assert!(chunk[7].last && chunk.iter().filter(|e| e.last).count() == 1);
            assert_eq!(chunk[7].op, Op::Update);
            assert_eq!(chunk[0].after, Image::Full(row(0, "a name", "1.25")));
        }
    }
}

#[test]
fn a_second_writer_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(config(dir.path())).unwrap();
    let error = Log::open(config(dir.path())).unwrap_err();
    assert_eq!(error.kind, LogErrorKind::InUse);
    assert!(error.to_string().contains(dir.path().to_str().unwrap()));
    drop(log);
    Log::open(config(dir.path())).unwrap();
}

#[test]
fn large_transactions_and_records_interleave_with_small_ones() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(config(dir.path())).unwrap();
    let relation = relation();
    let huge = "x".repeat(200_000);
    let mut big = log.begin(1);
    for n in 0..5000 {
        big.insert(&relation, &row(n, "in a large one", "1"))
            .unwrap();
        if n % 100 == 0 {
            let mut small = log.begin(2);
            small.insert(&relation, &row(n, "small", "1")).unwrap();
            small.commit().unwrap();
        }
        if n == 2500 {
            big.insert(&relation, &row(-1, &huge, "1")).unwrap();
        }
    }
    let mut aborted = log.begin(3);
    aborted.insert(&relation, &row(-1, &huge, "1")).unwrap();
    aborted.abort().unwrap();
    big.commit().unwrap();
    let mut tail = log.tail(StartAt::Earliest, clock()).unwrap();
    let limit = BatchLimit {
        events_max: 77,
        ..BatchLimit::default()
    };
    let events = drain(&mut tail, limit).unwrap();
    assert_eq!(events.len(), 5001 + 50);
    assert!(events[..50].iter().all(|e| e.transaction.id == 2));
    assert!(events[50..].iter().all(|e| e.transaction.id == 1));
    let long = events.iter().filter(|e| e.after.len() > 100_000).count();
    assert_eq!(long, 1);
    // From every position, exactly what is after it.
    for at in [0, 3, 49, 50, 51, 1000, 2551, 5050] {
        let mut tail = log
            .tail(StartAt::After(events[at].position), clock())
            .unwrap();
        let rest = drain(&mut tail, BatchLimit::default()).unwrap();
        assert_eq!(rest, events[at + 1..], "after {at}");
    }
}

#[test]
fn records_of_every_length_around_a_frame_are_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(config(dir.path())).unwrap();
    let frame = cdc_wal::format::frame_max(64 << 10);
    let relation = relation();
    // From a record that fits a commit frame to one of two parts, alone and behind another one.
    let lengths = frame - 160..frame + 16;
    for length in lengths.clone() {
        let mut tx = log.begin(length as u64);
        if length % 3 == 0 {
            tx.insert(&relation, &row(0, "small", "1")).unwrap();
        }
        tx.insert(&relation, &row(1, &"x".repeat(length), "1"))
            .unwrap();
        if length % 2 == 0 {
            tx.insert(&relation, &row(2, "behind", "1")).unwrap();
        }
        tx.commit_unsynced().unwrap();
    }
    log.flush().unwrap();
    let mut tail = log.tail(StartAt::Earliest, clock()).unwrap();
    let events = drain(&mut tail, BatchLimit::default()).unwrap();
    let found: Vec<_> = events
        .iter()
        .filter(|event| event.encoded_len() > 1000)
        .map(|event| usize::try_from(event.transaction.id).unwrap())
        .collect();
    assert_eq!(found, lengths.collect::<Vec<_>>());
}
