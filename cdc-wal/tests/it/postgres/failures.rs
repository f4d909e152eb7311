//! What is wrong is named, with its kind and its remedy.

use cdc_core::{Lsn, Position, SourceErrorKind, WalSource};
use cdc_wal::postgres::{
    PostgresConfig, PostgresSource, Severity, check, drop_slot_and_publication, look,
};

use super::{Db, server};

async fn refused(config: PostgresConfig, resume: Option<Position>) -> cdc_core::SourceError {
    PostgresSource::connect(config, resume)
        .await
        .expect_err("the source refuses")
}

#[track_caller]
pub(super) fn assert_says(error: &cdc_core::SourceError, kind: &SourceErrorKind, words: &[&str]) {
    assert_eq!(error.kind, *kind, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "{word:?} in: {error}");
    }
}

#[tokio::test]
async fn wrong_passwords_hosts_and_databases_are_told_apart() {
    let good = server();
    let wrong = PostgresConfig {
        password: Some("not-the-password".into()),
        ..good.clone()
    };
    let error = refused(wrong, None).await;
    assert_says(
        &error,
        &SourceErrorKind::Unreachable,
        &["check user and password"],
    );
    assert!(!format!("{error} {error:?}").contains("not-the-password"));

    let missing = PostgresConfig {
        password: None,
        ..good.clone()
    };
    assert_says(
        &refused(missing, None).await,
        &SourceErrorKind::Unreachable,
        &["PGPASSWORD"],
    );

    let nowhere = PostgresConfig {
        port: 1,
        ..good.clone()
    };
    assert_says(
        &refused(nowhere, None).await,
        &SourceErrorKind::Unreachable,
        &[":1/"],
    );

    let nothing = PostgresConfig {
        database: "there_is_no_such".into(),
        ..good
    };
    assert_says(
        &refused(nothing, None).await,
        &SourceErrorKind::Unreachable,
        &["there_is_no_such", "database's name"],
    );
}

#[tokio::test]
async fn a_slot_in_use_names_the_process() {
    let mut db = Db::new("fail_in_use").await;
    let source = db.connect(None).await;
    let sql = format!(
        "SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{}'",
        db.config.slot
    );
    let pid = db.one(&sql).await;
    let second = PostgresConfig {
        slot_wait: std::time::Duration::ZERO,
        ..db.config.clone()
    };
    let error = refused(second, None).await;
    assert_says(
        &error,
        &SourceErrorKind::InUse,
        &[&pid, &db.config.slot, "another slot"],
    );
    db.finish(source).await;
}

#[tokio::test]
async fn changes_that_are_gone_are_a_gap() {
    let mut db = Db::new("fail_gap").await;
    db.run("CREATE TABLE public.t (id int PRIMARY KEY)").await;
    let mut source = db.connect(None).await;
    let events = db
        .changes(&mut source, "INSERT INTO public.t VALUES (1)")
        .await;
    let first = Position::end_of(events[0].position.commit);
    let more = db
        .changes(&mut source, "INSERT INTO public.t VALUES (2)")
        .await;
    source
        .confirm(Position::end_of(more[0].position.commit))
        .await
        .unwrap();
    source.close().await.unwrap();

    // Somebody confirmed further than our checkpoint.
    let error = refused(db.config.clone(), Some(first)).await;
    assert_says(
        &error,
        &SourceErrorKind::Gap,
        &[&first.to_string(), "accept-gap", &db.config.slot],
    );

    // Beyond the server's log: a restored backup.
    let ahead = Position::end_of(Lsn(u64::MAX / 2));
    let error = refused(db.config.clone(), Some(ahead)).await;
    assert!(
        matches!(
            error.kind,
            SourceErrorKind::Refused(cdc_core::TokenRefusal::Ahead { .. })
        ),
        "{error}"
    );

    // Accepted, it goes on with what there is.
    let accepting = PostgresConfig {
        accept_gap: true,
        ..db.config.clone()
    };
    let mut source = PostgresSource::connect(accepting.clone(), Some(first))
        .await
        .unwrap();
    let events = db
        .changes(&mut source, "INSERT INTO public.t VALUES (3)")
        .await;
    assert!(events[0].position > more[0].position);
    source.close().await.unwrap();

    // The slot was dropped by somebody.
    db.run(&format!(
        "SELECT pg_drop_replication_slot('{}')",
        db.config.slot
    ))
    .await;
    let error = refused(db.config.clone(), Some(first)).await;
    assert_says(
        &error,
        &SourceErrorKind::Gap,
        &["does not exist", &first.to_string()],
    );
    let source = PostgresSource::connect(accepting, Some(first))
        .await
        .unwrap();
    assert!(source.start() > first);
    db.finish(source).await;
}

