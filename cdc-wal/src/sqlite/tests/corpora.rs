//! Workloads that others wrote (`tests/corpora`), run by the `sqlite3` command while we follow: the
//! copy that is kept up by changes only must be what SQLite reads.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use cdc_core::storage::StdStorage;
use cdc_core::{ChangeEvent, Position};
use rusqlite::Connection;

use super::following::{Following, feed, is_merged};
use super::mirror::{Mirror, dump};
use super::workload::Random;
use crate::sqlite::config::{Mode, SqliteConfig};
use crate::sqlite::files;

const CORPORA: [(&str, &str); 3] = [
    (
        "speedtest1",
        include_str!("../../../tests/corpora/speedtest1.sql"),
    ),
    (
        "cpython",
        include_str!("../../../tests/corpora/cpython.sql"),
    ),
    ("django", include_str!("../../../tests/corpora/django.sql")),
];
/// A database of its own begins there: what was there before is dropped.
const SECTION: &str = "-- database ";
/// Statements that are run before the tables are compared again.
const COMPARED: usize = 60;

/// Somebody else's program.
pub(super) struct Shell {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    told: u64,
}

impl Shell {
    pub(super) fn open(path: &Path) -> Self {
        let mut child = Command::new("sqlite3")
            .arg("-batch")
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Some statements are meant to fail, and some fail without what their program had.
            .stderr(Stdio::null())
            .spawn()
            .expect("the command sqlite3: install the package sqlite3");
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            stdin,
            stdout,
            told: 0,
        }
    }

    /// Runs statements and waits for their end; gives the lines they print.
    pub(super) fn run(&mut self, sql: &str) -> Vec<String> {
        self.told += 1;
        let mark = format!("-- done {} --", self.told);
        writeln!(self.stdin, "{sql}\n.print {mark}").unwrap();
        let mut printed = Vec::new();
        loop {
            let mut line = String::new();
            let read = self.stdout.read_line(&mut line).unwrap();
            assert!(read > 0, "the shell ended at {sql}");
            if line.trim_end() == mark {
                return printed;
            }
            printed.push(line.trim_end().to_owned());
        }
    }

    /// Ends what is open, and drops everything.
    fn clear(&mut self) {
        self.run("COMMIT;");
        let drops = self.run(
            "SELECT 'DROP ' || type || ' IF EXISTS \"' || replace(name, '\"', '\"\"') || '\";' FROM sqlite_schema \
             WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite~_%' ESCAPE '~';",
        );
        self.run(&drops.join("\n"));
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // It ends at the end of its input in any case.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One follower behind one corpus.
struct Play {
    // Dropped first: the copy's connection shares its locks with the follower.
    following: Following,
    reader: Connection,
    shell: Shell,
    mirror: Mirror,
    position: Position,
    events: u64,
    merged: u64,
    _held: Vec<Arc<std::fs::File>>,
    _dir: tempfile::TempDir,
}

impl Play {
    fn new(random: &mut Random, mode: Mode) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let mut shell = Shell::open(&path);
        shell.run(&format!(
            "PRAGMA page_size = {}; PRAGMA encoding = '{}'; PRAGMA auto_vacuum = {}; PRAGMA journal_mode = WAL; \
             PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = {}; CREATE TABLE first(x); DROP TABLE first;",
            512u64 << random.below(8),
            random.pick(&["UTF-8", "UTF-16le", "UTF-16be"]),
            random.below(3),
            random.pick(&["20", "200", "1000"]),
        ));
        let config = SqliteConfig {
            mode,
            state_dir: Some(dir.path().join("state")),
            snapshot: true,
            include_shadow_tables: true,
            soft_frames: 50,
            hard_frames: 200,
            ..SqliteConfig::new(&path)
        };
        // Never closed while SQLite has the files open here: that would drop its locks.
        let held = ["", "-shm"].map(|suffix| files::open(&config.beside(suffix)).unwrap().1);
        let reader = Connection::open(&path).unwrap();
        let mut following = Following::open(&config, &StdStorage::shared(), None).unwrap();
        following.load().unwrap();
        let mut mirror = Mirror::default();
        following.seed(&mut mirror);
        Self {
            position: following.floor,
            following,
            reader,
            shell,
            mirror,
            events: 0,
            merged: 0,
            _held: held.into(),
            _dir: dir,
        }
    }

    fn take(&mut self) {
        let events = self.following.take();
        self.apply(&events);
    }

    fn apply(&mut self, events: &[ChangeEvent]) {
        for event in events {
            assert!(event.position > self.position, "positions grow");
            self.position = event.position;
            self.events += 1;
            self.merged += u64::from(event.last && is_merged(event));
            feed(&mut self.mirror, event);
        }
    }

    fn look(&mut self) {
        self.following.poll(self.position).unwrap();
        self.take();
    }

    fn compare(&mut self) {
        self.following.catch_up(self.position).unwrap();
        self.take();
        self.mirror.check(&dump(&self.reader));
    }

    /// Statement by statement, looked at now and then.
    fn step(&mut self, lines: &[&str], random: &mut Random) {
        for compared in lines.chunks(COMPARED) {
            let mut rest = compared;
            while !rest.is_empty() {
                let some = rest
                    .len()
                    .min(1 + usize::try_from(random.below(12)).unwrap());
                let (now, later) = rest.split_at(some);
                self.shell.run(&now.join("\n"));
                if random.one_in(2) {
                    self.look();
                }
                rest = later;
            }
            self.compare();
        }
    }

    /// At the shell's speed, looked at all the time.
    fn beside(&mut self, lines: &[&str]) {
        let Self {
            following, shell, ..
        } = self;
        let mut events = Vec::new();
        let (all, position) = (lines.join("\n"), self.position);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| shell.run(&all));
            while !writer.is_finished() {
                following.poll(position).unwrap();
                events.extend(following.take());
            }
        });
        self.apply(&events);
        self.compare();
    }
}

