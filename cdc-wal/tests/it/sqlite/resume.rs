//! Stopping, crashing and going on.

use std::path::Path;

use cdc_core::{ChangeEvent, Lineage, Lsn, Op, Position, SourceError, SourceErrorKind, WalSource};
use cdc_wal::sqlite::{Downstream, Mode, SqliteConfig, SqliteSource};

use super::support::{Application, LIMIT, Stage, error, events, is_merged as merged, show};

const TABLE: &str = "PRAGMA wal_autocheckpoint = 0; CREATE TABLE t(id INTEGER PRIMARY KEY, x);";

fn shown(events: &[ChangeEvent]) -> Vec<String> {
    events.iter().map(show).collect()
}

async fn connect(config: SqliteConfig) -> SqliteSource {
    SqliteSource::connect(config, None).await.expect("a source")
}

async fn refused(config: SqliteConfig, resume: Option<Position>, says: &str) {
    let error = SqliteSource::connect(config, resume)
        .await
        .expect_err("a refusal");
    assert_eq!(error.kind, SourceErrorKind::Gap, "{error}");
    assert!(error.to_string().contains(says), "{error}");
}

#[tokio::test]
async fn what_was_not_confirmed_comes_again_at_the_same_positions() {
    // Whatever the application does to its log meanwhile.
    for meanwhile in [
        "SELECT 1;",
        "PRAGMA wal_checkpoint(PASSIVE);",
        "PRAGMA wal_checkpoint(TRUNCATE);",
        "PRAGMA wal_checkpoint(RESTART); INSERT INTO t VALUES (9, 'z'); DELETE FROM t WHERE id = 9;",
    ] {
        let mut stage = Stage::new(TABLE);
        let mut source = connect(stage.config()).await;
        let lineage = source.source().lineage;
        stage
            .application
            .run("INSERT INTO t VALUES (1, 'a'); INSERT INTO t VALUES (2, 'b');");
        let before = events(&mut source, 2).await;
        source.close().await.unwrap();
        stage.application.run(meanwhile);
        let mut source = connect(stage.config()).await;
        assert_eq!(source.source().lineage, lineage);
        let again = events(&mut source, 2).await;
        assert_eq!(again, before, "{meanwhile}");
        stage.application.run("UPDATE t SET x = 'c' WHERE id = 1;");
        let mut next = events(&mut source, 1).await;
        // Rows that came and went while nobody followed are no change.
        while next[0].op != Op::Update {
            assert!(!merged(&next[0]), "{meanwhile}: {}", show(&next[0]));
            next = events(&mut source, 1).await;
        }
        assert_eq!(show(&next[0]), "update t 1,'a' -> 1,'c' .", "{meanwhile}");
        assert!(next[0].position > again[1].position);
        source.close().await.unwrap();
    }
}

#[tokio::test]
async fn what_was_confirmed_does_not_come_again() {
    let mut stage = Stage::new(TABLE);
    let mut source = connect(stage.config()).await;
    stage.application.run("INSERT INTO t VALUES (1, 'a');");
    let first = events(&mut source, 1).await.remove(0);
    let end = Position::end_of(first.position.commit);
    source.confirm(end).await.unwrap();
    source.close().await.unwrap();
    stage.application.run("INSERT INTO t VALUES (2, 'b');");
    let mut source = SqliteSource::connect(stage.config(), Some(end))
        .await
        .unwrap();
    assert_eq!(source.start(), end);
    let found = events(&mut source, 1).await;
    assert_eq!(shown(&found), ["insert t -> 2,'b' ."]);
    assert!(found[0].position > first.position);
    source.close().await.unwrap();
}

#[tokio::test]
async fn a_log_that_is_gone_gives_the_net_change_marked_merged() {
    let mut stage = Stage::new(TABLE);
    stage
        .application
        .run("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');");
    let source = connect(stage.config()).await;
    let start = source.start();
    source.close().await.unwrap();
    stage.application.run(
        "UPDATE t SET x = 'A' WHERE id = 1; PRAGMA wal_checkpoint(TRUNCATE);
         DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (4, 'd'); INSERT INTO t VALUES (5, 'e');
         DELETE FROM t WHERE id = 5; CREATE TABLE u(y); INSERT INTO u VALUES (7);",
    );
    let mut source = connect(stage.config()).await;
    let found = events(&mut source, 5).await;
    assert_eq!(
        shown(&found),
        [
            "schema u create",
            "update t 1,'a' -> 1,'A'",
            "delete t 2,'b'",
            "insert t -> 4,'d'",
            "insert u -> 7 .",
        ]
    );
    assert!(found.iter().all(merged));
    assert!(found[0].position > start);
    // It is exact again from here on, and comes again as it was until it is confirmed.
    stage.application.run("DELETE FROM t WHERE id = 3;");
    let next = events(&mut source, 1).await;
    assert_eq!(shown(&next), ["delete t 3,'c' ."]);
    assert!(!merged(&next[0]));
    source.close().await.unwrap();
    stage.application.run("PRAGMA wal_checkpoint(TRUNCATE);");
    let mut source = connect(stage.config()).await;
    let mut again = events(&mut source, 6).await;
    assert_eq!(again.split_off(5), next);
    assert_eq!(again, found);
    source.close().await.unwrap();
}

