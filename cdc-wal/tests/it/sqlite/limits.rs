//! What a consumer that stands still, or an application that never pauses, may cost.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::path::Path;

use cdc_core::{Op, SourceErrorKind, Value, WalSource};
use cdc_wal::sqlite::{Assist, SqliteConfig, SqliteSource};

use super::support::{Stage, batch, error, is_merged};

const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB);";

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.len())
}

fn beside(stage: &Stage, suffix: &str) -> std::path::PathBuf {
    stage.dir.path().join(format!("shop.db{suffix}"))
}

/// Reads to the row with this number and gives the rows, and how many transactions were merged.
async fn mirror(source: &mut SqliteSource, end: i64) -> (BTreeMap<i64, Vec<u8>>, u64) {
    let (mut rows, mut merged) = (BTreeMap::new(), 0);
    while !rows.contains_key(&end) {
        for event in batch(source).await.unwrap().0 {
            merged += u64::from(event.last && is_merged(&event));
            let row = |image: &cdc_core::Image| match image.row().unwrap().to_values().unwrap()[..]
            {
                [Value::Int(id), Value::Bytes(ref bytes)] => (id, bytes.clone()),
                ref other => panic!("{} values", other.len()),
            };
            match event.op {
                Op::Insert => {
                    let (id, bytes) = row(&event.after);
                    assert!(rows.insert(id, bytes).is_none(), "{id} came twice");
                }
                Op::Update => {
                    let ((id, before), (_, after)) = (row(&event.before), row(&event.after));
                    assert_eq!(rows.insert(id, after), Some(before), "{id}: before");
                }
                other => panic!("{other}"),
            }
        }
    }
    (rows, merged)
}

/// Nobody takes anything, and the application writes on: its log is let go.
#[tokio::test]
async fn a_log_past_its_limit_is_let_go_and_what_was_missed_comes_merged() {
    let mut stage = Stage::new(TABLE);
    let limit = 400_000;
    let config = SqliteConfig {
        assist: Assist::Off,
        log_bytes_max: limit,
        ..stage.config()
    };
    let mut source = SqliteSource::connect(config, None).await.unwrap();
    stage.application.run("PRAGMA wal_autocheckpoint = 20;");
    for _ in 0..2500 {
        stage.application.run(
            "INSERT INTO t(x) VALUES (randomblob(3000)); UPDATE t SET x = randomblob(10) WHERE id = 1;",
        );
    }
    let longest = length(&beside(&stage, "-wal"));
    stage
        .application
        .run("INSERT INTO t VALUES (1000000, x'00');");
    let (rows, merged) = mirror(&mut source, 1_000_000).await;
    let count = stage
        .application
        .run("SELECT count(*), sum(length(x)) FROM t;");
    let bytes: usize = rows.values().map(Vec::len).sum();
    assert_eq!(count.trim(), format!("{}|{bytes}", rows.len()));
    assert!(merged > 0, "it was let go");
    // Four frames a round are more than 40 MB; it is looked at ten times a second.
    assert!(longest < 20_000_000, "{longest} bytes");
    source.close().await.unwrap();
}

/// Without a state there is nothing to compare with afterwards.
#[tokio::test]
async fn a_log_past_its_limit_ends_capture_that_keeps_nothing() {
    let mut stage = Stage::new(TABLE);
    let config = SqliteConfig {
        assist: Assist::Off,
        log_bytes_max: 100_000,
        ..stage.look()
    };
    let mut source = SqliteSource::connect(config, None).await.unwrap();
    for _ in 0..30 {
        stage
            .application
            .run("INSERT INTO t(x) VALUES (randomblob(3000));");
    }
    let error = error(&mut source).await;
    assert_eq!(error.kind, SourceErrorKind::Gap, "{error}");
    assert!(error.to_string().contains("past its limit"), "{error}");
    // Nothing is held any more.
    let done = stage.application.run("PRAGMA wal_checkpoint(TRUNCATE);");
    assert_eq!(done.trim(), "0|0|0");
}

/// Nothing is confirmed: the copy of the log that is kept for a restart stays within its limit, and
/// goes on once there is room.
#[tokio::test]
async fn the_archive_stays_within_its_limit() {
    let mut stage = Stage::new(TABLE);
    let config = SqliteConfig {
        archive_bytes_max: 200_000,
        ..stage.config()
    };
    let mut source = SqliteSource::connect(config, None).await.unwrap();
    for _ in 0..100 {
        stage
            .application
            .run("INSERT INTO t(x) VALUES (randomblob(3000));");
    }
    let mut seen = 0;
    let mut end = source.start();
    while seen < 10 {
        let (found, to) = batch(&mut source).await.unwrap();
        seen += found.len();
        end = to;
    }
    // No more comes until something is confirmed.
    for _ in 0..5 {
        let (found, to) = batch(&mut source).await.unwrap();
        seen += found.len();
        end = to.max(end);
    }
    assert!(seen < 100, "{seen} of 100 transactions of three pages");
    let archived: u64 = std::fs::read_dir(stage.dir.path().join("state"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("archive-"))
        .map(|entry| length(&entry.path()))
        .sum();
    assert!(archived < 300_000, "{archived} bytes");
    while seen < 100 {
        source.confirm(end).await.unwrap();
        let (found, to) = batch(&mut source).await.unwrap();
        seen += found.len();
        end = to;
    }
    source.close().await.unwrap();
}
