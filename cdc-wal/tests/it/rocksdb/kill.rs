//! A real RocksDB, written by a process that is killed (`kill -9`) again and again while its log is
//! followed: the events applied to an empty mirror are what RocksDB recovers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cdc_core::storage::StdStorage;
use cdc_core::{BatchLimit, ChangeEvent, Op, Position, SourceErrorKind, Value, WalSource};
use cdc_wal::rocksdb::{RocksDbCheck, RocksDbConfig, RocksDbSource, RocksDbStart};

use crate::support::clock;

/// Nothing may be read from a process that writes for so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Kills and seed: 8 in `cargo xtask test`; `cargo xtask run rocksdb-kill` asks for more.
fn asked() -> (u64, u64) {
    let number = |name: &str, otherwise| {
        let asked = std::env::var(name).ok();
        asked.map_or(otherwise, |text| text.parse().expect("a number"))
    };
    (
        number("CDC_ROCKSDB_KILLS", 8),
        number("CDC_ROCKSDB_SEED", 1),
    )
}

/// Entries by family and key.
type Mirror = BTreeMap<(String, Vec<u8>), Vec<u8>>;

/// Builds the program that writes.
fn writer(dir: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/rocksdb/writer.c");
    let program = dir.join("writer");
    let output = Command::new("cc")
        .arg("-O1")
        .arg("-o")
        .arg(&program)
        .arg(source)
        .arg("-lrocksdb")
        .output()
        .expect("a C compiler; install gcc, or run `cargo xtask setup`");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "compile the writer; install librocksdb-dev, or run `cargo xtask setup`: {said}"
    );
    program
}

/// A process that is killed when the test ends.
struct Writing(Child);

impl Writing {
    fn start(program: &Path, db: &Path, seed: u64) -> Self {
        let mut command = Command::new(program);
        command.arg("write").arg(db).arg(seed.to_string());
        Self(
            command
                .stdin(Stdio::null())
                .spawn()
                .expect("start the writer"),
        )
    }

