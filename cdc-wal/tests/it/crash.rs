//! A log on a disk that forgets, tears, fails and runs full.

use std::sync::Arc;

use cdc_core::testing::sim_storage::{Failure, SimStorage};
use cdc_core::testing::{relation, row};
use cdc_core::{BatchLimit, ChangeEvent, Image, Op, Position, Relation};
use cdc_wal::{
    Log, LogConfig, LogError, LogErrorKind, Savepoint, StartAt, SyncPolicy, Transaction, Visibility,
};
use proptest::prelude::*;

use crate::support::{clock, config, drain};

fn open(disk: &SimStorage, sync: SyncPolicy) -> Result<Log, LogError> {
    Log::open(LogConfig {
        storage: disk.shared(),
        sync,
        visibility: Visibility::Written,
        retain_bytes: 0,
        ..config("/log".as_ref())
    })
}

/// The cursor that holds what was not confirmed.
const CURSOR: &str = "reader";

/// One step of a workload: transactions are numbered, up to three are open at once.
#[derive(Clone, Debug)]
enum Step {
    /// Adds changes with rows of this many bytes to one of the open transactions.
    Change {
        slot: usize,
        count: usize,
        bytes: usize,
    },
    Commit {
        slot: usize,
    },
    Abort {
        slot: usize,
    },
    /// Sets a savepoint in one of the open transactions.
    Savepoint {
        slot: usize,
    },
    /// Rolls back to one of its savepoints.
    Rollback {
        slot: usize,
        back: usize,
    },
    /// Adds rows of this many bytes, which take frames of their own, and undoes them.
    Undo {
        slot: usize,
        bytes: usize,
    },
    /// Moves the cursor to the end: what nobody needs is trimmed.
    Confirm,
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![8 => 1usize..300, 2 => 2000usize..9000, 1 => 20_000usize..60_000];
    prop_oneof![
        8 => (0usize..3, 1usize..12, bytes).prop_map(|(slot, count, bytes)| Step::Change { slot, count, bytes }),
        5 => (0usize..3).prop_map(|slot| Step::Commit { slot }),
        1 => (0usize..3).prop_map(|slot| Step::Abort { slot }),
        6 => (0usize..3).prop_map(|slot| Step::Savepoint { slot }),
        6 => (0usize..3, 0usize..3).prop_map(|(slot, back)| Step::Rollback { slot, back }),
        2 => (0usize..3, 9000usize..40_000).prop_map(|(slot, bytes)| Step::Undo { slot, bytes }),
        1 => Just(Step::Confirm),
        1 => Just(Step::Flush),
    ]
}

/// What a transaction must look like: its id, and the length of each row's text.
type Expected = (u64, Vec<usize>);

#[derive(Default)]
struct Outcome {
    /// Commits that were acknowledged, in order.
    acknowledged: Vec<Expected>,
    /// Of these, how many were durable by a flush that came back.
    flushed: usize,
    /// How many nobody needs any more: they may be there or not.
    confirmed: usize,
    /// The commit that failed, which may be there or not.
    unknown: Option<Expected>,
}

/// An open transaction, what it holds, and its savepoints with how much it held at each.
struct Running {
    tx: Transaction,
    expected: Expected,
    savepoints: Vec<(Savepoint, usize)>,
}

