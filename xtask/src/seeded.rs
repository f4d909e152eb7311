//! `seeded-bugs`: puts one deliberate fault after another into a copy of the workspace and shows
//! which layer of tests sees it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use crate::error::Context;
use crate::{Error, Result, command};

/// A deliberate fault.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bug {
    /// Its name.
    pub name: String,
    /// What is wrong then.
    pub what: String,
    /// Where, from the workspace's root.
    pub file: String,
    /// The text it replaces; occurs once.
    pub find: String,
    /// What stands there instead.
    pub with: String,
}

/// Schedules of the simulator, unless told otherwise.
const SCHEDULES: &str = "1000";

/// `cargo xtask seeded-bugs [NAME…] [--schedules N] [--sim-only]`.
///
/// # Errors
/// The list cannot be read, the workspace cannot be copied.
pub fn command(args: &[String]) -> Result<ExitCode> {
    let (mut names, mut schedules, mut sim_only) = (Vec::new(), SCHEDULES.to_owned(), false);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--schedules" => {
                let value = args.next();
                schedules
                    .clone_from(value.ok_or_else(|| Error::new("--schedules needs a number"))?);
            }
            "--sim-only" => sim_only = true,
            name => names.push(name.to_owned()),
        }
    }
    let list = crate::root().join("xtask/seeded-bugs.txt");
    let text = fs::read_to_string(&list).context(|| format!("read {}", list.display()))?;
    let bugs = parse(&text)?;
    let copy = command::target_dir()?.join("seeded-bugs");
    copy_workspace(&copy)?;
    let mut missed = 0;
    println!("| Bug | What | Caught by |\n|---|---|---|");
    for bug in bugs {
        if !names.is_empty() && !names.contains(&bug.name) {
            continue;
        }
        let caught = try_one(&copy, &bug, &schedules, sim_only)?;
        missed += u32::from(caught.is_none());
        let by = caught.unwrap_or_else(|| "**nothing**".into());
        println!("| `{}` | {} | {by} |", bug.name, bug.what);
    }
    Ok(if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Reads the list of faults.
///
/// # Errors
/// A line means nothing.
pub fn parse(text: &str) -> Result<Vec<Bug>> {
    let mut bugs: Vec<Bug> = Vec::new();
    for line in text.lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(head) = line.strip_prefix("bug ") {
            let (name, what) = head
                .split_once(": ")
                .ok_or_else(|| Error::new(format!("read the seeded bugs: {line:?}")))?;
            bugs.push(Bug {
                name: name.to_owned(),
                what: what.to_owned(),
                ..Bug::default()
            });
            continue;
        }
        let bug = bugs.last_mut();
        let bug = bug.ok_or_else(|| Error::new(format!("read the seeded bugs: {line:?}")))?;
        let add = |into: &mut String, line: &str| {
            if !into.is_empty() {
                into.push('\n');
            }
            into.push_str(line);
        };
        if let Some(file) = line.strip_prefix("in ") {
            file.clone_into(&mut bug.file);
        } else if let Some(line) = line.strip_prefix("-|") {
            add(&mut bug.find, line);
        } else if let Some(line) = line.strip_prefix("+|") {
            add(&mut bug.with, line);
        } else {
            return Err(Error::new(format!("read the seeded bugs: {line:?}")));
        }
    }
    Ok(bugs)
}

/// Copies what git knows, newer files only, so that the copy's builds stay warm.
fn copy_workspace(copy: &Path) -> Result<()> {
    let root = crate::root();
    let listed = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(&root)
        .output();
    let listed = listed.context(|| "list the workspace's files with git".to_owned())?;
    for name in String::from_utf8_lossy(&listed.stdout).split('\0') {
        let (from, to) = (root.join(name), copy.join(name));
        if name.is_empty() || !from.is_file() {
            continue;
        }
        let bytes = fs::read(&from).context(|| format!("read {}", from.display()))?;
        if fs::read(&to).is_ok_and(|there| there == bytes) {
            continue;
        }
        if let Some(dir) = to.parent() {
            fs::create_dir_all(dir).context(|| format!("create {}", dir.display()))?;
        }
        fs::write(&to, bytes).context(|| format!("write {}", to.display()))?;
    }
    Ok(())
}