    fn kill(mut self) {
        self.0.kill().expect("kill the writer");
        self.0.wait().expect("wait for the writer");
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// What RocksDB has, after its own recovery.
fn dump(program: &Path, db: &Path) -> Mirror {
    let output = Command::new(program).arg("dump").arg(db).output();
    let output = output.expect("dump the database");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let bytes = |hex: &str| -> Vec<u8> {
        hex.as_bytes()
            .chunks(2)
            .map(|pair| {
                u8::from_str_radix(&String::from_utf8_lossy(pair), 16).expect("hexadecimal")
            })
            .collect()
    };
    String::from_utf8(output.stdout)
        .expect("text")
        .lines()
        .map(|line| {
            let mut words = line.split(' ');
            let mut word = || words.next().unwrap_or_default();
            let family = word().to_owned();
            ((family, bytes(word())), bytes(word()))
        })
        .collect()
}

fn key(values: &[Value]) -> Vec<u8> {
    match values {
        [Value::Bytes(key), ..] => key.clone(),
        other => panic!("a row of {} values", other.len()),
    }
}

/// Two values of the map that is an event's only meta.
fn pair(event: &ChangeEvent) -> [Value; 2] {
    let meta = event.meta.as_ref().expect("meta");
    let [(_, Value::Map(pairs))] = meta.0.as_slice() else {
        panic!("one map");
    };
    [pairs[0].1.clone(), pairs[1].1.clone()]
}

fn apply(mirror: &mut Mirror, event: &ChangeEvent) {
    let family = event.relation.table.to_string();
    let row = |image: &cdc_core::Image| image.row().expect("a row").to_values().expect("values");
    match event.op {
        Op::Update => {
            let values = row(&event.after);
            let Some(Value::Bytes(value)) = values.get(1) else {
                panic!("a value")
            };
            mirror.insert((family, key(&values)), value.clone());
        }
        Op::Delete if event.before.row().is_some() => {
            mirror.remove(&(family, key(&row(&event.before))));
        }
        Op::Delete => {
            let [Value::Bytes(start), Value::Bytes(end)] = pair(event) else {
                panic!("a range of bytes")
            };
            let range = (family.clone(), start)..(family, end);
            let gone: Vec<_> = mirror.range(range).map(|(at, _)| at.clone()).collect();
            for at in gone {
                mirror.remove(&at);
            }
        }
        Op::Merge => {
            let [operator, Value::Bytes(operand)] = pair(event) else {
                panic!("an operand of bytes")
            };
            assert_eq!(operator, Value::from("UInt64AddOperator"));
            let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
            let entry = mirror
                .entry((family, key(&row(&event.after))))
                .or_insert(vec![0; 8]);
            *entry = number(entry)
                .wrapping_add(number(&operand))
                .to_le_bytes()
                .to_vec();
        }
        other => panic!("no operation of RocksDB: {other:?}"),
    }
}

/// What was read: the mirror, where it ends, how many of each operation.
#[derive(Default)]
struct Read {
    mirror: Mirror,
    end: Position,
    open: Option<u64>,
    events: u64,
    seen: BTreeMap<&'static str, u64>,
}

impl Read {
    fn take(&mut self, events: &[ChangeEvent]) {
        for event in events {
            let at = event.position;
            assert!(at > self.end, "{at} after {}", self.end);
            // A batch is one transaction: nothing of another comes before it is whole.
            assert!(
                self.open.is_none_or(|open| open == event.transaction.id),
                "a batch in parts"
            );
            self.open = (!event.last).then_some(event.transaction.id);
            self.end = at;
            self.events += 1;
            let name = match event.op {
                Op::Delete if event.before.is_absent() => "range delete",
                op => op.name(),
            };
            *self.seen.entry(name).or_default() += 1;
            apply(&mut self.mirror, event);
        }
    }

    /// Reads so many events, or to the end.
    async fn read(&mut self, source: &mut RocksDbSource, enough: Option<u64>) {
        let begin = self.events;
        let mut last = Instant::now();
        let limit = BatchLimit {
            events_max: 300,
            linger: Duration::from_millis(20),
            ..BatchLimit::default()
        };
        while enough.is_none_or(|enough| self.events - begin < enough) {
            let batch = source
                .next_batch(limit)
                .await
                .expect("readable")
                .expect("it never ends");
            assert!(batch.end() >= self.end);
            if batch.is_empty() {
                if enough.is_none() {
                    return;
                }
                assert!(last.elapsed() < PATIENCE, "nothing to read for a minute");
            } else {
                last = Instant::now();
            }
            self.take(batch.events());
            if self.open.is_none() {
                self.end = self.end.max(batch.end());
            }
        }
    }
}

fn config(db: &Path) -> RocksDbConfig {
    RocksDbConfig {
        start: RocksDbStart::Oldest,
        state_dir: Some(db.with_file_name("state")),
        ..RocksDbConfig::new(db)
    }
}

fn connect(db: &Path, from: Option<Position>) -> RocksDbSource {
    RocksDbSource::connect(StdStorage::shared(), clock(), config(db), from).expect("connect")
}

#[tokio::test]
async fn events_are_what_rocksdb_recovers_after_every_kill() {
    let dir = tempfile::tempdir().unwrap();
    let program = writer(dir.path());
    let db = dir.path().join("db");
    let mut read = Read::default();
    let mut source: Option<RocksDbSource> = None;
    let (kills, seed) = asked();
    for round in 0..kills {
        let writing = Writing::start(&program, &db, (seed + round) & 0xffff_ffff);
        // As long as there is no database there is nothing to connect to.
        let begun = Instant::now();
        while !db.join("IDENTITY").exists() || !db.join("CURRENT").exists() {
            assert!(begun.elapsed() < PATIENCE, "no database");
            tokio::task::yield_now().await;
        }
        // By turns: the reader that was there all the time, and one that resumes, also inside a batch.
        let mut reading = match source.take() {
            Some(source) if round % 2 == 1 => source,
            _ => connect(&db, (round > 0).then_some(read.end)),
        };
        read.read(
            &mut reading,
            Some(500 + (seed % 6000 + round) * 7919 % 6000),
        )
        .await;
        writing.kill();
        read.read(&mut reading, None).await;
        assert_eq!(read.open, None, "half a batch: round {round}");
        let found = dump(&program, &db);
        let wrong = found
            .iter()
            .filter(|(at, value)| read.mirror.get(*at) != Some(value))
            .count();
        assert!(
            found == read.mirror,
            "kill {round}: RocksDB has {} entries, {wrong} of them others; the events give {}",
            found.len(),
            read.mirror.len()
        );
        source = Some(reading);
    }
    for name in ["update", "delete", "merge", "range delete"] {
        assert!(
            read.seen.get(name).is_some_and(|count| *count > 0),
            "no {name}: {:?}",
            read.seen
        );
    }
    let info = connect(&db, Some(read.end));
    assert_eq!(info.source().lineage.kind.name(), "rocksdb");
    // A copy of the database that is older than what was read.
    let ahead = Position::end_of(cdc_core::Lsn(read.end.commit.0 + 1_000_000));
    let refused = RocksDbSource::connect(StdStorage::shared(), clock(), config(&db), Some(ahead));
    let error = refused.expect_err("ahead");
    assert!(matches!(error.kind, SourceErrorKind::Refused(_)), "{error}");
}

/// A put and its single delete leave nothing in a table: when RocksDB is opened twice behind a kill it
/// gives their numbers again.
#[tokio::test]
async fn numbers_that_rocksdb_gives_twice_are_both_read_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let program = writer(dir.path());
    let db = dir.path().join("db");
    let mut read = Read::default();
    let mut kept: Option<RocksDbSource> = None;
    let mut twice = 0;
    for seed in 1..=6_u64 {
        let mut pair = Command::new(&program);
        let status = pair.arg("pair").arg(&db).arg(seed.to_string()).status();
        assert!(!status.expect("the writer").success(), "it kills itself");
        // One that is there all the time, one that comes back from a position, one from inside a batch.
        let mut source = match kept.take() {
            Some(source) if seed % 3 == 0 => source,
            _ => connect(&db, (seed > 1).then_some(read.end)),
        };
        let end = source.end_at_start();
        if seed % 3 == 1 {
            read.read(&mut source, Some(3)).await;
            source = connect(&db, Some(read.end));
            assert_eq!(source.end_at_start(), end);
        }
        read.read(&mut source, None).await;
        if seed % 3 != 0 {
            assert_eq!(read.end, end, "the end it named");
        }
        assert_eq!(dump(&program, &db), read.mirror, "seed {seed}");
        // What the database itself counts falls behind.
        let check = RocksDbCheck::read(&StdStorage::shared(), &config(&db)).expect("a look");
        let (_, last) = check.extent.expect("log files");
        twice = read.end.commit.0 - last;
        kept = Some(source);
    }
    assert!(twice >= 2 * 4, "numbers were given twice: {twice}");

    // Without what was remembered the number alone does not say which of two it is.
    let end = read.end.commit.0 - twice;
    let forgetful = RocksDbConfig {
        state_dir: None,
        ..config(&db)
    };
    let connect = |at| {
        let position = Some(Position::end_of(cdc_core::Lsn(at)));
        RocksDbSource::connect(StdStorage::shared(), clock(), forgetful.clone(), position)
    };
    let mut wrong = 0;
    for at in 1..=end {
        let mut source = connect(at).expect("within the log");
        if let Err(error) = source.next_batch(BatchLimit::default()).await {
            assert_eq!(error.kind, SourceErrorKind::Gap, "{error}");
            assert!(error.to_string().contains("gave it twice"), "{error}");
            wrong += 1;
        }
    }
    assert_eq!(wrong, twice, "the numbers that are in two files");
}

/// Log files of a database, the archived ones too, by number.
fn log_files(db: &Path) -> BTreeMap<u64, PathBuf> {
    let dirs = [db.to_owned(), db.join("archive")];
    let entries = dirs
        .iter()
        .filter_map(|dir| std::fs::read_dir(dir).ok())
        .flatten();
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            let number = name.strip_suffix(".log")?.parse().ok()?;
            Some((number, path))
        })
        .collect()
}

