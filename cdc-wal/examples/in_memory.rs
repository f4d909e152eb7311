//! An engine of data structures in memory embeds the log: open, hook, commit, tail.
//! `cargo run -p cdc-wal --example in_memory`

use std::sync::Arc;

use cdc_core::{BatchLimit, Lsn, ThreadClock, WalHook};
use cdc_wal::kinds::in_memory::{Data, Database, Entry, Removed};
use cdc_wal::kinds::{Encoding, InMemoryLog, Old};
use cdc_wal::{LogConfig, StartAt};

struct Wake;

impl WalHook for Wake {
    // Here an engine unparks whoever waits for durability.
    fn on_commit(&self, _durable_end: Lsn) {}
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let log = InMemoryLog::open(LogConfig::new(dir.path().join("wal")))?;
    log.add_hook(Arc::new(Wake));

    // Keys and values are text here, and one prefix has a table of its own.
    let db0 = Database::with(0, Encoding::Text, &[("session:", "sessions")]);
    let entry = Entry {
        data: Data::String(b"ada"),
        expires_at: Some(1_795_352_707_000_000),
    };
    let tags = Entry::from(Data::Set(&[b"new", b"vip"]));
    let mut multi = log.begin(1);
    multi
        .set(&db0, b"session:1", Old::Missing, entry)?
        .set(&db0, b"tags", Old::Missing, tags)?
        .rename(&db0, b"tags", b"labels", tags, None)?
        .expire(&db0, b"session:1", Removed::Entry(entry))?;
    multi.commit()?;

    let clock = Arc::new(ThreadClock::new());
    let mut tail = log.tail_cursor("search", StartAt::Earliest, clock)?;
    let batch = tail
        .poll_batch(&BatchLimit::default())?
        .ok_or("no events")?;
    let ops: Vec<_> = batch.events().iter().map(|e| e.op.name()).collect();
    assert_eq!(ops, ["insert", "insert", "delete", "insert", "delete"]);
    log.confirm("search", batch.end())?;
    Ok(())
}
