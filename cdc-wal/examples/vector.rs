//! An engine of vectors embeds the log: open, hook, commit, tail.
//! `cargo run -p cdc-wal --example vector`

use std::sync::Arc;

use cdc_core::{BatchLimit, Lsn, ThreadClock, WalHook};
use cdc_wal::kinds::vector::{Collection, Point, PointId, Shape, Vectors};
use cdc_wal::kinds::{Old, SchemaChange, VectorLog};
use cdc_wal::{LogConfig, StartAt};

struct Wake;

impl WalHook for Wake {
    // Here an engine unparks whoever waits for durability.
    fn on_commit(&self, _durable_end: Lsn) {}
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let log = VectorLog::open(LogConfig::new(dir.path().join("wal")))?;
    log.add_hook(Arc::new(Wake));

    let articles = Collection::new("search", "articles");
    let point = Point {
        vectors: Vectors::Named(&[
            ("title", &[0.25, -0.0]),
            ("body", &[f32::MIN_POSITIVE, 1.0]),
        ]),
        payload: Some(r#"{"lang":"en"}"#),
    };
    let mut request = log.begin(1);
    request
        .collection_changed(
            &articles,
            SchemaChange::Create,
            Some(Shape::new(2, "cosine")),
        )?
        .upsert(&articles, PointId::Number(7), Old::Missing, point)?
        .delete(&articles, PointId::Number(6), Old::Unknown)?;
    request.commit()?;

    let clock = Arc::new(ThreadClock::new());
    let mut tail = log.tail_cursor("search", StartAt::Earliest, clock)?;
    let batch = tail
        .poll_batch(&BatchLimit::default())?
        .ok_or("no events")?;
    let ops: Vec<_> = batch.events().iter().map(|e| e.op.name()).collect();
    assert_eq!(ops, ["schema", "insert", "delete"]);
    log.confirm("search", batch.end())?;
    Ok(())
}
