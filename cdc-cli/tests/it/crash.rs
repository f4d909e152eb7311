//! The crash table: the process is killed at every named point, for every emitter, and started
//! again. Nothing is missing, each row's changes arrive in order, nothing at or below the
//! checkpoint comes twice, and files hold everything exactly once.
//!
//! Feature `crash-points`; `cargo xtask run crash-table` runs it.

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Output;
use std::sync::{Arc, Mutex};

mod postgres;
mod scrapes;

use cdc_core::crash::{CAPTURE_POINTS, FILE_POINTS, POINTS};
use cdc_core::{Column, EngineKind, Position, Relation, RowImage, Value};
use cdc_wal::{Log, LogConfig};

use crate::bad::shop;
use crate::tool::Tool;
use postgres::Database;
use scrapes::Scrapes;

/// Changes in the log, over this many rows, a few a transaction.
const CHANGES: i64 = 600;
const ROWS: i64 = 13;
/// Events that may be on their way.
const WINDOW: usize = 60;
/// The change that webhook and child refuse.
const POISON: i64 = 77;

/// What arrived: which change, of which row, at which position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Arrival {
    change: i64,
    row: i64,
    position: Position,
}

fn arrival(event: &serde_json::Value) -> Arrival {
    let after = &event["after"];
    Arrival {
        change: after["text"].as_str().unwrap().parse().unwrap(),
        row: after["id"].as_i64().unwrap(),
        position: event["position"].as_str().unwrap().parse().unwrap(),
    }
}

fn arrivals(lines: &str) -> Vec<Arrival> {
    lines
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .map(|line| arrival(&serde_json::from_str(line).unwrap()))
        .collect()
}

/// Answers POSTs over connections that may break off at any time.
struct Receiver {
    port: u16,
    taken: Arc<Mutex<Vec<Arrival>>>,
}

impl Receiver {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let taken: Arc<Mutex<Vec<Arrival>>> = Arc::default();
        let shared = taken.clone();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let taken = shared.clone();
                std::thread::spawn(move || serve(stream, &taken));
            }
        });
        Self { port, taken }
    }
}

/// One connection, until it ends.
fn serve(stream: TcpStream, taken: &Mutex<Vec<Arrival>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        let events: Vec<serde_json::Value> = serde_json::from_slice(&body).unwrap();
        let events: Vec<Arrival> = events.iter().map(arrival).collect();
        let refused = events.iter().any(|event| event.change == POISON);
        if !refused {
            taken.lock().unwrap().extend(events);
        }
        let status = if refused { 400 } else { 200 };
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
        stream.get_mut().write_all(answer.as_bytes()).ok()?;
    }
}

/// Where the changes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// A log that an engine of ours wrote.
    Log,
    /// A database of its own on the tests' server, through a slot and a journal.
    Postgres,
}

/// One emitter under test.
struct Subject {
    tool: Tool,
    /// Dropped with its slot when the test is through.
    database: Option<Database>,
    /// Looks at the counters all the while.
    scrapes: Scrapes,
    receiver: Option<Receiver>,
    /// What processes wrote to standard output.
    printed: String,
    /// It refuses [`POISON`].
    refuses: bool,
    /// It never has anything twice.
    exact: bool,
}

/// Files of which the changes fill several.
const FILE: &str = "emitter = \"file\"\n[cdc.file]\npath = \"out\"\nrotate_bytes = \"16KiB\"\n";

/// A child that writes down what it takes before it says so.
const CONSUMER: &str = r#"while IFS= read -r line; do
  id=${line#'{"id":"'}
  id=${id%%'"'*}
  case $line in
    *'"text":"POISON"'*) printf '{"reject":"%s","reason":"no"}\n' "$id" ;;
    *) printf '%s\n' "$line" >>taken; printf '%s\n' "$id" ;;
  esac
done
"#;

const EMITTERS: [&str; 6] = [
    "file",
    "queue",
    "custom",
    "webhook",
    "webhook of four",
    "file, synced beside",
];

