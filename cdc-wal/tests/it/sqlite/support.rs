//! An application of somebody else's: the `sqlite3` command, in a process of its own.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use cdc_core::{BatchLimit, ChangeEvent, Image, Op, Position, SourceError, Value, WalSource};
use cdc_wal::sqlite::{SqliteConfig, SqliteSource};

/// A shell that writes a database.
pub(super) struct Application {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    told: u64,
}

impl Application {
    /// Opens a database; WAL mode is the caller's to ask for.
    pub(super) fn open(path: &Path) -> Self {
        let mut child = Command::new("sqlite3")
            .arg("-batch")
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the command sqlite3: install the package sqlite3");
        let stdin = child.stdin.take().expect("its input");
        let stdout = BufReader::new(child.stdout.take().expect("its output"));
        let mut application = Self {
            child,
            stdin,
            stdout,
            told: 0,
        };
        application.run(".timeout 5000");
        application
    }

    /// Runs statements and waits for their end; gives what they print.
    pub(super) fn run(&mut self, sql: &str) -> String {
        self.told += 1;
        let mark = format!("-- done {} --", self.told);
        writeln!(self.stdin, "{sql}\n.print {mark}").expect("the shell lives");
        let mut printed = String::new();
        loop {
            let mut line = String::new();
            let read = self.stdout.read_line(&mut line).expect("its output");
            assert!(read > 0, "the shell ended: {printed}");
            if line.trim_end() == mark {
                return printed;
            }
            printed.push_str(&line);
        }
    }

    /// Ends in good order: the last one to do so takes the log with it.
    pub(super) fn end(mut self) {
        writeln!(self.stdin, ".quit").expect("the shell lives");
        self.child.wait().expect("its end");
    }

    /// Ends without saying goodbye.
    pub(super) fn kill(mut self) {
        self.child.kill().expect("a living process");
        self.child.wait().expect("its end");
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        // It ends at the end of its input in any case.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A directory with a database in WAL mode, and its application.
pub(super) struct Stage {
    pub(super) application: Application,
    pub(super) path: PathBuf,
    pub(super) dir: tempfile::TempDir,
}

impl Stage {
    pub(super) fn new(sql: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("shop.db");
        let mut application = Application::open(&path);
        application.run("PRAGMA journal_mode = WAL;");
        application.run(sql);
        Self {
            application,
            path,
            dir,
        }
    }

    /// A configuration that keeps its state.
    pub(super) fn config(&self) -> SqliteConfig {
        SqliteConfig {
            state_dir: Some(self.dir.path().join("state")),
            poll_interval: Duration::from_millis(1),
            ..SqliteConfig::new(&self.path)
        }
    }

    /// A configuration that keeps nothing.
    pub(super) fn look(&self) -> SqliteConfig {
        SqliteConfig {
            state_dir: None,
            ..self.config()
        }
    }
}

fn value(value: &Value) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::Int(n) => n.to_string(),
        Value::Float64(n) => format!("{n:?}"),
        Value::Text(text) => format!("'{text}'"),
        Value::Bytes(bytes) => format!("x{}", bytes.len()),
        other => panic!("{other:?}"),
    }
}

fn image(image: &Image) -> Option<String> {
    let values = image.row()?.to_values().expect("a row");
    let values: Vec<String> = values.iter().map(value).collect();
    Some(values.join(","))
}

/// `insert orders -> 1,'a'`.
pub(super) fn show(event: &ChangeEvent) -> String {
    let mut text = format!("{} {}", event.op, event.relation.table);
    if let Some(before) = image(&event.before) {
        text += &format!(" {before}");
    }
    if let Some(after) = image(&event.after) {
        text += &format!(" -> {after}");
    }
    if let (Op::Schema, Some(meta)) = (event.op, &event.meta)
        && let Some((_, Value::Text(change))) = meta.0.first()
    {
        text += &format!(" {change}");
    }
    if event.last {
        text += " .";
    }
    text
}

pub(super) const LIMIT: BatchLimit = BatchLimit {
    events_max: 1000,
    bytes_max: 1 << 20,
    linger: Duration::from_millis(20),
};

/// Waits until this many events have come; panics if there are more.
pub(super) async fn events(source: &mut SqliteSource, count: usize) -> Vec<ChangeEvent> {
    let mut found: Vec<ChangeEvent> = Vec::new();
    while found.len() < count {
        found.extend(batch(source).await.expect("a batch").0);
    }
    let shown: Vec<String> = found.iter().map(show).collect();
    assert_eq!(found.len(), count, "{shown:#?}");
    found
}

/// One batch: its events and its end.
pub(super) async fn batch(
    source: &mut SqliteSource,
) -> Result<(Vec<ChangeEvent>, Position), SourceError> {
    let batch = source.next_batch(LIMIT).await?.expect("it goes on");
    let end = batch.end();
    Ok((batch.into_events(), end))
}

/// Waits for an error.
pub(super) async fn error(source: &mut SqliteSource) -> SourceError {
    loop {
        if let Err(error) = batch(source).await {
            return error;
        }
    }
}

/// Whether it belongs to a transaction that stands for several.
pub(super) fn is_merged(event: &ChangeEvent) -> bool {
    event.meta.as_ref().is_some_and(|meta| {
        meta.0
            .iter()
            .any(|(name, value)| &**name == "merged" && *value == Value::Bool(true))
    })
}
