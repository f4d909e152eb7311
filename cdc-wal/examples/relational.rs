//! An engine of tables and rows embeds the log: open, hook, commit, tail.
//! `cargo run -p cdc-wal --example relational`

use std::sync::Arc;

use cdc_core::{BatchLimit, Lsn, ThreadClock, WalHook};
use cdc_wal::kinds::{RelationalLog, relational::Table};
use cdc_wal::{LogConfig, StartAt};

struct Wake;

impl WalHook for Wake {
    // Here an engine unparks whoever waits for durability.
    fn on_commit(&self, _durable_end: Lsn) {}
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    // Open: creates the log, or recovers what a crash left.
    let log = RelationalLog::open(LogConfig::new(dir.path().join("wal")))?;
    // Hook: called after each sync; it only notifies.
    log.add_hook(Arc::new(Wake));

    // Commit: rows are written column by column, straight into the log's buffer.
    let people = Table::new(
        "public",
        "people",
        &[("id", "int8"), ("name", "text")],
        &["id"],
    )?;
    let row = |id: i64, name: &'static str| {
        move |row: &mut cdc_core::row::RowWriter<'_>| {
            row.int(id);
            row.text(name);
        }
    };
    let mut tx = log.begin(742);
    tx.set_actor("alice");
    tx.insert(&people, row(1, "Ada"))?
        .update(&people, row(1, "Ada"), row(1, "Ada Lovelace"))?;
    tx.commit()?;

    // Tail: whole transactions in commit order; what a named one has not confirmed is kept.
    let clock = Arc::new(ThreadClock::new());
    let mut tail = log.tail_cursor("search", StartAt::Earliest, clock)?;
    let batch = tail
        .poll_batch(&BatchLimit::default())?
        .ok_or("no events")?;
    let ops: Vec<_> = batch.events().iter().map(|e| e.op.name()).collect();
    assert_eq!(ops, ["insert", "update"]);
    log.confirm("search", batch.end())?;
    Ok(())
}
