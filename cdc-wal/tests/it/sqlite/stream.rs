//! What comes while nothing goes wrong.

use cdc_core::{Op, Position, Value, WalSource};
use cdc_wal::sqlite::{Assist, Mode, SqliteConfig, SqliteSource};

use super::support::{Application, LIMIT, Stage, batch, events, is_merged, show};

const ORDERS: &str = "CREATE TABLE orders(id INTEGER PRIMARY KEY, name TEXT, total REAL);";

#[tokio::test]
async fn changes_come_transaction_by_transaction_with_both_images() {
    let mut stage = Stage::new(ORDERS);
    let mut source = SqliteSource::connect(stage.look(), None).await.unwrap();
    stage
        .application
        .run("INSERT INTO orders VALUES (1, 'a', 1.5), (2, 'b', 2);");
    stage.application.run(
        "BEGIN; UPDATE orders SET total = 3 WHERE id = 1; DELETE FROM orders WHERE id = 2;
         INSERT INTO orders VALUES (7, 'g', NULL); COMMIT;",
    );
    let found = events(&mut source, 5).await;
    let shown: Vec<String> = found.iter().map(show).collect();
    assert_eq!(
        shown,
        [
            "insert orders -> 1,'a',1.5",
            "insert orders -> 2,'b',2.0 .",
            "update orders 1,'a',1.5 -> 1,'a',3.0",
            "delete orders 2,'b',2.0",
            "insert orders -> 7,'g',NULL .",
        ]
    );
    assert!(
        found
            .windows(2)
            .all(|pair| pair[0].position < pair[1].position)
    );
    assert_eq!(found[0].position.commit, found[1].position.commit);
    assert_eq!(found[0].relation.qualified_name(), "main.orders");
    assert_eq!(found[0].relation.key, [0]);
    assert_eq!(source.source().name.as_ref(), "shop");
    source.close().await.unwrap();
}

#[tokio::test]
async fn rolled_back_and_empty_work_gives_no_event() {
    let mut stage = Stage::new(ORDERS);
    let mut source = SqliteSource::connect(stage.look(), None).await.unwrap();
    stage.application.run(
        "BEGIN; INSERT INTO orders VALUES (1, 'a', 1); ROLLBACK;
         BEGIN; INSERT INTO orders VALUES (2, 'b', 1); DELETE FROM orders; COMMIT;
         UPDATE orders SET total = 1 WHERE id = 99;
         INSERT INTO orders VALUES (3, 'c', 1); UPDATE orders SET name = 'c';",
    );
    let found = events(&mut source, 1).await;
    assert_eq!(show(&found[0]), "insert orders -> 3,'c',1.0 .");
    source.close().await.unwrap();
}

#[tokio::test]
async fn the_shape_of_tables_is_followed() {
    let mut stage = Stage::new(ORDERS);
    stage
        .application
        .run("INSERT INTO orders VALUES (1, 'a', 1);");
    let mut source = SqliteSource::connect(stage.look(), None).await.unwrap();
    stage.application.run(
        "ALTER TABLE orders ADD COLUMN state TEXT DEFAULT 'new';
         UPDATE orders SET total = 2;
         ALTER TABLE orders RENAME TO sales;
         DROP TABLE sales;
         CREATE TABLE keyless(x);
         INSERT INTO keyless VALUES (5);",
    );
    let found = events(&mut source, 6).await;
    let shown: Vec<String> = found.iter().map(show).collect();
    assert_eq!(
        shown,
        [
            "schema orders alter .",
            "update orders 1,'a',1.0,'new' -> 1,'a',2.0,'new' .",
            "schema sales alter .",
            "schema sales drop .",
            "schema keyless create .",
            "insert keyless -> 5 .",
        ]
    );
    let meta = |n: usize| found[n].meta.clone().unwrap().0.clone();
    assert!(
        meta(2)
            .iter()
            .any(|(name, value)| { &**name == "was" && *value == Value::Text("orders".into()) })
    );
    assert_eq!(&*meta(5)[0].0, "rowid");
    source.close().await.unwrap();
}

