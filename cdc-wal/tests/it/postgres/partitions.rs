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

/// The server looks up the root's identity at each change, and describes the root anew only when a
/// partition is altered: what it sends is then of another identity than it said.
#[tokio::test]
async fn an_identity_that_the_server_did_not_tell_of_makes_no_nulls() {
    let mut db = Db::new("partitions_untold").await;
    db.run(&format!(
        "CREATE TABLE public.p (id int PRIMARY KEY, a text, b text) PARTITION BY RANGE (id); \
         CREATE TABLE public.p1 PARTITION OF public.p FOR VALUES FROM (0) TO (100); \
         ALTER TABLE public.p1 ALTER b SET STORAGE EXTERNAL; \
         CREATE PUBLICATION {} FOR TABLE public.p WITH (publish_via_partition_root = true)",
        db.config.publication
    ))
    .await;
    let mut source = db.connect(None).await;
    let none = Value::Unavailable;
    for (told, then) in [("DEFAULT", "FULL"), ("FULL", "DEFAULT")] {
        db.run(&format!("ALTER TABLE public.p REPLICA IDENTITY {told}"))
            .await;
        // The root is described as it is now.
        db.run("ALTER TABLE public.p1 REPLICA IDENTITY FULL; ALTER TABLE public.p1 REPLICA IDENTITY DEFAULT")
            .await;
        let insert = "INSERT INTO public.p VALUES (1, 'x', repeat('y', 20000))";
        db.changes(&mut source, insert).await;
        db.run(&format!("ALTER TABLE public.p REPLICA IDENTITY {then}"))
            .await;
        let changes = "UPDATE public.p SET id = 2; DELETE FROM public.p";
        let events = db.changes(&mut source, changes).await;
        assert_eq!(events[0].relation.key, [0], "told {told}");
        assert!(!matches!(events[0].before, Image::Full(_)), "told {told}");
        let one = [Value::Int(1), none.clone(), none.clone()];
        assert_values(&before(&events[0]), &one);
        assert!(matches!(events[0].after, Image::Partial(_)), "told {told}");
        let two = [Value::Int(2), text("x"), none.clone()];
        assert_values(&after(&events[0]), &two);
        assert!(!matches!(events[1].before, Image::Full(_)), "told {told}");
        let two = [Value::Int(2), none.clone(), none.clone()];
        assert_values(&before(&events[1]), &two);
    }
    db.finish(source).await;
}

/// A root can be without a key where its partitions have one: the server takes updates and deletes then,
/// and sends the partition's key as the root's.
#[tokio::test]
async fn the_key_of_a_partition_is_shown_where_its_root_has_none() {
    let mut db = Db::new("partitions_rootless").await;
    db.run(&format!(
        "CREATE TABLE public.p (id int NOT NULL, a text) PARTITION BY RANGE (id); \
         CREATE TABLE public.p1 PARTITION OF public.p FOR VALUES FROM (0) TO (100); \
         ALTER TABLE public.p1 ADD PRIMARY KEY (id); \
         CREATE PUBLICATION {} FOR TABLE public.p WITH (publish_via_partition_root = true)",
        db.config.publication
    ))
    .await;
    let mut source = db.connect(None).await;
    let changes =
        "INSERT INTO public.p VALUES (1, 'x'); UPDATE public.p SET id = 2; DELETE FROM public.p";
    let events = db.changes(&mut source, changes).await;
    for (event, id) in [(&events[1], 1), (&events[2], 2)] {
        assert!(event.relation.key.is_empty());
        assert!(matches!(event.before, Image::Partial(_)));
        assert_values(&before(event), &[Value::Int(id), Value::Unavailable]);
    }
    let told = |findings: Vec<cdc_wal::postgres::Finding>| {
        let mut found = findings.iter().map(|finding| &finding.found);
        found.any(|found| found.contains("public.p as the root of its partitions"))
    };
    assert!(told(check(&db.config).await.unwrap()));
    db.run("ALTER TABLE public.p ADD PRIMARY KEY (id)").await;
    assert!(!told(check(&db.config).await.unwrap()));
    db.finish(source).await;
}
