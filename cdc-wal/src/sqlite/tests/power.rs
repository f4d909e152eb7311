//! Loss of power: of what we keep, only what was synced is sure to be there afterwards, and the
//! application's last transactions may be gone too. What the consumer has made durable, and what
//! comes then, applied by key, gives the tables; or capture is refused by name.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cdc_core::testing::sim_storage::{Failure, SimStorage};
use cdc_core::{
    ChangeEvent, Image, Lineage, Lsn, Op, Position, RowImage, SourceError, SourceErrorKind,
};
use rusqlite::Connection;

use super::following::Following;
use super::mirror::dump;
use super::workload::Random;
use crate::sqlite::config::{Assist, Mode, SqliteConfig};
use crate::sqlite::downstream::{Downstream, TakeBack};
use crate::sqlite::files;

/// Looks at the log after which what was committed must have come.
const LOOKS_MAX: u32 = 1_000_000;

const TABLES: &str = "PRAGMA page_size = 512; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; \
    PRAGMA wal_autocheckpoint = 0; \
    CREATE TABLE numbered(id INTEGER PRIMARY KEY, x BLOB); \
    CREATE TABLE named(a TEXT PRIMARY KEY, x BLOB) WITHOUT ROWID; \
    PRAGMA wal_checkpoint(TRUNCATE);";

/// Rows by table and encoded key: what a consumer has that applies each change by key.
type Copy = BTreeMap<(String, Vec<u8>), Vec<u8>>;

fn place(event: &ChangeEvent, row: &RowImage) -> ((String, Vec<u8>), Vec<u8>) {
    // The key is the first column of both tables.
    let key = row.columns().unwrap().next_raw().unwrap().unwrap().to_vec();
    let key = (event.relation.table.to_string(), key);
    (key, row.as_bytes().to_vec())
}

fn apply(copy: &mut Copy, event: &ChangeEvent) {
    let place = |image: &Image| place(event, image.row().unwrap());
    match event.op {
        Op::Insert | Op::Update | Op::Read => {
            let (key, row) = place(&event.after);
            copy.insert(key, row);
        }
        Op::Delete => {
            copy.remove(&place(&event.before).0);
        }
        Op::Schema => {}
        other => panic!("{other}"),
    }
}

fn truth(db: &Connection) -> Vec<Vec<u8>> {
    let tables = dump(db).into_values();
    let mut rows: Vec<Vec<u8>> = tables.flat_map(|table| table.rows.into_values()).collect();
    rows.sort_unstable();
    rows
}

fn rows(copy: &Copy) -> Vec<Vec<u8>> {
    let mut rows: Vec<Vec<u8>> = copy.values().cloned().collect();
    rows.sort_unstable();
    rows
}

/// What is durable downstream.
#[derive(Default)]
struct Record {
    copy: Copy,
    end: Position,
    /// All that was applied since the begin.
    events: Vec<ChangeEvent>,
    /// It can be taken back, as a journal can.
    turns: bool,
}

impl Record {
    fn end(&self) -> Option<Position> {
        (self.end > Position::ZERO).then_some(self.end)
    }

    fn keep(&mut self, event: ChangeEvent) {
        apply(&mut self.copy, &event);
        self.end = if event.last {
            Position::end_of(event.position.commit)
        } else {
            event.position
        };
        self.events.push(event);
    }
}

impl Downstream for Record {
    fn end(&self) -> Option<Position> {
        self.end()
    }

    fn furthest(&self) -> Option<Position> {
        self.end()
    }

    fn take_back(
        &mut self,
        _lineage: Lineage,
        behind: Position,
        commit: Lsn,
    ) -> Result<bool, SourceError> {
        if !self.turns {
            return Ok(false);
        }
        let mut back = TakeBack::new();
        for event in self.events.iter().filter(|event| event.position > behind) {
            back.push(event)?;
        }
        assert!(
            Position::before(commit) >= self.end,
            "it comes after everything"
        );
        for event in back.events(commit, 0) {
            let (key, row) = place(&event, event.before.row().or(event.after.row()).unwrap());
            let there = self.copy.get(&key);
            let expected = event.before.row().map(|_| &row);
            assert_eq!(there, expected, "the consumer has what is taken back");
            self.keep(event);
        }
        self.end = Position::end_of(commit);
        Ok(true)
    }
}

