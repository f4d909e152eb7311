//! Rows that are easily taken for others, or for damage.

use cdc_core::ChangeEvent;
use cdc_wal::sqlite::SqliteSource;

use super::support::{Stage, events, show};

/// As [`show`], with runs of zeros in texts left out.
fn shortened(events: &[ChangeEvent]) -> Vec<String> {
    let without = |event| show(event).replace(&"0".repeat(2000), "");
    events.iter().map(without).collect()
}

/// What tells their keys apart stands on an overflow page, which the one row leaves to the other.
#[tokio::test]
async fn a_row_that_takes_over_the_overflow_page_of_another_is_not_that_row() {
    for transaction in [
        "DELETE FROM t WHERE k = :b; UPDATE t SET k = :b WHERE k = :a;",
        "DELETE FROM t WHERE k = :b; DELETE FROM t WHERE k = :a; INSERT INTO t VALUES (:b, NULL);",
        "DELETE FROM t WHERE k = :a; DELETE FROM t WHERE k = :b; INSERT INTO t VALUES (:b, NULL);",
    ] {
        let key = |sql: &str| {
            sql.replace(":a", "(printf('%.2000c', '0') || 'a')")
                .replace(":b", "(printf('%.2000c', '0') || 'b')")
        };
        let mut stage = Stage::new(
            "PRAGMA page_size = 4096; CREATE TABLE t(k TEXT PRIMARY KEY, v) WITHOUT ROWID;",
        );
        let insert = key("INSERT INTO t VALUES (:a, NULL), (:b, NULL);");
        stage.application.run(&insert);
        let mut source = SqliteSource::connect(stage.look(), None).await.unwrap();
        stage
            .application
            .run(&format!("BEGIN; {} COMMIT;", key(transaction)));
        stage.application.run("CREATE TABLE end(x);");
        let found = events(&mut source, 2).await;
        assert_eq!(
            shortened(&found),
            ["delete t 'a',NULL .", "schema end create ."],
            "{transaction}"
        );
        source.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_row_that_is_older_than_a_column_has_its_constant_default() {
    let mut stage = Stage::new(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a); INSERT INTO t VALUES (1, 1);
         ALTER TABLE t ADD COLUMN c INTEGER DEFAULT (CAST('7' AS INTEGER));
         ALTER TABLE t ADD COLUMN d DEFAULT (- -5);",
    );
    let mut source = SqliteSource::connect(stage.look(), None).await.unwrap();
    stage.application.run("UPDATE t SET a = 2;");
    let found = events(&mut source, 1).await;
    assert_eq!(show(&found[0]), "update t 1,1,7,5 -> 1,2,7,5 .");
    source.close().await.unwrap();
}

/// Whether such a default is a constant depends on the version of SQLite.
#[tokio::test]
async fn a_table_with_a_default_that_is_not_understood_holds_nothing_up() {
    let mut stage = Stage::new(
        "CREATE TABLE t(a); INSERT INTO t VALUES (1);
         ALTER TABLE t ADD COLUMN b DEFAULT (5 AND 0);
         CREATE TABLE u(a);",
    );
    let mut source = SqliteSource::connect(stage.look(), None).await.unwrap();
    stage
        .application
        .run("UPDATE t SET a = 2; INSERT INTO u VALUES (3);");
    let found = events(&mut source, 1).await;
    assert_eq!(show(&found[0]), "insert u -> 3 .");
    source.close().await.unwrap();
}