/// With all of the log in the database file, what a start holds is the file: the next write begins the log
/// anew, before anything was asked of the source.
#[tokio::test]
async fn a_log_that_begins_anew_right_after_a_start_was_read_before() {
    let mut stage = Stage::new(TABLE);
    let source = connect(stage.config()).await;
    source.close().await.unwrap();
    stage.application.run(
        "INSERT INTO t VALUES (1, 'a'); INSERT INTO t VALUES (2, 'b'); PRAGMA wal_checkpoint(PASSIVE);",
    );
    let mut source = connect(stage.config()).await;
    stage
        .application
        .run("UPDATE t SET x = 'A' WHERE id = 1; DELETE FROM t WHERE id = 2;");
    let found = events(&mut source, 4).await;
    assert_eq!(
        shown(&found),
        [
            "insert t -> 1,'a' .",
            "insert t -> 2,'b' .",
            "update t 1,'a' -> 1,'A' .",
            "delete t 2,'b' ."
        ]
    );
    assert!(!found.iter().any(merged));
    source.close().await.unwrap();
}

#[tokio::test]
async fn changes_while_nobody_followed_are_exact_if_the_log_has_them() {
    let mut stage = Stage::new(TABLE);
    let source = connect(stage.config()).await;
    source.close().await.unwrap();
    // Copied into the database, and still in the log.
    stage.application.run(
        "INSERT INTO t VALUES (1, 'a'); UPDATE t SET x = 'b'; PRAGMA wal_checkpoint(PASSIVE);",
    );
    let mut source = connect(stage.config()).await;
    let found = events(&mut source, 2).await;
    assert_eq!(
        shown(&found),
        ["insert t -> 1,'a' .", "update t 1,'a' -> 1,'b' ."]
    );
    assert!(!found.iter().any(merged));
    source.close().await.unwrap();
}

#[tokio::test]
async fn an_unfinished_snapshot_comes_again_as_it_was() {
    let mut stage = Stage::new(TABLE);
    stage
        .application
        .run("INSERT INTO t VALUES (1, 'a'), (2, 'b');");
    let config = SqliteConfig {
        snapshot: true,
        ..stage.config()
    };
    let mut source = connect(config.clone()).await;
    let mut first = events(&mut source, 2).await;
    source.close().await.unwrap();
    stage
        .application
        .run("DELETE FROM t WHERE id = 1; PRAGMA wal_checkpoint(TRUNCATE);");
    let mut source = connect(config.clone()).await;
    let mut again = events(&mut source, 3).await;
    let after = again.split_off(2);
    for (old, new) in first.iter_mut().zip(&again) {
        // The time is when it was read.
        old.transaction = new.transaction;
    }
    assert_eq!(again, first);
    assert_eq!(shown(&after), ["delete t 1,'a' ."]);
    let end = Position::end_of(after[0].position.commit);
    source.confirm(end).await.unwrap();
    source.close().await.unwrap();
    stage.application.run("INSERT INTO t VALUES (3, 'c');");
    let mut source = connect(config).await;
    let found = events(&mut source, 1).await;
    assert_eq!(shown(&found), ["insert t -> 3,'c' ."], "once is enough");
    source.close().await.unwrap();
}

#[tokio::test]
async fn an_application_that_is_killed_is_followed_on() {
    let mut stage = Stage::new(TABLE);
    let mut source = connect(stage.look()).await;
    stage
        .application
        .run("INSERT INTO t VALUES (1, 'a'); BEGIN; INSERT INTO t VALUES (2, 'lost');");
    stage.application.kill();
    let mut next = Application::open(&stage.path);
    next.run("INSERT INTO t VALUES (3, 'c');");
    let found = events(&mut source, 2).await;
    assert_eq!(
        shown(&found),
        ["insert t -> 1,'a' .", "insert t -> 3,'c' ."]
    );
    source.close().await.unwrap();
}

