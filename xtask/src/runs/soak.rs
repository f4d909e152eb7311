//! `soak`: a steady load with faults for as long as asked; memory, handles and disk must stay flat,
//! and no lane may stand still without saying why.

use std::fmt;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Plan;
use super::capture::Capture;
use super::limit::status_kib;
use super::postgres::Stage;
use super::random::Random;
use super::receiver::{HANG_UP, Receiver};
use crate::command::Running;
use crate::error::Context;
use crate::json::Json;
use crate::options::Options;
use crate::{Error, Result, ensure};

/// Rows of one transaction of the load.
const BATCH: u64 = 100;
/// A lane that does not move for so long must say why.
const STALL: Duration = Duration::from_secs(10);
/// Longest time from a start to the first status.
const STARTS: Duration = Duration::from_secs(60);
/// Between two looks at the process.
const LOOK: Duration = Duration::from_secs(1);
/// What the last part of a run may have over its second quarter: looks are few, and a fault may
/// fall into one and not into the other.
const MEMORY_SLACK: f64 = 16.0;
const HANDLE_SLACK: f64 = 16.0;
const DISK_SLACK: f64 = 192.0;
/// Bytes the journal keeps for replay: what a fault holds comes on top.
const RETAIN: &str = "64MiB";

const WELL: u8 = 0;
const REFUSES: u8 = 1;
const HANGS_UP: u8 = 2;

/// `cargo xtask soak [--minutes M] [--rate N] [--seed N] [--cli PATH] [--release] [--keep]`.
///
/// # Errors
/// What did not hold.
pub fn command(args: &[String]) -> Result<ExitCode> {
    let valued = ["--minutes", "--rate", "--seed", "--cli"];
    let options = Options::parse(args, &valued, &["--keep", "--release"])?;
    let mut plan = Plan::short(super::cli(&options, options.flag("--release"))?);
    plan.seed = options.get("--seed", plan.seed)?;
    plan.keep = options.flag("--keep");
    let minutes: f64 = options.get("--minutes", 10.0)?;
    let time = Duration::try_from_secs_f64(minutes * 60.0);
    let time = time.map_err(|error| Error::new(format!("--minutes: {error}")))?;
    let rate: u64 = options.get("--rate", Load::LONG.rate)?;
    let load = Load {
        time,
        rate,
        ..Load::LONG
    };
    println!("soak: held: {}", run(&plan, load)?);
    Ok(ExitCode::SUCCESS)
}

/// How much, how long, and how often something happens.
#[derive(Clone, Copy, Debug)]
struct Load {
    time: Duration,
    /// Rows a second.
    rate: u64,
    /// Between two faults, and how long one lasts.
    fault_every: Duration,
    fault: Duration,
    /// It is long enough to say whether anything grows.
    flat: bool,
}

impl Load {
    const LONG: Self = Self {
        time: Duration::from_secs(600),
        rate: 20_000,
        fault_every: Duration::from_secs(25),
        fault: Duration::from_secs(6),
        flat: true,
    };
    /// What belongs into every test run.
    const SHORT: Self = Self {
        time: Duration::from_secs(30),
        rate: 5_000,
        fault_every: Duration::from_secs(5),
        fault: Duration::from_secs(2),
        flat: false,
    };
}

/// Half a minute of it: everything but whether anything grows.
///
/// # Errors
/// What did not hold.
pub(super) fn short(plan: &Plan) -> Result<String> {
    run(plan, Load::SHORT)
}

/// Which rows came: a bit each, and how many came again.
#[derive(Default)]
struct Rows {
    bits: Vec<u64>,
    count: u64,
    repeated: u64,
}

impl Rows {
    fn take(&mut self, id: u64) -> Result<()> {
        let (word, bit) = (
            usize::try_from(id / 64).unwrap_or(usize::MAX),
            1 << (id % 64),
        );
        ensure!(word < 1 << 28, "row {id} is none of the load's");
        if word >= self.bits.len() {
            self.bits.resize(word + 1, 0);
        }
        if self.bits[word] & bit == 0 {
            self.bits[word] |= bit;
            self.count += 1;
        } else {
            self.repeated += 1;
        }
        Ok(())
    }

    fn holds(&self, id: u64) -> bool {
        let word = usize::try_from(id / 64)
            .ok()
            .and_then(|word| self.bits.get(word));
        word.is_some_and(|bits| bits & (1 << (id % 64)) != 0)
    }
}

/// One look at the process.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: f64,
    memory_mib: f64,
    handles: f64,
    disk_mib: f64,
}

/// How a lane was when it was seen to move last.
#[derive(Debug)]
struct Seen {
    name: String,
    position: String,
    delivered: u64,
    moved: Instant,
}