/// Runs steps until one fails.
fn run(log: &Log, steps: &[Step], relations: &[Arc<Relation>], first_id: u64) -> Outcome {
    let mut outcome = Outcome::default();
    let mut next_id = first_id;
    let mut open: [Option<Running>; 3] = Default::default();
    if log.register_cursor(CURSOR, Position::ZERO).is_err() {
        return outcome;
    }
    for step in steps {
        match step {
            Step::Change { slot, count, bytes } => {
                let running = open[*slot].get_or_insert_with(|| {
                    next_id += 1;
                    Running {
                        tx: log.begin(next_id),
                        expected: (next_id, Vec::new()),
                        savepoints: Vec::new(),
                    }
                });
                // Few of the large ones, or a workload takes megabytes.
                let count = if *bytes > 1000 { 1 + count / 6 } else { *count };
                for n in 0..count {
                    let relation = &relations[(*bytes + n) % relations.len()];
                    let text = "x".repeat(*bytes);
                    let inserted = running.tx.insert(relation, &row(1, &text, "1"));
                    if inserted.is_err() {
                        return outcome;
                    }
                    running.expected.1.push(*bytes);
                }
            }
            Step::Commit { slot } => {
                if let Some(Running { tx, expected, .. }) = open[*slot].take() {
                    match tx.commit() {
                        // Nothing is left of it: it is not seen.
                        _ if expected.1.is_empty() => {}
                        Ok(_) => outcome.acknowledged.push(expected),
                        Err(_) => {
                            outcome.unknown = Some(expected);
                            return outcome;
                        }
                    }
                }
            }
            Step::Abort { slot } => {
                if let Some(running) = open[*slot].take()
                    && running.tx.abort().is_err()
                {
                    return outcome;
                }
            }
            Step::Savepoint { slot } => {
                if let Some(running) = &mut open[*slot] {
                    let savepoint = running.tx.savepoint().expect("few savepoints");
                    running
                        .savepoints
                        .push((savepoint, running.expected.1.len()));
                }
            }
            Step::Rollback { slot, back } => {
                if let Some(running) = &mut open[*slot]
                    && let Some(index) = running.savepoints.len().checked_sub(back + 1)
                {
                    running.savepoints.truncate(index + 1);
                    let (savepoint, count) = &running.savepoints[index];
                    if running.tx.rollback_to(savepoint).is_err() {
                        return outcome;
                    }
                    running.expected.1.truncate(*count);
                }
            }
            Step::Undo { slot, bytes } => {
                if let Some(Running { tx, .. }) = &mut open[*slot] {
                    let savepoint = tx.savepoint().expect("few savepoints");
                    let undone = row(1, &"u".repeat(*bytes), "1");
                    let inserted = (0..2).try_for_each(|_| tx.insert(&relations[0], &undone));
                    if inserted.and_then(|()| tx.rollback_to(&savepoint)).is_err() {
                        return outcome;
                    }
                }
            }
            Step::Confirm => {
                outcome.confirmed = outcome.acknowledged.len();
                if log.confirm(CURSOR, log.end()).is_err() {
                    return outcome;
                }
            }
            Step::Flush => {
                if log.flush().is_err() {
                    return outcome;
                }
                outcome.flushed = outcome.acknowledged.len();
            }
        }
    }
    outcome
}

/// All transactions a log gives, checked to be whole and in order.
fn transactions(log: &Log) -> (Vec<Expected>, Vec<ChangeEvent>) {
    let mut tail = log.tail(StartAt::Earliest, clock()).expect("tail");
    let limit = BatchLimit {
        events_max: 5,
        ..BatchLimit::default()
    };
    let events = drain(&mut tail, limit).expect("read the log");
    let mut all: Vec<Expected> = Vec::new();
    let mut position = Position::ZERO;
    let mut open = false;
    for event in &events {
        assert!(event.position > position, "positions increase");
        if open {
            assert_eq!(
                event.position.commit, position.commit,
                "transactions are whole"
            );
        } else {
            all.push((event.transaction.id, Vec::new()));
        }
        position = event.position;
        open = !event.last;
        let text = event.after.row().and_then(|row| row.get(1).ok().flatten());
        let Some(cdc_core::ValueRef::Text(text)) = text else {
            panic!("a row as it was written")
        };
        if let Some((_, lengths)) = all.last_mut() {
            lengths.push(text.len());
        }
    }
    assert!(!open, "the last transaction is whole");
    (all, events)
}

fn relations() -> Vec<Arc<Relation>> {
    let mut all = vec![relation()];
    for version in 1..4 {
        let mut other = Relation::clone(&relation());
        other.version = version;
        all.push(Arc::new(other));
    }
    all
}

