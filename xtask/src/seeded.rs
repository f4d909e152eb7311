//! `seeded-bugs`: puts one deliberate fault after another into a copy of the workspace and shows
//! which layer of tests sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use crate::command::Running;
use crate::error::Context;
use crate::{Error, Result, command, ensure};

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

/// What one fault came to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    /// The layer of tests that saw it; `None` if none did.
    layer: Option<String>,
    /// The seed or the test, and what it said.
    by: String,
}

/// Schedules of the simulator, unless told otherwise.
const SCHEDULES: &str = "1000";
/// Longest time one layer may take for one fault; what runs longer turns in circles.
const LIMIT: Duration = Duration::from_secs(40 * 60);
/// Address space of a test with a fault in it, in KiB: one that eats memory must not take the
/// machine with it.
const MEMORY_KIB: u64 = 12 << 20;
/// What the page says of a fault that no layer saw, and of one that no layer was shown.
const NOTHING: &str = "**nothing**";
const NOT_TRIED: &str = "not tried";
/// Where the results stand.
const TABLE: &str = "docs/seeded-bugs.md";

#[derive(Debug)]
struct Options {
    names: Vec<String>,
    schedules: String,
    sim_only: bool,
    again: bool,
    check: bool,
    write: bool,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self {
            names: Vec::new(),
            schedules: SCHEDULES.to_owned(),
            sim_only: false,
            again: false,
            check: false,
            write: false,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--schedules" => {
                    let value = args.next();
                    let value = value.ok_or_else(|| Error::new("--schedules needs a number"))?;
                    options.schedules.clone_from(value);
                }
                "--sim-only" => options.sim_only = true,
                "--again" => options.again = true,
                "--check" => options.check = true,
                "--write" => options.write = true,
                name if name.starts_with('-') => {
                    return Err(Error::new(format!("seeded-bugs: unknown option {name}")));
                }
                name => options.names.push(name.to_owned()),
            }
        }
        Ok(options)
    }
}

