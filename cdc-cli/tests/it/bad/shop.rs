//! A small database on a log of its own, the tool beside it, and what it delivered.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cdc_core::{Column, EngineKind, Relation, RowImage, Value};
use cdc_wal::{Log, LogConfig};

use crate::tool::{Run, Tool};

/// Longest wait for anything; only a failing test comes near it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `what` gives something.
#[track_caller]
pub(crate) fn until<T>(name: &str, mut what: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "{name}: waited {PATIENCE:?}");
        // What is waited for happens in another process: look again in a moment.
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Configuration of a pipeline with one emitter named `file`, by the kind of its source.
pub(crate) fn file_config(source: &str) -> String {
    format!(
        "[cdc]\nsource = \"{source}\"\nstate_path = \"state\"\ndlq_path = \"dlq\"\nemitter = \"file\"\n[cdc.file]\npath = \"out\"\n"
    )
}

/// One more file emitter beside those that are there, delivering to the directory of its name.
pub(crate) fn add_emitter(tool: &Tool, name: &str) {
    let mut text = std::fs::read_to_string(tool.path("cdc.toml")).unwrap();
    let first =
        "[[cdc.emitters]]\nname = \"file\"\nemitter = \"file\"\nfile = { path = \"out\" }\n";
    if !text.contains("[[cdc.emitters]]") {
        text = text
            .replace("\nemitter = \"file\"\n", "\n")
            .replace("[cdc.file]\npath = \"out\"\n", "");
        text.push_str(first);
    }
    text.push_str(&format!(
        "[[cdc.emitters]]\nname = \"{name}\"\nemitter = \"file\"\nfile = {{ path = \"{name}\" }}\n"
    ));
    tool.write("cdc.toml", &text);
}

/// Ids in the order in which they were delivered to files.
pub(crate) fn delivered(out: &Path) -> Vec<i64> {
    lines(out).iter().flat_map(|line| ids(line)).collect()
}

/// Whole lines of the file emitter's files, in order.
pub(crate) fn lines(out: &Path) -> Vec<String> {
    let Ok(files) = std::fs::read_dir(out) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.to_string_lossy().contains(".ndjson") && path.is_file())
        .filter(|path| !path.to_string_lossy().contains("manifest"))
        .collect();
    files.sort();
    let mut lines = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        let whole = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        lines.extend(whole.map(str::to_owned));
    }
    lines
}

/// Ids of whole lines; the last may be half written.
pub(crate) fn ids(lines: &str) -> Vec<i64> {
    lines
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|event: &serde_json::Value| event["op"] != "message")
        .map(|event| {
            let id = &event["after"]["id"];
            id.as_i64().unwrap_or_else(|| panic!("no id in {event}"))
        })
        .collect()
}

/// An engine's log, written by the test, and the tool in the directory it lies in.
pub(crate) struct Shop {
    pub(crate) tool: Tool,
    rows: Arc<Relation>,
    next: i64,
    /// What the engine keeps for replay from now on.
    pub(crate) retain_bytes: u64,
}

impl Shop {
    /// An empty log, delivered to files.
    pub(crate) fn new() -> Self {
        Self::with_config(&file_config("wal:wal"))
    }

    pub(crate) fn with_config(config: &str) -> Self {
        let columns = vec![Column::new("id", "int8"), Column::new("text", "text")];
        let rows = Relation::new(EngineKind::Relational, "public", "t", columns, vec![0]);
        let shop = Self {
            tool: Tool::with_config(config),
            rows: Arc::new(rows),
            next: 1,
            retain_bytes: 1 << 30,
        };
        drop(shop.log());
        shop
    }

    /// The log, open for writing: small segments.
    fn log(&self) -> Log {
        Log::open(LogConfig {
            segment_bytes: 64 << 10,
            background: false,
            retain_bytes: self.retain_bytes,
            ..LogConfig::new(self.tool.path("wal"))
        })
        .unwrap()
    }

    /// Commits this many rows of about 1 KiB, one a transaction: acknowledged when this returns.
    pub(crate) fn commit(&mut self, count: i64) -> Log {
        self.commit_sized(count, 1000)
    }

    /// The same with rows of this many bytes.
    pub(crate) fn commit_sized(&mut self, count: i64, bytes: usize) -> Log {
        let log = self.log();
        for id in self.next..self.next + count {
            let mut transaction = log.begin(id.unsigned_abs());
            let row = RowImage::from_values(&[Value::Int(id), Value::Text("x".repeat(bytes))]);
            transaction.insert(&self.rows, &row).unwrap();
            transaction.commit().unwrap();
        }
        self.next += count;
        log
    }

    /// Commits one row after the other, each with a text, again for an id that was there.
    pub(crate) fn write(&mut self, rows: &[(i64, &str)]) {
        let log = self.log();
        for (id, text) in rows {
            let mut transaction = log.begin(self.next.unsigned_abs());
            let row = RowImage::from_values(&[Value::Int(*id), Value::Text((*text).into())]);
            transaction.insert(&self.rows, &row).unwrap();
            transaction.commit().unwrap();
        }
        log.flush().unwrap();
    }

