//! Durable segments on a real disk are mapped when the log is inspected and when a transaction is
//! larger than a tail's memory: the same events, the same damage reported, and memory that moves
//! along.

use std::path::Path;
use std::sync::Arc;

use cdc_core::storage::{OpenMode, StdStorage, Storage, StorageFile, StorageLock};
use cdc_core::testing::{relation, row};
use cdc_core::{BatchLimit, ChangeEvent, Position};
use cdc_wal::inspect::Inspector;
use cdc_wal::{Log, LogConfig, StartAt, SyncPolicy, Visibility, WalTail};

use crate::support::{clock, config, drain};

/// The machine's disk, whose files have nothing to map.
#[derive(Debug)]
struct Unmapped;

#[derive(Debug)]
struct UnmappedFile(Box<dyn StorageFile>);

impl Storage for Unmapped {
    fn create_dir_all(&self, path: &Path) -> std::io::Result<()> {
        StdStorage.create_dir_all(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> std::io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(UnmappedFile(StdStorage.open(path, mode)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        StdStorage.rename(from, to)
    }

    fn remove(&self, path: &Path) -> std::io::Result<()> {
        StdStorage.remove(path)
    }

    fn list(&self, dir: &Path) -> std::io::Result<Vec<String>> {
        StdStorage.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> std::io::Result<()> {
        StdStorage.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> std::io::Result<Box<dyn StorageLock>> {
        StdStorage.lock(path)
    }

    fn exists(&self, path: &Path) -> bool {
        StdStorage.exists(path)
    }
}

impl StorageFile for UnmappedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.0.sync_data()
    }
}

/// Segments of a log that are mapped into this process, once for each map, with those that were
/// unlinked since.
fn maps(dir: &Path) -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    let dir = dir.to_str().expect("a temporary directory's name");
    let own = maps.lines().filter(|line| line.contains(dir));
    own.map(str::to_owned).collect()
}

/// Large and small transactions, a record larger than a segment's frame, and one that is open
/// over several segments; gives the last position. Nothing is synced but at a segment's end.
fn fill(log: &Log, rounds: i64) -> Position {
    let relation = relation();
    let mut last = Position::ZERO;
    for n in 0..rounds {
        let mut long = log.begin(1);
        for m in 0..60 {
            long.insert(&relation, &row(m, &"l".repeat(600), "1"))
                .expect("insert");
            let mut small = log.begin(2);
            small
                .insert(&relation, &row(n, &"s".repeat(300), "2"))
                .expect("insert");
            small.commit_unsynced().expect("commit");
        }
        long.insert(&relation, &row(n, &"h".repeat(90_000), "3"))
            .expect("insert");
        last = long.commit_unsynced().expect("commit");
    }
    last
}

/// A transaction larger than what a tail keeps, between small ones, and a record larger than a
/// frame in it; gives the last position.
fn fill_large(log: &Log) -> Position {
    let relation = relation();
    fill(log, 1);
    let mut large = log.begin(3);
    for n in 0..2400 {
        large
            .insert(&relation, &row(n, &"l".repeat(8000), "1"))
            .expect("insert");
    }
    large
        .insert(&relation, &row(-1, &"h".repeat(700_000), "1"))
        .expect("insert");
    large.commit_unsynced().expect("commit");
    fill(log, 1)
}

fn large_config(dir: &Path) -> LogConfig {
    LogConfig {
        segment_bytes: 1 << 20,
        ..config(dir)
    }
}

const LARGE_EVENTS: usize = 2 * (60 + 61) + 2401;

fn remote(storage: Arc<dyn Storage>, dir: &Path) -> Vec<ChangeEvent> {
    let mut tail = WalTail::open(storage, dir, StartAt::Earliest, clock()).expect("tail");
    drain(&mut tail, BatchLimit::default()).expect("drain")
}

#[test]
fn mapped_segments_give_what_reading_them_gives() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(large_config(dir.path())).unwrap();
    fill_large(&log);
    log.flush().unwrap();
    let read = remote(Arc::new(Unmapped), dir.path());
    assert!(maps(dir.path()).is_empty(), "nothing to map");
    assert_eq!(read.len(), LARGE_EVENTS);
    let mapped = remote(StdStorage::shared(), dir.path());
    assert_eq!(mapped, read);
    assert!(!maps(dir.path()).is_empty(), "rows are slices of maps");
    let mut tail = log.tail(StartAt::Earliest, clock()).unwrap();
    assert_eq!(drain(&mut tail, BatchLimit::default()).unwrap(), read);
    for at in [0, 60, 121, 700, read.len() - 2] {
        let after = StartAt::After(read[at].position);
        let mut tail = WalTail::open(StdStorage::shared(), dir.path(), after, clock()).unwrap();
        let rest = drain(&mut tail, BatchLimit::default()).unwrap();
        assert_eq!(rest, read[at + 1..], "after {at}");
    }
    drop((mapped, tail));
    assert!(
        maps(dir.path()).is_empty(),
        "a map ends with its last reader"
    );

    let look = |storage: Arc<dyn Storage>| {
        let log = Inspector::open(storage, dir.path()).unwrap();
        let frames = log.frames(log.first_lsn());
        let frames = frames.collect::<Result<Vec<_>, _>>().unwrap();
        let large = frames.iter().find(|frame| frame.changes > 20);
        let changes = log.changes(large.expect("a large frame").lsn).unwrap();
        let report = log.verify().unwrap();
        (frames, changes, report, log.segments().unwrap())
    };
    assert_eq!(look(StdStorage::shared()), look(Arc::new(Unmapped)));
}

#[test]
fn only_what_is_durable_to_a_segments_end_is_mapped() {
    // Fewer segments than what this policy leaves unsynced, all of them of one transaction.
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(LogConfig {
        segment_bytes: 4 << 20,
        sync: SyncPolicy::Never,
        visibility: Visibility::Written,
        ..config(dir.path())
    })
    .unwrap();
    fill_large(&log);
    assert!(log.retained_bytes() > 4 * (4 << 20));
    assert!(log.flushed_lsn().0 < 4 << 20, "nothing was synced");
    let mut tail = log.tail(StartAt::Earliest, clock()).unwrap();
    let events = drain(&mut tail, BatchLimit::default()).unwrap();
    assert_eq!(events.len(), LARGE_EVENTS);
    assert_eq!(remote(StdStorage::shared(), dir.path()), events);
    let look = || {
        let log = Inspector::open(StdStorage::shared(), dir.path()).unwrap();
        let mut seen = Vec::new();
        for frame in log.frames(log.first_lsn()) {
            frame.unwrap();
            seen.extend(maps(dir.path()));
        }
        seen
    };
    assert!(
        maps(dir.path()).is_empty() && look().is_empty(),
        "a sealed segment that a crash may tear is not mapped"
    );
    log.flush().unwrap();
    let mut tail = log.tail(StartAt::Earliest, clock()).unwrap();
    let again = drain(&mut tail, BatchLimit::default()).unwrap();
    assert_eq!(again, events);
    let segment = u64::from(4u32 << 20);
    let active = format!("{:016x}.wal", log.flushed_lsn().0 / segment * segment);
    for mapped in [maps(dir.path()), look()] {
        assert!(!mapped.is_empty());
        assert!(
            mapped.iter().all(|line| !line.contains(&active)),
            "the segment that is written to is not mapped: {mapped:?}"
        );
    }
}

#[test]
fn rows_stay_when_their_segment_is_trimmed() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(LogConfig {
        retain_bytes: 0,
        ..large_config(dir.path())
    })
    .unwrap();
    let mut tail = log.tail_cursor("slow", StartAt::Earliest, clock()).unwrap();
    let last = fill_large(&log);
    log.flush().unwrap();
    let expected = remote(Arc::new(Unmapped), dir.path());
    let limit = BatchLimit {
        events_max: 400,
        ..BatchLimit::default()
    };
    let mut first = Vec::new();
    while first.len() < 400 {
        let batch = tail.poll_batch(&limit).unwrap().unwrap();
        first.extend_from_slice(batch.events());
    }
    let oldest = dir.path().join(format!("{:016x}.wal", 0));
    assert!(oldest.exists());
    log.confirm("slow", last).unwrap();
    log.trim().unwrap();
    assert!(!oldest.exists());
    let held = maps(dir.path());
    assert!(held.iter().any(|line| line.ends_with("(deleted)")));
    assert_eq!(first, expected[..first.len()]);
    // More of the same kind, so that what was unlinked would be used for something else.
    fill(&log, 20);
    assert_eq!(first, expected[..first.len()]);
    drop((first, tail));
    assert!(maps(dir.path()).is_empty());
}