/// `cargo xtask seeded-bugs [NAME…] [--schedules N] [--sim-only] [--again] [--check] [--write]`.
///
/// Results of earlier calls are kept beside the copy and not run again, until the fault, the file
/// it is in or a test changes its result by `--again`.
///
/// # Errors
/// The list cannot be read, the workspace cannot be copied, a fault no longer applies, or a layer
/// is red without any fault.
pub fn command(args: &[String]) -> Result<ExitCode> {
    let options = Options::parse(args)?;
    let list = crate::root().join("xtask/seeded-bugs.txt");
    let text = fs::read_to_string(&list).context(|| format!("read {}", list.display()))?;
    let bugs = parse(&text)?;
    let stale = stale(&crate::root(), &bugs);
    if !stale.is_empty() {
        return Err(Error::new(format!(
            "apply the seeded bugs: the code of these has moved, mend them in {}: {}",
            list.display(),
            stale.join(", ")
        )));
    }
    if options.check {
        println!("{} faults apply", bugs.len());
        return Ok(ExitCode::SUCCESS);
    }
    let tree = Tree::open(command::target_dir()?.join("seeded-bugs"))?;
    let mut results = tree.results(&bugs)?;
    let mut layers = Layers::new(tree, &options);
    for bug in &bugs {
        let asked = options.names.is_empty() || options.names.contains(&bug.name);
        if !asked || (results.contains_key(&bug.name) && !options.again) {
            continue;
        }
        let outcome = layers.try_one(bug)?;
        println!(
            "{:<28} {}: {}",
            bug.name,
            outcome.layer.as_deref().unwrap_or("NOTHING"),
            outcome.by
        );
        layers.tree.record(bug, &outcome)?;
        results.insert(bug.name.clone(), outcome);
    }
    let seen = results.values().filter(|outcome| outcome.layer.is_some());
    let seen = seen.count();
    println!(
        "{seen} of {} faults seen, {} not tried",
        results.len(),
        bugs.len() - results.len()
    );
    let all_seen = seen == results.len();
    if options.write {
        let path = crate::root().join(TABLE);
        let page = fs::read_to_string(&path).context(|| format!("read {}", path.display()))?;
        let mut all = earlier(&page, &bugs);
        all.extend(results);
        let text = table(&bugs, &all);
        fs::write(&path, text).context(|| format!("write {}", path.display()))?;
    }
    Ok(if all_seen {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Names of the faults whose place is not found exactly once.
pub fn stale(root: &Path, bugs: &[Bug]) -> Vec<String> {
    let moved = bugs.iter().filter(|bug| {
        fs::read_to_string(root.join(&bug.file))
            .map_or(true, |text| text.matches(&bug.find).count() != 1)
    });
    moved.map(|bug| bug.name.clone()).collect()
}

/// The outcomes that a page has, of faults that are still in the list as they were.
fn earlier(page: &str, bugs: &[Bug]) -> BTreeMap<String, Outcome> {
    let mut outcomes = BTreeMap::new();
    for line in page.lines() {
        let row = line
            .strip_prefix("| `")
            .and_then(|row| row.strip_suffix(" |"));
        let mut cells = row.into_iter().flat_map(|row| row.splitn(5, " | "));
        let (Some(name), Some(what), Some(file), Some(layer), Some(by)) = (
            cells.next(),
            cells.next(),
            cells.next(),
            cells.next(),
            cells.next(),
        ) else {
            continue;
        };
        let bug = bugs.iter().find(|bug| {
            name.strip_suffix('`') == Some(&bug.name)
                && what == bug.what
                && file.trim_matches('`') == bug.file
        });
        if let Some(bug) = bug.filter(|_| layer != NOT_TRIED) {
            let outcome = Outcome {
                layer: (layer != NOTHING).then(|| layer.to_owned()),
                by: by.to_owned(),
            };
            outcomes.insert(bug.name.clone(), outcome);
        }
    }
    outcomes
}

/// The page with the results.
fn table(bugs: &[Bug], results: &BTreeMap<String, Outcome>) -> String {
    let mut layers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut rows = String::new();
    for bug in bugs {
        let (layer, by) = match results.get(&bug.name) {
            None => (NOT_TRIED, ""),
            Some(outcome) => (
                outcome.layer.as_deref().unwrap_or(NOTHING),
                outcome.by.as_str(),
            ),
        };
        *layers.entry(layer).or_default() += 1;
        // Writing to a string cannot fail.
        let _ = writeln!(
            rows,
            "| `{}` | {} | `{}` | {layer} | {by} |",
            bug.name, bug.what, bug.file
        );
    }
    let counts: Vec<_> = layers
        .iter()
        .map(|(layer, n)| format!("{layer}: {n}"))
        .collect();
    format!(
        "# Seeded bugs\n\n\
         Deliberate faults in the code that keeps the promise (`xtask/seeded-bugs.txt`), each put alone into a copy of the workspace, and the first\n\
         layer of tests that sees it: {SCHEDULES} schedules of the simulator, then the unit and integration tests of the crate, then the models of threads. A fault that nothing sees is a\n\
         missing test. This page is written by `cargo xtask seeded-bugs --write`; `--check` says whether every fault still applies. What a call does not try keeps the row of an earlier one.\n\n\
         {} faults. {}.\n\n\
         | Fault | What is wrong then | Where | Layer | Seen by |\n|---|---|---|---|---|\n{rows}",
        bugs.len(),
        counts.join(", ")
    )
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

/// A copy of the workspace to break, what was built of it, and what came of it.
#[derive(Debug)]
struct Tree {
    dir: PathBuf,
    /// Two would break it at the same time.
    _lock: fs::File,
}

impl Tree {
    /// Copies what git knows, changed files only, so that the copy's builds stay warm.
    fn open(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir).context(|| format!("create {}", dir.display()))?;
        let path = dir.join("lock");
        let lock = fs::File::create(&path).context(|| format!("create {}", path.display()))?;
        ensure!(
            lock.try_lock().is_ok(),
            "judge the seeded bugs in {}: another call does; wait for it",
            dir.display()
        );
        let root = crate::root();
        let listed = Command::new("git")
            .args(["ls-files", "-z"])
            .current_dir(&root)
            .output();
        let listed = listed.context(|| "list the workspace's files with git".to_owned())?;
        for name in String::from_utf8_lossy(&listed.stdout).split('\0') {
            let (from, to) = (root.join(name), dir.join(name));
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
        Ok(Self { dir, _lock: lock })
    }

    fn results_file(&self) -> PathBuf {
        self.dir.join("results.tsv")
    }

    /// Results of these very faults in these very files, from earlier calls.
    fn results(&self, bugs: &[Bug]) -> Result<BTreeMap<String, Outcome>> {
        let path = self.results_file();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).context(|| format!("read {}", path.display())),
        };
        let mut results = BTreeMap::new();
        for line in text.lines() {
            let mut parts = line.splitn(4, '\t');
            let (Some(name), Some(digest), Some(layer), Some(by)) =
                (parts.next(), parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            let bug = bugs.iter().find(|bug| bug.name == name);
            if bug.is_some_and(|bug| self.digest(bug) == digest) {
                let outcome = Outcome {
                    layer: (!layer.is_empty()).then(|| layer.to_owned()),
                    by: by.to_owned(),
                };
                results.insert(name.to_owned(), outcome);
            }
        }
        Ok(results)
    }

    fn record(&self, bug: &Bug, outcome: &Outcome) -> Result<()> {
        let path = self.results_file();
        let line = format!(
            "{}\t{}\t{}\t{}\n",
            bug.name,
            self.digest(bug),
            outcome.layer.as_deref().unwrap_or_default(),
            outcome.by.replace(['\t', '\n'], " ")
        );
        let file = fs::OpenOptions::new().create(true).append(true).open(&path);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .context(|| format!("append to {}", path.display()))
    }

    /// Changes when the fault or the file it is in changes.
    fn digest(&self, bug: &Bug) -> String {
        let mut hasher = std::hash::DefaultHasher::new();
        (
            &bug.find,
            &bug.with,
            fs::read(self.dir.join(&bug.file)).ok(),
        )
            .hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }

    fn cargo(&self, args: &[&str]) -> Command {
        let mut cargo = command::cargo(args);
        cargo
            .current_dir(&self.dir)
            .env("CARGO_TARGET_DIR", self.dir.join("target"))
            // Quick to build again: that is most of the time.
            .env("CARGO_PROFILE_SIM_OPT_LEVEL", "1")
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .env("RUSTFLAGS", "-A warnings");
        cargo
    }

    /// Runs a command to its end and gives what it wrote; `None` as its status if it did not end
    /// in time.
    fn run(&self, command: &mut Command) -> Result<(Option<bool>, String)> {
        let log = self.dir.join("last.log");
        fs::write(&log, []).context(|| format!("empty {}", log.display()))?;
        let mut running = Running::start(command, "a layer of tests", Some(&log))?;
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = running.ended()? {
                break Some(status.success());
            }
            if begin.elapsed() > LIMIT {
                running.kill()?;
                break None;
            }
            command::pause();
        };
        drop(running);
        let text = fs::read(&log).context(|| format!("read {}", log.display()))?;
        Ok((status, String::from_utf8_lossy(&text).into_owned()))
    }
}

/// The layers of tests, quickest to judge first.
struct Layers<'a> {
    tree: Tree,
    options: &'a Options,
    /// Layers that were seen green without any fault.
    green: BTreeSet<String>,
}

impl<'a> Layers<'a> {
    fn new(tree: Tree, options: &'a Options) -> Self {
        Self {
            tree,
            options,
            green: BTreeSet::new(),
        }
    }

    /// What sees this fault.
    fn try_one(&mut self, bug: &Bug) -> Result<Outcome> {
        let package = bug.file.split('/').next().unwrap_or_default().to_owned();
        self.must_be_green("simulator", Self::simulator)?;
        let by = self.with_fault(bug, Self::simulator)?;
        if let Some(by) = by {
            return Ok(Outcome {
                layer: Some("simulator".into()),
                by,
            });
        }
        if !self.options.sim_only {
            let tests = |this: &Self| this.tests(&package);
            self.must_be_green(&package, tests)?;
            if let Some(by) = self.with_fault(bug, tests)? {
                return Ok(Outcome {
                    layer: Some(format!("tests of {package}")),
                    by,
                });
            }
            if let Some(model) = model(&package) {
                let models = |this: &Self| this.models(model);
                self.must_be_green(&format!("models of {package}"), models)?;
                if let Some(by) = self.with_fault(bug, models)? {
                    return Ok(Outcome {
                        layer: Some("models of threads".into()),
                        by,
                    });
                }
            }
        }
        Ok(Outcome {
            layer: None,
            by: String::new(),
        })
    }

    fn must_be_green(
        &mut self,
        name: &str,
        layer: impl Fn(&Self) -> Result<Option<String>>,
    ) -> Result<()> {
        if self.green.contains(name) {
            return Ok(());
        }
        match layer(self)? {
            None => {
                self.green.insert(name.to_owned());
                Ok(())
            }
            Some(by) => Err(Error::new(format!(
                "judge the seeded bugs: {name} is red without any fault ({by}); mend that first"
            ))),
        }
    }

    fn with_fault(
        &self,
        bug: &Bug,
        layer: impl Fn(&Self) -> Result<Option<String>>,
    ) -> Result<Option<String>> {
        let path = self.tree.dir.join(&bug.file);
        let whole = fs::read_to_string(&path).context(|| format!("read {}", path.display()))?;
        let write =
            |text: &str| fs::write(&path, text).context(|| format!("write {}", path.display()));
        write(&whole.replacen(&bug.find, &bug.with, 1))?;
        let seen = layer(self);
        write(&whole)?;
        seen
    }

    /// The seed that saw something, and what.
    fn simulator(&self) -> Result<Option<String>> {
        let mut build = self.tree.cargo(&[
            "build",
            "--package",
            "cdc-cli",
            "--features",
            "sim",
            "--bin",
            "cdc-sim",
            "--profile",
            "sim",
        ]);
        let (built, said) = self.tree.run(&mut build)?;
        if built != Some(true) {
            return Err(Error::new(format!("build the simulator: {}", tail(&said))));
        }
        let mut simulator = limited(&self.tree.dir.join("target/sim/cdc-sim"));
        simulator.args(["--count", &self.options.schedules, "--failures", "1"]);
        let (held, said) = self.tree.run(&mut simulator)?;
        let line = said.lines().find(|line| line.starts_with("seed "));
        Ok(match (held, line) {
            (Some(true), _) => None,
            (_, Some(line)) => {
                let (seed, what) = line.split_once(": ").unwrap_or((line, ""));
                Some(format!("{seed}: {}", shortened(what)))
            }
            (None, None) => Some("a schedule does not end".into()),
            (Some(false), None) => Some(format!("it dies: {}", shortened(tail(&said)))),
        })
    }

    /// The test that failed.
    fn tests(&self, package: &str) -> Result<Option<String>> {
        let args = ["nextest", "run", "--no-run", "--package", package];
        let (built, said) = self.tree.run(&mut self.tree.cargo(&args))?;
        if built != Some(true) {
            return Err(Error::new(format!(
                "build the tests of {package}: {}",
                tail(&said)
            )));
        }
        let args = ["nextest", "run", "--fail-fast", "--package", package];
        let (held, said) = self.tree.run(&mut self.tree.cargo(&args))?;
        Ok(match (held, failed_test(&said)) {
            (Some(true), _) => None,
            (_, Some(test)) => Some(format!("`{test}`")),
            (_, None) => Some(format!("they do not end: {}", shortened(tail(&said)))),
        })
    }

    /// The model that failed.
    fn models(&self, model: &[&str]) -> Result<Option<String>> {
        let (held, said) = self
            .tree
            .run(&mut self.tree.cargo(&[&["test"], model].concat()))?;
        if said.contains("error: could not compile") {
            return Err(Error::new(format!("build the models: {}", tail(&said))));
        }
        let failed = said.lines().find_map(|line| {
            let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
            (outcome == "FAILED").then_some(name)
        });
        Ok(match (held, failed) {
            (Some(true), _) => None,
            (_, Some(name)) => Some(format!("`{name}`")),
            (_, None) => Some(format!("they do not end: {}", shortened(tail(&said)))),
        })
    }
}

/// How the models of a package are built and run; `None` if it has none.
fn model(package: &str) -> Option<&'static [&'static str]> {
    let mut models = crate::model::MODELS.into_iter();
    models.find(|model| model.contains(&package))
}