/// Fails call `n` of a workload, crashes, reopens, and compares. False if the workload ended
/// before that call.
fn crash_at(steps: &[Step], sync: SyncPolicy, n: u64, failure: Failure, seed: u64) -> bool {
    let disk = SimStorage::new();
    let relations = relations();
    let place = format!("call {n}, {failure:?}, {sync:?}, crash seed {seed}");
    disk.fail_after(n, failure);
    let Ok(log) = open(&disk, sync) else {
        disk.crash(seed);
        let log = open(&disk, sync).unwrap_or_else(|e| panic!("reopen after {place}: {e}"));
        assert!(transactions(&log).0.is_empty());
        return true;
    };
    let outcome = run(&log, steps, &relations, 0);
    let failed = disk.has_failed();
    if failed && failure == Failure::Once && sync == SyncPolicy::Always {
        let error = log.flush().err().map(|error| error.kind);
        assert!(
            matches!(error, None | Some(LogErrorKind::Dead)),
            "a log whose write failed is dead: {place}"
        );
    }
    if failure == Failure::Stop {
        disk.crash(seed);
        drop(log);
    } else {
        drop(log);
        disk.crash(seed);
    }
    let log = open(&disk, sync).unwrap_or_else(|e| panic!("reopen after {place}: {e}"));
    let (found, events) = transactions(&log);
    let mut possible = outcome.acknowledged.clone();
    possible.extend(outcome.unknown);
    // From the first that is retained, which is none that somebody needs.
    let trimmed = match found.first() {
        Some((first, _)) => possible.iter().position(|(id, _)| id == first),
        None if log.oldest().expect("oldest") > Position::ZERO => Some(outcome.confirmed),
        None => Some(0),
    };
    let trimmed = trimmed.unwrap_or_else(|| panic!("nothing that was not committed: {place}"));
    assert!(
        trimmed <= outcome.confirmed,
        "nothing is trimmed early: {place}"
    );
    let possible = &possible[trimmed..];
    assert!(
        found.len() <= possible.len(),
        "nothing that was not committed: {place}"
    );
    assert_eq!(
        found,
        possible[..found.len()],
        "what was committed, in order: {place}"
    );
    let durable = match sync {
        SyncPolicy::Always => outcome.acknowledged.len(),
        _ => outcome.flushed,
    };
    assert!(
        found.len() + trimmed >= durable,
        "nothing acknowledged is lost: {place}: found {found:?}, trimmed {trimmed} of {}, confirmed {}, oldest {:?}",
        outcome.acknowledged.len(),
        outcome.confirmed,
        log.oldest()
    );
    // The log works on, and from every position gives exactly the rest.
    let mut tx = log.begin(9999);
    tx.insert(&relations[3], &row(1, "after", "1"))
        .expect("insert");
    tx.commit().expect("commit after recovery");
    let (again, all) = transactions(&log);
    // The commit may have gone on to another segment, and what nobody needs have been trimmed.
    let gone = (found.len() + 1).checked_sub(again.len());
    let gone = gone.unwrap_or_else(|| panic!("one more, not several: {place}"));
    assert!(
        trimmed + gone <= outcome.confirmed || gone == 0,
        "nothing is trimmed early: {place}"
    );
    let events = &events[found[..gone].iter().map(|(_, rows)| rows.len()).sum()..];
    assert_eq!(&all[..events.len()], events, "{place}");
    let all = &all[..];
    for at in [
        0,
        events.len() / 3,
        events.len() / 2,
        events.len().saturating_sub(1),
    ] {
        let mut tail = log
            .tail(StartAt::After(all[at].position), clock())
            .expect("tail");
        let rest = drain(&mut tail, BatchLimit::default()).expect("read");
        assert_eq!(rest, all[at + 1..], "after event {at}: {place}");
    }
    failed
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn no_crash_loses_what_was_acknowledged(
        steps in proptest::collection::vec(step(), 5..60), seed in any::<u64>(), never in any::<bool>(),
    ) {
        let sync = if never { SyncPolicy::Never } else { SyncPolicy::Always };
        let mut n = 0;
        while crash_at(&steps, sync, n, Failure::Stop, seed.wrapping_add(n)) {
            n += 1;
        }
        prop_assert!(n > 5);
    }

    #[test]
    fn no_failed_call_loses_what_was_acknowledged(
        steps in proptest::collection::vec(step(), 5..40), seed in any::<u64>(),
    ) {
        let mut n = 0;
        while crash_at(&steps, SyncPolicy::Always, n, Failure::Once, seed.wrapping_add(n)) {
            n += 1;
        }
    }

    #[test]
    fn no_disk_that_is_full_from_any_call_on_loses_what_was_acknowledged(
        steps in proptest::collection::vec(step(), 5..60), seed in any::<u64>(), never in any::<bool>(),
    ) {
        let sync = if never { SyncPolicy::Never } else { SyncPolicy::Always };
        let mut n = 0;
        while crash_at(&steps, sync, n, Failure::Full, seed.wrapping_add(n)) {
            n += 1;
        }
        prop_assert!(n > 5);
    }
}

