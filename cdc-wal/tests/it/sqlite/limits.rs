//! What a consumer that stands still, or an application that never pauses, may cost.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::path::Path;

use cdc_core::{Op, SourceErrorKind, Value, WalSource};
use cdc_wal::sqlite::{Assist, Mode, SqliteConfig, SqliteSource};

use super::support::{Stage, batch, error, events, is_merged};

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
    // Until the log has begun anew, which it does as soon as it is let go.
    let salts = salts(&beside(&stage, "-wal"));
    let (mut rounds, mut begun_anew) = (0, false);
    while !begun_anew {
        assert!(rounds < 100_000, "the log is never let go");
        stage.application.run(
            "INSERT INTO t(x) VALUES (randomblob(3000)); UPDATE t SET x = randomblob(10) WHERE id = 1;",
        );
        rounds += 1;
        begun_anew = self::salts(&beside(&stage, "-wal")) != salts;
    }
    let merged = ends_equal(&mut stage, &mut source).await;
    assert!(merged > 0, "it was let go");
    source.close().await.unwrap();
}

/// What tells one generation of the log from another.
fn salts(log: &Path) -> Vec<u8> {
    let header = std::fs::read(log).unwrap();
    header[16..24].to_vec()
}

/// Takes everything: the rows are the table's. Gives how many transactions were merged.
async fn ends_equal(stage: &mut Stage, source: &mut SqliteSource) -> u64 {
    stage
        .application
        .run("INSERT INTO t VALUES (1000000, x'00');");
    let (rows, merged) = mirror(source, 1_000_000).await;
    let count = stage
        .application
        .run("SELECT count(*), sum(length(x)) FROM t;");
    let bytes: usize = rows.values().map(Vec::len).sum();
    assert_eq!(count.trim(), format!("{}|{bytes}", rows.len()));
    merged
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

/// Nothing is held: the log begins anew as if nobody looked, and what was overtaken comes merged.
#[tokio::test]
async fn without_a_lock_a_consumer_that_stands_still_costs_the_application_nothing() {
    let mut stage = Stage::new(TABLE);
    let config = SqliteConfig {
        mode: Mode::LockFree,
        ..stage.config()
    };
    let mut source = SqliteSource::connect(config, None).await.unwrap();
    stage
        .application
        .run("PRAGMA wal_autocheckpoint = 20; INSERT INTO t VALUES (1, x'00');");
    for _ in 0..300 {
        stage.application.run(
            "INSERT INTO t(x) VALUES (randomblob(3000)); UPDATE t SET x = randomblob(10) WHERE id = 1;",
        );
    }
    let longest = length(&beside(&stage, "-wal"));
    assert!(longest < 200_000, "{longest} bytes");
    let merged = ends_equal(&mut stage, &mut source).await;
    assert!(merged > 0, "it was overtaken");
    source.close().await.unwrap();
}

/// Locks of this process on a file of the application.
fn locks(path: &Path) -> usize {
    use std::os::unix::fs::MetadataExt as _;
    let inode = std::fs::metadata(path).unwrap().ino();
    let (process, file) = (std::process::id().to_string(), format!(":{inode}"));
    let list = std::fs::read_to_string("/proc/locks").unwrap();
    let ours = |line: &&str| {
        let mut words = line.split_whitespace();
        words.any(|word| word == process) && words.any(|word| word.ends_with(&file))
    };
    list.lines().filter(ours).count()
}

#[tokio::test]
async fn without_a_lock_there_is_no_lock_and_every_transaction_comes_alone() {
    for (mode, locked) in [(Mode::Pinned, true), (Mode::LockFree, false)] {
        let mut stage = Stage::new(TABLE);
        let config = SqliteConfig {
            mode,
            ..stage.config()
        };
        let mut source = SqliteSource::connect(config, None).await.unwrap();
        stage
            .application
            .run("INSERT INTO t VALUES (1, x'01'); INSERT INTO t VALUES (2, x'02');");
        let mut found = events(&mut source, 2).await;
        // A wal-index that was made a moment ago has no times yet that tell whether it was made anew.
        while !std::fs::metadata(beside(&stage, "-shm"))
            .and_then(|found| found.modified())
            .is_ok_and(|made| made.elapsed().is_ok_and(|age| age.as_millis() > 300))
        {
            tokio::task::yield_now().await;
        }
        // All of it is seen before the log begins anew.
        stage.application.run(
            "PRAGMA wal_checkpoint(TRUNCATE); DELETE FROM t WHERE id = 1; DELETE FROM t WHERE id = 2;",
        );
        found.extend(events(&mut source, 2).await);
        assert!(found.iter().all(|event| event.last && !is_merged(event)));
        assert_eq!(locks(&beside(&stage, "-shm")) > 0, locked, "{mode:?}");
        source.close().await.unwrap();
    }
}

#[tokio::test]
async fn without_a_lock_a_state_directory_is_needed() {
    let stage = Stage::new(TABLE);
    let config = SqliteConfig {
        mode: Mode::LockFree,
        ..stage.look()
    };
    let error = SqliteSource::connect(config, None).await.unwrap_err();
    assert_eq!(error.kind, SourceErrorKind::Configuration, "{error}");
    assert!(error.to_string().contains("state directory"), "{error}");
}
