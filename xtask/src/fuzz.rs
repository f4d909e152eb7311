//! `fuzz`: builds the fuzz targets and runs each for a while.
//!
//! The targets are in `*/fuzz`, outside the workspace; what they call is behind the feature `fuzzing` of
//! the crate. Their corpora are committed and replayed by ordinary tests, so that nothing here is
//! needed for a green run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::error::Context;
use crate::options::Options;
use crate::{Error, Result, command, ensure};

/// The crates that have targets.
const CRATES: [&str; 5] = ["cdc-core", "cdc-filter", "cdc-dlq", "cdc-wal", "cdc-cli"];
/// Longest input, unless an input of the corpus is longer.
const INPUT_BYTES_MAX: u64 = 4096;
/// A target that takes longer for one input, or more memory, has failed.
const INPUT_SECONDS_MAX: u64 = 20;
const MEMORY_MIB_MAX: u64 = 1024;
/// All corpora together must stay small: they are part of every checkout.
const CORPUS_BYTES_MAX: u64 = 400 << 10;

/// One target.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    package: &'static str,
    name: String,
}

/// What a run of one came to.
#[derive(Debug, Default)]
struct Outcome {
    executions: u64,
    covered: u64,
    /// Seconds after which nothing more was covered.
    grew_until: u64,
    failed: bool,
}

impl Outcome {
    fn line(&self, target: &Target) -> String {
        format!(
            "{:<18} {:>12} executions {:>6} places covered, the last after {:>5} s  {}",
            target.name,
            self.executions,
            self.covered,
            self.grew_until,
            if self.failed { "FAILED" } else { "held" }
        )
    }
}

/// `cargo xtask fuzz [TARGET…|all] [--secs N] [--jobs N] [--sanitizer none|address] [--keep]`.
///
/// # Errors
/// A tool is missing, a target does not build, or there is no such target.
pub fn command(args: &[String]) -> Result<ExitCode> {
    let options = Options::parse(
        args,
        &["--secs", "--jobs", "--sanitizer"],
        &["--keep", "--list"],
    )?;
    let targets = targets()?;
    let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
    let asked = options.words();
    if let Some(unknown) = asked
        .iter()
        .find(|name| *name != "all" && !names.contains(&name.as_str()))
    {
        return Err(Error::new(format!(
            "there is no target {unknown}; known: {}",
            names.join(", ")
        )));
    }
    let all = asked.is_empty() || asked.iter().any(|name| name == "all");
    let wanted: Vec<&Target> = targets
        .iter()
        .filter(|target| all || asked.contains(&target.name))
        .collect();
    if options.flag("--list") {
        println!("{}", names.join("\n"));
        return Ok(ExitCode::SUCCESS);
    }
    let seconds: u64 = options.get("--secs", 60)?;
    let sanitizer = options.text("--sanitizer").unwrap_or("none");
    let tool = Command::new("cargo").args(["fuzz", "--version"]).output();
    ensure!(
        tool.is_ok_and(|output| output.status.success()),
        "run the fuzz targets: cargo-fuzz is missing; install it with `cargo install cargo-fuzz`"
    );
    let jobs: usize = options.get("--jobs", 1)?;
    ensure!((1..=64).contains(&jobs), "--jobs: between 1 and 64");
    let work = command::target_dir()?.join("fuzz");
    for target in &wanted {
        build(target, sanitizer, &work)?;
    }
    let outcomes = run_all(&wanted, seconds, jobs, &work);
    let mut failed = 0;
    println!();
    for (target, outcome) in wanted.iter().zip(outcomes) {
        let outcome = outcome?;
        println!("{}", outcome.line(target));
        failed += u32::from(outcome.failed);
        if options.flag("--keep") && !outcome.failed {
            keep(target, &work)?;
        }
    }
    println!("{failed} failed");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs them, `jobs` at a time; the outcomes stand as the targets do. Each is told when it has ended.
fn run_all(wanted: &[&Target], seconds: u64, jobs: usize, work: &Path) -> Vec<Result<Outcome>> {
    let next = AtomicUsize::new(0);
    let outcomes: Mutex<Vec<(usize, Result<Outcome>)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(target) = wanted.get(at) else {
                        return;
                    };
                    let outcome = run(target, seconds, work);
                    if let Ok(outcome) = &outcome {
                        println!("{}", outcome.line(target));
                    }
                    let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
                    outcomes.push((at, outcome));
                }
            });
        }
    });
    let mut outcomes = outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|(at, _)| *at);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Every target there is, by the names of the files.
fn targets() -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for package in CRATES {
        let dir = crate::root().join(package).join("fuzz/fuzz_targets");
        let files = fs::read_dir(&dir).context(|| format!("list {}", dir.display()))?;
        let mut names: Vec<String> = files
            .filter_map(|file| file.ok()?.path().file_stem()?.to_str().map(str::to_owned))
            .map(|name| name.replace('_', "-"))
            .collect();
        names.sort();
        targets.extend(names.into_iter().map(|name| Target { package, name }));
    }
    Ok(targets)
}

fn folder(target: &Target) -> PathBuf {
    crate::root().join(target.package).join("fuzz")
}

fn build(target: &Target, sanitizer: &str, work: &Path) -> Result<()> {
    let folder = folder(target);
    // The same versions as everywhere; what only fuzzing needs is added to it.
    let lock = folder.join("Cargo.lock");
    if !lock.exists() {
        let own = crate::root().join("Cargo.lock");
        fs::copy(&own, &lock).context(|| format!("copy {}", own.display()))?;
    }
    let mut cargo = command::cargo(&["fuzz", "build", "--sanitizer", sanitizer]);
    cargo.arg("--fuzz-dir").arg(&folder);
    cargo.arg("--target-dir").arg(work.join("build"));
    cargo.arg(&target.name);
    // The one toolchain there is; instrumentation is not stable.
    cargo.env("RUSTC_BOOTSTRAP", "1");
    command::check(&mut cargo).context(|| format!("build the fuzz target {}", target.name))
}