/// The application dies in the first transaction of a log: its frames are there, none is committed.
#[tokio::test]
async fn a_log_in_which_nothing_is_committed_is_followed() {
    let mut stage = Stage::new(TABLE);
    stage.application.run(
        "INSERT INTO t VALUES (0, 'a'); PRAGMA wal_checkpoint(TRUNCATE); PRAGMA cache_size = 5; BEGIN;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
         INSERT INTO t SELECT i, randomblob(3000) FROM n;",
    );
    let log = stage.dir.path().join("shop.db-wal");
    assert!(std::fs::metadata(log).unwrap().len() > 10_000, "it spilled");
    stage.application.kill();
    let mut source = SqliteSource::connect(
        SqliteConfig {
            state_dir: Some(stage.dir.path().join("state")),
            ..SqliteConfig::new(&stage.path)
        },
        None,
    )
    .await
    .expect("a source");
    Application::open(&stage.path).run("UPDATE t SET x = 'b';");
    let found = events(&mut source, 1).await;
    assert_eq!(shown(&found), ["update t 0,'a' -> 0,'b' ."]);
    source.close().await.unwrap();
}

#[tokio::test]
async fn a_database_that_is_replaced_is_told_and_compared_only_if_asked() {
    let mut stage = Stage::new(TABLE);
    stage
        .application
        .run("INSERT INTO t VALUES (1, 'a'), (2, 'b');");
    let mut source = connect(stage.config()).await;
    let other = stage.dir.path().join("other.db");
    let mut copy = Application::open(&other);
    copy.run("PRAGMA journal_mode = WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, x);");
    copy.run("INSERT INTO t VALUES (1, 'a'), (3, 'c'); PRAGMA wal_checkpoint(TRUNCATE);");
    copy.kill();
    std::fs::rename(&other, &stage.path).unwrap();
    for suffix in ["-wal", "-shm"] {
        for name in ["shop.db", "other.db"] {
            drop(std::fs::remove_file(
                stage.dir.path().join(format!("{name}{suffix}")),
            ));
        }
    }
    let error = error(&mut source).await;
    assert_eq!(error.kind, SourceErrorKind::Gap, "{error}");
    assert!(error.to_string().contains("replaced"), "{error}");
    source.close().await.unwrap();
    refused(stage.config(), None, "replaced").await;
    let config = SqliteConfig {
        accept_gap: true,
        ..stage.config()
    };
    let mut source = connect(config).await;
    let found = events(&mut source, 2).await;
    assert_eq!(shown(&found), ["delete t 2,'b'", "insert t -> 3,'c' ."]);
    assert!(found.iter().all(merged));
    source.close().await.unwrap();
}

/// Copies a file over another, as `cp` does: the file stays the same one.
fn copy_over(from: &Path, to: &Path) {
    let bytes = std::fs::read(from).expect("the file");
    std::fs::write(to, bytes).expect("the other");
}

/// A backup is copied over the database that is open, and its log removed: what we hold belongs to no file
/// that has a name, and none of it may reach the restored one.
#[tokio::test]
async fn a_database_that_is_restored_in_its_place_is_told_and_left_alone() {
    let mut stage = Stage::new(TABLE);
    stage
        .application
        .run("INSERT INTO t VALUES (1, 'a'); PRAGMA wal_checkpoint(TRUNCATE);");
    let backup = stage.dir.path().join("backup.db");
    std::fs::copy(&stage.path, &backup).unwrap();
    let config = SqliteConfig {
        // No pause of the application is used to copy its log back before the restore.
        soft_frames: u32::MAX,
        ..stage.config()
    };
    let again = stage.config();
    let mut source = connect(config).await;
    stage
        .application
        .run("INSERT INTO t VALUES (2, 'b'); UPDATE t SET x = 'old';");
    let found = events(&mut source, 3).await;
    let last = found.last().unwrap().position;
    source.confirm(Position::end_of(last.commit)).await.unwrap();
    stage.application.kill();
    copy_over(&backup, &stage.path);
    for suffix in ["-wal", "-shm"] {
        std::fs::remove_file(stage.dir.path().join(format!("shop.db{suffix}"))).unwrap();
    }
    let mut restored = Application::open(&stage.path);
    restored.run("INSERT INTO t VALUES (9, 'new');");
    let error = error(&mut source).await;
    assert_eq!(error.kind, SourceErrorKind::Gap, "{error}");
    assert!(error.to_string().contains("was restored"), "{error}");
    source.close().await.unwrap();
    assert_eq!(restored.run("PRAGMA integrity_check;").trim(), "ok");
    assert_eq!(restored.run("SELECT * FROM t;").trim(), "1|a\n9|new");
    // And then the difference, as one transaction.
    let mut source = connect(again).await;
    let found = events(&mut source, 3).await;
    assert_eq!(
        shown(&found),
        [
            "update t 1,'old' -> 1,'a'",
            "delete t 2,'old'",
            "insert t -> 9,'new' ."
        ]
    );
    assert!(found.iter().all(merged));
    source.close().await.unwrap();
}