#[tokio::test]
async fn what_is_absent_and_must_not_be_created_is_named() {
    let mut db = Db::new("fail_absent").await;
    let kind = SourceErrorKind::Configuration;
    let no_publication = PostgresConfig {
        create_publication: false,
        ..db.config.clone()
    };
    let error = refused(no_publication, None).await;
    assert_says(
        &error,
        &kind,
        &["CREATE PUBLICATION", &db.config.publication],
    );

    let no_slot = PostgresConfig {
        create_slot: false,
        ..db.config.clone()
    };
    let error = refused(no_slot, None).await;
    assert_says(
        &error,
        &kind,
        &["pg_create_logical_replication_slot", &db.config.slot],
    );
    // A start that came to nothing leaves nothing behind.
    let left = format!(
        "SELECT count(*) FROM pg_publication WHERE pubname = '{}'",
        db.config.publication
    );
    assert_eq!(db.one(&left).await, "0");

    let no_table = PostgresConfig {
        publication: format!("{}_x", db.config.publication),
        tables: vec!["missing".into()],
        ..db.config.clone()
    };
    assert_says(&refused(no_table, None).await, &kind, &["public.missing"]);

    // A slot of another plugin.
    db.run(&format!(
        "SELECT pg_create_logical_replication_slot('{}', 'test_decoding')",
        db.config.slot
    ))
    .await;
    let error = refused(db.config.clone(), None).await;
    assert_says(&error, &kind, &["test_decoding", "another slot"]);
    // Names of slots are the whole server's: one that is not ours is not ours to drop, either.
    let error = drop_slot_and_publication(&db.config).await.unwrap_err();
    assert_says(&error, &kind, &["test_decoding", "another slot"]);
    let slot = &db.config.slot;
    let sql = format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{slot}'"
    );
    assert_eq!(db.run(&sql).await.len(), 1);
    db.remove().await;
}

#[tokio::test]
async fn a_publication_younger_than_its_changes_is_explained() {
    let mut db = Db::new("fail_publication").await;
    db.run("CREATE TABLE public.t (id int PRIMARY KEY)").await;
    let source = db.connect(None).await;
    source.close().await.unwrap();
    db.run(&format!("DROP PUBLICATION {}", db.config.publication))
        .await;
    db.run("INSERT INTO public.t VALUES (1)").await;
    let mut source = db.connect(None).await;
    let error = loop {
        if let Err(error) = source.next_batch(cdc_core::BatchLimit::default()).await {
            break error;
        }
    };
    assert_says(
        &error,
        &SourceErrorKind::Configuration,
        &["publication", "drop the slot"],
    );
    // A look cannot tell whether a change waits that the server cannot decode, and says so.
    db.run(&format!("DROP PUBLICATION {}", db.config.publication))
        .await;
    let findings = check(&db.config).await.unwrap();
    let subject = format!("publication {}", db.config.publication);
    let finding = findings.iter().find(|f| f.subject == subject).unwrap();
    assert_eq!(finding.severity, Severity::Warning);
    assert!(
        finding.remedy.contains("the slot must be dropped"),
        "{finding:?}"
    );
    db.finish(source).await;
}

#[tokio::test]
async fn a_role_without_rights_is_told_which() {
    let mut db = Db::new("fail_role").await;
    let role = db.config.database.clone();
    db.run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'pw'"))
        .await;
    let config = PostgresConfig {
        user: role.clone(),
        password: Some("pw".into()),
        ..db.config.clone()
    };
    let error = refused(config.clone(), None).await;
    assert_says(&error, &SourceErrorKind::Configuration, &["REPLICATION"]);
    let findings = check(&config).await.unwrap();
    let finding = findings.iter().find(|f| f.subject == "role").unwrap();
    assert_eq!(finding.severity, Severity::Error);
    assert_eq!(finding.remedy, format!("ALTER ROLE \"{role}\" REPLICATION"));
    db.run(&format!("DROP ROLE {role}")).await;
    db.remove().await;
}

