//! Decoded changes to events in chunks, handed to the consumer.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cdc_core::{
    ChangeEvent, Image, Lsn, Meta, Op, Position, Relation, RowImage, SourceError, SourceErrorKind,
    Transaction, Value,
};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::format::FRAME_HEADER;
use super::sink::{Row, Shape, Sink};
use super::wal_index::WalIndex;

/// Events of one chunk.
const EVENTS_MAX: usize = 4096;
/// Bytes of row images of one chunk; one larger event comes alone.
const BYTES_MAX: usize = 1 << 20;
/// Chunks that may wait for the consumer.
pub(crate) const CHUNKS: usize = 4;
/// How long the thread waits before it looks again if the consumer has taken a chunk.
const FULL_WAIT: Duration = Duration::from_millis(1);

/// How often the log is looked at meanwhile.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// Events in order, and how far they reach.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) events: Vec<ChangeEvent>,
    pub(crate) end: Position,
}

#[derive(Debug)]
struct Draft {
    event: ChangeEvent,
    before: Option<(usize, usize)>,
    after: Option<(usize, usize)>,
}

/// The log, looked at while the consumer takes nothing.
#[derive(Debug)]
struct Watch {
    index: Arc<File>,
    bytes_max: u64,
    next: Instant,
}

/// Makes events of one transaction after the other.
#[derive(Debug)]
pub(crate) struct Collector {
    out: mpsc::Sender<Result<Chunk, SourceError>>,
    stop: Arc<AtomicBool>,
    arena: Vec<u8>,
    drafts: Vec<Draft>,
    transaction: Transaction,
    commit: Lsn,
    next_ordinal: u32,
    /// Mark of transactions that stand for several.
    merged: bool,
    /// Whole transactions up to here were pushed.
    covered: Position,
    /// Nothing is handed over: the consumer is not to be waited for.
    held: bool,
    /// What of that was handed over.
    told: Position,
    /// What is decoded again up to here is not handed over again.
    skip_to: Position,
    watch: Option<Watch>,
    names: HashMap<&'static str, Arc<str>>,
}

fn stopped() -> SourceError {
    SourceError::new(
        SourceErrorKind::Transient,
        "hand over changes: the consumer is gone",
    )
}

impl Collector {
    pub(crate) fn new(
        out: mpsc::Sender<Result<Chunk, SourceError>>,
        stop: Arc<AtomicBool>,
        covered: Position,
    ) -> Self {
        Self {
            out,
            stop,
            arena: Vec::new(),
            drafts: Vec::new(),
            transaction: Transaction::default(),
            commit: Lsn::ZERO,
            next_ordinal: 0,
            merged: false,
            covered,
            told: covered,
            skip_to: Position::ZERO,
            watch: None,
            held: false,
            names: HashMap::new(),
        }
    }

