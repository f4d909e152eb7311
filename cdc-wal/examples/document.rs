//! An engine of documents embeds the log: open, hook, commit, tail.
//! `cargo run -p cdc-wal --example document`

use std::sync::Arc;

use cdc_core::{BatchLimit, Lsn, ThreadClock, WalHook};
use cdc_wal::kinds::document::{Collection, Paths};
use cdc_wal::kinds::{DocumentLog, Old};
use cdc_wal::{LogConfig, StartAt};

struct Wake;

impl WalHook for Wake {
    // Here an engine unparks whoever waits for durability.
    fn on_commit(&self, _durable_end: Lsn) {}
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let log = DocumentLog::open(LogConfig::new(dir.path().join("wal")))?;
    log.add_hook(Arc::new(Wake));

    let orders = Collection::new("shop", "orders");
    let (open, paid) = (r#"{"_id":7,"paid":false}"#, r#"{"_id":7,"paid":true}"#);
    let mut session = log.begin(1);
    session
        .insert(&orders, 7, open)?
        .update(
            &orders,
            7,
            Old::Known(open),
            paid,
            Paths::changed(&["paid"]),
        )?
        // What a time-to-live index takes away.
        .expire(&orders, 6, Old::Unknown)?;
    session.commit()?;

    let clock = Arc::new(ThreadClock::new());
    let mut tail = log.tail_cursor("search", StartAt::Earliest, clock)?;
    let batch = tail
        .poll_batch(&BatchLimit::default())?
        .ok_or("no events")?;
    let ops: Vec<_> = batch.events().iter().map(|e| e.op.name()).collect();
    assert_eq!(ops, ["insert", "update", "delete"]);
    log.confirm("search", batch.end())?;
    Ok(())
}
