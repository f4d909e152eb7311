//! Capture from SQLite: what it decodes, how far it lags behind a writer at full speed, what it
//! costs that writer, and what triggers would cost it. Ratios come from rounds that alternate in
//! one run.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Map, Value, json};

use super::{Settings, Target, example_with, verdicts};
use crate::error::Context;
use crate::guard::TempDir;
use crate::{Error, Result, command, ensure};

/// Rows of one transaction, and small transactions, at full size.
const ROWS: u64 = 5_000_000;
const TRANSACTIONS: u64 = 200_000;
/// Seconds a writer writes in each round.
const SECONDS: f64 = 8.0;

/// What is asked for: a measure, and the least (true) or most (false) it may be.
const TARGETS: [Target; 9] = [
    ("insert_m_rows_per_cpu_second", true, 1.0),
    ("update_m_rows_per_cpu_second", true, 1.0),
    ("small_k_transactions_per_cpu_second", true, 20.0),
    ("insert_peak_mib", false, 64.0),
    ("update_peak_mib", false, 64.0),
    ("pinned_lag_ms_p99", false, 50.0),
    ("pinned_writer_loss_percent", false, 3.0),
    ("lock_free_lag_ms_p99", false, 50.0),
    ("lock_free_writer_loss_percent", false, 3.0),
];

/// The example that writes and follows.
struct Load(PathBuf);

/// A follower, and what it says.
struct Follower {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It has ended already, unless something failed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Follower {
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.said.read_line(&mut line);
        let read = read.context(|| "read what the follower says".to_owned())?;
        ensure!(read > 0, "the follower ended without an answer");
        Ok(line)
    }

    /// Lets it begin to take.
    fn go(&mut self) -> Result<()> {
        let stdin = self.child.stdin.as_mut();
        let stdin = stdin.ok_or_else(|| Error::new("the follower has no input"))?;
        writeln!(stdin, "go").context(|| "let the follower begin".to_owned())
    }

    fn answer(mut self) -> Result<Value> {
        let line = self.line()?;
        serde_json::from_str(&line).context(|| format!("parse the follower's answer {line}"))
    }
}

impl Load {
    fn run(&self, dir: &Path, args: &[&str]) -> Result<Value> {
        let mut load = Command::new(&self.0);
        load.args(args).current_dir(dir);
        let text = command::output(&mut load)?;
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).context(|| format!("parse the answer of {args:?}"))
    }

    fn follow(&self, dir: &Path, args: &[&str]) -> Result<Follower> {
        self.beside(dir, &[&["follow", "app.db"], args].concat())
    }

    /// Starts a process beside the writer, which says when it is ready.
    fn beside(&self, dir: &Path, args: &[&str]) -> Result<Follower> {
        let mut child = Command::new(&self.0)
            .args(args)
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context(|| "start the follower".to_owned())?;
        let stdout = child.stdout.take();
        let stdout = stdout.ok_or_else(|| Error::new("the follower has no output"))?;
        let mut follower = Follower {
            child,
            said: BufReader::new(stdout),
        };
        let line = follower.line()?;
        ensure!(line.trim() == "ready", "the follower said {line}");
        Ok(follower)
    }

    /// What is written before the follower takes anything, decoded: rows a second of CPU.
    fn decode(&self, kind: &str, count: u64) -> Result<(f64, f64, Value)> {
        eprintln!("bench: sqlite: decode {kind} of {count}");
        let dir = TempDir::new("sqlite-bench")?;
        let here = &dir.join(".");
        let count = count.to_string();
        self.run(here, &["create", "app.db"])?;
        if kind == "update" {
            self.run(here, &["write", "app.db", "insert", &count])?;
        }
        let mut follower = self.follow(here, &["drain"])?;
        self.run(here, &["write", "app.db", kind, &count])?;
        self.run(here, &["finish", "app.db"])?;
        follower.go()?;
        let answer = follower.answer()?;
        let unit = if kind == "transactions" {
            "transactions"
        } else {
            "events"
        };
        let expected: f64 = count.parse().unwrap_or(0.0);
        let done = number(&answer, unit)?;
        #[expect(clippy::float_cmp, reason = "whole numbers")]
        let whole = done == expected;
        ensure!(whole, "{kind}: {done} {unit} came of {expected}");
        Ok((
            done / number(&answer, "cpu_s")?.max(0.01),
            number(&answer, "peak_mib")?,
            answer,
        ))
    }

    /// A writer at full speed, and whoever is beside it.
    fn round(&self, beside: &str, seconds: f64) -> Result<(Value, Value)> {
        eprintln!("bench: sqlite: writer with {beside}");
        let dir = TempDir::new("sqlite-bench")?;
        let here = &dir.join(".");
        let seconds = format!("{seconds}");
        self.run(here, &["create", "app.db"])?;
        let follower = match beside {
            "pinned" | "lock-free" => Some(self.follow(here, &[beside, "state"])?),
            _ => None,
        };
        // The control: ended when it goes out of sight.
        let _control = match beside {
            "control" => Some(self.beside(here, &["copy", "app.db", "copied"])?),
            _ => None,
        };
        let mut args = vec!["write", "app.db", "small", &seconds];
        if beside == "triggers" {
            args.push("triggers");
        }
        let wrote = self.run(here, &args)?;
        self.run(here, &["finish", "app.db"])?;
        let followed = match follower {
            Some(follower) => follower.answer()?,
            None => Value::Null,
        };
        Ok((wrote, followed))
    }
}