impl Subject {
    fn new(emitter: &str, from: From) -> Self {
        let database = (from == From::Postgres).then(Database::new);
        let source = match &database {
            Some(database) => database.settings(),
            None => "source = \"wal:wal\"\n".to_owned(),
        };
        let scrapes = Scrapes::start();
        let mut receiver = None;
        let settings = match emitter {
            "file" => format!("{FILE}fsync = \"batch\"\n"),
            "file, synced beside" => format!("{FILE}fsync = \"interval:1ms\"\n"),
            "queue" => "emitter = \"queue\"\nbatch_size = 7\n".to_owned(),
            "custom" => {
                "emitter = \"custom\"\nbatch_size = 7\n[cdc.custom]\ncommand = [\"sh\", \"consumer.sh\"]\n".to_owned()
            }
            _ => {
                let started = Receiver::start();
                let concurrency = if emitter == "webhook" { 1 } else { 4 };
                let settings = format!(
                    "emitter = \"webhook\"\n[cdc.webhook]\nurl = \"http://127.0.0.1:{}/\"\nallow_http = true\nallow_private = true\nbatch_size = 7\nconcurrency = {concurrency}\n",
                    started.port
                );
                receiver = Some(started);
                settings
            }
        };
        let tool = Tool::with_config(&format!(
            "[cdc]\n{source}state_path = \"state\"\ndlq_path = \"dlq\"\ncheckpoint_interval = \"1ms\"\nwindow_events = {WINDOW}\nhttp = {{ listen = \"127.0.0.1:{}\" }}\n{settings}",
            scrapes.port
        ));
        tool.write(
            "consumer.sh",
            &CONSUMER.replace("POISON", &POISON.to_string()),
        );
        if from == From::Log {
            write_log(&tool);
        }
        let mut subject = Self {
            tool,
            database,
            scrapes,
            receiver,
            printed: String::new(),
            refuses: !emitter.starts_with("file") && emitter != "queue",
            exact: emitter.starts_with("file"),
        };
        if subject.database.is_some() {
            // The slot begins here.
            let out = subject.run(None);
            let err = String::from_utf8_lossy(&out.stderr);
            assert_eq!(out.status.code(), Some(0), "{emitter}: {err}");
        }
        if let Some(database) = &subject.database {
            database.change();
        }
        subject
    }

    /// One run of the tool, killed at a point if one is named.
    fn run(&mut self, crash_at: Option<&str>) -> Output {
        let mut command = self.tool.command(&["-q", "run", "--once"]);
        command.env("PATH", std::env::var("PATH").unwrap_or_default());
        if let Some(at) = crash_at {
            command.env("WEFTKIT_CRASH_AT", at);
        }
        let out = command.output().unwrap();
        if let Some(database) = &self.database {
            database.until_free();
        }
        self.printed
            .push_str(&String::from_utf8(out.stdout.clone()).unwrap());
        // Half a line is no event.
        if !self.printed.is_empty() && !self.printed.ends_with('\n') {
            let whole = self.printed.rfind('\n').map_or(0, |end| end + 1);
            self.printed.truncate(whole);
        }
        out
    }

    fn arrived(&self) -> Vec<Arrival> {
        if let Some(receiver) = &self.receiver {
            return receiver.taken.lock().unwrap().clone();
        }
        if self.exact {
            return arrivals(&shop::lines(&self.tool.path("out")).concat());
        }
        match std::fs::read_to_string(self.tool.path("taken")) {
            Ok(taken) => arrivals(&taken),
            Err(_) => arrivals(&self.printed),
        }
    }

    /// The stored checkpoint.
    fn checkpoint(&self) -> Option<Position> {
        let out = self.tool.answer(&["position", "show", "-o", "json"]);
        let out: serde_json::Value = serde_json::from_str(&out).unwrap();
        out["checkpoints"][0]["position"].as_str()?.parse().ok()
    }

    /// Changes in the dead letter queue.
    fn letters(&self) -> usize {
        let out = self.tool.answer(&["dlq", "ls", "-o", "json"]);
        out.matches("\"position\"").count()
    }
}

