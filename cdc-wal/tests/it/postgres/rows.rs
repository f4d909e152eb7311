//! What rows, keys and transactions look like as events.

use cdc_core::{Image, Op, Value};

use super::{Db, after, assert_order, assert_values, before, text};

fn ops(events: &[cdc_core::ChangeEvent]) -> Vec<Op> {
    events.iter().map(|e| e.op).collect()
}

#[tokio::test]
async fn inserts_updates_and_deletes_arrive_with_their_transaction() {
    let mut db = Db::new("rows_basic").await;
    db.run("CREATE TABLE public.t (id int PRIMARY KEY, name varchar(20), total numeric(10,2))")
        .await;
    let mut source = db.connect(None).await;
    let events = db
        .changes(
            &mut source,
            "INSERT INTO public.t VALUES (1, 'one', 1.5), (2, NULL, 20); \
             UPDATE public.t SET name = 'uno' WHERE id = 1; DELETE FROM public.t WHERE id = 2",
        )
        .await;
    assert_eq!(
        ops(&events),
        [Op::Insert, Op::Insert, Op::Update, Op::Delete]
    );
    assert_order(&events);
    assert!(events[3].last && !events[2].last);
    assert!(
        events
            .iter()
            .all(|e| e.transaction == events[0].transaction)
    );
    assert!(events[0].transaction.id > 0);
    let age = cdc_core::wall_micros() - events[0].transaction.commit_micros;
    assert!((0..3_600_000_000).contains(&age), "committed {age} us ago");

    let relation = &events[0].relation;
    assert_eq!(relation.qualified_name(), "public.t");
    assert_eq!(relation.key, [0]);
    let types: Vec<&str> = relation.columns.iter().map(|c| &*c.type_name).collect();
    assert_eq!(types, ["int4", "varchar(20)", "numeric(10,2)"]);
    assert!(std::sync::Arc::ptr_eq(relation, &events[3].relation));

    assert!(matches!(events[0].after, Image::Full(_)) && events[0].before.is_absent());
    assert_values(
        &after(&events[0]),
        &[Value::Int(1), text("one"), Value::Decimal("1.50".into())],
    );
    assert_values(
        &after(&events[1]),
        &[Value::Int(2), Value::Null, Value::Decimal("20.00".into())],
    );
    // The default identity keeps no old row unless the key changes.
    assert!(events[2].before.is_absent());
    assert_values(
        &after(&events[2]),
        &[Value::Int(1), text("uno"), Value::Decimal("1.50".into())],
    );
    assert!(matches!(events[3].before, Image::Key(_)) && events[3].after.is_absent());
    assert_values(
        &before(&events[3]),
        &[Value::Int(2), Value::Unavailable, Value::Unavailable],
    );
    db.finish(source).await;
}

