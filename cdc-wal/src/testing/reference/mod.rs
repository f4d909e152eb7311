//! A small engine of each kind that embeds the log as its own: state in memory, recovery from the
//! log. They are what an author of an engine can read, and what shows that the kit can be passed.
//!
//! Each has a few domains (schemas: databases, graphs, tenants). A transaction takes a domain for
//! itself when it first changes something in it, and gives it back when it ends; a change of a
//! domain that another transaction has does nothing.

mod document;
mod file_store;
mod graph;
mod in_memory;
mod key_value;
mod markdown;
mod relational;
mod vector;

use std::fmt;
use std::sync::Arc;

use cdc_core::storage::Storage;
use cdc_core::{BatchLimit, Cause, ChangeEvent, Op, RowImage, SystemClock, Value};

use super::{Announced, Dice, EngineUnderTest, LOG_DIR, SLOTS, State};
use crate::kinds::{KindLog, KindTransaction};
use crate::{Log, LogConfig, LogError, StartAt, SyncPolicy};

/// Schemas of an engine.
const DOMAINS: usize = 4;

/// What consumers see of a change.
pub type Seen = Vec<Announced>;

/// The reference engine of documents.
pub type DocumentEngine = ReferenceEngine<document::Documents>;
/// The reference engine of objects.
pub type FileStoreEngine = ReferenceEngine<file_store::Objects>;
/// The reference engine of nodes and edges.
pub type GraphEngine = ReferenceEngine<graph::Elements>;
/// The reference engine of structures in memory.
pub type InMemoryEngine = ReferenceEngine<in_memory::Structures>;
/// The reference engine of keys and values.
pub type KeyValueEngine = ReferenceEngine<key_value::Pairs>;
/// The reference engine of Markdown documents.
pub type MarkdownEngine = ReferenceEngine<markdown::Pages>;
/// The reference engine of rows.
pub type RelationalEngine = ReferenceEngine<relational::Rows>;
/// The reference engine of vectors.
pub type VectorEngine = ReferenceEngine<vector::Points>;

/// The data of one domain, and what can happen to them.
pub trait Model: Clone + Sized {
    /// The kind of engine.
    type Kind;

    /// The data of a domain before anything happened.
    fn empty(domain: usize) -> Self;

    /// Makes a random change, to the data and in the transaction.
    ///
    /// # Errors
    /// From the log.
    fn mutate(
        &mut self,
        tx: &mut KindTransaction<Self::Kind>,
        dice: &mut Dice,
    ) -> Result<Seen, LogError>;

    /// The data as rows of tables, made without the code that writes events.
    fn dump(&self, state: &mut State);

    /// Takes in a row that recovery found.
    fn load(&mut self, table: &str, row: &[Value]);

    /// See [`EngineUnderTest::merge`].
    fn merge(operator: &str, before: Option<&RowImage>, event: &ChangeEvent) -> RowImage {
        let _ = (operator, before);
        event.after.row().cloned().unwrap_or_default()
    }
}

/// An open transaction.
struct Open<M: Model> {
    tx: KindTransaction<M::Kind>,
    /// The domains it has, as they were.
    before: Vec<(usize, M)>,
}

/// An engine of one kind.
pub struct ReferenceEngine<M: Model> {
    log: KindLog<M::Kind>,
    domains: Vec<M>,
    open: [Option<Open<M>>; SLOTS],
    next_id: u64,
}

impl<M: Model> fmt::Debug for ReferenceEngine<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReferenceEngine")
            .field("domains", &self.domains.len())
            .field("open", &self.open.iter().flatten().count())
            .finish_non_exhaustive()
    }
}

/// The name of a domain.
fn domain_name(prefix: &str, domain: usize) -> String {
    format!("{prefix}{domain}")
}

fn config(storage: Arc<dyn Storage>) -> LogConfig {
    LogConfig {
        segment_bytes: 64 << 10,
        background: false,
        sync: SyncPolicy::Always,
        storage,
        ..LogConfig::new(LOG_DIR)
    }
}

impl<M: Model> ReferenceEngine<M> {
    fn has(open: &Option<Open<M>>, domain: usize) -> bool {
        let mut before = open.iter().flat_map(|open| &open.before);
        before.any(|(taken, _)| *taken == domain)
    }
}

