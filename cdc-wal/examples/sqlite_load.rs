//! Writes a SQLite database as an application does, and follows it, to measure what capture costs:
//! the two ends of `cargo xtask bench sqlite`, each a process of its own that answers in JSON.
//!
//! ```text
//! sqlite_load create DB
//! sqlite_load write DB small SECONDS [triggers]
//! sqlite_load write DB transactions COUNT
//! sqlite_load write DB insert|update|insert-keyed ROWS
//! sqlite_load finish DB
//! sqlite_load follow DB pinned|lock-free|drain [STATE]
//! sqlite_load copy DB INTO
//! ```
//!
//! `follow` says `ready` when it follows, and ends with the row that `finish` writes. `drain` takes
//! nothing before a line comes on its input, so that what it measures is decoding alone. `copy` is the
//! control: it copies what is appended to the log into a file of its own, a thousand times a second,
//! and does nothing else, until it is killed.

#![expect(clippy::print_stdout, reason = "the answer")]

use std::error::Error;
use std::io::BufRead as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cdc_core::{BatchLimit, Op, Value, WalSource};
use cdc_wal::sqlite::{Assist, Mode, SqliteConfig, SqliteSource};
use rusqlite::Connection;

type Outcome<T> = Result<T, Box<dyn Error>>;

const TABLES: &str = "PRAGMA journal_mode = WAL;
    CREATE TABLE orders(id INTEGER PRIMARY KEY, at INTEGER, name TEXT, total REAL);
    CREATE INDEX by_name ON orders(name);
    CREATE TABLE bulk(id INTEGER PRIMARY KEY, name TEXT, n INT, total REAL);
    CREATE TABLE keyed(name TEXT PRIMARY KEY, n INT, total REAL) WITHOUT ROWID;
    CREATE TABLE finished(id INTEGER PRIMARY KEY);";

/// What people install without us: every change as JSON in a table of the same database.
const TRIGGERS: &str = "CREATE TABLE changes(id INTEGER PRIMARY KEY, op TEXT, before TEXT, after TEXT);
    CREATE TRIGGER orders_i AFTER INSERT ON orders BEGIN INSERT INTO changes(op, after) VALUES
        ('insert', json_object('id', new.id, 'at', new.at, 'name', new.name, 'total', new.total)); END;
    CREATE TRIGGER orders_u AFTER UPDATE ON orders BEGIN INSERT INTO changes(op, before, after) VALUES
        ('update', json_object('id', old.id, 'at', old.at, 'name', old.name, 'total', old.total),
        json_object('id', new.id, 'at', new.at, 'name', new.name, 'total', new.total)); END;";

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match *args.as_slice() {
        ["create", path] => Ok(Connection::open(path)?.execute_batch(TABLES)?),
        ["write", path, "small", seconds] => small(path, Some(seconds.parse()?), None, false),
        ["write", path, "small", seconds, "triggers"] => {
            small(path, Some(seconds.parse()?), None, true)
        }
        ["write", path, "transactions", count] => small(path, None, Some(count.parse()?), false),
        ["write", path, kind, rows] => bulk(path, kind, rows.parse()?),
        ["finish", path] => {
            let db = application(path)?;
            db.execute("INSERT INTO finished DEFAULT VALUES", [])?;
            Ok(())
        }
        ["copy", path, into] => copy(path, into),
        ["follow", path, mode] => run(path, mode, None),
        ["follow", path, mode, state] => run(path, mode, Some(Path::new(state))),
        _ => Err("say create, write, finish or follow; see the head of this file".into()),
    }
}

fn application(path: &str) -> Outcome<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(Duration::from_secs(10))?;
    db.execute_batch("PRAGMA synchronous = NORMAL")?;
    Ok(db)
}

fn micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(0))
}

/// Seconds of CPU this process used, user and system, all threads.
fn cpu() -> Outcome<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = |n: usize| {
        after
            .split_whitespace()
            .nth(n)
            .and_then(|t| t.parse::<f64>().ok())
    };
    // User and system time in hundredths of a second.
    Ok((ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / 100.0)
}

/// Highest resident memory of this process, in MiB.
fn peak() -> Outcome<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.ok_or("no VmHWM in /proc/self/status")? / 1024.0)
}

