//! A log that is looked at from another process while its writer trims it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cdc_core::storage::{OpenMode, StdStorage, Storage, StorageFile};
use cdc_core::testing::{relation, row};
use cdc_core::{BatchLimit, Position};
use cdc_wal::inspect::Inspector;
use cdc_wal::{Log, LogConfig, LogErrorKind, StartAt, WalTail};

use crate::support::{clock, config, drain};

/// The machine's disk, on which the writer trims the oldest segment each time in the last moment
/// before it is opened, so many times.
#[derive(Debug)]
struct Trimmed(AtomicU32);

impl Storage for Trimmed {
    fn open(&self, path: &Path, mode: OpenMode) -> std::io::Result<Box<dyn StorageFile>> {
        let left = self.0.load(Ordering::SeqCst);
        if left > 0 && path.extension().is_some_and(|end| end == "wal") {
            self.0.store(left - 1, Ordering::SeqCst);
            StdStorage.remove(path)?;
        }
        StdStorage.open(path, mode)
    }

    crate::support::as_the_real_disk!();
}

#[test]
fn a_look_goes_on_behind_what_is_trimmed_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(config(dir.path())).unwrap();
    let relation = relation();
    let text = "x".repeat(10_000);
    let mut all = Vec::new();
    for n in 0..60 {
        let mut tx = log.begin(n);
        tx.insert(&relation, &row(1, &text, "1")).unwrap();
        all.push(tx.commit().unwrap());
    }
    let trims = |count| -> Arc<dyn Storage> { Arc::new(Trimmed(AtomicU32::new(count))) };
    let open = |count, start| WalTail::open(trims(count), dir.path(), start, clock());
    let limit = BatchLimit::default();

    let mut earliest = open(2, StartAt::Earliest).unwrap();
    let events = drain(&mut earliest, limit).unwrap();
    assert!(!events.is_empty() && events.len() < all.len());
    let ends: Vec<_> = events
        .iter()
        .map(|e| Position::end_of(e.position.commit))
        .collect();
    assert_eq!(ends, all[all.len() - ends.len()..], "all that is retained");

    let mut latest = open(1, StartAt::Latest).unwrap();
    assert!(drain(&mut latest, limit).unwrap().is_empty());
    assert_eq!(latest.end(), all[all.len() - 1]);

    let lost = open(1, StartAt::After(all[0])).unwrap_err();
    assert!(matches!(lost.kind, LogErrorKind::Refused(_)), "{lost}");
    let look = Inspector::open(trims(1), dir.path()).unwrap();
    assert_eq!(look.verify().unwrap().damage, None);
}

#[test]
fn a_tail_with_everything_goes_on_behind_what_was_aborted_and_trimmed() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(LogConfig {
        retain_bytes: 0,
        ..config(dir.path())
    })
    .unwrap();
    let relation = relation();
    let text = "x".repeat(10_000);
    let commit = |id| {
        let mut tx = log.begin(id);
        tx.insert(&relation, &row(1, &text, "1")).unwrap();
        tx.commit().unwrap()
    };
    let limit = BatchLimit::default();
    let first = commit(1);
    let mut behind = log.tail(StartAt::Earliest, clock()).unwrap();
    let real: Arc<dyn Storage> = Arc::new(StdStorage);
    let mut tails = [
        log.tail(StartAt::Earliest, clock()).unwrap(),
        log.tail_cursor("lane", StartAt::Earliest, clock()).unwrap(),
        WalTail::open(real, dir.path(), StartAt::Earliest, clock()).unwrap(),
    ];
    for tail in &mut tails {
        assert_eq!(drain(tail, limit).unwrap().len(), 1);
        assert_eq!(tail.end(), first);
    }
    log.register_cursor("lane", first).unwrap();
    let mut aborted = log.begin(2);
    for _ in 0..60 {
        aborted.insert(&relation, &row(2, &text, "1")).unwrap();
    }
    aborted.abort().unwrap();
    let second = commit(3);
    log.trim().unwrap();
    assert!(
        log.oldest().unwrap() >= first,
        "the first segments are gone"
    );
    for tail in &mut tails {
        let events = drain(tail, limit).unwrap();
        let ends: Vec<_> = events.iter().map(|event| event.position.commit).collect();
        assert_eq!(ends, [second.commit], "what came behind the aborted one");
    }
    let lost = drain(&mut behind, limit).unwrap_err();
    assert_eq!(lost.kind, LogErrorKind::Trimmed, "{lost}");
}