    /// True once the consumer wants no more.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.out.is_closed()
    }

    /// Follows the length of the log: from `bytes_max` on it is too long.
    pub(crate) fn watch(&mut self, index: Arc<File>, bytes_max: u64) {
        self.watch = Some(Watch {
            index,
            bytes_max,
            next: Instant::now(),
        });
    }

    /// Whether the log has grown past its limit.
    pub(crate) fn is_too_long(&self, head: &WalIndex) -> bool {
        let page = u64::from(head.page_size) + FRAME_HEADER as u64;
        let bytes = u64::from(head.last_frame) * page;
        self.watch
            .as_ref()
            .is_some_and(|watch| bytes > watch.bytes_max)
    }

    /// Forgets what was not handed over, to decode it again; gives how far it was.
    pub(crate) fn rewind(&mut self) -> Position {
        self.watch = None;
        self.drafts.clear();
        self.arena.clear();
        self.held = false;
        self.skip_to = self.told;
        self.covered = self.told;
        self.told
    }

    /// Keeps everything here while set: the caller bounds how much that can be.
    pub(crate) fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// A transaction begins. The time is when it was first seen: the log holds none.
    pub(crate) fn begin(&mut self, commit: Lsn, micros: i64, merged: bool) {
        self.commit = commit;
        self.next_ordinal = 0;
        self.merged = merged;
        self.transaction = Transaction {
            id: commit.0,
            commit_micros: micros,
        };
    }

    /// The transaction is whole.
    pub(crate) fn end(&mut self) {
        if let Some(draft) = self.drafts.last_mut()
            && draft.event.position.commit == self.commit
        {
            draft.event.last = true;
        }
        self.covered = self.covered.max(Position::end_of(self.commit));
    }

    /// Hands over what there is: all of it only between transactions.
    pub(crate) fn flush(&mut self) -> Result<(), SourceError> {
        if !self.held && (self.covered > self.told || !self.drafts.is_empty()) {
            self.send()?;
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), SourceError> {
        let next = Vec::with_capacity(self.arena.len().min(BYTES_MAX));
        let rows = Bytes::from(std::mem::replace(&mut self.arena, next));
        let image = |part: Option<(usize, usize)>| match part {
            Some((start, end)) => Image::Full(RowImage::from_bytes(rows.slice(start..end))),
            None => Image::Absent,
        };
        let events: Vec<ChangeEvent> = std::mem::take(&mut self.drafts)
            .into_iter()
            .map(|draft| {
                let mut event = draft.event;
                event.before = image(draft.before);
                event.after = image(draft.after);
                event
            })
            .collect();
        let end = events
            .last()
            .map_or(self.covered, |event| event.position.max(self.covered));
        let mut item = Ok(Chunk { events, end });
        loop {
            if self.is_stopped() {
                return Err(stopped());
            }
            match self.out.try_send(item) {
                Ok(()) => {
                    self.told = end;
                    return Ok(());
                }
                Err(TrySendError::Closed(_)) => return Err(stopped()),
                Err(TrySendError::Full(back)) => item = back,
            }
            self.look()?;
            std::thread::sleep(FULL_WAIT);
        }
    }

    /// The application's log must not grow without bound while the consumer takes nothing.
    fn look(&mut self) -> Result<(), SourceError> {
        let Some(watch) = &mut self.watch else {
            return Ok(());
        };
        if Instant::now() < watch.next {
            return Ok(());
        }
        watch.next = Instant::now() + WATCH_INTERVAL;
        match WalIndex::read(&watch.index)? {
            Some(head) if self.is_too_long(&head) => Err(stopped()),
            _ => Ok(()),
        }
    }

    fn push(
        &mut self,
        relation: &Arc<Relation>,
        op: Op,
        (before, after): (Option<&[u8]>, Option<&[u8]>),
        mut meta: Vec<(Arc<str>, Value)>,
    ) -> Result<(), SourceError> {
        // The last event of a transaction stays here until it is known to be the last.
        let full = self.drafts.len() >= EVENTS_MAX || self.arena.len() >= BYTES_MAX;
        if full && !self.held {
            self.send()?;
        }
        if self.next_ordinal == Position::END {
            return Err(SourceError::new(
                SourceErrorKind::Unsupported,
                format!(
                    "decode the transaction of {}: it has more than {} changes",
                    self.commit,
                    Position::END
                ),
            ));
        }
        if self.merged {
            meta.push((self.name("merged"), Value::Bool(true)));
        }
        let position = Position::new(self.commit, self.next_ordinal);
        self.next_ordinal += 1;
        if position <= self.skip_to {
            return Ok(());
        }
        let mut event = ChangeEvent::new(position, relation.clone(), self.transaction, op);
        event.meta = (!meta.is_empty()).then(|| Arc::new(Meta(meta)));
        let mut keep = |bytes: &[u8]| {
            let start = self.arena.len();
            self.arena.extend_from_slice(bytes);
            (start, self.arena.len())
        };
        let (before, after) = (before.map(&mut keep), after.map(&mut keep));
        self.drafts.push(Draft {
            event,
            before,
            after,
        });
        Ok(())
    }

    fn name(&mut self, name: &'static str) -> Arc<str> {
        self.names
            .entry(name)
            .or_insert_with(|| Arc::from(name))
            .clone()
    }
}

impl Sink for Collector {
    fn schema(&mut self, shape: Shape<'_>) -> Result<(), SourceError> {
        let mut meta = vec![
            (
                self.name("change"),
                Value::Text(shape.change.name().to_owned()),
            ),
            (self.name("sql"), Value::Text(shape.sql.to_owned())),
        ];
        if let Some(was) = shape.was {
            meta.push((self.name("was"), Value::Text(was.to_owned())));
        }
        self.push(shape.relation, Op::Schema, (None, None), meta)
    }

    fn row(&mut self, row: Row<'_>) -> Result<(), SourceError> {
        let meta = match row.rowid {
            Some(rowid) => vec![(self.name("rowid"), Value::Int(rowid))],
            None => Vec::new(),
        };
        self.push(row.relation, row.op, (row.before, row.after), meta)
    }
}
