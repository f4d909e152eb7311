//! `test` and `ci`: the stages a change must pass, in order, with one line of counts at the end.

use std::process::{Command, ExitCode};
use std::time::Instant;

use crate::postgres::{Postgres, URL_VARIABLE};
use crate::{Result, bench, command, ensure, runs, tidy};

/// Schedules of the simulator that every change must pass.
const SCHEDULES: &str = "2000";

/// Counts of tests over all stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tests, runs and stages without tests of their own that held.
    pub passed: u64,
    /// Those that did not.
    pub failed: u64,
}

impl Counts {
    /// One thing that held or did not.
    pub fn one(held: bool) -> Self {
        Self {
            passed: held.into(),
            failed: (!held).into(),
        }
    }

    /// Adds another count.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Runs stages one after another; a failing one does not hide those behind it.
struct Stages {
    counts: Counts,
    lines: Vec<String>,
}

impl Stages {
    fn new() -> Self {
        Self {
            counts: Counts::default(),
            lines: Vec::new(),
        }
    }

    fn run(&mut self, name: &str, stage: impl FnOnce() -> Result<Counts>) {
        println!("\n== {name}");
        let start = Instant::now();
        let counts = stage().unwrap_or_else(|error| {
            println!("{name}: {error}");
            Counts::one(false)
        });
        self.lines.push(format!(
            "{:<22} {:>5} passed {:>4} failed {:>6.1} s",
            name,
            counts.passed,
            counts.failed,
            start.elapsed().as_secs_f64()
        ));
        self.counts.add(counts);
    }