/// The same without a lock: what a copy leaves in the database's place comes as the difference, even if
/// it is found empty for a moment.
#[tokio::test]
async fn a_database_that_is_restored_in_its_place_is_followed_without_a_lock() {
    let mut stage = Stage::new(TABLE);
    stage
        .application
        .run("INSERT INTO t VALUES (1, 'a'); PRAGMA wal_checkpoint(TRUNCATE);");
    let backup = std::fs::read(&stage.path).unwrap();
    let config = SqliteConfig {
        mode: Mode::LockFree,
        ..stage.config()
    };
    let mut source = connect(config).await;
    stage.application.run("INSERT INTO t VALUES (2, 'b');");
    assert_eq!(events(&mut source, 1).await.len(), 1);
    stage.application.kill();
    // Empty before its log goes: whoever looks for another log finds nothing in it.
    std::fs::write(&stage.path, b"").unwrap();
    for suffix in ["-wal", "-shm"] {
        std::fs::remove_file(stage.dir.path().join(format!("shop.db{suffix}"))).unwrap();
    }
    // It is looked at while it is empty, for as long as this takes.
    let look = std::time::Duration::from_millis(100);
    let looked = tokio::time::timeout(look, source.next_batch(LIMIT)).await;
    if let Ok(batch) = looked {
        assert!(batch.unwrap().is_none_or(|batch| batch.is_empty()));
    }
    std::fs::write(&stage.path, backup).unwrap();
    let found = events(&mut source, 1).await;
    assert_eq!(shown(&found), ["delete t 2,'b' ."]);
    assert!(found.iter().all(merged));
    source.close().await.unwrap();
}

#[tokio::test]
async fn an_old_copy_of_the_journal_is_a_gap() {
    let mut stage = Stage::new(TABLE);
    let mut source = connect(stage.config()).await;
    let start = source.start();
    stage.application.run("INSERT INTO t VALUES (1, 'a');");
    let found = events(&mut source, 1).await;
    source
        .confirm(Position::end_of(found[0].position.commit))
        .await
        .unwrap();
    source.close().await.unwrap();
    refused(stage.config(), Some(start), "old copy").await;
}

/// A journal that lost its end although an emitter has confirmed it.
struct Shortened {
    end: Position,
    delivered: Position,
}

impl Downstream for Shortened {
    fn end(&self) -> Option<Position> {
        Some(self.end)
    }

    fn furthest(&self) -> Option<Position> {
        Some(self.delivered)
    }

    fn take_back(&mut self, _: Lineage, _: Position, _: Lsn) -> Result<bool, SourceError> {
        panic!("the journal has nothing the state does not know of")
    }
}

/// Copies the files of a state directory.
fn keep(from: &Path, to: &Path) -> std::io::Result<()> {
    drop(std::fs::remove_dir_all(to));
    std::fs::create_dir_all(to)?;
    for file in std::fs::read_dir(from)? {
        let file = file?;
        std::fs::copy(file.path(), to.join(file.file_name()))?;
    }
    Ok(())
}

/// The machine loses power: what an emitter has confirmed is gone from the journal and the state, and
/// the application's log holds other transactions in its place, or the same. None of them is passed
/// over as one that was delivered.
#[tokio::test]
async fn a_position_that_was_confirmed_is_given_to_nothing_else() {
    let mut stage = Stage::new(TABLE);
    stage.application.run("INSERT INTO t VALUES (0, 'z');");
    let source = connect(stage.config()).await;
    let end = source.start();
    source.close().await.unwrap();
    let state = stage.config().state_dir.unwrap();
    let copy = stage.dir.path().join("copy");
    keep(&state, &copy).unwrap();
    let mut source = connect(stage.config()).await;
    stage.application.run("INSERT INTO t VALUES (1, 'a');");
    let first = events(&mut source, 1).await.remove(0);
    source.close().await.unwrap();
    keep(&copy, &state).unwrap();
    let delivered = Position::end_of(first.position.commit);
    let shortened = Shortened { end, delivered };
    let mut source = SqliteSource::connect_to(stage.config(), Box::new(shortened))
        .await
        .unwrap();
    stage.application.run("INSERT INTO t VALUES (2, 'b');");
    let found = events(&mut source, 2).await;
    assert_eq!(
        shown(&found),
        ["insert t -> 1,'a' .", "insert t -> 2,'b' ."],
        "each alone: the log has them"
    );
    assert!(!found.iter().any(merged));
    assert!(found[0].position > delivered, "{}", found[0].position);
    source.close().await.unwrap();
    // The same positions again, under the number the log has now.
    let mut source = connect(stage.config()).await;
    assert_eq!(events(&mut source, 2).await, found);
    source.close().await.unwrap();
}

#[tokio::test]
async fn a_state_directory_is_used_once() {
    let stage = Stage::new(TABLE);
    let source = connect(stage.config()).await;
    let error = SqliteSource::connect(stage.config(), None)
        .await
        .expect_err("a refusal");
    assert_eq!(error.kind, SourceErrorKind::InUse, "{error}");
    source.close().await.unwrap();
}