#[derive(Debug, Default)]
struct Done {
    kills: u32,
    restarts: u32,
    refusals: u32,
    hang_ups: u32,
    named: u32,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} kill -9, {} crashes of the database, {} times a destination that refuses and {} one that hangs up, {} times a lane stood still and said why",
            self.kills, self.restarts, self.refusals, self.hang_ups, self.named
        )
    }
}

struct Soak {
    stage: Stage,
    capture: Capture,
    running: Running,
    load: Option<Running>,
    rate: u64,
    random: Random,
    mood: Arc<AtomicU8>,
    started: Instant,
    process: Instant,
    samples: Vec<Sample>,
    lanes: Vec<Seen>,
    done: Done,
}

fn receiver(rows: &Arc<Mutex<Rows>>, mood: &Arc<AtomicU8>) -> Result<Receiver> {
    let (rows, mood) = (Arc::clone(rows), Arc::clone(mood));
    Receiver::start(Box::new(move |events| {
        match mood.load(Ordering::SeqCst) {
            REFUSES => return Ok(503),
            HANGS_UP => return Ok(HANG_UP),
            _ => {}
        }
        let mut rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            let id = event.key.as_ref().and_then(|key| key.get("id")?.as_u64());
            rows.take(id.ok_or_else(|| Error::new("an event without its key"))?)?;
        }
        Ok(200)
    }))
}

fn run(plan: &Plan, load: Load) -> Result<String> {
    let stage = Stage::new(plan, "soak")?;
    let mood = Arc::new(AtomicU8::new(WELL));
    let well = Arc::new(AtomicU8::new(WELL));
    let (rows, spread): (Arc<Mutex<Rows>>, Arc<Mutex<Rows>>) = Default::default();
    let hook = receiver(&rows, &mood)?;
    let beside = receiver(&spread, &well)?;
    let webhook = |name: &str, url: &str, concurrency: u32| {
        format!(
            "\n[[cdc.emitters]]\nname = \"{name}\"\nemitter = \"webhook\"\n[cdc.emitters.webhook]\n\
             url = {url:?}\nallow_private = true\nbatch_size = 500\nconcurrency = {concurrency}\n"
        )
    };
    let config = [
        format!("retain_bytes = \"{RETAIN}\"\n"),
        "[cdc.retry]\nbase = \"50ms\"\nmax = \"1s\"\nprobe = \"500ms\"\n".to_owned(),
        webhook("hook", &hook.url(), 1),
        webhook("spread", &beside.url(), 2),
    ]
    .concat();
    let capture = Capture::new(plan, &stage.postgres, &stage.dir, &config)?;
    capture.catch_up()?;
    stage.postgres.script(
        "create table load (id bigserial primary key, v text not null, at timestamptz not null default now());",
    )?;
    fs::write(
        stage.dir.join("load.sql"),
        format!("insert into load (v) select md5(n::text) from generate_series(1, {BATCH}) n;\n"),
    )
    .context(|| "write the script of the load")?;
    let running = capture.start()?;
    let mut soak = Soak {
        random: Random::new(plan.seed, 96),
        stage,
        capture,
        running,
        load: None,
        rate: load.rate,
        mood,
        started: Instant::now(),
        process: Instant::now(),
        samples: Vec::new(),
        lanes: Vec::new(),
        done: Done::default(),
    };
    soak.load()?;
    let mut fault = Instant::now();
    let mut until: Option<Instant> = None;
    let mut said = Instant::now();
    while soak.started.elapsed() < load.time {
        std::thread::sleep(LOOK);
        soak.look()?;
        hook.check()?;
        beside.check()?;
        if until.is_some_and(|until| Instant::now() >= until) {
            soak.mood.store(WELL, Ordering::SeqCst);
            until = None;
        }
        if fault.elapsed() > load.fault_every {
            fault = Instant::now();
            if soak.fault()? {
                until = Some(Instant::now() + load.fault);
            }
        }
        if said.elapsed() > Duration::from_secs(60) {
            said = Instant::now();
            let last = soak.samples.last();
            println!(
                "soak: {} s: {last:?}; {}",
                soak.started.elapsed().as_secs(),
                soak.done
            );
        }
    }
    soak.mood.store(WELL, Ordering::SeqCst);
    soak.end(load.flat, &rows, &spread)
}

impl Soak {
    /// Writers at the asked rate, until they are stopped or lose their database.
    fn load(&mut self) -> Result<()> {
        let mut pgbench = self.stage.postgres.client("pgbench")?;
        let rate = (self.rate / BATCH).max(1).to_string();
        pgbench.args([
            "-n", "-c", "4", "-j", "1", "-T", "1000000", "-R", &rate, "-f",
        ]);
        pgbench.arg(self.stage.dir.join("load.sql"));
        let log = self.stage.dir.join("load.log");
        self.load = Some(Running::start(&mut pgbench, "pgbench", Some(&log))?);
        Ok(())
    }