/// In one transaction, so that only the two ends are seen.
#[tokio::test]
async fn a_column_that_is_dropped_and_one_that_is_added_are_no_renaming() {
    let mut stage = Stage::new(ORDERS);
    let run = |stage: &mut Stage, statements: &str| {
        stage
            .application
            .run(&format!("BEGIN; {statements}; COMMIT;"));
    };
    run(&mut stage, "INSERT INTO orders VALUES (1, 'a', 1.5)");
    let mut source = SqliteSource::connect(stage.look(), None).await.unwrap();
    for (statements, expected) in [
        // Other types, and other defaults.
        (
            "ALTER TABLE orders DROP COLUMN total; ALTER TABLE orders ADD COLUMN count INTEGER",
            None,
        ),
        (
            "ALTER TABLE orders DROP COLUMN count; ALTER TABLE orders ADD COLUMN state INTEGER DEFAULT 7",
            None,
        ),
        // The column at that place has another heir.
        (
            "ALTER TABLE orders DROP COLUMN name; ALTER TABLE orders ADD COLUMN words TEXT",
            None,
        ),
        (
            "UPDATE orders SET state = 8; ALTER TABLE orders RENAME COLUMN state TO standing",
            Some("update orders 1,7,NULL -> 1,8,NULL ."),
        ),
    ] {
        run(&mut stage, statements);
        run(&mut stage, "INSERT INTO orders(id) VALUES (9)");
        run(&mut stage, "DELETE FROM orders WHERE id = 9");
        let count = 3 + usize::from(expected.is_some());
        let found = events(&mut source, count).await;
        let shown: Vec<String> = found.iter().map(show).collect();
        let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
        let end = ["insert", "delete"];
        let (rows, last) = shown.split_at(count - end.len());
        assert!(rows[0].starts_with("schema orders alter"), "{shown:?}");
        assert_eq!(rows.get(1).copied(), expected, "{statements}: {shown:?}");
        for (shown, op) in last.iter().zip(end) {
            assert!(shown.starts_with(op), "{statements}: {shown}");
        }
    }
    source.close().await.unwrap();
}

#[tokio::test]
async fn a_snapshot_joins_the_stream_without_seam() {
    let mut stage = Stage::new(ORDERS);
    stage.application.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
         INSERT INTO orders SELECT i, 'n' || i, i FROM n;",
    );
    let config = SqliteConfig {
        snapshot: true,
        ..stage.look()
    };
    let mut source = SqliteSource::connect(config, None).await.unwrap();
    // Committed after the snapshot's moment, before any of it was taken.
    stage
        .application
        .run("UPDATE orders SET total = -1 WHERE id = 3000;");
    let found = events(&mut source, 3001).await;
    let (last, reads) = found.split_last().unwrap();
    assert!(reads.iter().all(|event| event.op == Op::Read));
    assert!(reads.iter().rev().skip(1).all(|event| !event.last));
    assert!(reads.last().unwrap().last);
    assert_eq!(show(&reads[2999]), "read orders -> 3000,'n3000',3000.0 .");
    assert_eq!(
        show(last),
        "update orders 3000,'n3000',3000.0 -> 3000,'n3000',-1.0 ."
    );
    assert!(source.start() < reads[0].position);
    assert!(source.end_at_start() < last.position);
    assert!(Position::end_of(reads[0].position.commit) <= source.end_at_start());
    source.close().await.unwrap();
}