#[test]
fn a_full_disk_kills_the_handle_and_nothing_else() {
    let disk = SimStorage::new();
    let log = open(&disk, SyncPolicy::Always).unwrap();
    disk.set_capacity(Some(200 << 10));
    log.register_cursor(CURSOR, Position::ZERO).unwrap();
    let relation = relation();
    let mut committed = 0;
    let error = loop {
        let mut tx = log.begin(committed);
        tx.insert(&relation, &row(1, &"x".repeat(5000), "1"))
            .unwrap();
        match tx.commit() {
            Ok(_) => committed += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind, LogErrorKind::Io);
    assert_eq!(log.flush().unwrap_err().kind, LogErrorKind::Dead);
    drop(log);
    disk.set_capacity(None);
    let log = open(&disk, SyncPolicy::Always).unwrap();
    assert_eq!(transactions(&log).0.len() as u64, committed);
}

#[test]
fn a_cursor_that_could_not_be_written_is_not_there_and_one_that_could_not_be_removed_still_is() {
    let disk = SimStorage::new();
    let log = open(&disk, SyncPolicy::Always).unwrap();
    disk.fail_after(0, Failure::Once);
    let refused = log.register_cursor("a", Position::ZERO).unwrap_err();
    assert_eq!(refused.kind, LogErrorKind::Io);
    assert!(log.cursors().is_empty());
    log.register_cursor("a", Position::ZERO).unwrap();
    disk.fail_after(0, Failure::Once);
    assert_eq!(log.remove_cursor("a").unwrap_err().kind, LogErrorKind::Io);
    assert_eq!(log.cursors().len(), 1);
    log.remove_cursor("a").unwrap();
    drop(log);
    assert!(
        open(&disk, SyncPolicy::Always)
            .unwrap()
            .cursors()
            .is_empty()
    );
}

/// A log with ten small transactions, closed, and where its frames are.
fn ten() -> (SimStorage, std::path::PathBuf) {
    let disk = SimStorage::new();
    let log = open(&disk, SyncPolicy::Always).expect("a healthy log");
    for id in 0..10 {
        let mut tx = log.begin(id);
        tx.insert(&relation(), &row(1, "name", "1"))
            .expect("a healthy log");
        tx.commit().expect("a healthy log");
    }
    drop(log);
    (disk, "/log/0000000000000000.wal".into())
}

#[test]
fn damage_of_what_was_durable_is_refused_with_file_and_offset() {
    let end = {
        let (disk, _) = ten();
        open(&disk, SyncPolicy::Always).unwrap().flushed_lsn().0
    };
    for offset in (4096..end - 64).step_by(29) {
        let (disk, path) = ten();
        disk.damage(&path, offset, |byte| byte ^ 0x55).unwrap();
        match open(&disk, SyncPolicy::Always) {
            Err(error) => {
                assert_eq!(error.kind, LogErrorKind::Corrupt, "byte {offset}");
                let message = error.to_string();
                assert!(message.contains("0000000000000000.wal"), "{message}");
                let at: u64 = message
                    .split("at byte ")
                    .nth(1)
                    .and_then(|rest| rest.split(';').next())
                    .and_then(|digits| digits.parse().ok())
                    .expect("an offset");
                assert!(
                    at <= offset && offset < at + 300,
                    "{at} names the frame of {offset}"
                );
            }
            // Padding is not covered by a checksum, and says nothing.
            Ok(log) => assert_eq!(transactions(&log).0.len(), 10, "byte {offset}"),
        }
    }
}

#[test]
fn images_of_all_forms_come_back_as_they_were() {
    let disk = SimStorage::new();
    let log = open(&disk, SyncPolicy::Always).unwrap();
    let meta = cdc_core::Meta(vec![("expires_at".into(), cdc_core::Value::Int(7))]);
    let images = [
        Image::Absent,
        Image::Full(row(1, "a", "1")),
        Image::Key(row(2, "b", "2")),
        Image::Partial(row(3, "c", "3")),
    ];
    let mut expected = Vec::new();
    let mut tx = log.begin(1);
    for op in Op::ALL {
        for before in &images {
            for after in &images {
                for cause in cdc_core::Cause::ALL {
                    let meta = (expected.len() % 2 == 0).then_some(&meta);
                    tx.change(op, &relation(), before, after, cause, meta)
                        .unwrap();
                    expected.push((op, before.clone(), after.clone(), cause, meta.cloned()));
                }
            }
        }
    }
    tx.commit().unwrap();
    let mut tail = log.tail(StartAt::Earliest, clock()).unwrap();
    let events = drain(&mut tail, BatchLimit::default()).unwrap();
    let found: Vec<_> = events
        .into_iter()
        .map(|e| {
            (
                e.op,
                e.before,
                e.after,
                e.cause,
                e.meta.map(|meta| (*meta).clone()),
            )
        })
        .collect();
    assert_eq!(found, expected);
}

/// Commits from several threads until one fails; gives what each was told is durable, and tried.
fn commit_from_threads(log: &Log) -> Vec<(Vec<u64>, Vec<u64>)> {
    const THREADS: u64 = 3;
    let relation = relation();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|worker| {
                let relation = &relation;
                scope.spawn(move || {
                    let (mut acknowledged, mut tried) = (Vec::new(), Vec::new());
                    for n in 0..12 {
                        let id = worker * 100 + n;
                        let mut tx = log.begin(id);
                        let bytes = usize::try_from(id % 5).expect("small") * 3000 + 10;
                        let text = "x".repeat(bytes);
                        let savepoint = tx.savepoint().expect("one savepoint");
                        let done = (0..2)
                            .try_for_each(|_| tx.insert(relation, &row(7, &text, "1")))
                            .and_then(|()| tx.rollback_to(&savepoint))
                            .and_then(|()| tx.insert(relation, &row(1, &text, "1")));
                        if done.is_err() {
                            break;
                        }
                        tried.push(id);
                        match tx.commit() {
                            Ok(_) => acknowledged.push(id),
                            Err(_) => break,
                        }
                    }
                    (acknowledged, tried)
                })
            })
            .collect();
        let results = workers.into_iter().map(std::thread::ScopedJoinHandle::join);
        results.map(|result| result.expect("no panic")).collect()
    })
}