/// A program with a bound on its memory.
fn limited(program: &Path) -> Command {
    let mut command = Command::new("sh");
    let script = format!("ulimit -v {MEMORY_KIB}; exec \"$0\" \"$@\"");
    command.args(["-c", &script]).arg(program);
    command
}

fn tail(text: &str) -> &str {
    text.trim_end().lines().last().unwrap_or_default()
}

/// A line for the table, without what would break it.
fn shortened(what: &str) -> String {
    let what: String = what.chars().take(120).collect();
    what.replace('|', "/")
}

/// The first test that `nextest` says failed.
fn failed_test(text: &str) -> Option<&str> {
    let line = text.lines().find(|line| {
        let line = line.trim_start();
        ["FAIL [", "TIMEOUT [", "SIGABRT [", "SIGSEGV ["]
            .iter()
            .any(|begin| line.starts_with(begin))
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

    #[test]
    fn a_page_keeps_the_rows_of_what_is_not_tried_again() {
        let bug = |name: &str, what: &str| Bug {
            name: name.into(),
            what: what.into(),
            file: "a/b.rs".into(),
            ..Bug::default()
        };
        let bugs = [
            bug("one", "it breaks"),
            bug("two", "so"),
            bug("three", "new"),
        ];
        let outcome = |layer: Option<&str>, by: &str| Outcome {
            layer: layer.map(str::to_owned),
            by: by.into(),
        };
        let results = BTreeMap::from([
            (
                "one".to_owned(),
                outcome(Some("simulator"), "seed 1: a | b"),
            ),
            ("two".to_owned(), outcome(None, "")),
        ]);
        let page = table(&bugs, &results);
        assert_eq!(earlier(&page, &bugs), results);
        let changed = [bug("one", "it breaks elsewhere"), bug("two", "so")];
        assert_eq!(earlier(&page, &changed).len(), 1, "another fault by now");
    }

    #[test]
    fn every_fault_applies() {
        let root = crate::root();
        let list = fs::read_to_string(root.join("xtask/seeded-bugs.txt")).unwrap();
        let moved = stale(&root, &parse(&list).unwrap());
        assert!(moved.is_empty(), "mend these: {}", moved.join(", "));
    }
}
