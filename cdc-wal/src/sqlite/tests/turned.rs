//! What is left of a log behind the begin of a new one, in the mode without a lock.

use cdc_core::Position;
use cdc_core::storage::StdStorage;
use rusqlite::Connection;

use super::corpora::Shell;
use super::following::{Following, feed, is_merged};
use super::mirror::{Mirror, dump};
use crate::sqlite::config::{Mode, SqliteConfig};
use crate::sqlite::files;
use crate::sqlite::wal_index::WalIndex;

/// A transaction that spills, writes pages again that it has spilled, and is rolled back leaves frames
/// without salts and checksums. Where the new log has them over the old one's, they are no bridge to
/// what is left of that: they were never committed.
#[test]
fn frames_of_a_rolled_back_transaction_are_no_part_of_the_log_they_lie_in() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let open = |cache: u32| {
        let db = Connection::open(&path).unwrap();
        db.execute_batch(&format!(
            "PRAGMA page_size = 512; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
             PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = {cache};"
        ))
        .unwrap();
        db
    };
    let (db, spilling) = (open(1000), open(3));
    db.execute_batch(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
         INSERT INTO t SELECT i, randomblob(150) FROM n;
         PRAGMA wal_checkpoint(TRUNCATE);
         UPDATE t SET x = randomblob(153) WHERE id <= 110;",
    )
    .unwrap();
    let config = SqliteConfig {
        mode: Mode::LockFree,
        state_dir: Some(dir.path().join("state")),
        snapshot: true,
        ..SqliteConfig::new(&path)
    };
    // Kept, so that no lock of the connections here is dropped.
    let _held = ["", "-shm"].map(|suffix| files::open(&config.beside(suffix)).unwrap());
    let mut following = Following::open(&config, &StdStorage::shared(), None).unwrap();
    following.load().unwrap();
    let mut mirror = Mirror::default();
    following.seed(&mut mirror);
    following.catch_up(Position::ZERO).unwrap();
    // Unseen: three transactions, and the log begins anew.
    db.execute_batch(
        "UPDATE t SET x = randomblob(151); UPDATE t SET x = randomblob(152) WHERE id > 100;
         UPDATE t SET x = 'last' WHERE id = 300;",
    )
    .unwrap();
    let whole: (i64, i64) = db
        .query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert!(whole.0 == 0 && whole.1 > 150, "{whole:?}");
    spilling
        .execute_batch(
            "BEGIN; UPDATE t SET x = randomblob(150) WHERE id < 60;
             UPDATE t SET x = randomblob(149) WHERE id < 60;
             UPDATE t SET x = randomblob(148) WHERE id BETWEEN 60 AND 200; ROLLBACK;",
        )
        .unwrap();
    let log = std::fs::read(config.beside("-wal")).unwrap();
    let bare = log[32..]
        .chunks_exact(512 + 24)
        .filter(|frame| frame[8..24] == [0; 16]);
    assert!(bare.count() > 10, "it left frames without checksums");
    db.execute_batch("UPDATE t SET x = 'new' WHERE id = 7")
        .unwrap();
    following.catch_up(Position::ZERO).unwrap();
    let events = following.take();
    assert!(is_merged(events.last().unwrap()), "nothing shows it is all");
    for event in &events {
        feed(&mut mirror, event);
    }
    mirror.check(&dump(&db));
}

/// Whoever opens the database after its last user was killed makes the wal-index anew, which counts
/// from 0 again: a sum that is right by chance is no proof that nothing was missed.
#[test]
fn commits_are_not_counted_on_over_a_wal_index_that_was_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let mut killed = Shell::open(&path);
    killed.run(
        "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;
         CREATE TABLE t(id INTEGER PRIMARY KEY, x); INSERT INTO t VALUES (0, 'first');",
    );
    let config = SqliteConfig {
        mode: Mode::LockFree,
        state_dir: Some(dir.path().join("state")),
        snapshot: true,
        ..SqliteConfig::new(&path)
    };
    // Kept, so that no lock of the connections here is dropped.
    let held = ["", "-shm"].map(|suffix| files::open(&config.beside(suffix)).unwrap().1);
    let [_, index] = &held;
    // Until its times tell something.
    while !index.metadata().is_ok_and(|found| {
        let age = found.modified().map(|changed| changed.elapsed());
        age.is_ok_and(|age| age.is_ok_and(|age| age.as_millis() > 100))
    }) {
        std::thread::yield_now();
    }
    let mut following = Following::open(&config, &StdStorage::shared(), None).unwrap();
    following.load().unwrap();
    let mut mirror = Mirror::default();
    following.seed(&mut mirror);
    following.catch_up(Position::ZERO).unwrap();
    let seen = WalIndex::read(index).unwrap().unwrap();
    drop(killed);
    // Unseen: as many transactions as were counted before, and the log begins anew.
    let mut next = Shell::open(&path);
    next.run("PRAGMA wal_autocheckpoint = 0;");
    for n in 1..=seen.change {
        next.run(&format!("INSERT INTO t VALUES ({n}, 'unseen');"));
    }
    let copied = next.run("PRAGMA wal_checkpoint(RESTART);");
    assert!(copied[0].starts_with("0|"), "{copied:?}");
    next.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
         INSERT INTO t SELECT 1000 + i, randomblob(3000) FROM n;",
    );
    let now = WalIndex::read(index).unwrap().unwrap();
    assert_ne!(now.salts, seen.salts);
    assert_eq!(now.change, seen.change + 1, "the sum is right by chance");
    following.catch_up(Position::ZERO).unwrap();
    let events = following.take();
    assert!(is_merged(events.last().unwrap()), "nothing shows it is all");
    for event in &events {
        feed(&mut mirror, event);
    }
    let db = Connection::open(&path).unwrap();
    mirror.check(&dump(&db));
}
