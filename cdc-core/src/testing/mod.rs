//! Test kit: sample events, fakes, faults. Feature `testing`; not for production builds.

pub mod conformance;
pub mod corpus;
pub mod fakes;
pub mod sim;
pub mod sim_storage;
mod syncs_disk;

pub use syncs_disk::{Syncs, SyncsDisk, Writes};

use std::sync::Arc;

use crate::{
    ChangeEvent, Column, EngineKind, EventBatch, Image, Lineage, Lsn, Op, Position, Relation,
    RowImage, SourceInfo, SourceKind, Transaction, Value,
};

/// A source description with a fixed lineage.
pub fn source() -> Arc<SourceInfo> {
    Arc::new(SourceInfo::new(
        "shop",
        "shop",
        Lineage::new(SourceKind::Wal, [0x5a; 16], 1),
    ))
}

/// `public.orders (id int8 key, name text, total numeric)`.
pub fn relation() -> Arc<Relation> {
    let column = |name, kind| Column::new(name, kind);
    let columns = vec![
        column("id", "int8"),
        column("name", "text"),
        column("total", "numeric"),
    ];
    Arc::new(Relation::new(
        EngineKind::Relational,
        "public",
        "orders",
        columns,
        vec![0],
    ))
}

/// A full row of [`relation`].
pub fn row(id: i64, name: &str, total: &str) -> RowImage {
    RowImage::from_values(&[
        Value::Int(id),
        Value::Text(name.into()),
        Value::Decimal(total.into()),
    ])
}

/// An insert into [`relation`] at `commit:ordinal`.
pub fn insert(commit: u64, ordinal: u32, id: i64) -> ChangeEvent {
    let position = Position::new(Lsn(commit), ordinal);
    let transaction = Transaction {
        id: commit,
        commit_micros: 1_795_352_707_123_456,
    };
    let mut event = ChangeEvent::new(position, relation(), transaction, Op::Insert);
    event.after = Image::Full(row(id, "name", "1.50"));
    event
}

/// One transaction of `count` inserts at `commit`, ids from `first_id`, as a batch.
pub fn transaction(commit: u64, first_id: i64, count: u32) -> EventBatch {
    let mut events: Vec<_> = (0..count)
        .map(|n| insert(commit, n, first_id + i64::from(n)))
        .collect();
    if let Some(last) = events.last_mut() {
        last.last = true;
    }
    EventBatch::new(source(), events, Position::end_of(Lsn(commit)))
}
