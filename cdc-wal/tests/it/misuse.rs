//! What a log says to callers that hold it wrong: it refuses, and what it holds stays right.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cdc_core::storage::StdStorage;
use cdc_core::testing::{relation, row};
use cdc_core::{BatchLimit, Cause, Image, Lsn, Op, Position, RowImage, TokenRefusal, Value};
use cdc_wal::inspect::Inspector;
use cdc_wal::kinds::{KindLog, relational::Relational, relational::Table};
use cdc_wal::repair::{RepairMode, plan, repair};
use cdc_wal::{Log, LogErrorKind, StartAt, WalTail};

use crate::support::{clock, config, drain};

#[test]
fn rows_that_do_not_fit_their_table_are_refused_and_the_rest_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(config(dir.path())).unwrap();
    let relation = relation();
    let short = RowImage::from_values(&[Value::Int(7)]);
    let good = row(1, "a", "1");
    let mut tx = log.begin(1);
    tx.insert(&relation, &good).unwrap();
    for refused in [
        tx.insert_with(&relation, |row| row.int(7)),
        tx.insert(&relation, &short),
        tx.update(&relation, &Image::Full(short.clone()), &good),
        tx.delete(&relation, &Image::Key(short.clone())),
        tx.change(
            Op::Insert,
            &relation,
            &Image::Absent,
            &Image::Partial(short.clone()),
            Cause::Client,
            None,
        ),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind, LogErrorKind::Invalid, "{error}");
        let text = error.to_string();
        assert!(text.contains(&relation.qualified_name()), "{text}");
        assert!(text.contains("1 values"), "{text}");
    }
    assert_eq!(tx.event_count(), 1);
    tx.insert(&relation, &row(2, "b", "2")).unwrap();
    tx.commit().unwrap();
    let mut tail = log.tail(StartAt::Earliest, clock()).unwrap();
    let events = drain(&mut tail, BatchLimit::default()).unwrap();
    let seen: Vec<_> = events
        .iter()
        .map(|e| (e.position.ordinal, e.after.clone()))
        .collect();
    assert_eq!(
        seen,
        [(0, Image::Full(good)), (1, Image::Full(row(2, "b", "2")))]
    );
}

#[test]
fn a_transaction_whose_row_panicked_half_written_can_only_be_aborted() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(config(dir.path())).unwrap();
    let typed: KindLog<Relational> = log.clone().into();
    let table = Table::new("public", "t", &[("id", "int8"), ("name", "text")], &["id"]).unwrap();
    let whole = |row: &mut cdc_core::row::RowWriter<'_>| {
        row.int(1);
        row.text("whole");
    };
    let half = |row: &mut cdc_core::row::RowWriter<'_>| {
        row.int(2);
        panic!("a bug of the engine");
    };
    for plain in [false, true] {
        let mut tx = typed.begin(1);
        let before = tx.savepoint().unwrap();
        tx.insert(&table, whole).unwrap();
        let caught = catch_unwind(AssertUnwindSafe(|| {
            if plain {
                drop(tx.inner().insert_with(table.relation(), half));
            } else {
                drop(tx.insert(&table, half));
            }
        }));
        assert!(caught.is_err());
        let refused = tx.insert(&table, whole).map(drop).unwrap_err();
        assert_eq!(refused.kind, LogErrorKind::Dead, "{refused}");
        assert!(tx.rollback_to(&before).is_err());
        assert_eq!(tx.commit().unwrap_err().kind, LogErrorKind::Dead);
    }
    let mut tx = typed.begin(2);
    tx.insert(&table, whole).unwrap();
    tx.commit().unwrap();
    let mut tail = log.tail(StartAt::Earliest, clock()).unwrap();
    let events = drain(&mut tail, BatchLimit::default()).unwrap();
    assert_eq!(events.len(), 1, "nothing of what panicked is there");
    assert_eq!(events[0].transaction.id, 2);
}

#[test]
fn a_cursor_ahead_of_the_log_is_refused_since_it_would_hold_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(config(dir.path())).unwrap();
    let relation = relation();
    let commit = || {
        let mut tx = log.begin(1);
        tx.insert(&relation, &row(1, "a", "1")).unwrap();
        tx.commit().unwrap()
    };
    let end = commit();
    log.register_cursor("one", Position::ZERO).unwrap();
    let ahead = Position::end_of(Lsn(end.commit.0 + 1));
    for refused in [
        log.confirm("one", ahead),
        log.register_cursor("one", ahead),
        log.register_cursor("two", ahead),
    ] {
        assert_eq!(
            refused.unwrap_err().kind,
            LogErrorKind::Refused(TokenRefusal::Ahead { token: ahead, end })
        );
    }
    assert_eq!(log.confirmed(), Some(Position::ZERO));
    assert_eq!(log.cursors().len(), 1);
    log.confirm("one", end).unwrap();
    log.register_cursor("two", end).unwrap();
    log.confirm("two", commit()).unwrap();
}

#[test]
fn a_directory_that_is_not_there_has_no_log() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("nothing");
    let tail = WalTail::open(StdStorage::shared(), &missing, StartAt::Earliest, clock());
    let inspector = Inspector::open(StdStorage::shared(), &missing);
    for error in [tail.unwrap_err(), inspector.unwrap_err()] {
        assert_eq!(error.kind, LogErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains(missing.to_str().unwrap()));
    }
    assert!(!missing.exists());
}

#[test]
fn a_repair_leaves_no_mark_in_a_directory_without_a_log() {
    let dir = tempfile::tempdir().unwrap();
    let storage = StdStorage::shared();
    let repaired = repair(&storage, dir.path(), RepairMode::Keep);
    let planned = plan(&storage, dir.path(), RepairMode::Keep);
    for error in [repaired.unwrap_err(), planned.unwrap_err()] {
        assert_eq!(error.kind, LogErrorKind::NotFound, "{error}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