    /// Everything committed.
    pub(crate) fn committed(&self) -> Vec<i64> {
        (1..self.next).collect()
    }

    pub(crate) fn delivered(&self) -> Vec<i64> {
        delivered(&self.tool.path("out"))
    }

    /// The segments' files, oldest first.
    pub(crate) fn segments(&self) -> Vec<PathBuf> {
        let out = self.tool.answer(&["wal", "info", "wal", "-o", "json"]);
        let out: serde_json::Value = serde_json::from_str(&out).unwrap();
        let segments = out["segments"].as_array().unwrap();
        let file = |segment: &serde_json::Value| self.tool.path(segment["file"].as_str().unwrap());
        segments.iter().map(file).collect()
    }

    /// Delivers what is there; it must work, and then everything committed was delivered, in
    /// order, once.
    #[track_caller]
    pub(crate) fn goes_on(&self) {
        self.delivers();
        assert_eq!(self.delivered(), self.committed());
    }

    #[track_caller]
    pub(crate) fn delivers(&self) {
        let run = self.tool.run(&["-q", "run", "--once"]);
        assert_eq!((run.code, run.err.as_str()), (0, ""));
    }

    /// The token of the only checkpoint.
    pub(crate) fn token(&self) -> String {
        token(&self.tool)
    }
}

/// The token of the only checkpoint.
pub(crate) fn token(tool: &Tool) -> String {
    let out = tool.answer(&["position", "show", "-o", "json"]);
    let out: serde_json::Value = serde_json::from_str(&out).unwrap();
    out["checkpoints"][0]["token"].as_str().unwrap().to_owned()
}

/// A refusal: this exit code, nothing on standard output, all of these words in the error.
#[track_caller]
pub(crate) fn refused(run: &Run, code: i32, words: &[&str]) {
    assert_eq!(run.code, code, "{}", run.err);
    for word in words {
        assert!(run.err.contains(word), "no {word:?} in:\n{}", run.err);
    }
    let report = run.err.lines().filter(|line| line.starts_with("error: "));
    assert_eq!(report.count(), 1, "one report: {}", run.err);
}

/// A process that is killed when the test ends, however it does.
pub(crate) struct Running {
    child: Child,
    tool_directory: PathBuf,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let tool_directory = command.get_current_dir().unwrap().to_owned();
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            child,
            tool_directory,
        }
    }

    pub(crate) fn close_output(&mut self) {
        drop(self.child.stdout.take());
    }

    /// Waits until the lane is in this state, and gives the reason.
    #[track_caller]
    pub(crate) fn until_health(&mut self, health: &str) -> String {
        self.until_status(&format!("the lane is {health}"), |status| {
            let lane = &status["lanes"][0];
            (lane["health"] == health)
                .then(|| lane["reason"].as_str().unwrap_or_default().to_owned())
        })
    }

    /// Waits until the running process says so.
    #[track_caller]
    pub(crate) fn until_status<T>(
        &mut self,
        name: &str,
        mut what: impl FnMut(&serde_json::Value) -> Option<T>,
    ) -> T {
        until(name, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                let mut err = String::new();
                let pipe = self.child.stderr.take();
                drop(pipe.map(|mut pipe| pipe.read_to_string(&mut err)));
                panic!("it has ended with {status}:\n{err}");
            }
            what(&status(&self.tool_directory)?)
        })
    }

    /// SIGTERM.
    pub(crate) fn ask_to_stop(&self) {
        self.signal("-TERM");
    }

    pub(crate) fn signal(&self, signal: &str) {
        let mut kill = Command::new("kill");
        kill.args([signal, &self.child.id().to_string()]);
        assert!(kill.status().unwrap().success());
    }

    /// True once it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Run {
        let status: ExitStatus = until("it ends", || self.child.try_wait().unwrap());
        let mut run = Run {
            code: status.code().unwrap_or(-1),
            out: String::new(),
            err: String::new(),
        };
        if let Some(mut out) = self.child.stdout.take() {
            out.read_to_string(&mut run.out).unwrap();
        }
        if let Some(mut err) = self.child.stderr.take() {
            err.read_to_string(&mut run.err).unwrap();
        }
        run
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if it has ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What `status` says in this directory, once a process answers.
fn status(directory: &Path) -> Option<serde_json::Value> {
    let out = Command::new(env!("CARGO_BIN_EXE_cdc-cli"))
        .args(["status", "-o", "json"])
        .current_dir(directory)
        .env_clear()
        .output()
        .unwrap();
    let status: serde_json::Value = serde_json::from_slice(&out.stdout).ok()?;
    (status["running"] == true).then_some(status)
}