#[tokio::test]
async fn each_replica_identity_gives_its_old_row() {
    let mut db = Db::new("rows_identity").await;
    db.run(
        "CREATE TABLE public.pk (id int PRIMARY KEY, v text); \
         CREATE TABLE public.full_key (a int, id int, v text, PRIMARY KEY (id, a)); \
         ALTER TABLE public.full_key REPLICA IDENTITY FULL; \
         CREATE TABLE public.full_none (v text); ALTER TABLE public.full_none REPLICA IDENTITY FULL; \
         CREATE TABLE public.by_index (id int, code text NOT NULL, v text); \
         CREATE UNIQUE INDEX by_code ON public.by_index (code); \
         ALTER TABLE public.by_index REPLICA IDENTITY USING INDEX by_code; \
         CREATE TABLE public.nothing (id int PRIMARY KEY); ALTER TABLE public.nothing REPLICA IDENTITY NOTHING",
    )
    .await;
    let mut source = db.connect(None).await;
    let events = db
        .changes(
            &mut source,
            "INSERT INTO public.pk VALUES (1, 'a'); UPDATE public.pk SET id = 2; DELETE FROM public.pk; \
             INSERT INTO public.full_key VALUES (5, 1, 'a'); UPDATE public.full_key SET v = NULL; DELETE FROM public.full_key; \
             INSERT INTO public.full_none VALUES ('x'); DELETE FROM public.full_none; \
             INSERT INTO public.by_index VALUES (1, 'c', 'a'); UPDATE public.by_index SET code = 'd'; DELETE FROM public.by_index; \
             INSERT INTO public.nothing VALUES (1)",
        )
        .await;
    assert_order(&events);
    let of = |table: &str| -> Vec<&cdc_core::ChangeEvent> {
        events
            .iter()
            .filter(|e| &*e.relation.table == table)
            .collect()
    };
    let pk = of("pk");
    assert_eq!(pk[0].relation.key, [0]);
    assert!(matches!(pk[1].before, Image::Key(_)));
    assert!(pk[1].key_changed().unwrap());
    assert_values(&before(pk[1]), &[Value::Int(1), Value::Unavailable]);
    assert_values(&after(pk[1]), &[Value::Int(2), text("a")]);
    assert_values(&before(pk[2]), &[Value::Int(2), Value::Unavailable]);

    // The message flags every column of a full identity: the key comes from the catalog.
    let full = of("full_key");
    assert_eq!(full[0].relation.key, [0, 1]);
    assert!(matches!(full[1].before, Image::Full(_)));
    assert_values(&before(full[1]), &[Value::Int(5), Value::Int(1), text("a")]);
    assert_values(
        &after(full[1]),
        &[Value::Int(5), Value::Int(1), Value::Null],
    );
    assert_values(
        &before(full[2]),
        &[Value::Int(5), Value::Int(1), Value::Null],
    );

    let none = of("full_none");
    assert!(none[0].relation.key.is_empty());
    assert!(matches!(none[1].before, Image::Full(_)));

    let index = of("by_index");
    assert_eq!(index[0].relation.key, [1]);
    assert_values(
        &before(index[1]),
        &[Value::Unavailable, text("c"), Value::Unavailable],
    );
    assert_values(
        &before(index[2]),
        &[Value::Unavailable, text("d"), Value::Unavailable],
    );

    assert_eq!(
        ops(&of("nothing").into_iter().cloned().collect::<Vec<_>>()),
        [Op::Insert]
    );
    db.finish(source).await;
}

/// The catalog is of now: what was written before a column was renamed has the key it had then.
#[tokio::test]
async fn the_key_of_a_full_identity_is_found_after_its_columns_were_renamed() {
    let mut db = Db::new("rows_renamed").await;
    let full = |table: &str, columns: &str| {
        format!(
            "CREATE TABLE public.{table} ({columns}); ALTER TABLE public.{table} REPLICA IDENTITY FULL; "
        )
    };
    let tables = [
        full("renamed", "v text, id int PRIMARY KEY"),
        full("swapped", "id int PRIMARY KEY, other int"),
        full("dropped", "a int, id int PRIMARY KEY, b int"),
        full("other", "id int PRIMARY KEY, code int"),
        full("gone", "id int PRIMARY KEY, v text"),
    ];
    db.run(&tables.concat()).await;
    let source = db.connect(None).await;
    source.close().await.unwrap();
    db.run(
        "INSERT INTO public.renamed VALUES ('a', 1); INSERT INTO public.swapped VALUES (1, 2); \
         INSERT INTO public.dropped VALUES (1, 2, 3); INSERT INTO public.other VALUES (1, 2); \
         INSERT INTO public.gone VALUES (1, 'a'); \
         ALTER TABLE public.renamed RENAME id TO ident; ALTER TABLE public.renamed ADD w int; \
         ALTER TABLE public.swapped RENAME id TO x; ALTER TABLE public.swapped RENAME other TO id; \
         ALTER TABLE public.swapped RENAME x TO other; \
         ALTER TABLE public.dropped DROP a; ALTER TABLE public.dropped RENAME id TO ident; \
         ALTER TABLE public.other DROP CONSTRAINT other_pkey; ALTER TABLE public.other ADD n int DEFAULT 1; \
         ALTER TABLE public.other ADD PRIMARY KEY (n); DROP TABLE public.gone; \
         INSERT INTO public.renamed VALUES ('b', 2); UPDATE public.swapped SET id = 3",
    )
    .await;
    let mut source = db.connect(None).await;
    let events = db.pending(&mut source).await;
    let found: Vec<_> = events
        .iter()
        .filter(|event| &*event.relation.schema == "public")
        .map(|event| {
            let names = event.relation.key.iter();
            let names = names.map(|n| &*event.relation.columns[usize::from(*n)].name);
            (&*event.relation.table, names.collect::<Vec<_>>())
        })
        .collect();
    assert_eq!(
        found,
        [
            ("renamed", vec!["id"]),
            ("swapped", vec!["id"]),
            ("dropped", vec!["id"]),
            // The key it has now did not exist; and a table that is gone has none.
            ("other", vec![]),
            ("gone", vec![]),
            ("renamed", vec!["ident"]),
            ("swapped", vec!["other"]),
        ]
    );
    db.finish(source).await;
}

