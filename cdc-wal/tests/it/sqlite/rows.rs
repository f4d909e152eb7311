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