#[test]
fn a_reader_that_moves_on_lets_go_of_what_it_has_read() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(large_config(dir.path())).unwrap();
    fill_large(&log);
    log.flush().unwrap();
    let mut tail = log.tail(StartAt::Earliest, clock()).unwrap();
    let mut most = 0;
    let limit = BatchLimit {
        bytes_max: 256 << 10,
        ..BatchLimit::default()
    };
    while let Some(batch) = tail.poll_batch(&limit).unwrap() {
        most = most.max(maps(dir.path()).len());
        drop(batch);
    }
    assert!((1..=4).contains(&most), "{most} maps of a tail at a time");
    let log = Inspector::open(StdStorage::shared(), dir.path()).unwrap();
    for frame in log.frames(log.first_lsn()) {
        frame.unwrap();
        assert!(maps(dir.path()).len() <= 1, "one window at a time");
    }
}

#[test]
fn damage_and_cut_off_files_are_reported_as_when_they_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(config(dir.path())).unwrap();
    fill(&log, 4);
    drop(log);
    let path = dir.path().join(format!("{:016x}.wal", 3 * (64 << 10)));
    let whole = std::fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[30_000] ^= 4;
    for (what, bytes) in [("flipped", &flipped[..]), ("short", &whole[..20_000])] {
        std::fs::write(&path, bytes).unwrap();
        let look = |storage: Arc<dyn Storage>| {
            let inspector = Inspector::open(storage.clone(), dir.path()).unwrap();
            let report = inspector.verify().unwrap();
            let read = WalTail::open(storage, dir.path(), StartAt::Earliest, clock())
                .and_then(|mut tail| drain(&mut tail, BatchLimit::default()));
            format!("{report:?}, {}", read.unwrap_err())
        };
        let mapped = look(StdStorage::shared());
        assert!(mapped.contains("0000000000030000.wal"), "{what}: {mapped}");
        assert_eq!(mapped, look(Arc::new(Unmapped)), "{what}");
    }
}
