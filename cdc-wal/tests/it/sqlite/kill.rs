//! Our process killed at random, and the application's, while the application writes on: what the
//! journal holds in the end, applied change by change, gives the tables.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests, and what the child tells its parent"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cdc_core::storage::StdStorage;
use cdc_core::{BatchLimit, ChangeEvent, Image, Journal, Op, Position, Value, WalSource};
use cdc_wal::sqlite::{Mode, SqliteConfig, SqliteSource};
use cdc_wal::{FileJournal, JournalConfig, StartAt, WalTail};
use rusqlite::types::ValueRef;

use super::support::{Application, Stage};
use crate::support::{clock, drain};

/// The child's part begins when this names its directory.
const DIRECTORY: &str = "CDC_SQLITE_KILL_DIR";
/// Set when the child is to end at what is committed when it begins.
const FINISH: &str = "CDC_SQLITE_KILL_FINISH";
/// The name of the mode.
const MODE: &str = "CDC_SQLITE_KILL_MODE";

const TABLES: &str = "PRAGMA wal_autocheckpoint = 40;
    CREATE TABLE numbered(id INTEGER PRIMARY KEY, a, b BLOB);
    CREATE TABLE named(a TEXT PRIMARY KEY, b BLOB, n INT);
    CREATE TABLE ordered(a TEXT, b BLOB, n INT, PRIMARY KEY(n, a)) WITHOUT ROWID;";

/// What the pipeline does with a source: journal, flush, confirm.
#[test]
fn a_process_that_is_killed() {
    let Some(dir) = std::env::var_os(DIRECTORY) else {
        // Only the test below calls this as a process.
        return;
    };
    let dir = Path::new(&dir);
    let finish = std::env::var_os(FINISH).is_some();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(capture(dir, finish));
}

async fn capture(dir: &Path, finish: bool) {
    let config = SqliteConfig {
        state_dir: Some(dir.join("state")),
        snapshot: true,
        mode: std::env::var(MODE)
            .ok()
            .and_then(|name| Mode::from_name(&name))
            .unwrap_or_default(),
        soft_frames: 50,
        hard_frames: 100,
        poll_interval: Duration::from_millis(1),
        ..SqliteConfig::new(dir.join("shop.db"))
    };
    let resume = Path::new(&dir.join("journal"))
        .join("control")
        .exists()
        .then(|| {
            let tail = WalTail::open(
                StdStorage::shared(),
                dir.join("journal"),
                StartAt::Latest,
                clock(),
            );
            tail.unwrap().end()
        });
    let mut source = SqliteSource::connect(config, resume).await.unwrap();
    let settings = JournalConfig {
        start: source.start(),
        background: false,
        ..JournalConfig::new(dir.join("journal"))
    };
    let mut journal = FileJournal::open(settings, source.source()).unwrap();
    let limit = BatchLimit {
        events_max: 50,
        bytes_max: 1 << 16,
        linger: Duration::from_millis(20),
    };
    let (mut batches, mut caught) = (0u64, false);
    loop {
        let batch = source.next_batch(limit).await.unwrap().unwrap();
        journal.append(&batch).unwrap();
        batches += 1;
        if batches.is_multiple_of(5) {
            let durable = journal.flush().unwrap();
            source.confirm(durable).await.unwrap();
        }
        if !batch.is_empty() {
            println!("journaled");
        }
        if !caught && journal.end() >= source.end_at_start() {
            caught = true;
            println!("caught up");
        }
        if finish && journal.end() >= source.end_at_start() {
            journal.flush().unwrap();
            source.close().await.unwrap();
            return;
        }
    }
}

fn start(dir: &Path, mode: Mode, finish: bool) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "sqlite::kill::a_process_that_is_killed",
            "--nocapture",
        ])
        .env(DIRECTORY, dir)
        .env(MODE, mode.name())
        .stdout(Stdio::piped());
    if finish {
        command.env(FINISH, "1");
    }
    command.spawn().unwrap()
}

/// A number that differs from call to call, the same in each run.
fn random(state: &mut u64, bound: u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % bound
}

/// Writes until told to stop; its process is killed now and then, in the middle of a transaction.
fn write(mut application: Application, path: &Path, seed: u64, stop: &AtomicBool) -> u64 {
    let mut state = seed;
    let mut transactions = 0;
    application.run("PRAGMA wal_autocheckpoint = 40; PRAGMA synchronous = OFF;");
    while !stop.load(Ordering::Relaxed) {
        transactions += 1;
        let mut sql = String::from("BEGIN IMMEDIATE;");
        for _ in 0..=random(&mut state, 5) {
            let (n, size) = (random(&mut state, 200), 1 + random(&mut state, 6000));
            sql += &match random(&mut state, 9) {
                0..=2 => format!("INSERT INTO numbered(a, b) VALUES ({n}, randomblob({size}));"),
                3 => format!("UPDATE numbered SET a = a + 1 WHERE id % 50 = {n} % 50;"),
                4 => format!("DELETE FROM numbered WHERE id % 97 = {n} % 97;"),
                5 => {
                    format!("INSERT OR REPLACE INTO named VALUES ('k{n}', randomblob({size}), 1);")
                }
                6 => format!(
                    "UPDATE OR IGNORE named SET a = 'k' || ({n} + rowid % 7) WHERE a > 'k{n}';"
                ),
                7 => format!(
                    "INSERT OR REPLACE INTO ordered VALUES ('k{n}', randomblob({size} / 9), {n} % 5);"
                ),
                _ => format!("DELETE FROM ordered WHERE n = {n} % 5;"),
            };
        }
        if transactions % 60 == 0 {
            application.run(&sql);
            application.kill();
            application = Application::open(path);
            application.run("PRAGMA wal_autocheckpoint = 40; PRAGMA synchronous = OFF;");
        } else {
            sql += if random(&mut state, 9) == 0 {
                "ROLLBACK;"
            } else {
                "COMMIT;"
            };
            application.run(&sql);
            if transactions % 45 == 0 {
                application.run("PRAGMA wal_checkpoint(TRUNCATE);");
            }
        }
    }
    transactions
}