    fn end(self) -> ExitCode {
        println!("\n{}\n", self.lines.join("\n"));
        println!(
            "{} passed, {} failed",
            self.counts.passed, self.counts.failed
        );
        if self.counts.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// `cargo xtask test [FILTER…]`.
///
/// # Errors
/// PostgreSQL cannot be started; failing tests are counted, not errors.
pub fn test(filters: &[String]) -> Result<ExitCode> {
    let mut stages = Stages::new();
    test_stages(&mut stages, filters)?;
    Ok(stages.end())
}

/// `cargo xtask ci`.
///
/// # Errors
/// As [`test()`].
pub fn ci(args: &[String]) -> Result<ExitCode> {
    ensure!(args.is_empty(), "`ci` takes no arguments");
    let mut stages = Stages::new();
    let cargo = |args: &[&str]| {
        Ok(Counts::one(
            command::status(&mut command::cargo(args))?.success(),
        ))
    };
    stages.run("format", || cargo(&["fmt", "--all", "--check"]));
    stages.run("clippy", || {
        cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ])
    });
    stages.run("clippy, no features", || {
        // Each crate as a user without default features sees it.
        let mut counts = Counts::default();
        for name in ["cdc-core", "cdc-wal", "cdc-emit-queue", "cdc-emit-webhook"] {
            let args = [
                "clippy",
                "-p",
                name,
                "--no-default-features",
                "--",
                "-D",
                "warnings",
            ];
            counts.add(cargo(&args)?);
        }
        Ok(counts)
    });
    stages.run("documentation", || {
        let mut doc = command::cargo(&["doc", "--workspace", "--no-deps"]);
        doc.env("RUSTDOCFLAGS", "-D warnings");
        Ok(Counts::one(command::status(&mut doc)?.success()))
    });
    test_stages(&mut stages, &[])?;
    Ok(stages.end())
}

fn test_stages(stages: &mut Stages, filters: &[String]) -> Result<()> {
    if filters.is_empty() {
        stages.run("tidy", || {
            let findings = tidy::check(&crate::root())?;
            for finding in &findings {
                println!("{finding}");
            }
            Ok(Counts::one(findings.is_empty()))
        });
    }
    let mut postgres = Postgres::start()?;
    stages.run("tests", || {
        let mut args = vec!["nextest", "run", "--workspace", "--no-fail-fast"];
        args.extend(filters.iter().map(String::as_str));
        let mut nextest = command::cargo(&args);
        nextest.env(URL_VARIABLE, postgres.url());
        counted(&mut nextest, nextest_counts)
    });
    postgres.stop("fast")?;
    drop(postgres);
    if !filters.is_empty() {
        return Ok(());
    }
    stages.run("doctests", || {
        counted(
            &mut command::cargo(&["test", "--doc", "--workspace", "--no-fail-fast"]),
            doctest_counts,
        )
    });
    stages.run("instruction counts", || {
        let counted = bench::instructions(false)?;
        println!("{counted:#}");
        Ok(Counts::one(true))
    });
    stages.run("models of threads", || crate::model::run(|_| {}));
    stages.run("simulator", || {
        crate::sim::run(&["--count".into(), SCHEDULES.into()])
    });
    let mut cli = None;
    stages.run("build cdc-cli", || {
        cli = Some(runs::build_cli(false)?);
        Ok(Counts::one(true))
    });
    if let Some(cli) = cli {
        for name in runs::NAMES {
            stages.run(name, || {
                let outcome = runs::run(name, &runs::Plan::short(cli.clone()));
                match &outcome {
                    Ok(report) => println!("{name}: {report}"),
                    Err(error) => println!("{name}: {error}"),
                }
                Ok(Counts::one(outcome.is_ok()))
            });
        }
    }
    Ok(())
}

/// Runs a test command; it holds only if its status does too.
pub(crate) fn counted(
    command: &mut Command,
    read: impl Fn(&str) -> Option<Counts>,
) -> Result<Counts> {
    let mut counts = Counts::default();
    let status = command::follow(command, |line| {
        if let Some(more) = read(line) {
            counts.add(more);
        }
    })?;
    if !status.success() && counts.failed == 0 {
        counts.failed = 1;
    }
    Ok(counts)
}

/// `Summary [   1.2s] 12 tests run: 10 passed (1 slow), 1 failed, 1 timed out, 3 skipped`.
fn nextest_counts(line: &str) -> Option<Counts> {
    let line = line.trim_start();
    let (_, tail) = line.strip_prefix("Summary [")?.split_once("run:")?;
    let mut counts = Counts::default();
    for part in tail.split(',') {
        let mut words = part.split_whitespace();
        let (Some(number), Some(what)) = (words.next(), words.next()) else {
            continue;
        };
        let Ok(number) = number.parse::<u64>() else {
            continue;
        };
        match what {
            "passed" => counts.passed += number,
            "skipped" => {}
            _ => counts.failed += number,
        }
    }
    Some(counts)
}

/// `test result: ok. 12 passed; 0 failed; 0 ignored; ...`.
pub(crate) fn doctest_counts(line: &str) -> Option<Counts> {
    let tail = line.strip_prefix("test result: ")?;
    let number = |what: &str| {
        tail.split([';', '.'])
            .find_map(|part| part.trim().strip_suffix(what)?.trim().parse::<u64>().ok())
            .unwrap_or(0)
    };
    Some(Counts {
        passed: number(" passed"),
        failed: number(" failed"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_the_test_runners_are_read() {
        for (line, expected) in [
            (
                "     Summary [   0.052s] 12 tests run: 12 passed, 0 skipped",
                Some((12, 0)),
            ),
            (
                "Summary [ 1s] 5/9 tests run: 2 passed (1 slow), 1 failed, 2 timed out, 1 skipped",
                Some((2, 3)),
            ),
            ("        PASS [   0.004s] xtask tests", None),
        ] {
            let counts = nextest_counts(line).map(|counts| (counts.passed, counts.failed));
            assert_eq!(counts, expected, "{line}");
        }
        let line =
            "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(
            doctest_counts(line),
            Some(Counts {
                passed: 12,
                failed: 3
            })
        );
        assert_eq!(doctest_counts("test src/lib.rs ... ok"), None);
    }
}
