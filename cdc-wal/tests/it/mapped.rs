//! Durable segments on a real disk are mapped when a log is inspected: the same frames, rows and
//! damage as when they are read, and memory that moves along.

use std::path::Path;
use std::sync::Arc;

use cdc_core::storage::{OpenMode, StdStorage, Storage, StorageFile};
use cdc_core::testing::{relation, row};
use cdc_core::{BatchLimit, Lsn, Position};
use cdc_wal::inspect::{ChangeInfo, FrameInfo, Inspector};
use cdc_wal::{Log, LogConfig, StartAt, SyncPolicy, Visibility, WalTail};

use crate::support::{clock, config, drain};

/// The machine's disk, whose files have nothing to map.
#[derive(Debug)]
struct Unmapped;

#[derive(Debug)]
struct UnmappedFile(Box<dyn StorageFile>);

impl Storage for Unmapped {
    fn open(&self, path: &Path, mode: OpenMode) -> std::io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(UnmappedFile(StdStorage.open(path, mode)?)))
    }

    crate::support::as_the_real_disk!();
}

impl StorageFile for UnmappedFile {
    crate::support::as_the_file!(read_at write_all_at set_len len sync_data share);
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

/// Every frame and every row.
fn look(storage: Arc<dyn Storage>, dir: &Path) -> (Vec<FrameInfo>, Vec<ChangeInfo>) {
    let log = Inspector::open(storage, dir).expect("a log that can be read");
    let (frames, changes) = walk(&log, log.first_lsn());
    // One by one, and from the middle of a segment, which has defined its relations before.
    let each = frames.iter().flat_map(|frame| {
        let changes = log.changes(frame.lsn).expect("a log that can be read");
        assert_eq!(changes.len(), frame.changes as usize);
        changes
    });
    assert_eq!(each.collect::<Vec<_>>(), changes);
    let middle = frames.len() / 2;
    let (later, rows) = walk(&log, frames[middle].lsn);
    assert_eq!(later, frames[middle..]);
    assert_eq!(rows, changes[changes.len() - rows.len()..]);
    (frames, changes)
}

/// All frames from one on, and their rows.
fn walk(log: &Inspector, from: Lsn) -> (Vec<FrameInfo>, Vec<ChangeInfo>) {
    let (mut given, mut rows) = (Vec::new(), Vec::new());
    let mut frames = log.frames(from);
    while let Some(frame) = frames.next() {
        let frame = frame.expect("a log that can be read");
        let changes = frames.changes().expect("a log that can be read");
        assert_eq!(changes.len(), frame.changes as usize);
        rows.extend(changes);
        given.push(frame);
    }
    (given, rows)
}

/// All maps there are while a log is read frame by frame, and the most at a time.
fn maps_of_a_reader(dir: &Path) -> (Vec<String>, usize) {
    let log = Inspector::open(StdStorage::shared(), dir).expect("a log that can be read");
    let (mut all, mut most) = (Vec::new(), 0);
    for frame in log.frames(log.first_lsn()) {
        frame.expect("a log that can be read");
        let now = maps(dir);
        most = most.max(now.len());
        all.extend(now);
    }
    (all, most)
}

#[test]
fn mapped_segments_give_what_reading_them_gives() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(config(dir.path())).unwrap();
    fill(&log, 4);
    log.flush().unwrap();
    assert!(log.retained_bytes() > 8 * (64 << 10), "many segments");
    let read = look(Arc::new(Unmapped), dir.path());
    assert!(maps(dir.path()).is_empty(), "nothing to map");
    let mapped = look(StdStorage::shared(), dir.path());
    assert!(!maps(dir.path()).is_empty(), "rows are slices of maps");
    assert_eq!(mapped, read);
    assert!(mapped.1.len() >= 4 * 120, "rows were compared");
    drop(mapped);
    assert!(maps(dir.path()).is_empty(), "a map ends with its last row");
    let report = |storage: Arc<dyn Storage>| {
        let log = Inspector::open(storage, dir.path()).unwrap();
        (log.verify().unwrap(), log.segments().unwrap())
    };
    assert_eq!(report(StdStorage::shared()), report(Arc::new(Unmapped)));
}

#[test]
fn only_what_is_durable_to_a_segments_end_is_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(LogConfig {
        sync: SyncPolicy::Never,
        visibility: Visibility::Written,
        ..config(dir.path())
    })
    .unwrap();
    fill(&log, 2);
    // Hands what is buffered to the operating system.
    drop(log.tail(StartAt::Earliest, clock()).unwrap());
    assert!(log.retained_bytes() > 4 * (64 << 10));
    assert!(log.flushed_lsn().0 < 64 << 10, "nothing was synced");
    let (all, _) = maps_of_a_reader(dir.path());
    assert!(
        all.is_empty(),
        "a sealed segment that a crash may tear is not mapped: {all:?}"
    );
    log.flush().unwrap();
    let (all, most) = maps_of_a_reader(dir.path());
    assert!(!all.is_empty());
    assert_eq!(
        most, 1,
        "a reader that moves on lets go of what it has read"
    );
    let active = log.flushed_lsn().0 / (64 << 10) * (64 << 10);
    let active = format!("{active:016x}.wal");
    assert!(
        all.iter().all(|line| !line.contains(&active)),
        "the segment that is written to is not mapped"
    );
}

#[test]
fn rows_stay_when_their_segment_is_trimmed() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(LogConfig {
        retain_bytes: 0,
        ..config(dir.path())
    })
    .unwrap();
    log.register_cursor("slow", Position::ZERO).unwrap();
    let last = fill(&log, 2);
    log.flush().unwrap();
    let expected = look(Arc::new(Unmapped), dir.path());
    let held = look(StdStorage::shared(), dir.path());
    let oldest = dir.path().join(format!("{:016x}.wal", 0));
    assert!(oldest.exists());
    log.confirm("slow", last).unwrap();
    log.trim().unwrap();
    assert!(!oldest.exists());
    let deleted = maps(dir.path());
    assert!(deleted.iter().any(|line| line.ends_with("(deleted)")));
    assert_eq!(held, expected);
    // More of the same kind, so that what was unlinked would be used for something else.
    fill(&log, 3);
    assert_eq!(held, expected);
    drop(held);
    assert!(maps(dir.path()).is_empty());
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
