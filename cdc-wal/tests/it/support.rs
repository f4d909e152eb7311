//! What the tests of the log share.

use std::sync::Arc;

use cdc_core::{BatchLimit, ChangeEvent, Clock, Position, SystemClock};
use cdc_wal::{LogConfig, LogError, WalTail};

/// A small log: 64 KiB segments, everything in the calling thread.
pub(crate) fn config(dir: &std::path::Path) -> LogConfig {
    LogConfig {
        segment_bytes: 64 << 10,
        background: false,
        ..LogConfig::new(dir)
    }
}

pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

/// Everything a tail gives now.
pub(crate) fn drain(tail: &mut WalTail, limit: BatchLimit) -> Result<Vec<ChangeEvent>, LogError> {
    let mut events = Vec::new();
    let mut end = Position::ZERO;
    while let Some(batch) = tail.poll_batch(&limit)? {
        assert!(batch.len() <= limit.events_max, "a batch over its limit");
        assert!(batch.end() >= end, "the end went back");
        end = batch.end();
        events.extend_from_slice(batch.events());
    }
    Ok(events)
}

/// All of a [`Storage`](cdc_core::storage::Storage) but `open`, as the real disk has it.
macro_rules! as_the_real_disk {
    () => {
        fn create_dir_all(&self, path: &std::path::Path) -> std::io::Result<()> {
            cdc_core::storage::StdStorage.create_dir_all(path)
        }

        fn rename(&self, from: &std::path::Path, to: &std::path::Path) -> std::io::Result<()> {
            cdc_core::storage::StdStorage.rename(from, to)
        }

        fn remove(&self, path: &std::path::Path) -> std::io::Result<()> {
            cdc_core::storage::StdStorage.remove(path)
        }

        fn list(&self, dir: &std::path::Path) -> std::io::Result<Vec<String>> {
            cdc_core::storage::StdStorage.list(dir)
        }

        fn sync_dir(&self, dir: &std::path::Path) -> std::io::Result<()> {
            cdc_core::storage::StdStorage.sync_dir(dir)
        }

        fn lock(
            &self,
            path: &std::path::Path,
        ) -> std::io::Result<Box<dyn cdc_core::storage::StorageLock>> {
            cdc_core::storage::StdStorage.lock(path)
        }

        fn exists(&self, path: &std::path::Path) -> bool {
            cdc_core::storage::StdStorage.exists(path)
        }
    };
}
pub(crate) use as_the_real_disk;

/// These of a [`StorageFile`](cdc_core::storage::StorageFile), as the file a test wraps has them.
macro_rules! as_the_file {
    ($($name:ident)+) => {
        $(crate::support::as_the_file!(@$name);)+
    };
    (@read_at) => {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
            self.0.read_at(buffer, offset)
        }
    };
    (@write_all_at) => {
        fn write_all_at(&self, bytes: &[u8], offset: u64) -> std::io::Result<()> {
            self.0.write_all_at(bytes, offset)
        }
    };
    (@set_len) => {
        fn set_len(&self, len: u64) -> std::io::Result<()> {
            self.0.set_len(len)
        }
    };
    (@len) => {
        fn len(&self) -> std::io::Result<u64> {
            self.0.len()
        }
    };
    (@sync_data) => {
        fn sync_data(&self) -> std::io::Result<()> {
            self.0.sync_data()
        }
    };
    (@share) => {
        fn share(&self) -> std::io::Result<bool> {
            self.0.share()
        }
    };
    (@claim) => {
        fn claim(&self) -> std::io::Result<bool> {
            self.0.claim()
        }
    };
}
pub(crate) use as_the_file;
