//! Following against SQLite itself, in both modes: several writers, checkpoints of every kind, the
//! database closed and opened, the follower stopped and begun again, looked at or not. Every
//! transaction carries a number, so that it is known which ones a merged one stands for.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cdc_core::storage::StdStorage;
use cdc_core::{ChangeEvent, Op, Position, Value};
use rusqlite::Connection;

use super::following::{Following, change, feed, is_merged};
use super::mirror::{Dump, Mirror, dump};
use super::workload::{Random, Workload};
use crate::sqlite::config::{Assist, Mode, SqliteConfig};
use crate::sqlite::files;
use crate::sqlite::follow::Looked;

const STEPS: u64 = 16;
/// Looks at the log after which what was committed must have come.
const LOOKS_MAX: u32 = 2_000_000;

/// One workload in one mode.
pub(super) struct Protocol {
    pub(super) seed: u64,
    config: SqliteConfig,
    following: Option<Following>,
    writers: Vec<Connection>,
    workload: Workload,
    random: Random,
    /// The tables after each numbered transaction, and after VACUUM gave their rows new numbers.
    truth: BTreeMap<i64, Vec<BTreeMap<String, Dump>>>,
    next: i64,
    mirror: Mirror,
    /// The number of the last transaction that came.
    came: i64,
    position: Position,
    confirmed: Position,
    pending: Vec<ChangeEvent>,
    /// What happened, for a failure.
    told: Vec<String>,
    told_before: Vec<String>,
    pub(super) merged: u64,
    pub(super) whole: u64,
    /// Never closed while SQLite has the files open here: that would drop its locks.
    held: Vec<Arc<File>>,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

fn open(path: &PathBuf, setup: &str) -> Connection {
    let db = Connection::open(path).unwrap();
    db.busy_timeout(Duration::from_secs(5)).unwrap();
    db.execute_batch(setup).unwrap();
    db
}

impl Protocol {
    pub(super) fn new(seed: u64, mode: Mode) -> Self {
        let mut random = Random::new(seed);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let page_size = 512u64 << random.below(8).min(random.below(8));
        let setup = format!(
            "PRAGMA page_size = {page_size}; PRAGMA encoding = '{}'; PRAGMA auto_vacuum = {}; \
             PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA cache_size = {}; \
             PRAGMA secure_delete = {}; PRAGMA wal_autocheckpoint = {}; PRAGMA recursive_triggers = ON; \
             CREATE TABLE IF NOT EXISTS marker(id INTEGER PRIMARY KEY, n INT);",
            random.pick(&["UTF-8", "UTF-16le", "UTF-16be"]),
            random.below(3),
            random.pick(&["10", "2000"]),
            random.pick(&["OFF", "ON", "FAST"]),
            random.pick(&["0", "5", "60", "1000"]),
        );
        let writers: Vec<Connection> = (0..1 + random.below(3))
            .map(|_| open(&path, &setup))
            .collect();
        let mut workload = Workload::new(random.clone(), page_size);
        writers[0]
            .execute_batch("INSERT INTO marker VALUES (1, 0)")
            .unwrap();
        for _ in 0..2 + random.below(3) {
            let create = workload.create();
            writers[0].execute_batch(&create).unwrap();
        }
        let config = SqliteConfig {
            mode,
            state_dir: Some(dir.path().join("state")),
            snapshot: true,
            assist: [Assist::Off, Assist::Soft, Assist::Hard]
                [usize::try_from(random.below(3)).unwrap()],
            soft_frames: 20,
            hard_frames: 60,
            busy_timeout: Duration::from_millis(200),
            ..SqliteConfig::new(&path)
        };
        let mut run = Self {
            seed,
            config,
            following: None,
            truth: BTreeMap::from([(0, vec![dump(&writers[0])])]),
            writers,
            workload,
            random,
            next: 1,
            mirror: Mirror::default(),
            came: 0,
            position: Position::ZERO,
            confirmed: Position::ZERO,
            pending: Vec::new(),
            told: Vec::new(),
            told_before: Vec::new(),
            merged: 0,
            whole: 0,
            held: Vec::new(),
            path,
            _dir: dir,
        };
        run.hold();
        run.start();
        run
    }

    /// Shares the descriptors the follower uses, and never lets them go.
    fn hold(&mut self) {
        for suffix in ["", "-shm"] {
            if let Ok((_, file)) = files::open(&self.config.beside(suffix)) {
                self.held.push(file);
            }
        }
    }

    fn start(&mut self) {
        let resume = (self.position > Position::ZERO).then_some(self.position);
        let mut following = Following::open(&self.config, &StdStorage::shared(), resume).unwrap();
        following.load().unwrap();
        if resume.is_none() {
            following.seed(&mut self.mirror);
        }
        self.following = Some(following);
        self.take();
    }

    fn poll(&mut self) -> Looked {
        let following = self.following.as_mut().unwrap();
        let looked = following.poll(self.confirmed).unwrap();
        self.take();
        looked
    }

    /// Applies what was handed over, transaction by transaction.
    fn take(&mut self) {
        let following = self.following.as_mut().unwrap();
        let mut events = std::mem::take(&mut self.pending);
        events.extend(following.take());
        for event in events {
            if event.position <= self.position {
                continue;
            }
            let last = event.last;
            self.pending.push(event);
            if last {
                let transaction = std::mem::take(&mut self.pending);
                self.apply(&transaction);
            }
        }
    }