/// Restarts of the log under a constant writer, in all ways there are, lose and double nothing.
#[tokio::test]
async fn restarts_of_the_log_are_followed_exactly() {
    for assist in [Assist::Off, Assist::Soft, Assist::Hard] {
        let mut stage = Stage::new("CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB);");
        let config = SqliteConfig {
            assist,
            soft_frames: 20,
            hard_frames: 60,
            ..stage.look()
        };
        let mut source = SqliteSource::connect(config, None).await.unwrap();
        let mut other = Application::open(&stage.path);
        let writer = std::thread::spawn(move || {
            for round in 0..300 {
                stage.application.run(
                    "PRAGMA wal_autocheckpoint = 10; INSERT INTO t(x) VALUES (randomblob(900));",
                );
                if round % 40 == 7 {
                    other.run("PRAGMA wal_checkpoint(TRUNCATE);");
                } else if round % 40 == 27 {
                    other.run("PRAGMA wal_checkpoint(RESTART);");
                } else if round % 5 == 0 {
                    other.run("UPDATE t SET x = randomblob(800) WHERE id % 10 = 1; SELECT 1;");
                }
            }
            other.run("DELETE FROM t WHERE id > 290;");
            stage
        });
        let mut rows = std::collections::BTreeMap::new();
        let mut generations = std::collections::BTreeSet::new();
        let mut end = false;
        while !end {
            let (found, _) = batch(&mut source).await.unwrap();
            for event in found {
                generations.insert(event.position.commit.0 >> 32);
                let key =
                    |image: &cdc_core::Image| image.row().unwrap().to_values().unwrap()[0].clone();
                let id = |image: &cdc_core::Image| match key(image) {
                    Value::Int(id) => id,
                    other => panic!("{other:?}"),
                };
                match event.op {
                    Op::Insert => {
                        let old = rows.insert(id(&event.after), event.after.clone());
                        assert!(old.is_none());
                    }
                    Op::Update => {
                        let old = rows.insert(id(&event.after), event.after.clone());
                        assert_eq!(old.as_ref(), Some(&event.before));
                    }
                    Op::Delete => {
                        assert_eq!(
                            rows.remove(&id(&event.before)).as_ref(),
                            Some(&event.before)
                        );
                        end = id(&event.before) == 300;
                    }
                    other => panic!("{other}"),
                }
            }
        }
        let mut stage = writer.join().unwrap();
        assert_eq!(rows.len(), 290);
        assert!(
            generations.len() > 2,
            "{assist:?}: the log began anew {generations:?}"
        );
        let count = stage
            .application
            .run("SELECT count(*), sum(length(x)) FROM t;");
        let bytes: usize = rows
            .values()
            .map(
                |image| match &image.row().unwrap().to_values().unwrap()[1] {
                    Value::Bytes(bytes) => bytes.len(),
                    other => panic!("{other:?}"),
                },
            )
            .sum();
        assert_eq!(count.trim(), format!("290|{bytes}"), "{assist:?}");
        source.close().await.unwrap();
    }
}

/// The mark follows the end of the log long before the log is long enough for the write lock: who runs a
/// checkpoint then, the application or we, has little to copy.
#[tokio::test]
async fn a_log_is_copied_back_in_short_steps_under_constant_load() {
    let mut stage = Stage::new("CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB);");
    stage.application.run("PRAGMA wal_autocheckpoint = 0;");
    let config = SqliteConfig {
        soft_frames: 20,
        hard_frames: u32::MAX,
        ..stage.look()
    };
    let mut source = SqliteSource::connect(config, None).await.unwrap();
    let index = stage.path.with_file_name("shop.db-shm");
    // Frames that are copied back, in the machine's byte order.
    let nothing_copied = || std::fs::read(&index).unwrap()[96..100] == [0; 4];
    let mut written = 0;
    while nothing_copied() {
        assert!(
            written < 3000,
            "nothing is copied while the application writes"
        );
        stage
            .application
            .run("INSERT INTO t(x) VALUES (randomblob(900));");
        written += 1;
        let (found, _) = batch(&mut source).await.unwrap();
        assert_eq!(found.len(), 1);
    }
    source.close().await.unwrap();
}

#[tokio::test]
async fn limits_of_batches_are_kept() {
    let mut stage = Stage::new(ORDERS);
    let mut source = SqliteSource::connect(stage.look(), None).await.unwrap();
    stage.application.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
         INSERT INTO orders SELECT i, 'n' || i, i FROM n;",
    );
    let (mut count, mut end) = (0, Position::ZERO);
    while count < 20000 {
        let batch = source.next_batch(LIMIT).await.unwrap().unwrap();
        assert!(batch.len() <= LIMIT.events_max);
        assert!(batch.end() >= end);
        end = batch.end();
        count += batch.len();
        if let Some(event) = batch.events().last() {
            assert_eq!(end.is_transaction_end(), event.last);
        }
    }
    assert_eq!(count, 20000);
    assert!(end.is_transaction_end());
    source.close().await.unwrap();
}

