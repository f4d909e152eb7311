//! An engine of keys and values embeds the log: open, hook, commit, tail.
//! `cargo run -p cdc-wal --example key_value`

use std::sync::Arc;

use cdc_core::{BatchLimit, Lsn, ThreadClock, WalHook};
use cdc_wal::kinds::key_value::{Family, Stored};
use cdc_wal::kinds::{Encoding, KeyValueLog, Old};
use cdc_wal::{LogConfig, StartAt};

struct Wake;

impl WalHook for Wake {
    // Here an engine unparks whoever waits for durability.
    fn on_commit(&self, _durable_end: Lsn) {}
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let log = KeyValueLog::open(LogConfig::new(dir.path().join("wal")))?;
    log.add_hook(Arc::new(Wake));

    let hits = Family::new("store", "hits");
    let items = Family::with("store", "items", true, Encoding::Text, Encoding::Json);
    let mut batch = log.begin(1);
    batch
        .merge(&hits, b"home", "add", &1u64.to_le_bytes(), None)?
        .put(&items, ("user#1", "cart"), Old::Unknown, r#"{"count":2}"#)?
        .delete_range(&items, ("user#2", ""), ("user#3", ""))?
        // The tombstone of what a compaction found expired: without it nobody hears of it.
        .expire(
            &hits,
            b"old",
            Old::Known(Stored::until(b"3", 1_700_000_000_000_000)),
        )?;
    batch.commit()?;

    let clock = Arc::new(ThreadClock::new());
    let mut tail = log.tail_cursor("search", StartAt::Earliest, clock)?;
    let batch = tail
        .poll_batch(&BatchLimit::default())?
        .ok_or("no events")?;
    let ops: Vec<_> = batch.events().iter().map(|e| e.op.name()).collect();
    assert_eq!(ops, ["merge", "update", "delete", "delete"]);
    log.confirm("search", batch.end())?;
    Ok(())
}
