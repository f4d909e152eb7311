//! `cdc-sim`: the whole pipeline in a simulated world, one schedule a seed (`docs/simulator.md`).
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool for developers"
)]

mod act;
mod consumer;
mod engine;
mod extras;
mod kept;
mod look;
mod minimise;
mod operator;
mod options;
mod orders;
mod outputs;
mod plan;
mod process;
mod resumed;
mod schedule;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use options::Options;
use plan::Plan;
use schedule::Schedule;
use world::{Report, World};

/// Lines of a timeline that are printed.
const LINES_SHOWN: usize = 400;
/// A schedule that takes longer does not end; a machine with much else to do is allowed for.
const HANGS: Duration = Duration::from_secs(120);
/// Plans tried when a failing one is shortened.
const TRIES_MAX: usize = 2_000;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let options = match Options::parse(&args) {
        Ok(options) => options,
        Err(what) => {
            eprintln!("cdc-sim: {what}\n\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    std::panic::set_hook(Box::new(|_| {}));
    let held = match options.seed {
        Some(seed) => one(seed, &options),
        None => many(&options),
    };
    if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs a plan; a panic of the code under test is a violation.
fn run(plan: &Plan, keep_lines: bool) -> Report {
    let outcome = catch_unwind(AssertUnwindSafe(|| World::run(plan, keep_lines)));
    outcome.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Report {
            violation: Some(format!("panic: {}", text.unwrap_or_default())),
            digest: 0,
            lines: Vec::new(),
            events: 0,
            lives: 0,
            repeats: 0,
            disk_failures: 0,
            time: Duration::ZERO,
        }
    })
}

/// One seed, with its timeline. True if everything held.
fn one(seed: u64, options: &Options) -> bool {
    let schedule = Schedule {
        seed,
        plain: options.plain,
    };
    let whole = schedule.plan();
    let mut dropped = options.dropped.clone();
    if options.minimise {
        let violation = run(&whole.without(&dropped), false).violation;
        if let Some(violation) = violation.as_deref().map(shape) {
            dropped = minimise::minimise(&whole, TRIES_MAX, |plan| {
                run(plan, false).violation.as_deref().map(shape).as_ref() == Some(&violation)
            });
        }
    }
    let plan = whole.without(&dropped);
    let report = run(&plan, true);
    let again = run(&plan, true);
    if let Some(at) = (0..report.lines.len().max(again.lines.len()))
        .find(|&at| report.lines.get(at) != again.lines.get(at))
    {
        println!(
            "NOT DETERMINISTIC at line {at}:\n  {:?}\n  {:?}",
            report.lines.get(at),
            again.lines.get(at)
        );
    }
    let first = if options.whole {
        0
    } else {
        report.lines.len().saturating_sub(LINES_SHOWN)
    };
    for line in &report.lines[first..] {
        println!("{line}");
    }
    println!(
        "seed {seed}: {} steps, {} events, {} lives, {} repeats, {} disk failures, {:.1} s of virtual time, digest {:016x}",
        plan.steps.len(),
        report.events,
        report.lives,
        report.repeats,
        report.disk_failures,
        report.time.as_secs_f64(),
        report.digest,
    );
    if again.digest != report.digest {
        println!(
            "NOT DETERMINISTIC: again the digest is {:016x}",
            again.digest
        );
        return false;
    }
    match &report.violation {
        None => {
            println!("everything held");
            true
        }
        Some(violation) => {
            println!("VIOLATION: {violation}\n{}", schedule.command(&dropped));
            false
        }
    }
}

/// A violation without its numbers and names: a shorter plan must fail in the same way.
fn shape(violation: &str) -> String {
    let words = violation.split_whitespace();
    let plain = words.filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
    plain.take(12).collect::<Vec<_>>().join(" ")
}

/// Totals of many runs.
#[derive(Debug, Default)]
struct Totals {
    runs: u64,
    events: u64,
    lives: u64,
    repeats: u64,
    disk_failures: u64,
    /// The first that did not hold.
    first: Option<Schedule>,
    failed: usize,
}

impl Totals {
    fn print(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        println!(
            "{} schedules in {seconds:.1} s ({:.0} a minute), {} events, {} lives, {} repeats, {} disk failures, {} violations",
            self.runs,
            self.runs as f64 * 60.0 / seconds.max(0.001),
            self.events,
            self.lives,
            self.repeats,
            self.disk_failures,
            self.failed,
        );
        if let Some(schedule) = self.first {
            println!("{} --minimise", schedule.command(&[]));
        }
    }

    fn violated(&mut self, schedule: Schedule, violation: &str) {
        println!("seed {}: {violation}", schedule.seed);
        self.first.get_or_insert(schedule);
        self.failed += 1;
    }
}

/// What a thread runs, and since when.
type At = Mutex<Option<(Schedule, Instant)>>;

/// The first of the old seeds that fails again.
fn first_old(at: &At) -> Option<(Schedule, String)> {
    let now = |work| *at.lock().unwrap_or_else(PoisonError::into_inner) = work;
    let failed = Schedule::old().find_map(|schedule| {
        now(Some((schedule, Instant::now())));
        let violation = run(&schedule.plan(), false).violation;
        Some((schedule, violation?))
    });
    now(None);
    failed
}

/// Ends the process when a schedule turns in circles inside the code under test, where no count of
/// steps sees it.
fn watch(at: &[At], next: &AtomicU64, stop: &AtomicBool, options: &Options) {
    loop {
        std::thread::park_timeout(Duration::from_millis(200));
        let mut busy = false;
        for at in at {
            let Some((schedule, since)) = *at.lock().unwrap_or_else(PoisonError::into_inner) else {
                continue;
            };
            busy = true;
            if since.elapsed() > HANGS {
                println!(
                    "seed {}: it hangs\n{}",
                    schedule.seed,
                    schedule.command(&[])
                );
                std::process::exit(1);
            }
        }
        let given = options.time.is_none()
            && next.load(Ordering::Relaxed) >= options.first.saturating_add(options.count);
        if !busy && (given || stop.load(Ordering::Relaxed)) {
            return;
        }
    }
}

/// Many seeds on all processors, those that found a bug once first. True if everything held.
fn many(options: &Options) -> bool {
    let next = AtomicU64::new(options.first);
    let stop = AtomicBool::new(false);
    let totals = Mutex::new(Totals::default());
    let begin = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // What each thread is at, and since when.
    let at: Vec<At> = (0..threads).map(|_| Mutex::default()).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| watch(&at, &next, &stop, options));
        if let Some((schedule, violation)) = at.first().and_then(first_old) {
            let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
            totals.violated(schedule, &violation);
            stop.store(true, Ordering::Relaxed);
            return;
        }
        for at in &at {
            scope.spawn(|| {
                let now = |work| *at.lock().unwrap_or_else(PoisonError::into_inner) = work;
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let over = match options.time {
                        Some(time) => begin.elapsed() >= time,
                        None => seed >= options.first.saturating_add(options.count),
                    };
                    if over {
                        stop.store(true, Ordering::Relaxed);
                        now(None);
                        return;
                    }
                    let schedule = Schedule {
                        seed,
                        plain: options.plain,
                    };
                    now(Some((schedule, Instant::now())));
                    let report = run(&schedule.plan(), false);
                    now(None);
                    let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
                    totals.runs += 1;
                    totals.events += report.events as u64;
                    totals.lives += report.lives;
                    totals.repeats += report.repeats;
                    totals.disk_failures += report.disk_failures;
                    if let Some(violation) = report.violation {
                        totals.violated(schedule, &violation);
                        if totals.failed >= options.failures_max {
                            stop.store(true, Ordering::Relaxed);
                            // A schedule that hangs in the code under test would hold the end up.
                            totals.print(begin.elapsed());
                            std::process::exit(1);
                        }
                    }
                }
            });
        }
    });
    let totals = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    totals.print(begin.elapsed());
    totals.failed == 0
}