/// A key that moved to columns which were there before: no message tells, and the wrong key is worse
/// than none. What merely touches the key's index or name is no move.
#[tokio::test]
async fn changes_older_than_a_full_identitys_key_come_without_one() {
    let mut db = Db::new("rows_moved").await;
    for table in ["moved", "given", "rebuilt"] {
        let key = if table == "given" { "" } else { "PRIMARY KEY" };
        db.run(&format!(
            "CREATE TABLE public.{table} (id int NOT NULL {key}, code int NOT NULL); \
             ALTER TABLE public.{table} REPLICA IDENTITY FULL"
        ))
        .await;
    }
    let source = db.connect(None).await;
    source.close().await.unwrap();
    for sql in [
        "INSERT INTO public.moved VALUES (1, 2); INSERT INTO public.given VALUES (1, 2); \
         INSERT INTO public.rebuilt VALUES (1, 2)",
        "ALTER TABLE public.moved DROP CONSTRAINT moved_pkey, ADD PRIMARY KEY (code)",
        "ALTER TABLE public.given ADD PRIMARY KEY (code)",
        "REINDEX TABLE CONCURRENTLY public.rebuilt",
        "ALTER TABLE public.rebuilt RENAME CONSTRAINT rebuilt_pkey TO k",
        "VACUUM FREEZE pg_catalog.pg_depend",
        "UPDATE public.moved SET id = 3; UPDATE public.given SET id = 3; UPDATE public.rebuilt SET code = 3",
        // Made and filled in one transaction, with savepoints of their own.
        "CREATE TABLE public.made (id int, code int); ALTER TABLE public.made REPLICA IDENTITY FULL; \
         DO $$ BEGIN BEGIN ALTER TABLE public.made ADD PRIMARY KEY (id); EXCEPTION WHEN others THEN NULL; END; END $$; \
         INSERT INTO public.made VALUES (1, 2)",
        "DO $$ BEGIN \
           BEGIN CREATE TABLE public.nested (id int PRIMARY KEY); ALTER TABLE public.nested REPLICA IDENTITY FULL; \
           EXCEPTION WHEN others THEN NULL; END; INSERT INTO public.nested VALUES (1); END $$",
    ] {
        db.run(sql).await;
    }
    let mut source = db.connect(None).await;
    let events = db.pending(&mut source).await;
    let found: Vec<_> = events
        .iter()
        .filter(|event| &*event.relation.schema == "public")
        .map(|event| (&*event.relation.table, event.relation.key.clone()))
        .collect();
    let expected: [(&str, Vec<u16>); 8] = [
        ("moved", vec![]),
        ("given", vec![]),
        ("rebuilt", vec![0]),
        ("moved", vec![1]),
        ("given", vec![1]),
        ("rebuilt", vec![0]),
        // Its key is younger than the table, and both than the transaction's number.
        ("made", vec![]),
        ("nested", vec![0]),
    ];
    assert_eq!(found, expected);
    db.finish(source).await;
}