type Tables = BTreeMap<String, BTreeMap<String, String>>;

fn text(values: &[Value]) -> Vec<String> {
    values
        .iter()
        .map(|value| match value {
            Value::Null => "NULL".to_owned(),
            Value::Int(n) => n.to_string(),
            Value::Text(text) => format!("'{text}'"),
            Value::Bytes(bytes) => format!("{bytes:02x?}"),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn apply(tables: &mut Tables, event: &ChangeEvent) {
    let row = |image: &Image| {
        let values = text(&image.row().unwrap().to_values().unwrap());
        let key: Vec<&str> = event
            .relation
            .key
            .iter()
            .map(|n| &*values[usize::from(*n)])
            .collect();
        (key.join(","), values.join(","))
    };
    let table = tables.entry(event.relation.table.to_string()).or_default();
    let at = event.position;
    match event.op {
        Op::Insert | Op::Read => {
            let (key, values) = row(&event.after);
            assert_eq!(table.insert(key, values), None, "{at}: inserted twice");
        }
        Op::Update => {
            let ((old, before), (key, values)) = (row(&event.before), row(&event.after));
            assert_eq!(table.remove(&old), Some(before), "{at}: before an update");
            assert_eq!(
                table.insert(key, values),
                None,
                "{at}: updated onto another row"
            );
        }
        Op::Delete => {
            let (key, before) = row(&event.before);
            assert_eq!(table.remove(&key), Some(before), "{at}: before a delete");
        }
        other => panic!("{at}: {other}"),
    }
}

fn dump(path: &Path) -> Tables {
    let db = rusqlite::Connection::open(path).unwrap();
    let mut tables = Tables::new();
    for (name, key) in [
        ("numbered", &[0][..]),
        ("named", &[0]),
        ("ordered", &[0, 2]),
    ] {
        let mut statement = db.prepare(&format!("SELECT * FROM {name}")).unwrap();
        let mut rows = statement.query([]).unwrap();
        let table = tables.entry(name.to_owned()).or_default();
        while let Some(row) = rows.next().unwrap() {
            let values: Vec<Value> = (0..3)
                .map(|n| match row.get_ref(n).unwrap() {
                    ValueRef::Null => Value::Null,
                    ValueRef::Integer(n) => Value::Int(n),
                    ValueRef::Text(text) => Value::Text(String::from_utf8(text.to_vec()).unwrap()),
                    ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
                    ValueRef::Real(_) => panic!("a float"),
                })
                .collect();
            let values = text(&values);
            let key: Vec<&str> = key.iter().map(|n| &*values[*n]).collect();
            table.insert(key.join(","), values.join(","));
        }
    }
    tables
}

/// `cargo xtask run sqlite-kill` asks for more.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn no_row_is_missing_or_invented_whoever_is_killed() {
    killed(Mode::Pinned);
}

#[test]
fn no_row_is_missing_or_invented_without_a_lock_whoever_is_killed() {
    killed(Mode::LockFree);
}

fn killed(mode: Mode) {
    let (kills, seed) = (number("CDC_SQLITE_KILLS", 3), number("CDC_SQLITE_SEED", 1));
    let Stage {
        application,
        path,
        dir,
    } = Stage::new(TABLES);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (path, stop) = (path.clone(), stop.clone());
        std::thread::spawn(move || write(application, &path, seed, &stop))
    };
    let mut state = seed;
    for _ in 0..kills {
        let mut child = start(dir.path(), mode, false);
        // The pipe stays open until it is dead: a write that fails would be another end.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Half of them in what comes again, half in what is new.
        let (mut caught, wanted) = (random(&mut state, 2) == 0, 1 + random(&mut state, 40));
        let mut seen = 0;
        while seen < wanted {
            let line = lines
                .next()
                .expect("it goes on until it is killed")
                .unwrap();
            caught |= line.contains("caught up");
            seen += u64::from(caught && line.contains("journaled"));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let transactions = writer.join().unwrap();
    let mut last = start(dir.path(), mode, true);
    let output = BufReader::new(last.stdout.take().unwrap()).lines().count();
    assert!(last.wait().unwrap().success(), "{output} lines");
    let mut tail = WalTail::open(
        StdStorage::shared(),
        dir.path().join("journal"),
        StartAt::Earliest,
        clock(),
    )
    .unwrap();
    let events = drain(&mut tail, BatchLimit::default()).unwrap();
    let (mut tables, mut position, mut merged) = (Tables::new(), Position::ZERO, 0);
    for event in &events {
        assert!(event.position > position, "positions grow");
        position = event.position;
        merged += u64::from(event.last && event.meta.is_some());
        apply(&mut tables, event);
    }
    let truth = dump(&path);
    for (name, rows) in &truth {
        let mine = tables.get(name).cloned().unwrap_or_default();
        assert!(
            mine == *rows,
            "{name}: {} rows, {} in the table",
            mine.len(),
            rows.len()
        );
    }
    println!(
        "{}: {kills} kills, {transactions} transactions, {} events, {merged} merged",
        mode.name(),
        events.len()
    );
    assert!(!events.is_empty());
}
