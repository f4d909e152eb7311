//! Tails of the writer's own process: they get what was written without reading it, and rejoin when
//! they fell behind.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cdc_core::storage::{OpenMode, StdStorage, Storage, StorageFile};
use cdc_core::testing::{relation, row};
use cdc_core::{BatchLimit, ChangeEvent};
use cdc_wal::inspect::Inspector;
use cdc_wal::{Log, LogConfig, StartAt, SyncPolicy, Visibility, WalTail};

use crate::support::{clock, config, drain};

/// The machine's disk, counting what is read of frames.
#[derive(Debug, Default)]
struct Counted(Arc<AtomicU64>);

#[derive(Debug)]
struct CountedFile(Box<dyn StorageFile>, Arc<AtomicU64>);

impl Storage for Counted {
    fn open(&self, path: &Path, mode: OpenMode) -> std::io::Result<Box<dyn StorageFile>> {
        let file = StdStorage.open(path, mode)?;
        Ok(Box::new(CountedFile(file, self.0.clone())))
    }

    crate::support::as_the_real_disk!();
}

impl StorageFile for CountedFile {
    crate::support::as_the_file!(write_all_at set_len len sync_data share);

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        // Behind a segment's header.
        if offset >= 4096 {
            self.1.fetch_add(1, Ordering::SeqCst);
        }
        self.0.read_at(buffer, offset)
    }
}

fn commit(log: &Log, id: u64, bytes: usize) {
    let mut tx = log.begin(id);
    tx.insert(&relation(), &row(1, &"x".repeat(bytes), "1"))
        .expect("insert");
    tx.commit_unsynced().expect("commit");
}

fn ids(events: &[ChangeEvent]) -> Vec<u64> {
    events.iter().map(|e| e.transaction.id).collect()
}

fn all(tail: &mut WalTail) -> Vec<u64> {
    ids(&drain(tail, BatchLimit::default()).expect("drain"))
}

#[test]
fn a_tail_that_follows_reads_nothing_and_one_that_fell_behind_rejoins() {
    let dir = tempfile::tempdir().unwrap();
    let reads = Arc::new(AtomicU64::new(0));
    let log = Log::open(LogConfig {
        storage: Arc::new(Counted(reads.clone())),
        segment_bytes: 1 << 20,
        ..config(dir.path())
    })
    .unwrap();
    let mut tail = log.tail(StartAt::Earliest, clock()).unwrap();
    let mut slow = log.tail(StartAt::Earliest, clock()).unwrap();
    let before = reads.load(Ordering::SeqCst);
    let mut next = 0;
    let mut burst = |count: u64, bytes| {
        let from = next;
        for _ in 0..count {
            commit(&log, next, bytes);
            next += 1;
        }
        log.flush().unwrap();
        (from..next).collect::<Vec<_>>()
    };
    let mut expected = Vec::new();
    for round in 0..40 {
        let written = burst(20, 100 + 700 * (round % 9));
        assert_eq!(all(&mut tail), written, "round {round}");
        expected.extend(written);
    }
    assert_eq!(
        reads.load(Ordering::SeqCst),
        before,
        "what was just written is not read"
    );
    // 4 MiB and more behind.
    expected.extend(burst(600, 10_000));
    let mut seen = all(&mut slow);
    assert_eq!(seen, expected);
    let behind = reads.load(Ordering::SeqCst);
    assert!(behind > before, "it had to read");
    let _ = all(&mut tail);
    for _ in 0..10 {
        let written = burst(7, 3000);
        assert_eq!(all(&mut slow), written);
        seen.extend(written);
    }
    drop(tail);
    let now = reads.load(Ordering::SeqCst);
    expected.extend(burst(50, 3000));
    seen.extend(all(&mut slow));
    assert_eq!(
        reads.load(Ordering::SeqCst),
        now,
        "it follows the writer again"
    );
    assert_eq!(seen.len(), 40 * 20 + 600 + 70 + 50);
    assert!(
        seen.windows(2).all(|w| w[0] + 1 == w[1]),
        "no gap, no repeat"
    );
    // What was given is what stands in the files.
    drop(log);
    let mut again = WalTail::open(StdStorage::shared(), dir.path(), StartAt::Earliest, clock());
    assert_eq!(all(again.as_mut().unwrap()), seen);
}

#[test]
fn many_tails_that_come_and_go_at_random_each_see_everything_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(LogConfig {
        segment_bytes: 256 << 10,
        sync: SyncPolicy::Never,
        visibility: Visibility::Written,
        background: true,
        ..config(dir.path())
    })
    .unwrap();
    const COUNT: u64 = 6000;
    std::thread::scope(|scope| {
        for n in 0..8usize {
            let log = log.clone();
            scope.spawn(move || {
                let mut seen: Vec<u64> = Vec::new();
                let mut after = StartAt::Earliest;
                let mut turns = 0;
                while seen.len() as u64 != COUNT {
                    let mut tail = log.tail(after, clock()).expect("tail");
                    // Some keep up, some stay away for a while, some begin anew all the time.
                    for _ in 0..1 + n * n {
                        turns += 1;
                        if n % 3 == 2 && turns % 4 != 0 {
                            std::thread::yield_now();
                            continue;
                        }
                        let limit = BatchLimit {
                            events_max: 1 + n * 50,
                            ..BatchLimit::default()
                        };
                        if let Some(batch) = tail.poll_batch(&limit).expect("poll") {
                            seen.extend(ids(batch.events()));
                        }
                    }
                    after = StartAt::After(tail.end());
                }
                assert!(seen.into_iter().eq(0..COUNT), "tail {n}: no gap, no repeat");
            });
        }
        for id in 0..COUNT {
            commit(&log, id, usize::try_from(id % 13).expect("small") * 200);
        }
        log.flush().expect("flush");
    });
}

#[test]
fn readers_that_stand_still_do_not_hold_a_writer_up() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(LogConfig {
        retain_bytes: 0,
        ..config(dir.path())
    })
    .unwrap();
    for id in 0..100 {
        commit(&log, id, 1000);
    }
    log.flush().unwrap();
    // Each in the middle of reading: here, in another process's place, an inspector; with a batch held.
    let limit = BatchLimit {
        events_max: 5,
        ..BatchLimit::default()
    };
    let mut near = log.tail(StartAt::Earliest, clock()).unwrap();
    let held = near.poll_batch(&limit).unwrap().unwrap();
    let mut far =
        WalTail::open(StdStorage::shared(), dir.path(), StartAt::Earliest, clock()).unwrap();
    let also_held = far.poll_batch(&limit).unwrap().unwrap();
    let inspector = Inspector::open(StdStorage::shared(), dir.path()).unwrap();
    let mut frames = inspector.frames(inspector.first_lsn());
    frames.next().unwrap().unwrap();
    // The writer fills and trims many segments, all in this thread: it would never come back if it
    // waited for one of them.
    let before = log.oldest().unwrap();
    for id in 100..1000 {
        commit(&log, id, 1000);
    }
    log.flush().unwrap();
    assert!(log.oldest().unwrap() > before, "and trims");
    assert_eq!(held.events().len() + also_held.events().len(), 10);
    assert!(
        held.events()
            .iter()
            .zip(also_held.events())
            .all(|(a, b)| a == b),
        "what was given stays as it is"
    );
}
