//! The PostgreSQL reader against a real server.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is the test's failure"
)]

mod failures;
mod login;
mod partitions;
mod reconnect;
mod restored;
mod rows;
mod stream;
#[cfg(feature = "tls")]
mod tls;
mod types;

use std::time::Duration;

use cdc_core::{BatchLimit, ChangeEvent, EventBatch, Op, Position, Value, WalSource};
use cdc_wal::postgres::{PostgresConfig, PostgresSource, SqlSession, drop_slot_and_publication};

/// Longest wait for anything; only a failing test comes near it.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn server() -> PostgresConfig {
    let url = std::env::var("CDC_TEST_POSTGRES").unwrap_or_else(|_| {
        panic!("CDC_TEST_POSTGRES is not set: run these tests with `cargo xtask test`, which starts a private PostgreSQL")
    });
    let mut config = PostgresConfig::parse(&url).expect("CDC_TEST_POSTGRES is a connection string");
    config.connect_timeout = Duration::from_secs(60);
    config
}

/// A database of its own for one test, with slot and publication names of its own.
pub(crate) struct Db {
    pub(crate) config: PostgresConfig,
    pub(crate) sql: SqlSession,
    markers: u32,
}

impl Db {
    pub(crate) async fn new(test: &str) -> Self {
        Self::created(test, "").await
    }

    /// Its database is created with these options.
    pub(crate) async fn created(test: &str, options: &str) -> Self {
        let mut config = server();
        // Many tests are about tables without a key.
        config.accept_keyless = true;
        let name = format!("cdc_{test}_{}", std::process::id());
        let mut admin = SqlSession::open(&config).await.expect("the server answers");
        admin
            .query(&format!("CREATE DATABASE {name} {options}"))
            .await
            .expect("a database is created");
        admin.close().await;
        config.database.clone_from(&name);
        config.slot.clone_from(&name);
        config.publication = name;
        let sql = SqlSession::open(&config).await.unwrap();
        Self {
            config,
            sql,
            markers: 0,
        }
    }

    pub(crate) async fn run(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.sql
            .query(sql)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// One value of one row.
    pub(crate) async fn one(&mut self, sql: &str) -> String {
        self.run(sql).await.remove(0).remove(0).expect("not null")
    }

    pub(crate) async fn connect(&self, resume: Option<Position>) -> PostgresSource {
        PostgresSource::connect(self.config.clone(), resume)
            .await
            .expect("the source connects")
    }

    /// Runs the statements and gives their events: all up to a marker that follows them.
    pub(crate) async fn changes(
        &mut self,
        source: &mut PostgresSource,
        sql: &str,
    ) -> Vec<ChangeEvent> {
        self.run(sql).await;
        self.pending(source).await
    }

    /// The events not read yet.
    pub(crate) async fn pending(&mut self, source: &mut PostgresSource) -> Vec<ChangeEvent> {
        self.markers += 1;
        let marker = self.markers.to_string();
        self.run(&format!(
            "SELECT pg_logical_emit_message(true, 'marker', '{marker}')"
        ))
        .await;
        let mut events = Vec::new();
        loop {
            for event in next(source).await.into_events() {
                if event.op == Op::Message && &*event.relation.table == "marker" {
                    if after(&event) == [Value::Bytes(marker.clone().into_bytes())] {
                        assert!(event.last);
                        return events;
                    }
                    // Of an earlier call, sent again after a restart.
                    continue;
                }
                events.push(event);
            }
        }
    }

    /// Removes everything the test made at the server.
    pub(crate) async fn finish(self, source: PostgresSource) {
        source.close().await.unwrap();
        self.remove().await;
    }

    pub(crate) async fn remove(self) {
        drop_slot_and_publication(&self.config).await.unwrap();
        self.sql.close().await;
        let mut admin = SqlSession::open(&server()).await.unwrap();
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.config.database);
        admin.query(&sql).await.unwrap();
    }
}

/// The next batch, within the test's patience.
pub(crate) async fn next(source: &mut PostgresSource) -> EventBatch {
    tokio::time::timeout(PATIENCE, source.next_batch(BatchLimit::default()))
        .await
        .expect("a batch comes")
        .expect("the source works")
        .expect("the source goes on")
}

pub(crate) fn after(event: &ChangeEvent) -> Vec<Value> {
    event.after.row().expect("a row after").to_values().unwrap()
}

pub(crate) fn before(event: &ChangeEvent) -> Vec<Value> {
    event
        .before
        .row()
        .expect("a row before")
        .to_values()
        .unwrap()
}

/// Compares without showing values only by type: `Value`'s `Debug` hides contents.
#[track_caller]
pub(crate) fn assert_values(found: &[Value], expected: &[Value]) {
    for (n, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            found == expected,
            "value {n}: {} is not {}",
            show(found),
            show(expected)
        );
    }
    assert_eq!(found.len(), expected.len());
}

pub(crate) fn show(value: &Value) -> String {
    match value {
        Value::Int(v) => format!("Int({v})"),
        Value::UInt(v) => format!("UInt({v})"),
        Value::Float32(v) => format!("Float32({v:?})"),
        Value::Float64(v) => format!("Float64({v:?})"),
        Value::Decimal(v) => format!("Decimal({v})"),
        Value::Text(v) => format!("Text({v})"),
        Value::Bytes(v) => format!("Bytes({v:?})"),
        Value::Json(v) => format!("Json({v})"),
        Value::Date(v) => format!("Date({v})"),
        Value::Time(v) => format!("Time({v})"),
        Value::Timestamp(v) => format!("Timestamp({v})"),
        Value::TimestampTz(v) => format!("TimestampTz({v})"),
        Value::Array(v) => format!(
            "Array({})",
            v.iter().map(show).collect::<Vec<_>>().join(", ")
        ),
        other => format!("{other:?}"),
    }
}

/// Positions strictly increase and every transaction ends exactly once.
#[track_caller]
pub(crate) fn assert_order(events: &[ChangeEvent]) {
    for pair in events.windows(2) {
        let (a, b) = (&pair[0], &pair[1]);
        assert!(
            a.position < b.position,
            "{} then {}",
            a.position,
            b.position
        );
        let same = a.position.commit == b.position.commit;
        assert_eq!(a.last, !same, "last at {}", a.position);
        assert_eq!(
            b.position.ordinal,
            if same { a.position.ordinal + 1 } else { 0 }
        );
    }
}

pub(crate) fn text(text: &str) -> Value {
    Value::Text(text.into())
}