/// The built program: cargo names the folder after the machine.
fn program(target: &Target, work: &Path) -> Result<PathBuf> {
    let build = work.join("build");
    let machines = fs::read_dir(&build).context(|| format!("list {}", build.display()))?;
    let mut programs = machines
        .filter_map(|machine| Some(machine.ok()?.path().join("release").join(&target.name)))
        .filter(|program| program.is_file());
    programs.next().ok_or_else(|| {
        Error::new(format!(
            "find the fuzz target {} that was built",
            target.name
        ))
    })
}

/// Where new inputs go: beside the corpus, so that a run does not change the sources.
fn found(target: &Target, work: &Path) -> PathBuf {
    work.join("found").join(&target.name)
}

fn run(target: &Target, seconds: u64, work: &Path) -> Result<Outcome> {
    let corpus = folder(target).join("corpus").join(&target.name);
    let found = found(target, work);
    let failures = work.join("failures");
    for folder in [&found, &failures] {
        fs::create_dir_all(folder).context(|| format!("create {}", folder.display()))?;
    }
    let mut fuzzer = Command::new(program(target, work)?);
    fuzzer
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
        .arg(format!("-max_len={INPUT_BYTES_MAX}"))
        .args(["-print_final_stats=1", "-use_value_profile=1"])
        .arg(format!(
            "-artifact_prefix={}/{}-",
            failures.display(),
            target.name
        ))
        .arg(&found)
        .arg(&corpus)
        .current_dir(work)
        // Logs of what is refused would drown the fuzzer's own lines.
        .env("RUST_LOG", "off");
    let mut outcome = Outcome::default();
    let mut said = Vec::new();
    let begin = Instant::now();
    let status = command::follow_quietly(&mut fuzzer, |line| {
        if let Some(number) = line.strip_prefix("stat::number_of_executed_units:") {
            outcome.executions = number.trim().parse().unwrap_or(0);
        }
        let covered = line.split_once(" cov: ").map(|(_, rest)| rest);
        if let Some(number) = covered.and_then(|rest| rest.split(' ').next()?.parse().ok()) {
            if number > outcome.covered {
                outcome.grew_until = begin.elapsed().as_secs();
            }
            outcome.covered = number;
        } else if !line.starts_with("stat::") && !line.starts_with('#') {
            said.push(line.to_owned());
        }
    })?;
    outcome.failed = !status.success();
    if outcome.failed {
        let tail = said.len().saturating_sub(40);
        println!("{}", said[tail..].join("\n"));
        println!(
            "{}: the input is in {}; mend what it shows and copy it to {}/regression-…",
            target.name,
            failures.display(),
            corpus.display()
        );
    }
    Ok(outcome)
}

/// Adds to the corpus what covers more than it does, smallest inputs first, within its bound.
fn keep(target: &Target, work: &Path) -> Result<()> {
    let corpus = folder(target).join("corpus").join(&target.name);
    let merged = work.join("merged").join(&target.name);
    if merged.exists() {
        fs::remove_dir_all(&merged).context(|| format!("empty {}", merged.display()))?;
    }
    fs::create_dir_all(&merged).context(|| format!("create {}", merged.display()))?;
    let mut fuzzer = Command::new(program(target, work)?);
    fuzzer.args(["-merge=1", "-rss_limit_mb=2048"]);
    fuzzer.arg(&merged).arg(&corpus).arg(found(target, work));
    fuzzer.current_dir(work).env("RUST_LOG", "off");
    command::follow_quietly(&mut fuzzer, |_| {})?;
    let mut inputs = Vec::new();
    for input in fs::read_dir(&merged).context(|| format!("list {}", merged.display()))? {
        let path = input.context(|| "list the merged inputs")?.path();
        let bytes = fs::read(&path).context(|| format!("read {}", path.display()))?;
        inputs.push((bytes.len() as u64, path, bytes));
    }
    inputs.sort();
    let share = CORPUS_BYTES_MAX / 6;
    let mut used = 0;
    for (length, path, bytes) in inputs {
        used += length;
        if used > share {
            break;
        }
        let name = path.file_name().unwrap_or_default();
        let to = corpus.join(name);
        fs::write(&to, bytes).context(|| format!("write {}", to.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes a folder's files have.
    fn size(folder: &Path) -> u64 {
        let files = fs::read_dir(folder).unwrap();
        files
            .map(|file| file.unwrap().metadata().unwrap().len())
            .sum()
    }

    #[test]
    fn every_target_is_declared_and_has_a_corpus_within_its_bound() {
        for target in targets().unwrap() {
            let folder = folder(&target);
            let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
            let declared = format!("name = \"{}\"", target.name);
            assert!(manifest.contains(&declared), "{declared}");
            let source = target.name.replace('-', "_");
            let source = folder.join(format!("fuzz_targets/{source}.rs"));
            let calls = format!("run(\"{}\", data)", target.name);
            assert!(
                fs::read_to_string(source).unwrap().contains(&calls),
                "{calls}"
            );
            let size = size(&folder.join("corpus").join(&target.name));
            assert!((1..=CORPUS_BYTES_MAX).contains(&size), "{declared}: {size}");
        }
    }
}