/// A consumer that applies events one by one by key must not delete what was just inserted.
#[tokio::test]
async fn a_key_that_is_taken_over_is_deleted_before_it_is_inserted() {
    let mut stage = Stage::new("CREATE TABLE names(name TEXT PRIMARY KEY, n);");
    stage
        .application
        .run("INSERT INTO names VALUES ('x', 1), ('y', 2), ('z', 3);");
    let mut source = SqliteSource::connect(stage.look(), None).await.unwrap();
    stage.application.run(
        "BEGIN; DELETE FROM names WHERE name = 'y'; UPDATE names SET name = 'y' WHERE name = 'x';
         UPDATE names SET n = 4 WHERE name = 'z'; COMMIT;",
    );
    let found = events(&mut source, 4).await;
    let shown: Vec<String> = found.iter().map(show).collect();
    assert_eq!(
        shown,
        [
            "delete names 'x',1",
            "delete names 'y',2",
            "insert names -> 'y',1",
            "update names 'z',3 -> 'z',4 .",
        ]
    );
    source.close().await.unwrap();
}

/// SQLite writes a value of the same size in place: only an overflow page is in the log.
#[tokio::test]
async fn a_change_on_an_overflow_page_alone_is_seen() {
    let mut stage = Stage::new("CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT);");
    stage
        .application
        .run("INSERT INTO t VALUES (1, printf('%.*c', 20000, 'a')), (2, 'b');");
    let mut source = SqliteSource::connect(stage.look(), None).await.unwrap();
    stage
        .application
        .run("UPDATE t SET x = substr(x, 1, 19999) || 'z' WHERE id = 1;");
    let found = events(&mut source, 1).await;
    let shown = show(&found[0]);
    assert!(
        shown.starts_with("update t 1,'aaa"),
        "{} bytes",
        shown.len()
    );
    assert!(shown.ends_with("aaz' ."), "{} bytes", shown.len());
    source.close().await.unwrap();
}

/// SQLite keeps the log beside the file, not beside the link.
#[tokio::test]
async fn a_link_is_followed_to_its_file() {
    for mode in [Mode::Pinned, Mode::LockFree] {
        let mut stage = Stage::new(ORDERS);
        let elsewhere = tempfile::tempdir().unwrap();
        let link = elsewhere.path().join("link.db");
        std::os::unix::fs::symlink(&stage.path, &link).unwrap();
        let config = SqliteConfig {
            mode,
            path: link,
            ..stage.config()
        };
        let mut source = SqliteSource::connect(config, None).await.unwrap();
        stage
            .application
            .run("INSERT INTO orders VALUES (1, 'a', 1);");
        let found = events(&mut source, 1).await;
        assert_eq!(show(&found[0]), "insert orders -> 1,'a',1.0 .");
        assert!(!is_merged(&found[0]), "{mode:?}: it is seen in the log");
        source.close().await.unwrap();
    }
}

/// A program that holds the database alone writes its log without a wal-index: nothing of it is passed
/// over.
#[tokio::test]
async fn without_a_lock_a_program_that_holds_the_database_alone_is_seen() {
    let mut stage = Stage::new(ORDERS);
    stage
        .application
        .run("INSERT INTO orders VALUES (1, 'a', 1);");
    let path = stage.path.clone();
    stage.application.end();
    let mut alone = Application::open(&path);
    alone.run("PRAGMA locking_mode = EXCLUSIVE; INSERT INTO orders VALUES (2, 'b', 2);");
    assert!(!path.with_extension("db-shm").exists(), "it needs none");
    let config = SqliteConfig {
        mode: Mode::LockFree,
        state_dir: Some(stage.dir.path().join("state")),
        ..SqliteConfig::new(&path)
    };
    let mut source = SqliteSource::connect(config, None).await.unwrap();
    alone.run("INSERT INTO orders VALUES (3, 'c', 3);");
    let found = events(&mut source, 1).await;
    assert_eq!(show(&found[0]), "insert orders -> 3,'c',3.0 .");
    assert!(is_merged(&found[0]));
    alone.run("UPDATE orders SET name = 'B' WHERE id = 2; PRAGMA wal_checkpoint(TRUNCATE);");
    let found = events(&mut source, 1).await;
    assert_eq!(show(&found[0]), "update orders 2,'b',2.0 -> 2,'B',2.0 .");
    source.close().await.unwrap();
}
