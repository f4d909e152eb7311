//! A PostgreSQL server that refuses, is not set up, or has forgotten something.

use std::net::TcpListener;

use cdc_core::SourceError;
use cdc_wal::postgres::{PostgresConfig, SqlSession};

use super::shop::{Running, add_emitter, delivered, file_config, ids, lines, refused, until};
use crate::command::PAGE;
use crate::tool::Tool;

/// The server that the tests share.
pub(crate) fn server() -> PostgresConfig {
    let url = std::env::var("CDC_TEST_POSTGRES").unwrap_or_else(|_| {
        panic!("CDC_TEST_POSTGRES is not set: run these tests with `cargo xtask test`, which starts a private PostgreSQL")
    });
    PostgresConfig::parse(&url).expect("CDC_TEST_POSTGRES is a connection string")
}

fn wait<T>(future: impl Future<Output = Result<T, SourceError>>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime
        .block_on(future)
        .unwrap_or_else(|error| panic!("{error}"))
}

/// The rows of one statement in a session of its own.
pub(crate) fn sql(config: &PostgresConfig, sql: &str) -> Vec<Vec<Option<String>>> {
    wait(async {
        let mut session = SqlSession::open(config).await?;
        let rows = session.query(sql).await?;
        session.close().await;
        Ok(rows)
    })
}

/// Its address, for the tool.
pub(crate) fn url(config: &PostgresConfig, user: &str, password: &str) -> String {
    let PostgresConfig {
        host,
        port,
        database,
        ..
    } = config;
    format!("postgres://{user}:{password}@{host}:{port}/{database}")
}

/// Waits until nobody streams from the slot: the server may still be noticing that the tool has gone.
pub(crate) fn until_free(config: &PostgresConfig) {
    let name = &config.slot;
    until("the slot is free", || {
        let active =
            format!("SELECT 1 FROM pg_replication_slots WHERE slot_name = '{name}' AND active");
        sql(config, &active).is_empty().then_some(())
    });
}

/// A database with a table, and the tool beside it. What the server was made to keep goes with it.
pub(super) struct Db {
    pub(super) config: PostgresConfig,
    pub(super) tool: Tool,
    next: i64,
}

impl Db {
    fn new(test: &str) -> Self {
        Self::at(server(), test)
    }

    pub(super) fn at(server: PostgresConfig, test: &str) -> Self {
        let name = format!("cdc_bad_{test}_{}", std::process::id());
        sql(&server, &format!("CREATE DATABASE {name}"));
        let config = PostgresConfig {
            database: name.clone(),
            slot: name.clone(),
            publication: name.clone(),
            ..server
        };
        sql(&config, "CREATE TABLE public.t (id int8 PRIMARY KEY)");
        let db = Self {
            config,
            tool: Tool::new(),
            next: 1,
        };
        db.configure();
        db
    }

    fn configure(&self) {
        let password = self.config.password.clone().unwrap_or_default();
        let text = file_config(&url(&self.config, &self.config.user, &password));
        let name = &self.config.slot;
        let more = format!("[cdc.postgres]\nslot = \"{name}\"\npublication = \"{name}\"\n");
        self.tool.write("cdc.toml", &(text + &more));
    }

    pub(super) fn add_emitter(&self, name: &str) {
        add_emitter(&self.tool, name);
    }

    /// The server was restarted at another address.
    pub(super) fn moved(&mut self, server: &PostgresConfig) {
        self.config.port = server.port;
        self.configure();
    }

    pub(super) fn insert(&mut self, count: i64) {
        let (first, last) = (self.next, self.next + count - 1);
        sql(
            &self.config,
            &format!("INSERT INTO public.t SELECT generate_series({first}, {last})"),
        );
        self.next += count;
    }

    pub(super) fn once(&self, more: &[&str]) -> crate::tool::Run {
        self.tool
            .run(&[&["-q", "run", "--once"][..], more].concat())
    }

    pub(super) fn delivered(&self) -> Vec<i64> {
        delivered(&self.tool.path("out"))
    }

