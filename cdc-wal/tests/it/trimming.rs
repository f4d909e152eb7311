//! A log that is looked at from another process while its writer trims it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cdc_core::storage::{OpenMode, StdStorage, Storage, StorageFile};
use cdc_core::testing::{relation, row};
use cdc_core::{BatchLimit, Position};
use cdc_wal::inspect::Inspector;
use cdc_wal::{Log, LogErrorKind, StartAt, WalTail};

use crate::support::{clock, config, drain};

/// The machine's disk, on which the writer trims the oldest segment each time in the last moment
/// before it is opened, so many times.
#[derive(Debug)]
struct Trimmed(AtomicU32);

impl Storage for Trimmed {
    fn open(&self, path: &Path, mode: OpenMode) -> std::io::Result<Box<dyn StorageFile>> {
        let left = self.0.load(Ordering::SeqCst);
        if left > 0 && path.extension().is_some_and(|end| end == "wal") {
            self.0.store(left - 1, Ordering::SeqCst);
            StdStorage.remove(path)?;
        }
        StdStorage.open(path, mode)
    }

    crate::support::as_the_real_disk!();
}

#[test]
fn a_look_goes_on_behind_what_is_trimmed_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(config(dir.path())).unwrap();
    let relation = relation();
    let text = "x".repeat(10_000);
    let mut all = Vec::new();
    for n in 0..60 {
        let mut tx = log.begin(n);
        tx.insert(&relation, &row(1, &text, "1")).unwrap();
        all.push(tx.commit().unwrap());
    }
    let trims = |count| -> Arc<dyn Storage> { Arc::new(Trimmed(AtomicU32::new(count))) };
    let open = |count, start| WalTail::open(trims(count), dir.path(), start, clock());
    let limit = BatchLimit::default();

    let mut earliest = open(2, StartAt::Earliest).unwrap();
    let events = drain(&mut earliest, limit).unwrap();
    assert!(!events.is_empty() && events.len() < all.len());
    let ends: Vec<_> = events
        .iter()
        .map(|e| Position::end_of(e.position.commit))
        .collect();
    assert_eq!(ends, all[all.len() - ends.len()..], "all that is retained");

    let mut latest = open(1, StartAt::Latest).unwrap();
    assert!(drain(&mut latest, limit).unwrap().is_empty());
    assert_eq!(latest.end(), all[all.len() - 1]);

    let lost = open(1, StartAt::After(all[0])).unwrap_err();
    assert!(matches!(lost.kind, LogErrorKind::Refused(_)), "{lost}");
    let look = Inspector::open(trims(1), dir.path()).unwrap();
    assert_eq!(look.verify().unwrap().damage, None);
}