/// What sees this fault; `None` if nothing does.
fn try_one(copy: &Path, bug: &Bug, schedules: &str, sim_only: bool) -> Result<Option<String>> {
    let path = copy.join(&bug.file);
    let Ok(whole) = fs::read_to_string(&path) else {
        return Ok(Some(format!("does not apply: no {}", bug.file)));
    };
    if whole.matches(&bug.find).count() != 1 {
        return Ok(Some("does not apply: the code has moved".into()));
    }
    let write = |text: &str| fs::write(&path, text).context(|| format!("write {}", path.display()));
    write(&whole.replacen(&bug.find, &bug.with, 1))?;
    let caught = layers(copy, bug, schedules, sim_only);
    write(&whole)?;
    caught
}

fn cargo_in(copy: &Path, args: &[&str]) -> Command {
    let mut cargo = command::cargo(args);
    cargo
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", copy.join("target"))
        .env("RUSTFLAGS", "-A warnings");
    cargo
}

fn layers(copy: &Path, bug: &Bug, schedules: &str, sim_only: bool) -> Result<Option<String>> {
    if !sim_only {
        let package = bug.file.split('/').next().unwrap_or_default();
        let mut tests = cargo_in(copy, &["nextest", "run", "--package", package]);
        let output = tests.stdin(Stdio::null()).output();
        let output = output.context(|| "run cargo nextest".to_owned())?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Ok(Some(failed_test(&text).map_or_else(
                || "does not build".to_owned(),
                |test| format!("`{test}`"),
            )));
        }
    }
    let build = [
        "build",
        "--package",
        "cdc-cli",
        "--features",
        "sim",
        "--bin",
        "cdc-sim",
    ];
    let output = cargo_in(copy, &build).output();
    if !output
        .context(|| "run cargo build".to_owned())?
        .status
        .success()
    {
        return Ok(Some("does not build".into()));
    }
    let simulator: PathBuf = copy.join("target/debug/cdc-sim");
    let output = Command::new(simulator)
        .args(["--count", schedules, "--failures", "1"])
        .output();
    let output = output.context(|| "run the simulator".to_owned())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let seed = text.lines().find(|line| line.starts_with("seed "));
    Ok(seed.map(|line| {
        let (seed, what) = line.split_once(": ").unwrap_or((line, ""));
        let what: String = what.chars().take(120).collect();
        format!("simulator, {seed}: {}", what.replace('|', "/"))
    }))
}

/// The first test that `nextest` says failed.
fn failed_test(text: &str) -> Option<&str> {
    let line = text.lines().find(|line| {
        let line = line.trim_start();
        line.starts_with("FAIL [") || line.starts_with("TIMEOUT [") || line.starts_with("SIGABRT [")
    })?;
    line.split_whitespace().last()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read() {
        let text = "# a comment\nbug one: it breaks\nin a/b.rs\n-|    x\n-|y\n+|z\n";
        let bugs = parse(text).unwrap();
        assert_eq!(
            bugs,
            [Bug {
                name: "one".into(),
                what: "it breaks".into(),
                file: "a/b.rs".into(),
                find: "    x\ny".into(),
                with: "z".into(),
            }]
        );
        assert!(parse("in a.rs").is_err());
        assert!(parse("bug no colon").is_err());
    }

    #[test]
    fn there_are_forty_and_their_names_differ() {
        let list = fs::read_to_string(crate::root().join("xtask/seeded-bugs.txt")).unwrap();
        let bugs = parse(&list).unwrap();
        assert!(bugs.len() >= 40, "{}", bugs.len());
        for (at, bug) in bugs.iter().enumerate() {
            assert!(!bug.find.is_empty() && bug.find != bug.with, "{}", bug.name);
            assert!(bugs[..at].iter().all(|other| other.name != bug.name));
        }
    }
}