#[tokio::test]
async fn an_unchanged_large_value_is_unavailable_or_filled_from_the_old_row() {
    let mut db = Db::new("rows_toast").await;
    db.run(
        "CREATE TABLE public.d (id int PRIMARY KEY, n int, big text); \
         CREATE TABLE public.f (id int PRIMARY KEY, n int, big text); \
         ALTER TABLE public.d ALTER big SET STORAGE EXTERNAL; ALTER TABLE public.f ALTER big SET STORAGE EXTERNAL; \
         ALTER TABLE public.f REPLICA IDENTITY FULL",
    )
    .await;
    let mut source = db.connect(None).await;
    let events = db
        .changes(
            &mut source,
            "INSERT INTO public.d VALUES (1, 1, repeat('x', 20000)); INSERT INTO public.f VALUES (1, 1, repeat('y', 20000)); \
             UPDATE public.d SET n = 2; UPDATE public.f SET n = 2; UPDATE public.d SET big = 'small'",
        )
        .await;
    assert!(matches!(events[2].after, Image::Partial(_)));
    assert_values(
        &after(&events[2]),
        &[Value::Int(1), Value::Int(2), Value::Unavailable],
    );
    assert!(matches!(events[3].after, Image::Full(_)));
    let big = text(&"y".repeat(20000));
    assert_values(
        &before(&events[3]),
        &[Value::Int(1), Value::Int(1), big.clone()],
    );
    assert_values(&after(&events[3]), &[Value::Int(1), Value::Int(2), big]);
    assert_values(
        &after(&events[4]),
        &[Value::Int(1), Value::Int(2), text("small")],
    );
    db.finish(source).await;
}

#[tokio::test]
async fn a_truncate_is_one_event_a_table() {
    let mut db = Db::new("rows_truncate").await;
    db.run("CREATE TABLE public.a (id int PRIMARY KEY); CREATE TABLE public.b (id int REFERENCES public.a)")
        .await;
    let mut source = db.connect(None).await;
    let events = db
        .changes(
            &mut source,
            "INSERT INTO public.a VALUES (1); TRUNCATE public.a CASCADE; INSERT INTO public.b VALUES (NULL)",
        )
        .await;
    assert_eq!(
        ops(&events),
        [Op::Insert, Op::Truncate, Op::Truncate, Op::Insert]
    );
    assert_order(&events);
    let mut tables: Vec<&str> = events[1..3].iter().map(|e| &*e.relation.table).collect();
    tables.sort_unstable();
    assert_eq!(tables, ["a", "b"]);
    assert!(events[1].before.is_absent() && events[1].after.is_absent());
    db.finish(source).await;
}

#[tokio::test]
async fn a_table_changes_its_shape_in_between() {
    let mut db = Db::new("rows_ddl").await;
    db.run("CREATE TABLE public.t (id int PRIMARY KEY, v text)")
        .await;
    let mut source = db.connect(None).await;
    let events = db
        .changes(
            &mut source,
            "INSERT INTO public.t VALUES (1, 'a'); ALTER TABLE public.t ADD w int DEFAULT 9; \
             INSERT INTO public.t VALUES (2, 'b', 3); ALTER TABLE public.t DROP v; \
             ALTER TABLE public.t ALTER w TYPE numeric(5,1); INSERT INTO public.t VALUES (3, 4.5); \
             ALTER TABLE public.t RENAME TO u; INSERT INTO public.u VALUES (4, 5)",
        )
        .await;
    let shapes: Vec<String> = events
        .iter()
        .map(|e| {
            let columns: Vec<String> = e
                .relation
                .columns
                .iter()
                .map(|c| format!("{} {}", c.name, c.type_name))
                .collect();
            format!("{}({})", e.relation.table, columns.join(", "))
        })
        .collect();
    let inserts: Vec<&String> = events
        .iter()
        .zip(&shapes)
        .filter(|(e, _)| e.op == Op::Insert && e.relation.schema.as_ref() == "public")
        .map(|(_, shape)| shape)
        .collect();
    assert_eq!(
        inserts,
        [
            "t(id int4, v text)",
            "t(id int4, v text, w int4)",
            "t(id int4, w numeric(5,1))",
            "u(id int4, w numeric(5,1))",
        ]
    );
    let mut versions: Vec<u32> = events.iter().map(|e| e.relation.version).collect();
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len(), 4);
    assert_values(
        &after(&events[1]),
        &[Value::Int(2), text("b"), Value::Int(3)],
    );
    db.finish(source).await;
}