#[test]
fn a_failure_at_any_call_loses_no_commit_that_any_of_many_threads_was_told_of() {
    for failure in [Failure::Stop, Failure::Once] {
        let mut n = 0;
        loop {
            let disk = SimStorage::new();
            let Ok(log) = open(&disk, SyncPolicy::Always) else {
                panic!("a healthy disk")
            };
            log.register_cursor(CURSOR, Position::ZERO)
                .expect("a healthy disk");
            disk.fail_after(n, failure);
            let threads = commit_from_threads(&log);
            let failed = disk.has_failed();
            if failure == Failure::Stop {
                disk.crash(n);
                drop(log);
            } else {
                drop(log);
                disk.crash(n);
            }
            let place = format!("call {n}, {failure:?}");
            let log = open(&disk, SyncPolicy::Always)
                .unwrap_or_else(|error| panic!("reopen after {place}: {error}"));
            let (found, events) = transactions(&log);
            for event in &events {
                let id = event.after.row().and_then(|row| row.get(0).ok().flatten());
                assert!(
                    matches!(id, Some(cdc_core::ValueRef::Int(1))),
                    "what was rolled back is seen: {place}"
                );
            }
            let mut known = 0;
            for (worker, (acknowledged, tried)) in threads.iter().enumerate() {
                let own = |(id, _): &&Expected| id / 100 == worker as u64;
                let ids: Vec<u64> = found.iter().filter(own).map(|(id, _)| *id).collect();
                assert!(
                    ids.starts_with(acknowledged) && tried.starts_with(&ids),
                    "{ids:?} of {acknowledged:?} acknowledged, {tried:?} tried: {place}"
                );
                known += ids.len();
            }
            assert_eq!(found.len(), known, "nothing else: {place}");
            if !failed {
                break;
            }
            n += 1;
        }
        assert!(n > 30, "{n}");
    }
}

/// A trim that fails at any of its calls leaves no hole, whatever later trims remove.
#[test]
fn a_trim_that_fails_is_gone_on_with_from_the_oldest() {
    let mut failed = 0;
    for n in 0..40 {
        let disk = SimStorage::new();
        let log = open(&disk, SyncPolicy::Always).unwrap();
        log.register_cursor(CURSOR, Position::ZERO).unwrap();
        let commit = |from: u64| {
            let mut last = Position::ZERO;
            for id in from..from + 60 {
                let mut tx = log.begin(id);
                tx.insert(&relation(), &row(1, &"x".repeat(3000), "1"))
                    .unwrap();
                last = tx.commit().unwrap();
            }
            last
        };
        let end = commit(1);
        disk.fail_after(n, Failure::Once);
        failed += usize::from(log.confirm(CURSOR, end).is_err());
        disk.clear_failure();
        let end = commit(100);
        // The directory's sync may be lost, too.
        log.confirm(CURSOR, end).unwrap();
        log.trim().unwrap();
        drop(log);
        disk.crash(n);
        let log = open(&disk, SyncPolicy::Always).unwrap_or_else(|e| panic!("call {n}: {e}"));
        assert!(log.retained_bytes() <= 128 << 10, "call {n}");
    }
    assert!(failed > 5, "{failed} trims failed");
}