fn number(answer: &Value, name: &str) -> Result<f64> {
    let found = answer.get(name).and_then(Value::as_f64);
    found.ok_or_else(|| Error::new(format!("the answer has no {name}: {answer}")))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Measures all of it and judges it.
///
/// # Errors
/// Something fails, or not everything that was written came.
pub(super) fn run(settings: &Settings) -> Result<Value> {
    let load = Load(example_with("cdc-wal", "sqlite_load", &["sqlite"])?);
    let mut measures = Map::new();
    let mut put = |name: &str, value: f64| {
        measures.insert(name.to_owned(), value.into());
    };
    let mut details = Map::new();
    for kind in ["insert", "update"] {
        let (rate, peak, answer) = load.decode(kind, settings.scaled(ROWS))?;
        put(&format!("{kind}_m_rows_per_cpu_second"), rate / 1e6);
        put(&format!("{kind}_peak_mib"), peak);
        details.insert(format!("decode_{kind}"), answer);
    }
    let (rate, _, answer) = load.decode("transactions", settings.scaled(TRANSACTIONS))?;
    put("small_k_transactions_per_cpu_second", rate / 1e3);
    details.insert("decode_transactions".to_owned(), answer);

    // `control` is a process that copies the log's bytes and does nothing else: what the writer loses
    // beside it is the machine's, no reader's.
    let sides = ["nobody", "control", "pinned", "lock-free", "triggers"];
    let seconds = (SECONDS * settings.scale).max(1.0);
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); sides.len()];
    let mut lags: Vec<Vec<f64>> = vec![Vec::new(); sides.len()];
    let (mut came, mut merged) = (0.0, 0.0);
    for round in 0..settings.rounds {
        for (at, side) in sides.iter().enumerate() {
            let (wrote, followed) = load.round(side, seconds)?;
            if let Some(rates) = rates.get_mut(at) {
                rates.push(number(&wrote, "per_second")?);
            }
            if followed.is_object() {
                if let Some(lags) = lags.get_mut(at) {
                    lags.push(number(&followed, "lag_ms_p99")?);
                }
                let (all, whole) = (number(&wrote, "transactions")?, "transactions");
                if *side == "pinned" {
                    #[expect(clippy::float_cmp, reason = "whole numbers")]
                    let exact =
                        all == number(&followed, whole)? && number(&followed, "merged")? == 0.0;
                    ensure!(
                        exact,
                        "{all} transactions were written, not all came whole: {followed}"
                    );
                } else {
                    came += number(&followed, whole)?;
                    merged += number(&followed, "merged")?;
                }
            }
            details.insert(
                format!("round_{round}_{side}"),
                json!({"writer": wrote, "follower": followed}),
            );
        }
    }
    let alone = median(rates.first().cloned().unwrap_or_default());
    put("alone_k_transactions_s", alone / 1e3);
    for (at, side) in sides.iter().enumerate().skip(1) {
        let name = side.replace('-', "_");
        let rate = median(rates.get(at).cloned().unwrap_or_default());
        put(
            &format!("{name}_writer_loss_percent"),
            (1.0 - rate / alone) * 100.0,
        );
        if ["pinned", "lock-free"].contains(side) {
            put(
                &format!("{name}_lag_ms_p99"),
                median(lags.get(at).cloned().unwrap_or_default()),
            );
        }
    }
    put("lock_free_merged_percent", merged / came.max(1.0) * 100.0);
    let verdicts = verdicts(&TARGETS, &measures);
    Ok(json!({ "measures": measures, "targets": verdicts, "details": details }))
}