#[tokio::test]
async fn what_was_rolled_back_never_appears() {
    let mut db = Db::new("rows_rollback").await;
    db.run("CREATE TABLE public.t (id int PRIMARY KEY)").await;
    let mut source = db.connect(None).await;
    for sql in [
        "BEGIN; INSERT INTO public.t VALUES (1); ROLLBACK",
        "BEGIN; INSERT INTO public.t VALUES (2); SAVEPOINT s; INSERT INTO public.t VALUES (3); ROLLBACK TO s; \
         INSERT INTO public.t VALUES (4); SAVEPOINT s2; INSERT INTO public.t VALUES (5); RELEASE s2; COMMIT",
    ] {
        db.run(sql).await;
    }
    db.sql
        .query("INSERT INTO public.t VALUES (6), (6)")
        .await
        .unwrap_err();
    let events = db
        .changes(&mut source, "INSERT INTO public.t VALUES (7)")
        .await;
    let ids: Vec<Value> = events.iter().map(|e| after(e).remove(0)).collect();
    assert_values(
        &ids,
        &[Value::Int(2), Value::Int(4), Value::Int(5), Value::Int(7)],
    );
    assert_order(&events);
    db.finish(source).await;
}

#[tokio::test]
async fn logical_messages_come_in_their_place() {
    let mut db = Db::new("rows_message").await;
    db.run("CREATE TABLE public.t (id int PRIMARY KEY)").await;
    let mut source = db.connect(None).await;
    db.run("INSERT INTO public.t VALUES (1)").await;
    // Written at once, though its transaction is rolled back.
    db.run("BEGIN; SELECT pg_logical_emit_message(false, 'loose', '\\x00ff'::bytea); INSERT INTO public.t VALUES (2); ROLLBACK")
        .await;
    let events = db
        .changes(
            &mut source,
            "BEGIN; INSERT INTO public.t VALUES (3); SELECT pg_logical_emit_message(true, 'bound', 'hello'); COMMIT",
        )
        .await;
    assert_eq!(
        ops(&events),
        [Op::Insert, Op::Message, Op::Insert, Op::Message]
    );
    assert_order(&events);
    assert_eq!(
        (&*events[1].relation.schema, &*events[1].relation.table),
        ("", "loose")
    );
    assert_eq!((events[1].position.ordinal, events[1].last), (0, true));
    assert_values(&after(&events[1]), &[Value::Bytes(vec![0, 255])]);
    assert_eq!(events[3].transaction, events[2].transaction);
    assert_eq!(
        (&*events[3].relation.table, events[3].position.ordinal),
        ("bound", 1)
    );
    assert_values(&after(&events[3]), &[Value::Bytes(b"hello".to_vec())]);
    db.finish(source).await;
}

#[tokio::test]
async fn a_message_right_before_a_commit_has_a_position_of_its_own() {
    let mut db = Db::new("rows_message_commit").await;
    db.run("CREATE TABLE public.t (id int PRIMARY KEY)").await;
    let mut source = db.connect(None).await;
    // Its record ends where the commit's begins.
    let events = db
        .changes(
            &mut source,
            "BEGIN; SELECT pg_logical_emit_message(false, 'a', 'x'); INSERT INTO public.t VALUES (1); \
             SELECT pg_logical_emit_message(false, 'b', 'y'); SELECT pg_logical_emit_message(false, 'c', 'z'); COMMIT",
        )
        .await;
    assert_eq!(
        ops(&events),
        [Op::Message, Op::Message, Op::Message, Op::Insert]
    );
    assert_order(&events);
    db.finish(source).await;
}