    /// What the file says is missing: the LSNs behind which and up to which. Each record stands
    /// between the events around the gap.
    fn gaps(&self) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut last = 0;
        for line in lines(&self.tool.path("out")) {
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            let lsn = |text: &serde_json::Value| {
                let position: cdc_core::Position = text.as_str().unwrap().parse().unwrap();
                position.commit.0
            };
            let at = lsn(&event["position"]);
            assert!(at > last || event["op"] != "message", "{line}");
            if event["table"] == cdc_core::GAP_PREFIX {
                let content = &event["after"]["content"];
                let (from, to) = (lsn(&content["lost_after"]), lsn(&content["resumes_at"]));
                assert!(last <= from && from < at && at <= to, "{line}");
                gaps.push((from, to));
            }
            last = at;
        }
        gaps
    }

    /// Delivers what is there; it must work, and then everything inserted was delivered once. The
    /// slot begins with the first of these.
    #[track_caller]
    pub(super) fn goes_on(&self) {
        let run = self.once(&[]);
        assert_eq!((run.code, run.err.as_str()), (0, ""));
        assert_eq!(self.delivered(), (1..self.next).collect::<Vec<_>>());
    }

    pub(super) fn slots(&self) -> usize {
        let name = &self.config.slot;
        sql(
            &self.config,
            &format!("SELECT 1 FROM pg_replication_slots WHERE slot_name = '{name}'"),
        )
        .len()
    }

    fn drop_slot(&self) {
        let name = &self.config.slot;
        until_free(&self.config);
        let drop = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{name}'"
        );
        sql(&self.config, &drop);
    }

    fn remove(self, server: &PostgresConfig) {
        self.drop_slot();
        sql(
            server,
            &format!("DROP DATABASE {} WITH (FORCE)", self.config.database),
        );
    }
}

/// The block of the product page and a source: events on standard output, nothing else.
#[test]
fn the_page_and_a_source_are_enough() {
    let db = Db::new("page");
    db.tool.write("cdc.toml", PAGE);
    let password = db.config.password.clone().unwrap_or_default();
    let source = url(&db.config, &db.config.user, &password);
    let name = &db.config.slot;
    let slot = format!("postgres.slot={name}");
    let publication = format!("postgres.publication={name}");
    let arguments = [
        "-q",
        "run",
        "--once",
        "--source",
        &source,
        // Where other tests do not look.
        "--set",
        "dlq_path=dlq",
        "--set",
        "state_path=state",
        "--set",
        &slot,
        "--set",
        &publication,
    ];
    assert_eq!(db.tool.answer(&arguments), "");
    sql(
        &db.config,
        "CREATE SCHEMA other; CREATE TABLE other.t (id int8 PRIMARY KEY); INSERT INTO other.t VALUES (77)",
    );
    sql(
        &db.config,
        "INSERT INTO public.t VALUES (1), (2); UPDATE public.t SET id = 3 WHERE id = 2",
    );
    assert_eq!(ids(&db.tool.answer(&arguments)), [1, 2, 3]);
    assert_eq!(db.tool.answer(&arguments), "");
}

#[test]
fn logins_and_addresses_that_are_wrong_are_told_apart() {
    let server = server();
    let mut db = Db::new("login");
    db.goes_on();
    db.insert(1);
    db.goes_on();
    db.insert(2);
    let role = format!("{}_r", db.config.database);
    sql(
        &server,
        &format!("CREATE ROLE {role} LOGIN PASSWORD 'right'"),
    );
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let nowhere = PostgresConfig {
        port: free,
        ..db.config.clone()
    };
    let unknown = PostgresConfig {
        database: "no_such".to_owned(),
        ..db.config.clone()
    };
    let password = db.config.password.clone().unwrap_or_default();
    for (source, code, words) in [
        (
            url(&db.config, &role, "wrong-pw"),
            4,
            &[
                "connect to",
                "password authentication failed",
                "check user and password",
            ][..],
        ),
        (
            url(&db.config, "nobody_here", "wrong-pw"),
            4,
            &["connect to", "nobody_here", "check user and password"],
        ),
        (
            url(&nowhere, "postgres", &password),
            4,
            &["connect to", "refused", &free.to_string()],
        ),
        (
            url(&unknown, "postgres", &password),
            4,
            &["\"no_such\" does not exist", "check the database's name"],
        ),
        (
            url(&db.config, &role, "right"),
            3,
            &["ALTER ROLE", "REPLICATION"],
        ),
    ] {
        let run = db.once(&["--source", &source]);
        refused(&run, code, words);
        assert!(!run.err.contains("wrong-pw"), "a password in {}", run.err);
        assert_eq!(db.delivered(), [1]);
    }
    db.goes_on();
    sql(&server, &format!("DROP ROLE {role}"));
    db.remove(&server);
}