/// Transactions of an insert and an update, as fast as they go.
fn small(path: &str, seconds: Option<f64>, count: Option<u64>, triggers: bool) -> Outcome<()> {
    let db = application(path)?;
    if triggers {
        db.execute_batch(TRIGGERS)?;
    }
    if count.is_some() {
        // The log is to hold all of it.
        db.execute_batch("PRAGMA wal_autocheckpoint = 0")?;
    }
    let from: i64 = db.query_row("SELECT coalesce(max(id), 0) FROM orders", [], |r| r.get(0))?;
    let mut begin = db.prepare("BEGIN IMMEDIATE")?;
    let mut insert =
        db.prepare("INSERT INTO orders VALUES (?1, ?2, 'customer ' || (?1 % 1000), 17.5)")?;
    let mut update = db.prepare("UPDATE orders SET total = total + 1 WHERE id = ?1")?;
    let mut commit = db.prepare("COMMIT")?;
    let (cpu_before, start) = (cpu()?, Instant::now());
    let (mut done, mut random, mut longest) = (0u64, 1u64, Duration::ZERO);
    loop {
        let over = match (seconds, count) {
            (Some(seconds), _) => start.elapsed().as_secs_f64() >= seconds,
            (None, count) => done >= count.unwrap_or(0),
        };
        if over {
            break;
        }
        let begun = Instant::now();
        let at = micros();
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let id = from + i64::try_from(done)? + 1;
        let other = 1 + i64::try_from((random >> 33) % u64::try_from(id)?)?;
        begin.execute([])?;
        insert.execute([id, at])?;
        update.execute([other])?;
        commit.execute([])?;
        done += 1;
        longest = longest.max(begun.elapsed());
    }
    let seconds = start.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let number = done as f64;
    println!(
        "{{\"transactions\": {done}, \"seconds\": {seconds:.3}, \"per_second\": {:.0}, \"cpu_us_each\": {:.2}, \"longest_ms\": {:.2}}}",
        number / seconds,
        (cpu()? - cpu_before) * 1e6 / number,
        longest.as_secs_f64() * 1e3,
    );
    Ok(())
}