#[tokio::test]
async fn check_finds_what_is_wrong_and_changes_nothing() {
    let mut db = Db::new("fail_check").await;
    db.run("CREATE TABLE public.keyed (id int PRIMARY KEY); CREATE TABLE public.bare (id int); CREATE UNLOGGED TABLE public.fast (id int)")
        .await;
    let of = |findings: &[cdc_wal::postgres::Finding], subject: &str| {
        findings
            .iter()
            .find(|f| f.subject == subject)
            .unwrap_or_else(|| panic!("{subject} in {findings:?}"))
            .clone()
    };
    let slot = format!("slot {}", db.config.slot);
    let publication = format!("publication {}", db.config.publication);
    let findings = check(&db.config).await.unwrap();
    assert_eq!(of(&findings, "wal_level").severity, Severity::Ok);
    assert_eq!(of(&findings, &slot).found, "does not exist");
    assert_eq!(of(&findings, &publication).found, "does not exist");

    let source = db.connect(None).await;
    let findings = check(&db.config).await.unwrap();
    assert!(of(&findings, &slot).severity <= Severity::Warning);
    assert_eq!(of(&findings, &publication).found, "2 tables");
    let bare = of(&findings, "table public.bare");
    assert_eq!(bare.severity, Severity::Warning);
    assert!(
        bare.remedy.contains("REPLICA IDENTITY FULL"),
        "{}",
        bare.remedy
    );
    assert!(findings.iter().all(|f| f.subject != "table public.keyed"));
    assert!(source.slot_state().await.unwrap().active_pid.is_some());
    db.finish(source).await;
}

/// A publication that somebody made may keep changes from us without a word: `check` says which.
#[tokio::test]
async fn what_a_publication_leaves_out_is_named() {
    let mut db = Db::new("fail_left_out").await;
    db.run(&format!(
        "CREATE TABLE public.t (id int PRIMARY KEY, a int, b int); \
         CREATE PUBLICATION {} FOR TABLE public.t (id, a) WHERE (id > 5) WITH (publish = 'insert')",
        db.config.publication
    ))
    .await;
    let findings = check(&db.config).await.unwrap();
    let subject = format!("publication {}", db.config.publication);
    let found: Vec<_> = findings
        .iter()
        .filter(|f| f.subject == subject && f.severity == Severity::Warning)
        .map(|f| f.found.as_str())
        .collect();
    assert_eq!(
        found,
        [
            "does not publish update, delete, truncate",
            "has a row filter and a column list for public.t: what that leaves out is not captured"
        ]
    );
    let source = db.connect(None).await;
    db.finish(source).await;
}

/// A publication of a table without replica identity makes the server refuse the application's own
/// updates: none is created by itself, and nothing else is either.
#[tokio::test]
async fn a_publication_that_would_break_the_application_is_not_created() {
    let mut db = Db::new("failures_keyless").await;
    db.run(
        "CREATE TABLE public.keyed (id int PRIMARY KEY); CREATE TABLE public.\"No key\" (a int); \
         CREATE TABLE public.none (id int PRIMARY KEY); ALTER TABLE public.none REPLICA IDENTITY NOTHING; \
         CREATE SCHEMA other; CREATE TABLE other.all_of_it (a int); ALTER TABLE other.all_of_it REPLICA IDENTITY FULL",
    )
    .await;
    db.config.accept_keyless = false;
    let refused = PostgresSource::connect(db.config.clone(), None).await;
    let error = refused.expect_err("two tables have no identity");
    assert_eq!(error.kind, SourceErrorKind::Configuration);
    let text = error.to_string();
    for part in ["public.No key, public.none", "REPLICA IDENTITY FULL"] {
        assert!(text.contains(part), "{text}");
    }
    let made = db
        .one("SELECT (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_replication_slots WHERE database = current_database())")
        .await;
    assert_eq!(made, "0");
    db.run("INSERT INTO public.\"No key\" VALUES (1); DELETE FROM public.\"No key\"")
        .await;
    // What is published decides, not what there is.
    db.config.tables = vec!["keyed".into()];
    db.config.schemas = vec!["other".into()];
    let source = db.connect(None).await;
    source.close().await.unwrap();
    db.run("UPDATE other.all_of_it SET a = 1; DELETE FROM public.\"No key\"")
        .await;
    db.remove().await;
}