    /// One fault; true if it lasts and has to be ended.
    fn fault(&mut self) -> Result<bool> {
        match self.random.below(5) {
            0 => {
                self.running.kill()?;
                self.done.kills += 1;
                self.running = self.capture.start()?;
                self.process = Instant::now();
                self.lanes.clear();
                Ok(false)
            }
            1 => {
                self.load = None;
                self.stage.postgres.stop("immediate")?;
                self.done.restarts += 1;
                self.stage.postgres.resume()?;
                self.load()?;
                Ok(false)
            }
            2 | 3 => {
                self.done.refusals += 1;
                self.mood.store(REFUSES, Ordering::SeqCst);
                Ok(true)
            }
            _ => {
                self.done.hang_ups += 1;
                self.mood.store(HANGS_UP, Ordering::SeqCst);
                Ok(true)
            }
        }
    }

    /// Notes what the process costs, and asks it about its lanes.
    fn look(&mut self) -> Result<()> {
        if let Some(status) = self.running.ended()? {
            return Err(Error::new(format!(
                "cdc-cli ended by itself: {status}; see {}",
                self.capture.log().display()
            )));
        }
        if let Some(load) = &mut self.load
            && load.ended()?.is_some()
        {
            return Err(Error::new(format!("the load ended{}", load.said())));
        }
        let pid = self.running.pid();
        let handles = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        let disk = bytes_below(&self.capture.state()) + bytes_below(&self.stage.dir.join("dlq"));
        self.samples.push(Sample {
            at: self.started.elapsed().as_secs_f64(),
            memory_mib: number(status_kib(pid, "VmRSS")) / 1024.0,
            handles: number(handles as u64),
            disk_mib: number(disk) / 1_048_576.0,
        });
        // Just after a start it does not listen yet, or says that it is starting.
        match status(self.capture.port()) {
            Ok(status) => self.judge_lanes(&status),
            Err(_) if self.process.elapsed() < STARTS => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn judge_lanes(&mut self, status: &Json) -> Result<()> {
        let lanes = status.get("lanes").map(Json::items).unwrap_or_default();
        ensure!(!lanes.is_empty(), "the status names no lanes");
        let source_waits = status.get("source_reason").and_then(Json::as_str).is_some();
        for lane in lanes {
            let text = |name: &str| lane.get(name).and_then(Json::as_str).unwrap_or_default();
            let (name, position) = (text("name").to_owned(), text("position").to_owned());
            let counts = lane.get("counts");
            let delivered = counts.and_then(|counts| counts.get("delivered")?.as_u64());
            let delivered = delivered.unwrap_or(0);
            let lag = lane.get("lag_bytes").and_then(Json::as_u64).unwrap_or(0);
            let Some(seen) = self.lanes.iter_mut().find(|seen| seen.name == name) else {
                self.lanes.push(Seen {
                    name,
                    position,
                    delivered,
                    moved: Instant::now(),
                });
                continue;
            };
            if seen.position != position || seen.delivered != delivered || lag == 0 {
                (seen.position, seen.delivered) = (position, delivered);
                seen.moved = Instant::now();
            } else if seen.moved.elapsed() > STALL {
                let reason = !text("reason").is_empty() || text("health") != "running";
                ensure!(
                    reason || source_waits,
                    "lane {name} has not moved for {} s with {lag} bytes behind, and says only {:?}",
                    seen.moved.elapsed().as_secs(),
                    text("health")
                );
                self.done.named += 1;
                seen.moved = Instant::now();
            }
        }
        Ok(())
    }

    /// Everything that was written came, and what the process costs stayed as it was.
    fn end(mut self, flat: bool, rows: &Mutex<Rows>, spread: &Mutex<Rows>) -> Result<String> {
        self.load = None;
        let elapsed = self.started.elapsed().as_secs_f64();
        // One that was started by the last fault may not listen to signals yet, and would not drain.
        while let Err(error) = status(self.capture.port()) {
            if self.process.elapsed() > STARTS || self.running.ended()?.is_some() {
                return Err(error);
            }
            std::thread::sleep(LOOK);
        }
        self.capture.shut_down(self.running)?;
        self.capture.catch_up()?;
        let written = self
            .stage
            .postgres
            .psql("select id from load order by id")?;
        let written: Vec<u64> = written.lines().filter_map(|id| id.parse().ok()).collect();
        let mut repeated = Vec::new();
        for (name, rows) in [("hook", rows), ("spread", spread)] {
            let rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
            let missing = written.iter().filter(|id| !rows.holds(**id)).count();
            ensure!(
                missing == 0,
                "{name} lacks {missing} of {} rows",
                written.len()
            );
            ensure!(
                rows.count == written.len() as u64,
                "{name} has {} rows, the database {}",
                rows.count,
                written.len()
            );
            repeated.push(rows.repeated);
        }
        let counters = self.capture.counters()?;
        let flat = if flat {
            judge(&self.samples)?
        } else {
            "too short to say whether anything grows".to_owned()
        };
        Ok(format!(
            "{} rows in {elapsed:.0} s ({:.0}/s), all at both destinations, {repeated:?} repeats; {}; {counters}; {flat}",
            written.len(),
            number(written.len() as u64) / elapsed,
            self.done
        ))
    }
}

/// Compares the second quarter of the looks with the last: medians for memory and handles, and for the
/// disk, which rises and falls with each fault, the lower quartile.
fn judge(samples: &[Sample]) -> Result<String> {
    let quarter = samples.len() / 4;
    ensure!(
        quarter >= 5,
        "too short a run to judge: {} looks",
        samples.len()
    );
    let (second, last) = (&samples[quarter..2 * quarter], &samples[3 * quarter..]);
    let mut report = Vec::new();
    // Its name, where it is in a look, the part of the values that is typical, and the slack.
    let measures: [(&str, Measure, usize, f64); 3] = [
        ("memory in MiB", |sample| sample.memory_mib, 2, MEMORY_SLACK),
        ("file handles", |sample| sample.handles, 2, HANDLE_SLACK),
        ("disk in MiB", |sample| sample.disk_mib, 4, DISK_SLACK),
    ];
    for (name, of, part, slack) in measures {
        let typical = |samples: &[Sample]| {
            let mut values: Vec<f64> = samples.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / part]
        };
        let (before, after) = (typical(second), typical(last));
        let most = samples.iter().map(of).fold(0.0, f64::max);
        let slope = slope(&samples[quarter..], of) * 60.0;
        let grew = after > before * 1.25 + slack;
        ensure!(
            !grew,
            "{name} grew from {before:.1} to {after:.1} ({slope:+.2} a minute)"
        );
        report.push(format!(
            "{name} {before:.1} then {after:.1}, at most {most:.1}, {slope:+.2} a minute"
        ));
    }
    Ok(report.join("; "))
}

/// One figure of a look.
type Measure = fn(&Sample) -> f64;

/// Least squares, per second.
fn slope(samples: &[Sample], of: Measure) -> f64 {
    let n = number(samples.len() as u64);
    let mean = |value: &dyn Fn(&Sample) -> f64| samples.iter().map(value).sum::<f64>() / n;
    let (at, value) = (mean(&|sample| sample.at), mean(&of));
    let covariance = mean(&|sample| (sample.at - at) * (of(sample) - value));
    let variance = mean(&|sample| (sample.at - at).powi(2));
    if variance > 0.0 {
        covariance / variance
    } else {
        0.0
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts and bytes are smaller")]
fn number(count: u64) -> f64 {
    count as f64
}

/// Bytes that the files below a folder take; those that go away meanwhile take none.
fn bytes_below(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut bytes = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes += bytes_below(&entry.path()),
            Ok(metadata) => bytes += metadata.blocks() * 512,
            Err(_) => {}
        }
    }
    bytes
}

/// What `GET /v1/status` says.
fn status(port: u16) -> Result<Json> {
    let attempted = || "ask cdc-cli for its status";
    let mut stream = TcpStream::connect(("127.0.0.1", port)).context(attempted)?;
    stream.set_read_timeout(Some(STALL)).context(attempted)?;
    let request = "GET /v1/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).context(attempted)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context(attempted)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| Error::new("ask cdc-cli for its status: no answer"))?;
    ensure!(
        head.starts_with("HTTP/1.1 200"),
        "ask cdc-cli for its status: {head}"
    );
    Json::parse(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(memory: impl Fn(f64) -> f64) -> Vec<Sample> {
        (0..100)
            .map(|n| Sample {
                at: f64::from(n),
                memory_mib: memory(f64::from(n)),
                handles: 40.0,
                disk_mib: 100.0,
            })
            .collect()
    }

    #[test]
    fn what_grows_is_seen_and_what_swings_is_not() {
        assert!(judge(&samples(|at| 30.0 + (at % 7.0))).is_ok());
        let grew = judge(&samples(|at| 30.0 + at)).unwrap_err().to_string();
        assert!(
            grew.starts_with("memory in MiB grew from 67.0 to 117.0 (+60.00"),
            "{grew}"
        );
        assert!(judge(&samples(|_| 1.0)[..10]).is_err(), "too few");
    }
}