#[test]
fn a_slot_in_use_is_named_with_its_process() {
    let mut db = Db::new("in_use");
    db.goes_on();
    db.insert(1);
    db.goes_on();
    db.insert(1);
    let mut first = Running::start(db.tool.command(&["run"]));
    first.until_health("running");
    let other = [
        "--set",
        "state_path=other",
        "--set",
        "dlq_path=other_dlq",
        "--set",
        "file.path=other_out",
    ];
    let name = format!("'{}'", db.config.slot);
    let pid = sql(
        &db.config,
        &format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = {name}"),
    );
    let pid = pid[0][0].clone().expect("the slot is active");
    refused(
        &db.once(&other),
        7,
        &[
            &db.config.slot,
            &format!("process {pid}"),
            "another consumer",
            "stop that consumer, or use another slot",
        ],
    );
    // `check` foresees it, and does not take our own pipeline for another consumer.
    let look = db.tool.run(&[&["check"][..], &other].concat());
    assert_eq!(look.code, 7, "{}{}", look.out, look.err);
    let look = db.tool.run(&["check"]);
    assert_eq!(look.code, 0, "{}{}", look.out, look.err);
    db.insert(1);
    until("the first goes on", || {
        (db.delivered() == [1, 2, 3]).then_some(())
    });
    first.ask_to_stop();
    assert_eq!(first.end().code, 0);
    db.insert(1);
    db.goes_on();
    db.remove(&server());
}

#[test]
fn a_slot_that_is_gone_is_a_gap_until_a_person_accepts_it() {
    let mut db = Db::new("gone");
    db.insert(2);
    // The slot begins with the first run.
    let run = db.once(&[]);
    assert_eq!((run.code, db.delivered().len()), (0, 0), "{}", run.err);
    db.insert(2);
    assert_eq!(db.once(&[]).code, 0);
    assert_eq!(db.delivered(), [3, 4]);
    db.drop_slot();
    db.insert(2);
    // `check` foresees what `run` will say.
    for arguments in [&["check"][..], &["run", "--dry-run"]] {
        let look = db.tool.run(arguments);
        assert_eq!(look.code, 5, "{}{}", look.out, look.err);
        assert!(look.out.contains("gap: the slot is gone"), "{}", look.out);
    }
    for _ in 0..2 {
        refused(
            &db.once(&[]),
            5,
            &[
                &db.config.slot,
                "does not exist (any more)",
                "changes since then may be gone",
                "accept-gap",
            ],
        );
        assert_eq!(
            db.slots(),
            0,
            "a refused run leaves nothing behind at the server"
        );
    }
    let run = db.once(&["--accept-gap"]);
    assert_eq!(run.code, 0, "{}", run.err);
    assert_eq!(db.gaps().len(), 1, "told by the run that accepted it");
    assert!(
        run.err.contains("gap accepted") && run.err.contains("are gone"),
        "{}",
        run.err
    );
    db.insert(2);
    assert_eq!(db.once(&[]).code, 0);
    assert_eq!(db.delivered(), [3, 4, 7, 8]);

    // Confirmed from elsewhere: the slot is there, and what it skipped is not.
    db.insert(1);
    let advance = format!(
        "SELECT pg_replication_slot_advance('{}', pg_current_wal_lsn())",
        db.config.slot
    );
    sql(&db.config, &advance);
    let look = db.tool.run(&["check"]);
    assert_eq!(look.code, 5, "{}{}", look.out, look.err);
    assert!(look.out.contains("are gone at the source"), "{}", look.out);
    refused(
        &db.once(&[]),
        5,
        &[
            "are gone at the source",
            "confirmed further",
            "--accept-gap",
        ],
    );
    assert_eq!(db.once(&["--accept-gap"]).code, 0);
    db.insert(1);
    assert_eq!(db.once(&[]).code, 0);
    assert_eq!(db.delivered(), [3, 4, 7, 8, 10]);
    // The stream itself says where something is missing, once each time, in its place.
    let gaps = db.gaps();
    assert_eq!(gaps.len(), 2, "{gaps:?}");
    for (before, after) in gaps {
        assert!(before < after, "{before:?} {after:?}");
    }
    db.remove(&server());
}

