//! Stopping, crashing and going on.

use cdc_core::{Op, SourceErrorKind, WalSource};
use cdc_wal::sqlite::{SqliteConfig, SqliteSource};

use super::support::{Application, Stage, batch, error, events, show};

const TABLE: &str = "PRAGMA wal_autocheckpoint = 0; CREATE TABLE t(id INTEGER PRIMARY KEY, x);";

#[tokio::test]
async fn what_was_not_confirmed_comes_again_at_the_same_positions() {
    let mut stage = Stage::new(TABLE);
    let mut source = SqliteSource::connect(stage.config(), None).await.unwrap();
    let lineage = source.source().lineage;
    stage
        .application
        .run("INSERT INTO t VALUES (1, 'a'); INSERT INTO t VALUES (2, 'b');");
    let before = events(&mut source, 2).await;
    // Nothing is confirmed.
    source.close().await.unwrap();
    stage.application.run("UPDATE t SET x = 'c' WHERE id = 1;");
    let mut source = SqliteSource::connect(stage.config(), None).await.unwrap();
    assert_eq!(source.source().lineage, lineage);
    let again = events(&mut source, 3).await;
    assert_eq!(
        again[..2],
        before[..2]
            .iter()
            .zip(&again)
            .map(|(old, new)| {
                // The time is when it was seen.
                let mut old = old.clone();
                old.transaction = new.transaction;
                old
            })
            .collect::<Vec<_>>()[..]
    );
    assert_eq!(show(&again[2]), "update t 1,'a' -> 1,'c' .");
    source.close().await.unwrap();
}

#[tokio::test]
async fn what_was_confirmed_does_not_come_again() {
    let mut stage = Stage::new(TABLE);
    let mut source = SqliteSource::connect(stage.config(), None).await.unwrap();
    stage.application.run("INSERT INTO t VALUES (1, 'a');");
    let first = events(&mut source, 1).await.remove(0);
    let mut end = first.position;
    // The confirmation is noted with the next mark, which is taken after a while.
    while source.start() < first.position {
        let (found, at) = batch(&mut source).await.unwrap();
        assert!(found.is_empty());
        end = end.max(at);
        source.confirm(end).await.unwrap();
        let noted = std::fs::read_to_string(stage.dir.path().join("state/sqlite-source")).unwrap();
        if noted.contains(&format!("position {}\n", first.position.commit.0)) {
            break;
        }
    }
    source.close().await.unwrap();
    stage.application.run("INSERT INTO t VALUES (2, 'b');");
    let mut source = SqliteSource::connect(stage.config(), Some(end))
        .await
        .unwrap();
    assert!(source.start() >= first.position);
    let found = events(&mut source, 1).await;
    assert_eq!(show(&found[0]), "insert t -> 2,'b' .");
    assert!(found[0].position > first.position);
    source.close().await.unwrap();
}

#[tokio::test]
async fn a_log_that_is_gone_is_a_gap_and_never_skipped() {
    let mut stage = Stage::new(TABLE);
    let source = SqliteSource::connect(stage.config(), None).await.unwrap();
    let lineage = source.source().lineage;
    let start = source.start();
    source.close().await.unwrap();
    stage.application.run(
        "INSERT INTO t VALUES (1, 'a'); PRAGMA wal_checkpoint(TRUNCATE); INSERT INTO t VALUES (2, 'b');",
    );
    let error = SqliteSource::connect(stage.config(), None)
        .await
        .unwrap_err();
    assert_eq!(error.kind, SourceErrorKind::Gap, "{error}");
    assert!(error.to_string().contains("snapshot"), "{error}");
    let config = SqliteConfig {
        accept_gap: true,
        snapshot: true,
        ..stage.config()
    };
    let mut source = SqliteSource::connect(config, None).await.unwrap();
    assert_eq!(source.source().lineage, lineage, "it is the same history");
    assert!(source.start() > start);
    let found = events(&mut source, 2).await;
    assert!(found.iter().all(|event| event.op == Op::Read));
    source.close().await.unwrap();
}

#[tokio::test]
async fn changes_copied_into_the_database_meanwhile_are_a_gap() {
    let mut stage = Stage::new(TABLE);
    let source = SqliteSource::connect(stage.config(), None).await.unwrap();
    source.close().await.unwrap();
    stage
        .application
        .run("INSERT INTO t VALUES (1, 'a'); PRAGMA wal_checkpoint(PASSIVE);");
    let error = SqliteSource::connect(stage.config(), None)
        .await
        .unwrap_err();
    assert_eq!(error.kind, SourceErrorKind::Gap, "{error}");
}

#[tokio::test]
async fn an_unfinished_snapshot_is_taken_again() {
    let mut stage = Stage::new(TABLE);
    stage
        .application
        .run("INSERT INTO t VALUES (1, 'a'), (2, 'b');");
    let config = SqliteConfig {
        snapshot: true,
        ..stage.config()
    };
    let mut source = SqliteSource::connect(config.clone(), None).await.unwrap();
    let first = events(&mut source, 2).await;
    source.close().await.unwrap();
    stage.application.run("DELETE FROM t WHERE id = 1;");
    let mut source = SqliteSource::connect(config, None).await.unwrap();
    let again = events(&mut source, 1).await;
    assert_eq!(show(&again[0]), "read t -> 2,'b' .");
    assert!(again[0].position > first[1].position, "it is another one");
    source.close().await.unwrap();
}

#[tokio::test]
async fn an_application_that_is_killed_is_followed_on() {
    let mut stage = Stage::new(TABLE);
    let mut source = SqliteSource::connect(stage.look(), None).await.unwrap();
    stage
        .application
        .run("INSERT INTO t VALUES (1, 'a'); BEGIN; INSERT INTO t VALUES (2, 'lost');");
    let path = stage.path.clone();
    stage.application.kill();
    let mut next = Application::open(&path);
    next.run("INSERT INTO t VALUES (3, 'c');");
    let found = events(&mut source, 2).await;
    let shown: Vec<String> = found.iter().map(show).collect();
    assert_eq!(shown, ["insert t -> 1,'a' .", "insert t -> 3,'c' ."]);
    source.close().await.unwrap();
    drop(stage.dir);
}

#[tokio::test]
async fn a_database_that_is_replaced_is_told() {
    let stage = Stage::new(TABLE);
    let mut source = SqliteSource::connect(stage.look(), None).await.unwrap();
    let other = stage.dir.path().join("other.db");
    std::fs::copy(&stage.path, &other).unwrap();
    std::fs::rename(&other, &stage.path).unwrap();
    let error = error(&mut source).await;
    assert_eq!(error.kind, SourceErrorKind::Gap, "{error}");
    assert!(error.to_string().contains("replaced"), "{error}");
}

#[tokio::test]
async fn a_state_directory_is_used_once() {
    let stage = Stage::new(TABLE);
    let source = SqliteSource::connect(stage.config(), None).await.unwrap();
    let error = SqliteSource::connect(stage.config(), None)
        .await
        .unwrap_err();
    assert_eq!(error.kind, SourceErrorKind::InUse, "{error}");
    source.close().await.unwrap();
}