/// The file in which the reader stands is gone, and the next one begins with lower numbers: nothing says
/// what was between. Accepted, the loss takes one number of the stream, and everything goes on above.
#[tokio::test]
async fn a_gap_before_numbers_that_come_again_is_refused_and_accepted_once() {
    let dir = tempfile::tempdir().unwrap();
    let program = writer(dir.path());
    let db = dir.path().join("db");
    let pair = |seed: u64| {
        let mut pair = Command::new(&program);
        let status = pair.arg("pair").arg(&db).arg(seed.to_string()).status();
        assert!(!status.expect("the writer").success(), "it kills itself");
    };
    let connect = |from: Position, accept_gap| {
        let config = RocksDbConfig {
            accept_gap,
            ..config(&db)
        };
        RocksDbSource::connect(StdStorage::shared(), clock(), config, Some(from))
    };
    let mut read = Read::default();
    pair(1);
    read.read(&mut connect(Position::ZERO, false).expect("connect"), None)
        .await;
    // Opened twice behind the kill.
    assert_eq!(dump(&program, &db), read.mirror);
    pair(2);
    let mut logs = log_files(&db);
    logs.pop_last().expect("the last file");
    assert!(!logs.is_empty(), "the file that was read is still there");
    for path in logs.values() {
        std::fs::remove_file(path).expect("delete a log file");
    }
    let error = connect(read.end, false).expect_err("a gap");
    assert_eq!(error.kind, SourceErrorKind::Gap, "{error}");
    assert!(
        error.to_string().contains("begins with sequence number"),
        "{error}"
    );

    let before = read.end;
    let mut source = connect(before, true).expect("accepted");
    assert_eq!(
        source.start(),
        Position::end_of(cdc_core::Lsn(before.commit.0 + 1)),
        "one number stands for what is missing"
    );
    // It asserts that positions rise.
    read.read(&mut source, None).await;
    assert!(read.end > source.start());
    assert_eq!(read.end, source.end_at_start());
    drop(source);
    // What was deleted had been read: nothing is missing in truth, and nothing comes twice.
    assert_eq!(dump(&program, &db), read.mirror);
    // Accepted once: the next start, and numbers that come once more, need no word.
    pair(3);
    read.read(&mut connect(read.end, false).expect("no gap"), None)
        .await;
    assert_eq!(dump(&program, &db), read.mirror);
}