/// The commit of a transaction that began in front of what is retained is in memory when the position is asked
/// for.
#[test]
fn what_is_not_written_yet_counts_for_the_oldest_position() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(LogConfig {
        retain_bytes: 0,
        ..config(dir.path())
    })
    .unwrap();
    let relation = relation();
    let text = "x".repeat(10_000);
    let mut long = log.begin(1);
    for _ in 0..4 {
        long.insert(&relation, &row(1, &text, "1")).unwrap();
    }
    let mut before = Position::ZERO;
    for id in 2..10 {
        let mut tx = log.begin(id);
        tx.insert(&relation, &row(1, &text, "1")).unwrap();
        before = tx.commit().unwrap();
    }
    let end = long.commit_unsynced().unwrap();
    log.trim().unwrap();
    assert!(log.retained_bytes() <= 64 << 10, "its begin is trimmed");
    assert_eq!(log.oldest().unwrap(), end);
    let refused = log.register_cursor("lane", before).unwrap_err();
    assert!(
        matches!(refused.kind, LogErrorKind::Refused(_)),
        "{refused}"
    );
    log.flush().unwrap();
    let mut tail = log.tail(StartAt::Earliest, clock()).unwrap();
    assert!(drain(&mut tail, BatchLimit::default()).unwrap().is_empty());
    assert_eq!(tail.end(), end);
}

/// Without it a log looks as if nothing were in it: an operator would be told that everything is
/// retained.
#[test]
fn a_control_file_that_says_nothing_is_told_until_a_writer_mends_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(config(dir.path())).unwrap();
    let mut tx = log.begin(1);
    tx.insert(&relation(), &row(1, "x", "1")).unwrap();
    tx.commit().unwrap();
    drop(log);
    let control = dir.path().join("control");
    let mut bytes = std::fs::read(&control).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&control, bytes).unwrap();
    let open = || WalTail::open(StdStorage::shared(), dir.path(), StartAt::Earliest, clock());
    let error = open().unwrap_err();
    assert_eq!(error.kind, LogErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("control"), "{error}");
    drop(Log::open(config(dir.path())).unwrap());
    let events = drain(&mut open().unwrap(), BatchLimit::default()).unwrap();
    assert_eq!(events.len(), 1);
}

/// After a power cut its end may be that of an earlier time. An operator's order is checked by a look
/// before the log is opened: what the look says holds when it is.
#[test]
fn a_look_with_an_old_control_file_reaches_back_no_further_than_the_log_does() {
    let dir = tempfile::tempdir().unwrap();
    let settings = || LogConfig {
        retain_bytes: 0,
        ..config(dir.path())
    };
    let log = Log::open(settings()).unwrap();
    let relation = relation();
    let text = "x".repeat(10_000);
    let mut long = log.begin(1);
    for _ in 0..10 {
        long.insert(&relation, &row(1, &text, "1")).unwrap();
    }
    let mut between = log.begin(2);
    between.insert(&relation, &row(2, "y", "1")).unwrap();
    let between = between.commit().unwrap();
    log.flush().unwrap();
    let control = dir.path().join("control");
    let old = std::fs::read(&control).unwrap();
    let end = long.commit().unwrap();
    assert!(
        log.trim().unwrap() > 0,
        "the segment where it began is gone"
    );
    drop(log);
    std::fs::write(&control, old).unwrap();

    let open = |start| WalTail::open(StdStorage::shared(), dir.path(), start, clock());
    let look = open(StartAt::Earliest).unwrap().end();
    let refused = open(StartAt::After(between)).unwrap_err();
    let log = Log::open(settings()).unwrap();
    assert_eq!(log.oldest().unwrap(), end);
    assert_eq!(look, end, "the look says the same");
    assert!(
        matches!(refused.kind, LogErrorKind::Refused(_)),
        "{refused}"
    );
}