/// A database, its follower, and a consumer whose disk keeps what it says it keeps.
struct Machine {
    following: Option<Following>,
    db: Option<Connection>,
    disk: SimStorage,
    config: SqliteConfig,
    random: Random,
    record: Record,
    /// What came and is not.
    taken: Vec<ChangeEvent>,
    refused: u64,
    taken_back: u64,
    path: PathBuf,
    held: Vec<Arc<File>>,
    _dir: tempfile::TempDir,
}

impl Machine {
    fn new(seed: u64, mode: Mode) -> Self {
        let random = Random::new(seed);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch(TABLES).unwrap();
        let config = SqliteConfig {
            mode,
            state_dir: Some(PathBuf::from("/state")),
            snapshot: true,
            // The log keeps what was committed, so that a lost end of it can be made.
            assist: Assist::Off,
            // Small, so that the copy is brought forward all the time.
            archive_bytes_max: 60_000,
            busy_timeout: Duration::from_millis(200),
            ..SqliteConfig::new(&path)
        };
        let mut machine = Self {
            following: None,
            db: Some(db),
            disk: SimStorage::new(),
            config,
            random,
            record: Record {
                turns: seed.is_multiple_of(2),
                ..Record::default()
            },
            taken: Vec::new(),
            refused: 0,
            taken_back: 0,
            path,
            held: Vec::new(),
            _dir: dir,
        };
        machine.hold();
        machine
    }

    /// Shares the descriptors the follower uses, and never lets them go.
    fn hold(&mut self) {
        for suffix in ["", "-shm"] {
            if let Ok((_, file)) = files::open(&self.config.beside(suffix)) {
                self.held.push(file);
            }
        }
    }

    fn write(&mut self) {
        let (n, size) = (self.random.below(60), 1 + self.random.below(1500));
        let sql = match self.random.below(8) {
            0..=2 => format!("INSERT OR REPLACE INTO numbered VALUES ({n}, randomblob({size}))"),
            3 => format!("DELETE FROM numbered WHERE id % 7 = {n} % 7"),
            4..=5 => format!("INSERT OR REPLACE INTO named VALUES ('k{n}', randomblob({size}))"),
            6 => format!("UPDATE numbered SET x = randomblob({size} / 3) WHERE id % 5 = {n} % 5"),
            _ => format!("DELETE FROM named WHERE a < 'k{n}'"),
        };
        self.db.as_ref().unwrap().execute_batch(&sql).unwrap();
    }

    /// One look; false if the disk failed.
    fn look(&mut self) -> bool {
        let following = self.following.as_mut().unwrap();
        let looked = following.poll(self.record.end);
        self.taken.extend(following.take());
        looked.is_ok()
    }

    /// The consumer's disk has everything up to one of the events that came.
    fn keep_some(&mut self) {
        let some = self.random.below(self.taken.len() as u64 + 1);
        self.keep(usize::try_from(some).unwrap());
    }

    fn keep(&mut self, count: usize) {
        for event in self.taken.drain(..count) {
            // The rest of a transaction comes with what was kept of it.
            if event.position > self.record.end {
                self.record.keep(event);
            }
        }
    }

    /// Begins, or begins again; false if the disk failed meanwhile.
    fn start(&mut self) -> bool {
        let before = self.record.end;
        let opened = Following::open_to(&self.config, &self.disk.shared(), &mut self.record);
        self.taken_back += u64::from(self.record.end > before);
        let mut following = match opened {
            Ok(following) => following,
            Err(error) if error.kind == SourceErrorKind::Gap => {
                assert!(error.to_string().contains("lost power"), "{error}");
                assert!(!self.record.turns, "it can be taken back: {error}");
                self.refused += 1;
                // What the error asks for: an empty state, and a snapshot.
                self.disk = SimStorage::new();
                self.record = Record::default();
                let fresh = Following::open(&self.config, &self.disk.shared(), None).unwrap();
                let calls = self.random.below(120);
                self.disk.fail_after(calls, Failure::Stop);
                fresh
            }
            Err(error) => {
                assert!(self.disk.is_stopped(), "{error}");
                return false;
            }
        };
        let loaded = following.load();
        self.taken = following.take();
        self.following = Some(following);
        assert!(loaded.is_ok() || self.disk.is_stopped(), "{loaded:?}");
        loaded.is_ok()
    }

