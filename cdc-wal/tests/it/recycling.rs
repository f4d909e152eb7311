//! Trimmed segments are written over with the next ones: nobody who reads them sees it, and nothing
//! of what they held comes back.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use cdc_core::storage::{OpenMode, StdStorage, Storage, StorageFile};
use cdc_core::testing::sim_storage::{Failure, SimStorage};
use cdc_core::testing::{relation, row};
use cdc_core::{BatchLimit, Position};
use cdc_wal::inspect::Inspector;
use cdc_wal::{Log, LogConfig, LogError, LogErrorKind, StartAt, SyncPolicy, WalTail};

use crate::support::{clock, config, drain};

/// A tail's read is a quarter of it.
const SEGMENT: u32 = 1 << 20;

fn open(dir: &Path, sync: SyncPolicy) -> Log {
    Log::open(LogConfig {
        segment_bytes: SEGMENT,
        retain_bytes: 0,
        sync,
        ..config(dir)
    })
    .unwrap()
}

/// Fills so many segments, with transactions of a row each, and trims each as soon as it is full.
fn fill(log: &Log, segments: u64) -> Position {
    let until = log.flushed_lsn().0 + segments * u64::from(SEGMENT);
    let relation = relation();
    loop {
        let mut tx = log.begin(1);
        tx.insert(&relation, &row(1, &"x".repeat(20_000), "1"))
            .unwrap();
        let commit = tx.commit_unsynced().unwrap();
        log.trim().unwrap();
        if commit.commit.0 >= until {
            log.flush().unwrap();
            return commit;
        }
    }
}

/// The files of the log's segments and what is kept beside them, by name, with their inodes.
fn files(dir: &Path) -> Vec<(String, u64)> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                entry.metadata().unwrap().ino(),
            )
        })
        .filter(|(name, _)| name.ends_with(".wal") || name.ends_with(".tmp"))
        .collect();
    files.sort();
    files
}

#[test]
fn a_trimmed_segments_file_is_the_next_segment() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SyncPolicy::Always);
    fill(&log, 2);
    let before = files(dir.path());
    assert_eq!(before.len(), 2, "the current one and a spare: {before:?}");
    let last = fill(&log, 5);
    let after = files(dir.path());
    let inodes = |files: &[(String, u64)]| {
        let mut inodes: Vec<_> = files.iter().map(|(_, inode)| *inode).collect();
        inodes.sort_unstable();
        inodes
    };
    assert_eq!(inodes(&after), inodes(&before), "{before:?} {after:?}");
    drop(log);
    // Opened again, it goes on with the same files.
    let log = open(dir.path(), SyncPolicy::Always);
    let mut tail = log.tail(StartAt::Earliest, clock()).unwrap();
    let events = drain(&mut tail, BatchLimit::default()).unwrap();
    assert_eq!(events.last().unwrap().position.commit, last.commit);
    drop(tail);
    fill(&log, 3);
    assert_eq!(inodes(&files(dir.path())), inodes(&before));
    let look = Inspector::open(Arc::new(StdStorage), dir.path()).unwrap();
    assert_eq!(look.verify().unwrap().damage, None);
}

#[test]
fn files_that_are_not_filled_ahead_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SyncPolicy::Always);
    fill(&log, 2);
    let spare = std::fs::File::open(dir.path().join("spare.tmp")).unwrap();
    drop(log);
    let log = open(dir.path(), SyncPolicy::Never);
    fill(&log, 1);
    let after = files(dir.path());
    assert_eq!(after.len(), 1, "{after:?}");
    assert_eq!(
        spare.metadata().unwrap().nlink(),
        0,
        "kept before: {after:?}"
    );
}

