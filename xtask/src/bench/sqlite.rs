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
/// Seconds a writer writes each time, and how often it does in a round, alone and with each beside it.
/// The machine changes within minutes: what is compared stands side by side, either first in turn.
const SECONDS: f64 = 2.0;
const TURNS: u32 = 4;

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

/// Where a writer writes, and who is beside it. `control` is a process that copies the log's bytes and
/// does nothing else: what the writer loses beside it is the machine's, no reader's.
struct Place<'a> {
    /// Before the names of what is measured there.
    name: &'static str,
    dir: &'a Path,
    sides: &'a [&'static str],
}

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

    /// A writer at full speed, alone and with each of the sides beside it.
    fn beside_a_writer(
        &self,
        place: &Place<'_>,
        settings: &Settings,
        measures: &mut Map<String, Value>,
        details: &mut Map<String, Value>,
    ) -> Result<()> {
        let seconds = (SECONDS * settings.scale).max(1.0);
        let mut alone: Vec<f64> = Vec::new();
        let mut losses: Vec<Vec<f64>> = vec![Vec::new(); place.sides.len()];
        let mut lags: Vec<Vec<f64>> = vec![Vec::new(); place.sides.len()];
        let (mut came, mut merged) = (0.0, 0.0);
        for turn in 0..settings.rounds * TURNS {
            for (at, side) in place.sides.iter().enumerate() {
                let pair = if turn % 2 == 0 {
                    ["nobody", side]
                } else {
                    [side, "nobody"]
                };
                let mut rates = [0.0; 2];
                for (beside, rate) in pair.iter().zip(&mut rates) {
                    let (wrote, followed) = self.round(place, beside, seconds)?;
                    *rate = number(&wrote, "per_second")?;
                    if followed.is_object() {
                        let (all, whole) = (number(&wrote, "transactions")?, "transactions");
                        let (got, stood) =
                            (number(&followed, whole)?, number(&followed, "merged")?);
                        if *side == "pinned" {
                            #[expect(clippy::float_cmp, reason = "whole numbers")]
                            let exact = all == got && stood == 0.0;
                            ensure!(
                                exact,
                                "{all} transactions were written, not all came whole: {followed}"
                            );
                        } else {
                            came += got;
                            merged += stood;
                        }
                        if let Some(lags) = lags.get_mut(at) {
                            lags.push(number(&followed, "lag_ms_p99")?);
                        }
                    }
                    details.insert(
                        format!("{}turn_{turn}_{side}_{beside}", place.name),
                        json!({"writer": wrote, "follower": followed}),
                    );
                }
                if turn % 2 == 1 {
                    rates.reverse();
                }
                let [nobody, somebody] = rates;
                alone.push(nobody);
                if let Some(losses) = losses.get_mut(at) {
                    losses.push((1.0 - somebody / nobody) * 100.0);
                }
            }
        }
        let named = |name: &str| format!("{}{name}", place.name);
        put(
            measures,
            &named("alone_k_transactions_s"),
            median(alone) / 1e3,
        );
        let control = losses.first().cloned().unwrap_or_default();
        for ((side, losses), lags) in place.sides.iter().zip(losses).zip(lags) {
            let side = side.replace('-', "_");
            range(
                measures,
                &named(&format!("{side}_writer_loss_percent")),
                &losses,
            );
            if lags.is_empty() {
                continue;
            }
            let beyond: Vec<f64> = losses.iter().zip(&control).map(|(a, b)| a - b).collect();
            range(
                measures,
                &named(&format!("{side}_writer_loss_beyond_control_percent")),
                &beyond,
            );
            put(
                measures,
                &named(&format!("{side}_lag_ms_p99")),
                median(lags),
            );
        }
        put(
            measures,
            &named("lock_free_merged_percent"),
            merged / came.max(1.0) * 100.0,
        );
        Ok(())
    }

    /// A writer at full speed, and whoever is beside it.
    fn round(&self, place: &Place<'_>, beside: &str, seconds: f64) -> Result<(Value, Value)> {
        eprintln!("bench: sqlite: {}writer with {beside}", place.name);
        let dir = TempDir::new_in(place.dir, "sqlite-bench")?;
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

fn put(measures: &mut Map<String, Value>, name: &str, value: f64) {
    measures.insert(name.to_owned(), value.into());
}

/// The mean, and the range it is in at 95 %, by Student's t.
fn range(measures: &mut Map<String, Value>, name: &str, values: &[f64]) {
    const T: [f64; 12] = [
        f64::INFINITY,
        12.71,
        4.30,
        3.18,
        2.78,
        2.57,
        2.45,
        2.36,
        2.31,
        2.26,
        2.23,
        2.20,
    ];
    let count = u32::try_from(values.len().max(1)).unwrap_or(u32::MAX);
    let mean = values.iter().sum::<f64>() / f64::from(count);
    put(measures, name, mean);
    let t = T.get(count as usize - 1).copied().unwrap_or(2.2);
    if t.is_finite() {
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let off = t * (squares / f64::from(count - 1) / f64::from(count)).sqrt();
        put(measures, &format!("{name}_low"), mean - off);
        put(measures, &format!("{name}_high"), mean + off);
    }
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
    let mut details = Map::new();
    for kind in ["insert", "update"] {
        let (rate, peak, answer) = load.decode(kind, settings.scaled(ROWS))?;
        put(
            &mut measures,
            &format!("{kind}_m_rows_per_cpu_second"),
            rate / 1e6,
        );
        put(&mut measures, &format!("{kind}_peak_mib"), peak);
        details.insert(format!("decode_{kind}"), answer);
    }
    let (rate, _, answer) = load.decode("transactions", settings.scaled(TRANSACTIONS))?;
    put(
        &mut measures,
        "small_k_transactions_per_cpu_second",
        rate / 1e3,
    );
    details.insert("decode_transactions".to_owned(), answer);

    let disk = std::env::temp_dir();
    let place = Place {
        name: "",
        dir: &disk,
        sides: &["control", "pinned", "lock-free", "triggers"],
    };
    load.beside_a_writer(&place, settings, &mut measures, &mut details)?;
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        // Where nobody waits for a disk, what is left is the processors and their caches.
        let place = Place {
            name: "memory_",
            dir: memory,
            sides: &["control", "pinned", "lock-free"],
        };
        load.beside_a_writer(&place, settings, &mut measures, &mut details)?;
    }
    let verdicts = verdicts(&TARGETS, &measures);
    Ok(json!({ "measures": measures, "targets": verdicts, "details": details }))
}