    /// The machine goes off and on.
    fn lose_power(&mut self) {
        self.following = None;
        self.taken.clear();
        let log = self.config.beside("-wal");
        let pages = std::fs::read(&log).unwrap();
        let database = std::fs::read(&self.path).unwrap();
        self.db = None;
        let each = 512 + 24;
        let frames = pages.len().saturating_sub(32) / each;
        let lost = if self.random.one_in(2) {
            self.random.below(12).min(frames as u64)
        } else {
            0
        };
        // Nothing was copied back, so that the database is what it was at the log's begin.
        let kept = pages.len() - usize::try_from(lost).unwrap() * each;
        self.put_back(&database, &pages[..kept]);
        if self.random.one_in(2) {
            self.disk.crash(self.random.next());
        } else {
            // Everything happened to be written.
            self.disk.kill();
        }
        let db = Connection::open(&self.path).unwrap();
        db.execute_batch("PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 0")
            .unwrap();
        if self.random.one_in(2) {
            // The application is there first.
            dump(&db);
        }
        self.db = Some(db);
        self.hold();
    }

    /// The files as a crash leaves them: closing them in good order took the log away.
    fn put_back(&self, database: &[u8], log: &[u8]) {
        // Written in place: it stays the same file.
        std::fs::write(&self.path, database).unwrap();
        std::fs::write(self.config.beside("-wal"), log).unwrap();
        drop(std::fs::remove_file(self.config.beside("-shm")));
    }

    fn run(&mut self, crashes: u64) {
        for _ in 0..crashes {
            let calls = self.random.below(120);
            self.disk.fail_after(calls, Failure::Stop);
            let mut alive = self.start();
            while alive {
                for _ in 0..1 + self.random.below(4) {
                    self.write();
                }
                alive = self.look();
                if self.random.one_in(2) {
                    self.keep_some();
                }
            }
            // What came before may have become durable before the power went.
            self.keep_some();
            self.lose_power();
        }
        assert!(self.start(), "the disk is sound");
        self.disk.clear_failure();
        for _ in 0..5 {
            self.write();
        }
        let truth = truth(self.db.as_ref().unwrap());
        for look in 0..LOOKS_MAX {
            assert!(self.look(), "the disk is sound");
            let came = self.taken.len();
            self.keep(came);
            if (came > 0 || look == 0) && rows(&self.record.copy) == truth {
                return;
            }
            // What is full goes on when the copy was brought forward.
            std::thread::yield_now();
        }
        panic!("the copy does not become what the tables are");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.following = None;
        self.db = None;
    }
}

fn machines(mode: Mode, count: u64) {
    let number = |name: &str, default: u64| match std::env::var(name) {
        Ok(text) => text.parse().expect("a number in the environment"),
        Err(_) => default,
    };
    let (first, count) = (
        number("CDC_SQLITE_SEED", 1),
        number("CDC_SQLITE_POWER_CUTS", count * 5).div_ceil(5),
    );
    let (mut refused, mut taken_back) = (0, 0);
    for seed in first..first + count {
        let mut machine = Machine::new(seed, mode);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| machine.run(5)));
        if let Err(panic) = outcome {
            println!("machine {seed}, mode {}", mode.name());
            std::panic::resume_unwind(panic);
        }
        refused += machine.refused;
        taken_back += machine.taken_back;
    }
    println!(
        "{}: {} losses of power, {refused} refused, {taken_back} times something was taken back",
        mode.name(),
        count * 5
    );
    assert!(refused < count * 5, "not every one is refused");
    assert!(taken_back > 0, "what the state lost is taken back");
}

#[test]
fn power_is_lost_with_the_log_held() {
    machines(Mode::Pinned, 8);
}

#[test]
fn power_is_lost_without_a_lock() {
    machines(Mode::LockFree, 8);
}