#[test]
fn who_reads_a_trimmed_segment_reads_it_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SyncPolicy::Always);
    let one = BatchLimit {
        events_max: 1,
        ..BatchLimit::default()
    };
    let relation = relation();
    for n in 0..8 {
        let mut tx = log.begin(n);
        tx.insert(&relation, &row(1, &"y".repeat(100_000), "1"))
            .unwrap();
        tx.commit().unwrap();
    }
    let first = files(dir.path())[0].clone();
    let mut tails = [
        WalTail::open(Arc::new(StdStorage), dir.path(), StartAt::Earliest, clock()).unwrap(),
        log.tail(StartAt::Earliest, clock()).unwrap(),
    ];
    for tail in &mut tails {
        assert_eq!(tail.poll_batch(&one).unwrap().unwrap().len(), 1);
    }
    fill(&log, 6);
    let now = files(dir.path());
    assert!(now.iter().all(|(_, inode)| *inode != first.1), "{now:?}");
    for tail in &mut tails {
        for n in 1..8 {
            let batch = tail.poll_batch(&one).unwrap().unwrap();
            assert_eq!(batch.events()[0].transaction.id, n);
        }
        let lost = drain(tail, BatchLimit::default()).unwrap_err();
        assert_eq!(lost.kind, LogErrorKind::Trimmed, "{lost}");
    }
}

#[test]
fn a_segment_with_a_second_name_keeps_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SyncPolicy::Always);
    let (name, _) = files(dir.path())[0].clone();
    let copy = dir.path().join("backup");
    std::fs::hard_link(dir.path().join(&name), &copy).unwrap();
    fill(&log, 1);
    let held = std::fs::read(&copy).unwrap();
    fill(&log, 4);
    assert!(
        held == std::fs::read(&copy).unwrap(),
        "a backup was written over"
    );
}

/// The machine's disk, on which a file that is given back to readers must not look like a segment.
#[derive(Debug, Default, Clone)]
struct Released(Arc<AtomicU32>);

#[derive(Debug)]
struct ReleasedFile(Box<dyn StorageFile>, Released);

impl Storage for Released {
    fn open(&self, path: &Path, mode: OpenMode) -> std::io::Result<Box<dyn StorageFile>> {
        let file = StdStorage.open(path, mode)?;
        Ok(Box::new(ReleasedFile(file, self.clone())))
    }

    crate::support::as_the_real_disk!();
}

impl StorageFile for ReleasedFile {
    crate::support::as_the_file!(read_at write_all_at set_len len sync_data share claim);

    fn release(&self) -> std::io::Result<()> {
        let mut header = [1; 4096];
        self.read_at(&mut header, 0)?;
        assert_eq!(
            header, [0; 4096],
            "a late reader takes it for the old segment"
        );
        self.1.0.fetch_add(1, Ordering::SeqCst);
        self.0.release()
    }
}

#[test]
fn who_opened_a_file_before_it_was_trimmed_finds_no_segment_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Released::default();
    let log = Log::open(LogConfig {
        segment_bytes: SEGMENT,
        retain_bytes: 0,
        storage: Arc::new(disk.clone()),
        ..config(dir.path())
    })
    .unwrap();
    fill(&log, 4);
    assert!(disk.0.load(Ordering::SeqCst) >= 2);
}

/// The first name of a trimmed file is gone from the disk before anything is written into it: else
/// a power cut gives the log a segment that is none.
#[test]
fn a_power_cut_after_a_trim_that_failed_leaves_a_log() {
    let mut reached = 0;
    for dies in 0..30 {
        for cut in 0..8 {
            let disk = SimStorage::new();
            let open = || {
                Log::open(LogConfig {
                    retain_bytes: 0,
                    storage: disk.shared(),
                    ..config("/log".as_ref())
                })
            };
            let log = open().unwrap();
            log.register_cursor("reader", Position::ZERO).unwrap();
            let relation = relation();
            let mut last = 0;
            let mut commit = || {
                let mut tx = log.begin(last + 1);
                tx.insert(&relation, &row(1, &"x".repeat(20_000), "1"))?;
                let end = tx.commit()?;
                last += 1;
                Ok::<_, LogError>(end)
            };
            let end = (0..4).map(|_| commit().unwrap()).last().unwrap();
            // The cursors are stored, the file has its new name, and the sync of the directory fails.
            disk.fail_after(6, Failure::Once);
            log.confirm("reader", end).unwrap_err();
            disk.fail_after(dies, Failure::Stop);
            assert!((0..100).any(|_| commit().is_err()), "it goes on");
            drop(log);
            disk.crash(cut);
            let log = open().unwrap_or_else(|error| panic!("{dies} {cut}: {error}"));
            let mut tail = log.tail(StartAt::Earliest, clock()).unwrap();
            let events = drain(&mut tail, BatchLimit::default()).unwrap();
            let seen = events.last().map_or(0, |event| event.transaction.id);
            assert!(seen >= last, "{dies} {cut}: {seen} of {last}");
            reached += 1;
        }
    }
    assert_eq!(reached, 30 * 8);
}