/// The changes as an engine's log.
fn write_log(tool: &Tool) {
    let columns = vec![Column::new("id", "int8"), Column::new("text", "text")];
    let rows = Relation::new(EngineKind::Relational, "public", "t", columns, vec![0]);
    let rows = Arc::new(rows);
    let log = Log::open(LogConfig {
        segment_bytes: 64 << 10,
        background: false,
        ..LogConfig::new(tool.path("wal"))
    })
    .unwrap();
    for commit in 0..CHANGES / 5 {
        let mut transaction = log.begin(commit.unsigned_abs() + 1);
        for change in commit * 5..commit * 5 + 5 {
            let text = Value::Text(change.to_string());
            let row = RowImage::from_values(&[Value::Int(change % ROWS), text]);
            transaction.insert(&rows, &row).unwrap();
        }
        transaction.commit().unwrap();
    }
}

/// Kills at a point, starts again, compares.
fn crash(emitter: &str, from: From, point: &str, times: u32) -> String {
    let name = format!("{emitter}, {from:?}, {point}:{times}");
    let mut subject = Subject::new(emitter, from);
    let out = subject.run(Some(&format!("{point}:{times}")));
    assert_eq!(
        out.status.signal(),
        Some(6),
        "{name}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let checkpoint = subject.checkpoint();
    let before = subject.arrived();
    let out = subject.run(None);
    let err = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{name}: {err}");
    let arrived = subject.arrived();

    let poisoned =
        |change: i64| subject.refuses && change % ROWS == POISON % ROWS && change >= POISON;
    let seen: HashSet<i64> = arrived.iter().map(|arrival| arrival.change).collect();
    let missing: Vec<i64> = (0..CHANGES)
        .filter(|&change| !poisoned(change) && !seen.contains(&change))
        .collect();
    assert!(missing.is_empty(), "{name}: missing {missing:?}");
    let parked = (0..CHANGES).filter(|&change| poisoned(change)).count();
    assert_eq!(subject.letters(), parked, "{name}: dead letters, each once");
    assert!(!seen.iter().any(|&change| poisoned(change)), "{name}");

    // First arrivals of a row ascend.
    let mut last: BTreeMap<i64, i64> = BTreeMap::new();
    let mut first = HashSet::new();
    for arrival in &arrived {
        if first.insert(arrival.change) {
            let before = last.insert(arrival.row, arrival.change);
            assert!(
                before < Some(arrival.change),
                "{name}: {arrival:?} too late"
            );
        }
    }
    subject.scrapes.check(&name);
    let repeats = arrived.len() - first.len();
    if subject.exact {
        assert_eq!(repeats, 0, "{name}");
        // In one order, too.
        assert!(arrived.is_sorted_by_key(|arrival| arrival.change), "{name}");
    } else if let Some(checkpoint) = checkpoint {
        for again in &arrived[before.len().min(arrived.len())..] {
            assert!(
                again.position > checkpoint,
                "{name}: {again:?} is at or below the checkpoint {checkpoint}"
            );
        }
    }
    // The window, and what was acknowledged since the last checkpoint: a queue acknowledges a
    // window at a time, and a checkpoint is due every millisecond.
    assert!(repeats <= 3 * WINDOW, "{name}: {repeats} repeats");
    format!("{name}: 0 missing, {repeats} repeats")
}

/// An emitter at every point that it comes to. `CRASH_TABLE_TIMES=1,3,9` kills it the first, third
/// and ninth time instead of the second.
fn table(emitter: &str, from: From) {
    let files: &[_] = if emitter.starts_with("file") {
        &FILE_POINTS
    } else {
        &[]
    };
    for &point in POINTS.iter().chain(files) {
        if point == "letter" && (emitter.starts_with("file") || emitter == "queue") {
            continue;
        }
        let times = std::env::var("CRASH_TABLE_TIMES").unwrap_or_else(|_| "2".to_owned());
        for times in times.split(',') {
            let times = times.trim().parse().unwrap();
            println!("{}", crash(emitter, from, point, times));
        }
    }
    if from == From::Postgres {
        // All the changes may be one batch.
        for point in CAPTURE_POINTS {
            println!("{}", crash(emitter, from, point, 1));
        }
    }
}

macro_rules! rows {
    ($($name:ident, $emitter:literal;)*) => {
        mod log {
            $(#[test]
            fn $name() {
                super::table(super::EMITTERS[$emitter], super::From::Log);
            })*
        }

        /// `cargo xtask run crash-table` starts the server.
        mod postgres_source {
            $(#[test]
            fn $name() {
                super::table(super::EMITTERS[$emitter], super::From::Postgres);
            })*
        }
    };
}

rows! {
    files, 0;
    queue, 1;
    child_process, 2;
    webhook, 3;
    webhook_with_four_requests_at_once, 4;
    files_synced_beside_the_writer, 5;
}

/// A foreign database, a journal, and files: killed in the capture, and with the journal's end torn off
/// as a power cut may, nothing is missing and nothing twice. What was torn was never confirmed.
#[test]
fn capture_from_a_database_with_a_torn_journal() {
    for point in CAPTURE_POINTS {
        for torn in [0, 1, 13] {
            // Only what is written and not synced can be torn.
            if point == "log-written" || torn == 0 {
                captured(point, torn);
            }
        }
    }
}

fn captured(point: &str, torn: u64) {
    let name = format!("{point}, {torn} bytes torn off");
    let tool = Tool::with_config(&shop::file_config("sqlite:app.db"));
    let sql = |sql: &str| {
        let run = std::process::Command::new("sqlite3")
            .args(["-bail", "app.db", sql])
            .current_dir(tool.directory())
            .output()
            .unwrap_or_else(|error| panic!("sqlite3: {error}: install the package `sqlite3`"));
        assert!(run.status.success(), "{sql}");
    };
    sql(
        "PRAGMA journal_mode=wal; CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER); INSERT INTO t VALUES(0, 0);",
    );
    let run = |crash_at: Option<&str>| {
        let mut command = tool.command(&["-q", "run", "--once"]);
        if let Some(at) = crash_at {
            command.env("WEFTKIT_CRASH_AT", at);
        }
        command.output().unwrap()
    };
    // The application: while it has the database open, its log stays.
    let mut application = std::process::Command::new("sqlite3")
        .arg("app.db")
        .current_dir(tool.directory())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut statements = application.stdin.take().unwrap();
    statements.write_all(b"SELECT count(*) FROM t;\n").unwrap();
    let mut answer = String::new();
    let mut answers = BufReader::new(application.stdout.take().unwrap());
    answers.read_line(&mut answer).unwrap();
    let out = run(None);
    assert_eq!(out.status.code(), Some(0), "{name}");
    let changes: String = (1..40)
        .map(|n| format!("INSERT INTO t VALUES({n}, 0); UPDATE t SET n = {n} WHERE id = 0; "))
        .collect();
    sql(&changes);
    let out = run(Some(point));
    let err = String::from_utf8_lossy(&out.stderr);
    assert_eq!(
        out.status.signal(),
        Some(6),
        "{name}: {:?} {err}",
        out.status
    );
    if torn > 0 {
        let journal = tool.path("state").join("journal");
        let newest = std::fs::read_dir(&journal)
            .unwrap_or_else(|error| panic!("{}: {error}", journal.display()))
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|end| end == "wal"))
            .max()
            .unwrap();
        let mut file = std::fs::read(&newest).unwrap();
        let end = file.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let from = end - usize::try_from(torn).unwrap();
        // Segments are laid out in advance: zeros stand where nothing was written. Frames are padded.
        file[from..end].fill(0);
        std::fs::write(&newest, file).unwrap();
    }
    let out = run(None);
    let err = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{name}: {err}");
    let events: Vec<serde_json::Value> = shop::lines(&tool.path("out"))
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let inserted: Vec<i64> = (events.iter().filter(|event| event["op"] == "insert"))
        .map(|event| event["after"]["id"].as_i64().unwrap())
        .collect();
    assert_eq!(inserted, (1..40).collect::<Vec<_>>(), "{name}");
    let updates: Vec<i64> = (events.iter().filter(|event| event["op"] == "update"))
        .map(|event| event["after"]["n"].as_i64().unwrap())
        .collect();
    // What is read at once after a start may come as one, merged transaction.
    assert!(updates.is_sorted_by(|a, b| a < b), "{name}: {updates:?}");
    assert_eq!(updates.last(), Some(&39), "{name}");
    drop(statements);
    application.wait().unwrap();
    println!("{name}: 0 missing, 0 repeats");
}