#[tokio::test]
async fn log_files_that_were_deleted_before_they_were_read_are_a_gap_that_names_the_settings() {
    let dir = tempfile::tempdir().unwrap();
    let program = writer(dir.path());
    let db = dir.path().join("db");
    // Without WAL_ttl_seconds RocksDB deletes what is in tables, at the latest when it is opened again.
    for seed in ["7", "8"] {
        let mut purge = Command::new(&program);
        let status = purge.arg("purge").arg(&db).arg(seed).status();
        assert!(status.expect("the writer").success());
    }
    let connect = |accept_gap| {
        let config = RocksDbConfig {
            accept_gap,
            ..config(&db)
        };
        RocksDbSource::connect(Arc::new(StdStorage), clock(), config, Some(Position::ZERO))
    };
    let error = connect(false).expect_err("a gap");
    assert_eq!(error.kind, SourceErrorKind::Gap, "{error}");
    let message = error.to_string();
    for part in [
        "from sequence number 1 to ",
        "WAL_ttl_seconds",
        "WAL_size_limit_MB",
    ] {
        assert!(message.contains(part), "{message}");
    }
    let accepted = connect(true).expect("accepted");
    assert!(accepted.start() > Position::ZERO && accepted.start() <= accepted.end_at_start());
    // Nothing was read before: what is there now is where it begins.
    let now = RocksDbSource::connect(Arc::new(StdStorage), clock(), RocksDbConfig::new(&db), None);
    let now = now.expect("connect");
    assert_eq!(now.start(), now.end_at_start());
}