/// The machine's disk, on which a trimmed segment cannot be opened any more.
#[derive(Debug)]
struct ReadOnly;

impl Storage for ReadOnly {
    fn open(&self, path: &Path, mode: OpenMode) -> std::io::Result<Box<dyn StorageFile>> {
        if path.ends_with("spare.tmp") {
            return Err(std::io::ErrorKind::PermissionDenied.into());
        }
        StdStorage.open(path, mode)
    }

    crate::support::as_the_real_disk!();
}

#[test]
fn a_file_that_cannot_be_used_again_is_removed_and_the_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(LogConfig {
        segment_bytes: SEGMENT,
        retain_bytes: 0,
        storage: Arc::new(ReadOnly),
        ..config(dir.path())
    })
    .unwrap();
    fill(&log, 4);
    let names: Vec<_> = files(dir.path())
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    log.trim().unwrap();
}

/// What happens to a segment's file in the moment after it was opened.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// It is claimed for the next segment.
    Claimed,
    /// Its header is gone already.
    Emptied,
    /// It is the next segment already.
    Another,
}

/// The machine's disk, on which the next segment that is opened is trimmed and used again just
/// then.
#[derive(Debug)]
struct Late {
    then: Mutex<Option<Then>>,
    /// What else holds the file.
    held: Mutex<Vec<Box<dyn StorageFile>>>,
    /// A later segment.
    other: PathBuf,
}

impl Storage for Late {
    fn open(&self, path: &Path, mode: OpenMode) -> std::io::Result<Box<dyn StorageFile>> {
        let file = StdStorage.open(path, mode)?;
        let wal = path.extension().is_some_and(|end| end == "wal");
        let then = self.then.lock().unwrap().take_if(|_| wal);
        if let Some(then) = then {
            let writer = StdStorage.open(path, OpenMode::ReadWrite)?;
            assert!(writer.claim()?);
            let dir = path.parent().unwrap();
            for (name, _) in files(dir) {
                // Oldest first, as they are trimmed.
                if dir.join(&name).as_path() < path {
                    StdStorage.remove(&dir.join(&name))?;
                }
            }
            StdStorage.rename(path, &path.with_file_name("spare.tmp"))?;
            match then {
                Then::Claimed => {
                    self.held.lock().unwrap().push(writer);
                    return Ok(file);
                }
                Then::Emptied => writer.write_all_at(&[0; 4096], 0)?,
                Then::Another => writer.write_all_at(&std::fs::read(&self.other)?, 0)?,
            }
            writer.release()?;
        }
        Ok(file)
    }

    crate::support::as_the_real_disk!();
}

#[test]
fn a_segment_trimmed_while_it_is_opened_is_trimmed_not_damaged() {
    for then in [Then::Claimed, Then::Emptied, Then::Another] {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(LogConfig {
            segment_bytes: SEGMENT,
            ..config(dir.path())
        })
        .unwrap();
        fill(&log, 3);
        let all = files(dir.path());
        assert!(all.len() >= 4);
        let disk = Arc::new(Late {
            then: Mutex::new(None),
            held: Mutex::default(),
            other: dir.path().join(&all[2].0),
        });
        let mut tail = WalTail::open(disk.clone(), dir.path(), StartAt::Earliest, clock()).unwrap();
        let one = BatchLimit {
            events_max: 1,
            ..BatchLimit::default()
        };
        tail.poll_batch(&one).unwrap();
        // The segment that is opened next goes away below it.
        *disk.then.lock().unwrap() = Some(then);
        let lost = drain(&mut tail, BatchLimit::default()).unwrap_err();
        assert_eq!(lost.kind, LogErrorKind::Trimmed, "{then:?}: {lost}");
        assert!(disk.then.lock().unwrap().is_none());
    }
}
