//! An engine of nodes and edges embeds the log: open, hook, commit, tail.
//! `cargo run -p cdc-wal --example graph`

use std::sync::Arc;

use cdc_core::Value;
use cdc_core::{BatchLimit, Lsn, ThreadClock, WalHook};
use cdc_wal::kinds::GraphLog;
use cdc_wal::kinds::graph::{Edge, EdgeType, Label, Node};
use cdc_wal::{LogConfig, StartAt};

struct Wake;

impl WalHook for Wake {
    // Here an engine unparks whoever waits for durability.
    fn on_commit(&self, _durable_end: Lsn) {}
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let log = GraphLog::open(LogConfig::new(dir.path().join("wal")))?;
    log.add_hook(Arc::new(Wake));

    let person = Label::new("social", "Person", &["email"]);
    let knows = EdgeType::new("social", "KNOWS", &[]);
    let email = [("email", Value::from("ada@example.com"))];
    let ada = Node::new("n1", &["Person", "Admin"], &email);
    let edge = Edge::new("e1", ada.end(&email), ada.end(&email), &[]);
    let mut tx = log.begin(1);
    tx.create_node(&person, &ada)?.create_edge(&knows, &edge)?;
    // The edges first, with the cause `cascade`.
    tx.detach_delete(&person, &ada, [(&knows, edge)])?;
    tx.commit()?;

    let clock = Arc::new(ThreadClock::new());
    let mut tail = log.tail_cursor("search", StartAt::Earliest, clock)?;
    let batch = tail
        .poll_batch(&BatchLimit::default())?
        .ok_or("no events")?;
    let ops: Vec<_> = batch.events().iter().map(|e| e.op.name()).collect();
    assert_eq!(ops, ["insert", "insert", "delete", "delete"]);
    log.confirm("search", batch.end())?;
    Ok(())
}
