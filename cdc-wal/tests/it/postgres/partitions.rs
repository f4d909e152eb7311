//! Partitioned tables that are published as their root.

use cdc_core::{Image, Value};
use cdc_wal::postgres::{Severity, check};

use super::{Db, after, assert_values, before, text};

/// The root's replica identity says how an old row is sent, the partition's what of it is in the log:
/// what is not there is sent as null, and is none.
#[tokio::test]
async fn an_old_row_that_a_partition_does_not_log_whole_is_not_taken_for_whole() {
    let mut db = Db::new("partitions_narrow").await;
    db.run(&format!(
        "CREATE TABLE public.p (id int PRIMARY KEY, a text, b text) PARTITION BY RANGE (id); \
         CREATE TABLE public.p1 PARTITION OF public.p FOR VALUES FROM (0) TO (100) PARTITION BY RANGE (id); \
         CREATE TABLE public.p11 PARTITION OF public.p1 FOR VALUES FROM (0) TO (100); \
         ALTER TABLE public.p11 ALTER b SET STORAGE EXTERNAL; ALTER TABLE public.p REPLICA IDENTITY FULL; \
         CREATE PUBLICATION {} FOR TABLE public.p WITH (publish_via_partition_root = true)",
        db.config.publication
    ))
    .await;
    let mut source = db.connect(None).await;
    let changes = "INSERT INTO public.p VALUES (1, NULL, repeat('y', 20000)); UPDATE public.p SET id = 2; \
         UPDATE public.p SET a = 'x'; DELETE FROM public.p";
    let events = db.changes(&mut source, changes).await;
    assert_eq!(&*events[1].relation.table, "p");
    assert_eq!(events[1].relation.key, [0]);
    let [none, one, two] = [Value::Unavailable, Value::Int(1), Value::Int(2)];
    assert!(matches!(events[1].before, Image::Partial(_)));
    assert_values(
        &before(&events[1]),
        &[one.clone(), none.clone(), none.clone()],
    );
    assert!(matches!(events[1].after, Image::Partial(_)));
    assert_values(
        &after(&events[1]),
        &[two.clone(), Value::Null, none.clone()],
    );
    assert!(matches!(events[2].after, Image::Partial(_)));
    assert_values(&after(&events[2]), &[two.clone(), text("x"), none.clone()]);
    assert!(matches!(events[3].before, Image::Partial(_)));
    assert_values(&before(&events[3]), &[two.clone(), none.clone(), none]);

    let findings = check(&db.config).await.unwrap();
    let found = findings.iter().find(|f| f.subject == "table public.p");
    let found = found.expect("a finding of the table");
    assert_eq!(found.severity, Severity::Warning);
    assert!(found.found.contains("public.p11"), "{}", found.found);

    db.run("ALTER TABLE public.p11 REPLICA IDENTITY FULL").await;
    let events = db.changes(&mut source, changes).await;
    let big = text(&"y".repeat(20000));
    assert!(matches!(events[1].before, Image::Full(_)));
    assert_values(&before(&events[1]), &[one, Value::Null, big.clone()]);
    assert!(matches!(events[1].after, Image::Full(_)));
    assert_values(&after(&events[1]), &[two.clone(), Value::Null, big.clone()]);
    assert!(matches!(events[3].before, Image::Full(_)));
    assert_values(&before(&events[3]), &[two, text("x"), big]);
    let findings = check(&db.config).await.unwrap();
    assert!(findings.iter().all(|f| f.subject != "table public.p"));
    db.finish(source).await;
}