    fn apply(&mut self, transaction: &[ChangeEvent]) {
        let mut number = None;
        let merged = is_merged(&transaction[0]);
        for event in transaction {
            assert!(event.position > self.position, "positions grow");
            assert_eq!(
                is_merged(event),
                merged,
                "all of a transaction or nothing is merged"
            );
            self.position = event.position;
            feed(&mut self.mirror, event);
            if &*event.relation.table == "marker" && event.op != Op::Schema {
                match event.after.row().unwrap().to_values().unwrap()[1] {
                    Value::Int(n) => number = Some(n),
                    ref other => panic!("{other:?}"),
                }
            }
        }
        let shown = |event: &ChangeEvent| match change(event) {
            Some(change) => format!("{change} {}", event.relation.table),
            None => format!("{} {}", event.op, event.relation.table),
        };
        let shown: Vec<String> = transaction.iter().map(shown).collect();
        self.told.push(format!(
            "-- came {number:?} merged {merged}: {}",
            shown.join(", ")
        ));
        let Some(number) = number else {
            // VACUUM and its like change no row; the next transaction is compared.
            return;
        };
        if merged {
            self.merged += 1;
            assert!(number > self.came, "{number} after {}", self.came);
        } else {
            self.whole += 1;
            let next = self.truth.range(self.came + 1..).next().map(|(n, _)| *n);
            let first = transaction[0].op == Op::Read;
            assert!(
                first || Some(number) == next,
                "{number} came after {}",
                self.came
            );
        }
        self.came = number;
        let states = &self.truth[&number];
        let state = states.iter().find(|state| self.mirror.may_be(state));
        self.mirror.check(state.unwrap_or(&states[0]));
    }

    fn write(&mut self) {
        let at = usize::try_from(self.random.below(self.writers.len() as u64)).unwrap();
        let db = &self.writers[at];
        let number = self.next;
        self.next += 1;
        self.workload.before_commit = Some(format!("UPDATE marker SET n = {number}"));
        let sql = self.workload.transaction(db);
        self.told.push(sql);
        let n: i64 = db
            .query_row("SELECT n FROM marker", [], |row| row.get(0))
            .unwrap();
        if n == number {
            self.truth.insert(number, vec![dump(db)]);
        } else if let Some(states) = self.truth.get_mut(&n) {
            states.push(dump(db));
        }
    }

    fn step(&mut self) {
        self.told_before = std::mem::take(&mut self.told);
        let writes = if self.random.one_in(4) {
            12
        } else {
            1 + self.random.below(3)
        };
        for _ in 0..writes {
            self.write();
            if self.random.one_in(6) {
                let mode = self
                    .random
                    .pick(&["PASSIVE", "FULL", "RESTART", "TRUNCATE"]);
                self.writers[0]
                    .busy_timeout(Duration::from_millis(1))
                    .unwrap();
                drop(self.writers[0].query_row(
                    &format!("PRAGMA wal_checkpoint({mode})"),
                    [],
                    |_| Ok(()),
                ));
                self.writers[0]
                    .busy_timeout(Duration::from_secs(5))
                    .unwrap();
            }
            if self.random.one_in(3) {
                self.poll();
            }
        }
        match self.random.below(10) {
            0 => {
                // Ours is stopped, and begun again, with or without the application going on meanwhile.
                self.following = None;
                self.pending.clear();
                for _ in 0..self.random.below(3) {
                    self.write();
                }
                if self.random.one_in(3) {
                    self.reopen();
                }
                self.start();
            }
            1 if self.config.mode == Mode::LockFree => self.reopen(),
            2 => self.confirmed = Position::end_of(self.position.commit),
            _ => {}
        }
        self.catch_up();
    }

    /// The application ends and begins again: the last to close takes the log away.
    fn reopen(&mut self) {
        let count = self.writers.len();
        self.writers.clear();
        for _ in 0..count {
            self.writers.push(open(
                &self.path,
                "PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 60",
            ));
        }
        // The files exist once they are used.
        let read =
            |db: &Connection| db.query_row("SELECT n FROM marker", [], |row| row.get::<_, i64>(0));
        read(&self.writers[0]).unwrap();
        self.hold();
    }

    fn catch_up(&mut self) {
        let newest = *self.truth.keys().next_back().unwrap();
        for _ in 0..LOOKS_MAX {
            if self.poll() == Looked::Still && self.came == newest {
                return;
            }
            std::thread::yield_now();
        }
        panic!("{} came, {newest} was committed", self.came);
    }

    /// As [`Run::with_long_keys`](super::oracle::Run::with_long_keys).
    pub(super) fn with_long_keys(mut self) -> Self {
        self.workload.prefix = 200 + self.random.below(6000);
        self
    }

    /// The whole workload.
    pub(super) fn all(&mut self) {
        for step in 0..STEPS {
            let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.step()));
            if let Err(panic) = told {
                println!(
                    "workload {} in mode {}, before step {step}:\n{}\n-- step {step}:\n{}",
                    self.seed,
                    self.config.mode.name(),
                    self.told_before.join(";\n"),
                    self.told.join(";\n")
                );
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Drop for Protocol {
    fn drop(&mut self) {
        self.following = None;
        self.writers.clear();
    }
}
