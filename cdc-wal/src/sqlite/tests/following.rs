//! A follower without its thread: each look at the log is a call.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use cdc_core::storage::Storage;
use cdc_core::{ChangeEvent, Op, Position, SourceError, Value};
use tokio::sync::mpsc;

use super::mirror::{Mirror, seed};
use crate::sqlite::collect::{Chunk, Collector};
use crate::sqlite::config::{Mode, SqliteConfig};
use crate::sqlite::downstream::Downstream;
use crate::sqlite::follow::{Follower, Looked};
use crate::sqlite::free::Free;
use crate::sqlite::sink::{Row, SchemaChange, Shape, Sink};

/// Looks at the log after which what was committed must have come.
const LOOKS_MAX: u32 = 100_000;

#[derive(Debug)]
enum Either {
    Pinned(Box<Follower>),
    Free(Box<Free>),
}

/// A follower in one of the modes, and what it hands over.
pub(super) struct Following {
    follower: Either,
    collector: Collector,
    chunks: mpsc::Receiver<Result<Chunk, SourceError>>,
    pub(super) floor: Position,
}

impl Following {
    pub(super) fn open(
        config: &SqliteConfig,
        storage: &Arc<dyn Storage>,
        mut resume: Option<Position>,
    ) -> Result<Self, SourceError> {
        Self::open_to(config, storage, &mut resume)
    }

    pub(super) fn open_to(
        config: &SqliteConfig,
        storage: &Arc<dyn Storage>,
        downstream: &mut dyn Downstream,
    ) -> Result<Self, SourceError> {
        let (follower, begun) = match config.mode {
            Mode::Pinned => {
                let (follower, begun) = Follower::open(config, storage, downstream)?;
                (Either::Pinned(Box::new(follower)), begun)
            }
            Mode::LockFree => {
                let (follower, begun) = Free::open(config, storage, downstream)?;
                (Either::Free(Box::new(follower)), begun)
            }
        };
        let (out, chunks) = mpsc::channel(100_000);
        let stop = Arc::new(AtomicBool::new(false));
        Ok(Self {
            follower,
            collector: Collector::new(out, stop, begun.floor),
            chunks,
            floor: begun.floor,
        })
    }

    pub(super) fn load(&mut self) -> Result<(), SourceError> {
        match &mut self.follower {
            Either::Pinned(follower) => follower.load(&mut self.collector),
            Either::Free(follower) => follower.load(&mut self.collector),
        }
    }

    /// Empty tables are told by no row.
    pub(super) fn seed(&self, mirror: &mut Mirror) {
        let decoder = match &self.follower {
            Either::Pinned(follower) => follower.decoder.as_ref(),
            Either::Free(follower) => follower.decoder.as_ref(),
        };
        seed(mirror, decoder.unwrap().relations());
    }

    pub(super) fn poll(&mut self, confirmed: Position) -> Result<Looked, SourceError> {
        match &mut self.follower {
            Either::Pinned(follower) => follower.poll(&mut self.collector, confirmed),
            Either::Free(follower) => follower.poll(&mut self.collector, confirmed),
        }
    }

    /// Looks until everything that is committed has come; nobody writes meanwhile.
    pub(super) fn catch_up(&mut self, confirmed: Position) -> Result<(), SourceError> {
        for _ in 0..LOOKS_MAX {
            match self.poll(confirmed)? {
                Looked::Still => return Ok(()),
                Looked::Moved | Looked::Urgent => std::thread::yield_now(),
                Looked::TooLong => panic!("the log has grown past its limit"),
            }
        }
        panic!("nothing is committed, and there is no end of it");
    }

    /// What was handed over since the last call.
    pub(super) fn take(&mut self) -> Vec<ChangeEvent> {
        let mut events = Vec::new();
        while let Ok(chunk) = self.chunks.try_recv() {
            events.extend(chunk.unwrap().events);
        }
        events
    }
}

/// Whether an event belongs to a transaction that stands for several.
pub(super) fn is_merged(event: &ChangeEvent) -> bool {
    meta(event, "merged").is_some()
}

fn meta<'a>(event: &'a ChangeEvent, name: &str) -> Option<&'a Value> {
    let entries = event.meta.as_ref()?;
    let found = entries.0.iter().find(|(key, _)| &**key == name);
    found.map(|(_, value)| value)
}

/// What became of a table's shape, of a schema event.
pub(super) fn change(event: &ChangeEvent) -> Option<&str> {
    match meta(event, "change") {
        Some(Value::Text(change)) => Some(change),
        _ => None,
    }
}

/// What the decoder told, told again.
pub(super) fn feed(mirror: &mut Mirror, event: &ChangeEvent) {
    let text = |name: &str| match meta(event, name) {
        Some(Value::Text(text)) => Some(text.as_str()),
        _ => None,
    };
    if event.op == Op::Schema {
        let change = [
            SchemaChange::Created,
            SchemaChange::Altered,
            SchemaChange::Dropped,
            SchemaChange::Renumbered,
        ];
        let change = change
            .into_iter()
            .find(|change| Some(change.name()) == text("change"));
        mirror
            .schema(Shape {
                relation: &event.relation,
                change: change.unwrap(),
                sql: text("sql").unwrap(),
                was: text("was"),
            })
            .unwrap();
        return;
    }
    let (before, after) = (event.before.row(), event.after.row());
    mirror
        .row(Row {
            relation: &event.relation,
            op: event.op,
            before: before.map(|row| &row.as_bytes()[..]),
            after: after.map(|row| &row.as_bytes()[..]),
            rowid: match meta(event, "rowid") {
                Some(Value::Int(rowid)) => Some(*rowid),
                _ => None,
            },
        })
        .unwrap();
}