/// What the server goes by is not what one sees at the table that is named: an index that is checked at
/// once, of each partition and each table that inherits.
#[tokio::test]
async fn tables_that_seem_to_have_an_identity_are_found() {
    let mut db = Db::new("failures_seeming").await;
    db.config.accept_keyless = false;
    db.run(
        "CREATE SCHEMA elsewhere; CREATE SCHEMA other; \
         CREATE TABLE public.later (id int PRIMARY KEY DEFERRABLE); \
         CREATE TABLE public.gone (id int NOT NULL); CREATE UNIQUE INDEX of_gone ON public.gone (id); \
         ALTER TABLE public.gone REPLICA IDENTITY USING INDEX of_gone; DROP INDEX public.of_gone; \
         CREATE TABLE public.root (id int) PARTITION BY RANGE (id); \
         CREATE TABLE elsewhere.leaf PARTITION OF public.root FOR VALUES FROM (0) TO (9); \
         CREATE TABLE public.parent (id int PRIMARY KEY); CREATE TABLE elsewhere.child () INHERITS (public.parent); \
         CREATE TABLE other.root (id int) PARTITION BY RANGE (id); \
         CREATE TABLE elsewhere.leaf2 PARTITION OF other.root FOR VALUES FROM (0) TO (9); \
         CREATE TABLE public.good (id int NOT NULL); CREATE UNIQUE INDEX of_good ON public.good (id); \
         ALTER TABLE public.good REPLICA IDENTITY USING INDEX of_good",
    )
    .await;
    for (table, found) in [
        ("later", "public.later"),
        ("gone", "public.gone"),
        ("root", "elsewhere.leaf;"),
        ("parent", "elsewhere.child"),
        ("", "elsewhere.leaf2"),
    ] {
        db.config.tables = vec![table.to_owned()];
        db.config.schemas = Vec::new();
        if table.is_empty() {
            db.config.tables = Vec::new();
            db.config.schemas = vec!["other".to_owned()];
        }
        let error = refused(db.config.clone(), None).await;
        assert_says(&error, &SourceErrorKind::Configuration, &[found]);
    }
    // Where somebody made the publication, `check` names the same.
    db.run(&format!(
        "CREATE PUBLICATION {} FOR ALL TABLES WITH (publish_via_partition_root = true)",
        db.config.publication
    ))
    .await;
    let findings = check(&db.config).await.unwrap();
    let mut named: Vec<_> = findings
        .iter()
        .filter_map(|f| f.subject.strip_prefix("table "))
        .collect();
    named.sort_unstable();
    assert_eq!(
        named,
        [
            "elsewhere.child",
            "elsewhere.leaf",
            "elsewhere.leaf2",
            "public.gone",
            "public.later"
        ]
    );
    db.remove().await;
}

/// A slot for two phases sends what this reader cannot read, once somebody prepares a transaction.
#[tokio::test]
async fn a_slot_for_two_phases_is_refused_by_name() {
    let mut db = Db::new("failures_two_phase").await;
    let slot = db.config.slot.clone();
    db.run(&format!(
        "SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput', false, true)"
    ))
    .await;
    let error = refused(db.config.clone(), None).await;
    assert_says(
        &error,
        &SourceErrorKind::Configuration,
        &["two phases", "postgres.slot"],
    );
    let findings = check(&db.config).await.unwrap();
    let subject = format!("slot {slot}");
    let finding = findings.iter().find(|f| f.subject == subject).unwrap();
    assert_eq!(finding.severity, Severity::Warning);
    // Where it has done so far, nobody may ever prepare a transaction.
    let state = look(&db.config).await.unwrap();
    db.config.captured = Some(state.lineage);
    let source = db.connect(None).await;
    db.finish(source).await;
}

/// What only looks leaves out the tables a publication would harm, and nothing of theirs is refused.
#[tokio::test]
async fn tables_without_identity_are_left_out_where_that_is_asked_for() {
    let mut db = Db::new("failures_without_keyless").await;
    db.run(
        "CREATE TABLE public.keyed (id int PRIMARY KEY); CREATE TABLE public.\"No key\" (a int); \
         CREATE SCHEMA \"Other\"; CREATE TABLE \"Other\".whole (a int); ALTER TABLE \"Other\".whole REPLICA IDENTITY FULL; \
         CREATE TABLE public.inherits () INHERITS (public.keyed)",
    )
    .await;
    db.config.accept_keyless = false;
    db.config.without_keyless = true;
    let mut source = db.connect(None).await;
    let published = db
        .one("SELECT string_agg(schemaname || '.' || tablename, ' ' ORDER BY tablename) FROM pg_publication_tables")
        .await;
    assert_eq!(published, "public.keyed Other.whole");
    let events = db
        .changes(
            &mut source,
            "INSERT INTO public.\"No key\" VALUES (2); UPDATE public.\"No key\" SET a = 3; INSERT INTO \"Other\".whole VALUES (1)",
        )
        .await;
    assert_eq!(events.len(), 1);
    db.finish(source).await;
}
