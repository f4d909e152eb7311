//! The next segment is made while commits wait for syncs of the current one: in small pieces, so
//! that none waits long, and at once when the current one is almost full.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use cdc_core::Lsn;
use cdc_core::storage::{OpenMode, StdStorage, Storage, StorageFile};
use cdc_core::testing::{relation, row};
use cdc_wal::{Log, LogConfig, SyncPolicy};

use crate::support::config;

const SEGMENT: u32 = 4 << 20;
/// A thread that does not come is a failure, not a hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was done to the file of the next segment.
#[derive(Debug, Default)]
struct Next {
    /// Segments that were begun; the first is the current one.
    begun: u32,
    /// Writes of more than this wait.
    room: Option<u64>,
    written: u64,
    unsynced: u64,
    most_unsynced: u64,
    syncs: u32,
}

/// The machine's disk, watching the next segment.
#[derive(Clone, Debug, Default)]
struct Watched(Arc<(Mutex<Next>, Condvar)>);

#[derive(Debug)]
struct WatchedFile(Box<dyn StorageFile>, Watched);

impl Watched {
    fn next(&self) -> MutexGuard<'_, Next> {
        self.0.0.lock().expect("no panic")
    }

    fn change(&self, change: impl FnOnce(&mut Next)) {
        change(&mut self.next());
        self.0.1.notify_all();
    }

    fn wait(&self, until: impl Fn(&Next) -> bool) -> MutexGuard<'_, Next> {
        let waited = self
            .0
            .1
            .wait_timeout_while(self.next(), PATIENCE, |next| !until(next));
        let (next, timeout) = waited.expect("no panic");
        assert!(!timeout.timed_out(), "still {next:?}");
        next
    }
}

impl Storage for Watched {
    fn open(&self, path: &Path, mode: OpenMode) -> std::io::Result<Box<dyn StorageFile>> {
        let file = StdStorage.open(path, mode)?;
        if !path.ends_with("next.tmp") {
            return Ok(file);
        }
        self.next().begun += 1;
        if self.next().begun == 1 {
            return Ok(file);
        }
        Ok(Box::new(WatchedFile(file, self.clone())))
    }

    crate::support::as_the_real_disk!();
}

impl StorageFile for WatchedFile {
    crate::support::as_the_file!(read_at set_len len share);

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        drop(
            self.1
                .wait(|next| next.room.is_none_or(|room| next.written < room)),
        );
        self.0.write_all_at(bytes, offset)?;
        self.1.change(|next| {
            next.written += bytes.len() as u64;
            next.unsynced += bytes.len() as u64;
            next.most_unsynced = next.most_unsynced.max(next.unsynced);
        });
        Ok(())
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.0.sync_data()?;
        self.1.change(|next| {
            next.unsynced = 0;
            next.syncs += 1;
        });
        Ok(())
    }
}

fn open(dir: &Path, disk: &Watched, sync: SyncPolicy) -> Log {
    Log::open(LogConfig {
        sync,
        storage: Arc::new(disk.clone()),
        segment_bytes: SEGMENT,
        background: true,
        ..config(dir)
    })
    .expect("a new log")
}

/// Commits until so much of the first segment is used; where the last commit is.
fn fill(log: &Log, bytes: u32) -> Lsn {
    loop {
        let mut tx = log.begin(1);
        tx.insert(&relation(), &row(1, &"x".repeat(8000), "1"))
            .expect("insert");
        let commit = tx.commit().expect("commit").commit;
        if commit.0 >= u64::from(bytes) {
            return commit;
        }
    }
}

#[test]
fn a_commit_waits_for_a_small_piece_of_the_next_segment_at_most() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Watched::default();
    let log = open(dir.path(), &disk, SyncPolicy::Always);
    fill(&log, SEGMENT / 4);
    let next = disk.wait(|next| next.written == u64::from(SEGMENT) && next.unsynced == 0);
    assert!(next.most_unsynced <= 256 << 10, "{next:?}");
}

#[test]
fn the_next_segment_is_made_at_once_when_the_current_one_is_almost_full() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Watched::default();
    let log = open(dir.path(), &disk, SyncPolicy::Always);
    disk.change(|next| next.room = Some(0));
    fill(&log, SEGMENT / 4 * 3 + SEGMENT / 16);
    disk.change(|next| next.room = None);
    let next = disk.wait(|next| next.written == u64::from(SEGMENT) && next.unsynced == 0);
    assert_eq!(next.syncs, 1, "{next:?}");
}

#[test]
fn commits_are_synced_on_the_interval_while_the_next_segment_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Watched::default();
    let log = open(dir.path(), &disk, SyncPolicy::Group(Duration::ZERO));
    disk.change(|next| next.room = Some(0));
    fill(&log, SEGMENT / 4 + 4096);
    // The thread that syncs is at the next segment now, or will be once it has synced this.
    let commit = fill(&log, SEGMENT / 4 + (64 << 10));
    let almost = u64::from(SEGMENT) - (256 << 10);
    disk.change(|next| next.room = Some(almost));
    drop(disk.wait(|next| next.written == almost));
    assert!(
        log.flushed_lsn() > commit,
        "not synced for the whole segment"
    );
    disk.change(|next| next.room = None);
}
