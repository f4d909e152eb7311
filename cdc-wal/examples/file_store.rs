//! An engine of objects in buckets embeds the log: open, hook, commit, tail.
//! `cargo run -p cdc-wal --example file_store`

use std::sync::Arc;

use cdc_core::{BatchLimit, Lsn, ThreadClock, WalHook};
use cdc_wal::kinds::file_store::{Bucket, Object, Removed};
use cdc_wal::kinds::{FileStoreLog, Old};
use cdc_wal::{LogConfig, StartAt};

struct Wake;

impl WalHook for Wake {
    // Here an engine unparks whoever waits for durability.
    fn on_commit(&self, _durable_end: Lsn) {}
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let log = FileStoreLog::open(LogConfig::new(dir.path().join("wal")))?;
    log.add_hook(Arc::new(Wake));

    let (files, backups) = (
        Bucket::new("acme", "files"),
        Bucket::versioned("acme", "backups"),
    );
    let object = Object {
        key: "img/cat.png",
        size: 48_213,
        etag: Some("9b2cf535f27731c9"),
        content_type: Some("image/png"),
        tags: &[("owner", "ada")],
        ..Object::default()
    };
    let mut request = log.begin(1);
    request
        .put(&files, Old::Missing, &object)?
        // A lifecycle rule takes it away, and hides the versions of another one.
        .expire(&files, Removed::Object(&object))?
        .hide(&backups, "db.tar", "v2", None, cdc_core::Cause::Lifecycle)?;
    request.commit()?;

    let clock = Arc::new(ThreadClock::new());
    let mut tail = log.tail_cursor("search", StartAt::Earliest, clock)?;
    let batch = tail
        .poll_batch(&BatchLimit::default())?
        .ok_or("no events")?;
    let ops: Vec<_> = batch.events().iter().map(|e| e.op.name()).collect();
    assert_eq!(ops, ["insert", "delete", "insert"]);
    log.confirm("search", batch.end())?;
    Ok(())
}