fn play(name: &str, sql: &str, seed: u64, mode: Mode, beside: bool) -> (u64, u64) {
    let mut random = Random::new(seed);
    let mut play = Play::new(&mut random, mode);
    let mut sections: Vec<Vec<&str>> = Vec::new();
    for line in sql.lines() {
        if line.starts_with(SECTION) {
            sections.push(Vec::new());
        } else if let Some(section) = sections.last_mut() {
            section.push(line);
        }
    }
    assert!(!sections.is_empty(), "{name} has no section");
    for section in sections {
        if beside {
            play.beside(&section);
        } else {
            play.step(&section, &mut random);
        }
        play.shell.clear();
    }
    if mode == Mode::Pinned {
        assert_eq!(
            play.merged, 0,
            "{name}: with the log held nothing is merged"
        );
    }
    (play.events, play.merged)
}

/// Each corpus once in each mode, one of them step by step; `cargo xtask run sqlite-corpora` asks for
/// both ways, and more of them.
fn corpus(which: usize) {
    let number = |name: &str, default: u64| match std::env::var(name) {
        Ok(text) => text.parse().expect("a number in the environment"),
        Err(_) => default,
    };
    let (times, seed) = (
        number("CDC_SQLITE_REPLAYS", 0),
        number("CDC_SQLITE_SEED", 1),
    );
    let (name, sql) = CORPORA[which];
    for mode in [Mode::Pinned, Mode::LockFree] {
        let mut told = BTreeMap::new();
        for time in 0..times.max(1) {
            for beside in [false, true] {
                if times == 0 && beside == (mode == Mode::Pinned) {
                    continue;
                }
                let (events, merged) = play(name, sql, seed + time, mode, beside);
                assert!(events > 0, "{name}: nothing came");
                let sum: &mut (u64, u64) = told.entry(beside).or_default();
                *sum = (sum.0 + events, sum.1 + merged);
            }
        }
        println!(
            "{name}, {}: {told:?} (beside the writer: events, merged)",
            mode.name()
        );
    }
}

#[test]
fn speedtest1_is_followed() {
    corpus(0);
}

#[test]
fn the_tests_of_python_are_followed() {
    corpus(1);
}

#[test]
fn django_is_followed() {
    corpus(2);
}