/// One transaction of many rows.
fn bulk(path: &str, kind: &str, rows: u64) -> Outcome<()> {
    let db = application(path)?;
    db.execute_batch("PRAGMA wal_autocheckpoint = 0")?;
    let each = |into: &str| {
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) INSERT INTO {into} FROM n"
        )
    };
    let sql = match kind {
        "insert" => each("bulk SELECT i, 'name ' || i, i % 1000, i * 0.5"),
        "insert-keyed" => each("keyed SELECT printf('k%09d', i), i % 1000, i * 0.5"),
        "update" => format!("UPDATE bulk SET total = total + 1 WHERE id <= {rows}"),
        "update-keyed" => {
            format!("UPDATE keyed SET total = total + 1 WHERE name <= printf('k%09d', {rows})")
        }
        _ => {
            return Err(
                "write small, transactions, insert, insert-keyed, update or update-keyed".into(),
            );
        }
    };
    let start = Instant::now();
    let changed = db.execute(&sql, [])?;
    println!(
        "{{\"rows\": {changed}, \"seconds\": {:.3}}}",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Copies the log as it grows.
fn copy(path: &str, into: &str) -> Outcome<()> {
    use std::os::unix::fs::FileExt as _;
    println!("ready");
    let open = || std::fs::File::open(format!("{path}-wal"));
    while open().is_err() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (log, copy) = (open()?, std::fs::File::create(into)?);
    let (mut block, mut at, mut end) = (vec![0; 1 << 20], 0u64, 0u64);
    let mut header = [0; 32];
    loop {
        // The log began anew: its header differs, and it is read from its begin.
        let mut now = [0; 32];
        let known = log.read_at(&mut now, 0)? == now.len() && now == header;
        if !known {
            (header, at) = (now, 0);
        }
        let got = log.read_at(&mut block, at)?;
        let part = block.get(..got).unwrap_or_default();
        copy.write_all_at(part, end)?;
        at += got as u64;
        end = (end + got as u64) % (256 << 20);
        if got < block.len() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn run(path: &str, mode: &str, state: Option<&Path>) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(follow(path, mode, state))
}

/// The stamp of a transaction, if this is the row that has it.
fn stamp(event: &cdc_core::ChangeEvent) -> Outcome<Option<i64>> {
    if event.op != Op::Insert || &*event.relation.table != "orders" {
        return Ok(None);
    }
    let row = event.after.row().ok_or("an insert without a row")?;
    match row.to_values()?.get(1) {
        Some(Value::Int(at)) => Ok(Some(*at)),
        _ => Err("an order without its time".into()),
    }
}

async fn follow(path: &str, mode: &str, state: Option<&Path>) -> Outcome<()> {
    let mut config = SqliteConfig::new(path);
    config.state_dir = state.map(Path::to_path_buf);
    match (Mode::from_name(mode), mode) {
        (Some(mode), _) => config.mode = mode,
        (None, "drain") => {
            // The log is to hold all that is written before any of it is taken.
            config.assist = Assist::Off;
            config.log_bytes_max = u64::MAX;
        }
        (None, _) => return Err("follow pinned, lock-free or drain".into()),
    }
    let mut source = SqliteSource::connect(config, None).await?;
    println!("ready");
    if mode == "drain" {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
    }
    let limit = BatchLimit {
        events_max: 4096,
        bytes_max: 1 << 20,
        linger: Duration::from_millis(100),
    };
    let (cpu_before, start) = (cpu()?, Instant::now());
    let (mut events, mut transactions, mut merged) = (0u64, 0u64, 0u64);
    let mut lags: Vec<(i64, i64)> = Vec::new();
    'all: while let Some(batch) = source.next_batch(limit).await? {
        let now = micros();
        for event in batch.events() {
            if &*event.relation.table == "finished" {
                break 'all;
            }
            events += 1;
            transactions += u64::from(event.last);
            let marked = |meta: &cdc_core::Meta| meta.0.iter().any(|(name, _)| &**name == "merged");
            merged += u64::from(event.last && event.meta.as_ref().is_some_and(|meta| marked(meta)));
            if let Some(at) = stamp(event)? {
                lags.push((at, now - at));
            }
        }
        if state.is_some() {
            source.confirm(batch.end()).await?;
        }
    }
    let (seconds, used) = (start.elapsed().as_secs_f64(), cpu()? - cpu_before);
    let lags = corrected(lags);
    let at = |of: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let index = ((lags.len() as f64 * of) as usize).min(lags.len().saturating_sub(1));
        #[expect(clippy::cast_precision_loss, reason = "milliseconds for people")]
        let lag = lags.get(index).map_or(0.0, |lag| *lag as f64 / 1e3);
        lag
    };
    println!(
        "{{\"events\": {events}, \"transactions\": {transactions}, \"merged\": {merged}, \"seconds\": {seconds:.3}, \"cpu_s\": {used:.2}, \"peak_mib\": {:.1}, \"lag_ms_p50\": {:.2}, \"lag_ms_p90\": {:.2}, \"lag_ms_p99\": {:.2}, \"lag_ms_p999\": {:.2}, \"lag_ms_max\": {:.2}}}",
        peak()?,
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        at(1.0),
    );
    source.close().await?;
    Ok(())
}

/// Lags in order. Transactions begin one after the other: where one was held up, those that would
/// have begun meanwhile are put in with what they would have waited (coordinated omission).
fn corrected(lags: Vec<(i64, i64)>) -> Vec<i64> {
    let mut gaps: Vec<i64> = lags
        .windows(2)
        .map(|pair| match pair {
            [a, b] => b.0 - a.0,
            _ => 0,
        })
        .collect();
    gaps.sort_unstable();
    let usual = gaps.get(gaps.len() / 2).copied().unwrap_or(0).max(1);
    let mut all: Vec<i64> = Vec::with_capacity(lags.len());
    let mut last = None;
    for (at, lag) in lags {
        // Those that were to begin since the last one began waited for it, and for this one's lag.
        let mut missed = last.map_or(at, |last: i64| last + 2 * usual);
        while missed < at {
            all.push(at - missed + lag);
            missed += usual;
        }
        all.push(lag);
        last = Some(at);
    }
    all.sort_unstable();
    all
}