impl<M: Model> EngineUnderTest for ReferenceEngine<M> {
    fn open(storage: Arc<dyn Storage>) -> Result<Self, LogError> {
        let log = KindLog::open(config(storage))?;
        let mut domains: Vec<M> = (0..DOMAINS).map(M::empty).collect();
        let mut state = State::new();
        let mut tail = log.tail(StartAt::Earliest, Arc::new(SystemClock::new()))?;
        let mut next_id = 1;
        while let Some(batch) = tail.poll_batch(&BatchLimit::default())? {
            for event in batch.events() {
                next_id = next_id.max(event.transaction.id + 1);
                // Its own events are as it wrote them; what is wrong with them, the kit finds.
                let _applied = state.apply(event, M::merge);
            }
        }
        for (schema, table, row) in state.rows() {
            let digits = schema.trim_start_matches(|c: char| !c.is_ascii_digit());
            let domain = digits.parse().ok().and_then(|n: usize| domains.get_mut(n));
            if let (Some(domain), Ok(values)) = (domain, row.to_values()) {
                domain.load(table, &values);
            }
        }
        Ok(Self {
            log,
            domains,
            open: Default::default(),
            next_id,
        })
    }

    fn log(&self) -> &Log {
        &self.log
    }

    fn mutate(&mut self, slot: usize, dice: &mut Dice) -> Result<Seen, LogError> {
        let mine = self.open[slot].as_ref().and_then(|open| open.before.last());
        let domain = match mine {
            Some((domain, _)) if dice.chance(60) => *domain,
            _ => dice.below(DOMAINS),
        };
        let taken = |(n, open)| n != slot && Self::has(open, domain);
        if self.open.iter().enumerate().any(taken) {
            return Ok(Vec::new());
        }
        let open = self.open[slot].get_or_insert_with(|| {
            self.next_id += 1;
            let mut tx = self.log.begin(self.next_id);
            if self.next_id.is_multiple_of(3) {
                tx.set_actor("somebody");
            }
            Open {
                tx,
                before: Vec::new(),
            }
        });
        let data = &mut self.domains[domain];
        if !open.before.iter().any(|(taken, _)| *taken == domain) {
            open.before.push((domain, data.clone()));
        }
        if dice.chance(8) {
            // A statement that fails halfway.
            let (savepoint, before) = (open.tx.savepoint()?, data.clone());
            data.mutate(&mut open.tx, dice)?;
            open.tx.rollback_to(&savepoint)?;
            *data = before;
            return Ok(Vec::new());
        }
        data.mutate(&mut open.tx, dice)
    }

    fn commit(&mut self, slot: usize) -> Result<(), LogError> {
        match self.open[slot].take() {
            Some(open) => open.tx.commit().map(|_| ()),
            None => Ok(()),
        }
    }

    fn abort(&mut self, slot: usize) -> Result<(), LogError> {
        let Some(open) = self.open[slot].take() else {
            return Ok(());
        };
        for (domain, before) in open.before {
            self.domains[domain] = before;
        }
        open.tx.abort()
    }

    fn committed(&self) -> State {
        let mut state = State::new();
        for (domain, data) in self.domains.iter().enumerate() {
            let mut before = self.open.iter().flatten().flat_map(|open| &open.before);
            match before.find(|(taken, _)| *taken == domain) {
                Some((_, before)) => before.dump(&mut state),
                None => data.dump(&mut state),
            }
        }
        state
    }

    fn debug_of_transactions(&self) -> String {
        let open = self.open.iter().flatten();
        open.map(|open| format!("{:?}", open.tx)).collect()
    }

    fn merge(operator: &str, before: Option<&RowImage>, event: &ChangeEvent) -> RowImage {
        M::merge(operator, before, event)
    }
}

/// One change.
fn seen(op: Op, cause: Cause) -> Seen {
    vec![(op, cause).into()]
}

/// One client's change.
fn client(op: Op) -> Seen {
    seen(op, Cause::Client)
}

/// One change of a row whose old row the engine has, and so the event.
fn with_old(op: Op, cause: Cause) -> Seen {
    vec![Announced {
        old_row: true,
        ..(op, cause).into()
    }]
}

/// As [`with_old`], by a client, unless the engine did not look; an insert has no old row.
fn looked(op: Op, unseen: bool) -> Seen {
    if unseen || op == Op::Insert {
        client(op)
    } else {
        with_old(op, Cause::Client)
    }
}