/// A slot is ready when the transactions that are open have ended. Who does not wait for that leaves nothing
/// behind.
#[test]
fn a_tail_that_is_ended_before_it_begins_leaves_nothing() {
    let db = Db::new("tail");
    let count = |of: &str| {
        let found = format!("SELECT 1 FROM {of}");
        sql(&db.config, &found).len()
    };
    let slots = "pg_replication_slots WHERE database = current_database()";
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut session = runtime.block_on(SqlSession::open(&db.config)).unwrap();
    let begin = "BEGIN; INSERT INTO public.t VALUES (1)";
    runtime.block_on(session.query(begin)).unwrap();

    let password = db.config.password.clone().unwrap_or_default();
    let url = url(&db.config, &db.config.user, &password);
    let tail = Running::start(db.tool.command(&["-q", "tail", &url]));
    until("it waits for the transaction", || {
        (count(slots) == 1).then_some(())
    });
    assert_eq!(count("pg_publication"), 1);
    tail.ask_to_stop();
    let run = tail.end();
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    assert_eq!(count("pg_publication"), 0);
    until("the slot is gone", || (count(slots) == 0).then_some(()));
    runtime.block_on(session.query("ROLLBACK")).unwrap();
}

#[test]
fn what_may_not_be_created_is_asked_for() {
    let mut db = Db::new("create");
    db.insert(1);
    let publication = &db.config.publication.clone();
    refused(
        &db.once(&["--set", "postgres.create_publication=false"]),
        3,
        &[
            publication,
            "does not exist",
            "CREATE PUBLICATION",
            "FOR ALL TABLES",
        ],
    );
    refused(
        &db.once(&["--set", "postgres.create_slot=false"]),
        3,
        &[
            publication,
            "does not exist",
            "pg_create_logical_replication_slot",
        ],
    );
    assert_eq!(db.slots(), 0);
    assert_eq!(db.once(&[]).code, 0);
    db.insert(1);
    assert_eq!(db.once(&[]).code, 0);
    assert_eq!(db.delivered(), [2]);
    db.remove(&server());
}

#[test]
fn a_state_directory_belongs_to_one_database() {
    let mut db = Db::new("state");
    db.insert(1);
    assert_eq!(db.once(&[]).code, 0);
    db.insert(1);
    let other = Db::new("state_other");
    let password = other.config.password.clone().unwrap_or_default();
    let source = url(&other.config, &other.config.user, &password);
    let run = db.once(&[
        "--source",
        &source,
        "--set",
        &format!("postgres.slot={}", other.config.slot),
    ]);
    refused(
        &run,
        5,
        &["belongs to source", "a state directory of its own"],
    );
    assert_eq!(
        other.slots(),
        0,
        "a refused run leaves nothing behind at the server"
    );
    assert!(db.delivered().is_empty());
    assert_eq!(db.once(&[]).code, 0);
    assert_eq!(db.delivered(), [2]);
    // So does a token: refused before anything is made for it.
    let token = db.tool.answer(&["position", "show"]);
    let token = token
        .split_whitespace()
        .find(|word| word.starts_with("cdc1_"))
        .expect("a token");
    for option in ["--from", "--until"] {
        let run = other.tool.run(&["-q", "run", option, token]);
        refused(&run, 5, &["belongs to source"]);
        assert_eq!(other.slots(), 0);
    }
    // Names of slots are the whole server's, and another database's slot is not ours to drop.
    let slot = format!("postgres.slot={}", db.config.slot);
    refused(
        &other.tool.run(&["drop-slot", "--yes", "--set", &slot]),
        3,
        &[&db.config.slot, &db.config.database, "another slot"],
    );
    assert_eq!(db.slots(), 1);
    for command in [&["check"][..], &["run", "--once"]] {
        let run = other.tool.run(&[command, &["--set", &slot]].concat());
        assert_eq!(run.code, 3, "{}{}", run.out, run.err);
        let run = db.tool.run(&[command, &["--source", &source]].concat());
        assert_eq!(run.code, 5, "{}{}", run.out, run.err);
    }
    other.remove(&server());
    db.remove(&server());
}

#[test]
fn a_bounded_run_tells_the_slot_what_it_has_delivered() {
    let mut db = Db::new("confirmed");
    db.goes_on();
    for _ in 0..3 {
        db.insert(1);
        let written = sql(&db.config, "SELECT pg_current_wal_lsn()")[0][0]
            .clone()
            .unwrap();
        db.goes_on();
        // The server handles what it was told last before it lets the slot go.
        let slot = &db.config.slot;
        let told = format!(
            "SELECT 1 FROM pg_replication_slots WHERE slot_name = '{slot}' AND confirmed_flush_lsn >= '{written}'"
        );
        until("the slot has moved", || {
            (!sql(&db.config, &told).is_empty()).then_some(())
        });
    }
    db.remove(&server());
}
