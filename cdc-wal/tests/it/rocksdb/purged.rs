//! Log files that RocksDB deletes while a source begins: it does not wait for anybody's looks.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use cdc_core::storage::{OpenMode, StdStorage, Storage, StorageFile};
use cdc_core::{BatchLimit, Position, WalSource};
use cdc_wal::rocksdb::{RocksDbConfig, RocksDbSource, RocksDbStart};

use super::{batch, file};
use crate::support::{as_the_real_disk, clock};

/// What happens, once.
type Act = Box<dyn FnOnce() + Send>;

/// A disk at which something happens before the n-th file is opened, or looked for.
struct Meanwhile(Mutex<(usize, Option<Act>)>);

impl std::fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meanwhile")
    }
}

impl Meanwhile {
    fn before(opens: usize, act: impl FnOnce() + Send + 'static) -> Arc<Self> {
        Arc::new(Self(Mutex::new((opens, Some(Box::new(act))))))
    }

    fn has_happened(&self) -> bool {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.1.is_none()
    }
}

impl Storage for Meanwhile {
    as_the_real_disk!();

    fn open(&self, path: &Path, mode: OpenMode) -> std::io::Result<Box<dyn StorageFile>> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, act) = &mut *inner;
        *left = left.wrapping_sub(1);
        if *left == usize::MAX
            && let Some(act) = act.take()
        {
            act();
        }
        drop(inner);
        StdStorage.open(path, mode)
    }
}

fn put(db: &Path, number: u64, sequences: &[u64]) {
    let batches: Vec<_> = sequences.iter().map(|n| batch(*n, &[b"x"])).collect();
    std::fs::write(db.join(format!("{number:06}.log")), file(None, &batches)).expect("a file");
}

fn remove(db: &Path, number: u64) {
    std::fs::remove_file(db.join(format!("{number:06}.log"))).expect("a file");
}

/// A database with one log file, with the changes 1 to 4.
fn database(dir: &Path) -> std::path::PathBuf {
    let db = dir.join("db");
    std::fs::create_dir_all(&db).expect("a folder");
    for (name, text) in [
        ("IDENTITY", "000102030405060708090a0b0c0d0e0f"),
        ("CURRENT", "MANIFEST-000001\n"),
        ("MANIFEST-000001", ""),
    ] {
        std::fs::write(db.join(name), text).expect("a file");
    }
    put(&db, 5, &[1, 2, 3, 4]);
    db
}

fn config(db: &Path, start: RocksDbStart) -> RocksDbConfig {
    RocksDbConfig {
        start,
        state_dir: Some(db.with_file_name("state")),
        ..RocksDbConfig::new(db)
    }
}

#[test]
fn who_begins_now_or_with_what_is_there_misses_nothing() {
    for start in [RocksDbStart::Now, RocksDbStart::Oldest] {
        for opens in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let db = database(dir.path());
            let folder = db.clone();
            // The changes 5 and 6 were written, flushed to a table and purged.
            let disk = Meanwhile::before(opens, move || {
                put(&folder, 9, &[7, 8]);
                remove(&folder, 5);
            });
            let begun = RocksDbSource::connect(disk.clone(), clock(), config(&db, start), None);
            assert!(begun.is_ok(), "{start:?}, {opens}: {begun:?}");
            if !disk.has_happened() {
                assert!(opens > 4, "{opens}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_was_read_to_its_end_may_go_while_its_successor_is_found() {
    for opens in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let db = database(dir.path());
        // RocksDB gave the numbers 3 and 4 again.
        put(&db, 9, &[3, 4, 5]);
        let config = config(&db, RocksDbStart::Oldest);
        let mut source =
            RocksDbSource::connect(StdStorage::shared(), clock(), config.clone(), None).unwrap();
        let batch = source.next_batch(BatchLimit::default()).await.unwrap();
        let events = batch.unwrap();
        assert_eq!(events.len(), 7);
        let read: Position = events.events()[3].position;
        let folder = db.clone();
        let disk = Meanwhile::before(opens, move || remove(&folder, 5));
        let resumed = Position::end_of(read.commit);
        let mut source =
            RocksDbSource::connect(disk.clone(), clock(), config, Some(resumed)).unwrap();
        if !disk.has_happened() {
            assert!(opens > 4, "{opens}");
            break;
        }
        let batch = source.next_batch(BatchLimit::default()).await.unwrap();
        assert_eq!(batch.unwrap().len(), 3, "{opens}");
    }
}

#[test]
fn a_gap_is_one_however_often_it_is_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let db = database(dir.path());
    let folder = db.clone();
    let disk = Meanwhile::before(0, move || {
        put(&folder, 9, &[7, 8]);
        remove(&folder, 5);
    });
    let config = config(&db, RocksDbStart::Now);
    let after = Position::end_of(cdc_core::Lsn(4));
    let error = RocksDbSource::connect(disk, clock(), config, Some(after)).expect_err("a gap");
    assert!(
        error.to_string().contains("from sequence number 5 to 6"),
        "{error}"
    );
}
