//! An engine that embeds the log: the other feed of the pipeline, beside the database.
//!
//! It commits transactions through the real [`Log`], several at once, and reads its own log with a
//! tail of its own. What that tail shows must be what was committed, whole and in order; what was
//! acknowledged as durable must be shown; and nothing that was shown may ever be gone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cdc_core::storage::Storage;
use cdc_core::testing::sim::{Oracle, SimClock, SimRandom, Timeline, TransactionSpec, Workload};
use cdc_core::{BatchLimit, Cause, ChangeEvent, Clock as _, Lsn, Position, Transaction};
use cdc_wal::{Log, LogConfig, LogError, LogErrorKind, StartAt, SyncPolicy, WalTail};

/// How long a writer with nothing to do waits before it looks again.
const IDLE: Duration = Duration::from_millis(7);

/// The engine; what it knows outlives its processes. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Engine {
    clock: SimClock,
    timeline: Timeline,
    oracle: Oracle,
    /// Commits are durable when they are acknowledged; else a flush makes them so.
    always: bool,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    random: SimRandom,
    workload: Workload,
    /// Not carried out yet.
    asked: VecDeque<TransactionSpec>,
    next_id: u64,
    /// Handed to the log and not shown by it yet.
    pending: BTreeMap<u64, Vec<ChangeEvent>>,
    /// Of those, the ones whose commit was acknowledged.
    acknowledged: BTreeSet<u64>,
    /// End of what was shown.
    shown: Position,
    mirror: Option<WalTail>,
}

impl Engine {
    pub(crate) fn new(
        random: SimRandom,
        clock: SimClock,
        timeline: Timeline,
        oracle: Oracle,
        workload: Workload,
        always: bool,
    ) -> Self {
        let inner = Inner {
            random,
            workload,
            asked: VecDeque::new(),
            next_id: 9000,
            pending: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            shown: Position::ZERO,
            mirror: None,
        };
        let engine = Self {
            clock,
            timeline,
            oracle,
            always,
            inner: Arc::new(Mutex::new(inner)),
        };
        let inner = Arc::downgrade(&engine.inner);
        let (clock, timeline) = (engine.clock.clone(), engine.timeline.clone());
        let oracle = engine.oracle.clone();
        engine.oracle.set_witness(move || {
            let Some(inner) = inner.upgrade() else { return };
            let engine = Self {
                clock: clock.clone(),
                timeline: timeline.clone(),
                oracle: oracle.clone(),
                always,
                inner,
            };
            // A log that cannot be read is the writers' to report.
            let _looked = engine.look();
        });
        engine
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody asks for a transaction.
    pub(crate) fn ask(&self, spec: TransactionSpec) {
        self.inner().asked.push_back(spec);
    }

    /// A table changes its shape.
    pub(crate) fn change_schema(&self) {
        self.inner().workload.change_schema();
    }

    /// True when everything asked for was carried out and shown.
    pub(crate) fn is_idle(&self) -> bool {
        let inner = self.inner();
        inner.asked.is_empty() && inner.pending.is_empty()
    }

    /// The engine's log, opened and judged.
    pub(crate) fn open(
        &self,
        storage: &Arc<dyn Storage>,
        dir: &str,
        retain_bytes: u64,
    ) -> Result<Log, LogError> {
        let mut config = LogConfig::new(dir);
        config.segment_bytes = 64 << 10;
        config.sync = if self.always {
            SyncPolicy::Always
        } else {
            SyncPolicy::Never
        };
        config.retain_bytes = retain_bytes;
        config.background = false;
        config.name = Some("shop".into());
        config.storage = storage.clone();
        let log = Log::open(config)?;
        self.oracle.set_lineage(log.source().lineage);
        let start = {
            let inner = self.inner();
            if log.end() < inner.shown {
                self.oracle.violated(format!(
                    "the engine's log ends at {}, and {} was shown",
                    log.end(),
                    inner.shown
                ));
            }
            if inner.shown == Position::ZERO {
                StartAt::Earliest
            } else {
                StartAt::After(inner.shown)
            }
        };
        let mirror = log.tail(start, Arc::new(self.clock.clone()))?;
        self.inner().mirror = Some(mirror);
        // What a crash left is known when everything found is durable.
        log.flush()?;
        self.look()?;
        let mut inner = self.inner();
        let lost = std::mem::take(&mut inner.pending);
        inner.acknowledged.clear();
        self.timeline.note("engine", || {
            format!(
                "log opened at {}, {} transactions did not survive",
                inner.shown,
                lost.len()
            )
        });
        Ok(log)
    }

    /// Carries out what is asked for, until the process ends or the log is dead.
    pub(crate) async fn write(&self, log: &Log) -> Result<(), LogError> {
        loop {
            let asked = self.inner().asked.pop_front();
            match asked {
                Some(spec) => self.carry_out(log, spec).await?,
                None => self.clock.wait(IDLE).await,
            }
        }
    }

    /// Makes what was acknowledged durable from time to time.
    pub(crate) async fn flush(&self, log: &Log, interval: Duration) -> Result<(), LogError> {
        loop {
            self.clock.wait(interval).await;
            let before = self.inner().acknowledged.clone();
            log.flush()?;
            self.look()?;
            self.must_be_shown(&before, "flushed");
        }
    }

    async fn carry_out(&self, log: &Log, spec: TransactionSpec) -> Result<(), LogError> {
        let (id, events, undone, pauses) = {
            let mut inner = self.inner();
            inner.next_id += 1;
            let transaction = Transaction {
                id: inner.next_id,
                commit_micros: self.clock.wall_micros(),
            };
            let undone = TransactionSpec {
                seed: inner.random.next(),
                events: u32::try_from(inner.random.below(3)).unwrap_or(0),
                ..spec
            };
            let events = inner.workload.events(&spec, Lsn(1), transaction);
            let undone = inner.workload.events(&undone, Lsn(1), transaction);
            (transaction.id, events, undone, inner.random.below(4))
        };
        let mut transaction = log.begin(id);
        let rolls_back = events.len() / 2;
        for (number, event) in events.iter().enumerate() {
            if number == rolls_back {
                let savepoint = transaction.savepoint()?;
                for event in &undone {
                    change(&mut transaction, event)?;
                }
                transaction.rollback_to(&savepoint)?;
            }
            change(&mut transaction, event)?;
            if pauses > 0 && number as u64 % 7 == pauses {
                self.clock.wait(Duration::from_micros(300)).await;
            }
        }
        if spec.aborts {
            self.timeline
                .note("engine", || format!("transaction {id} aborts"));
            return transaction.abort();
        }
        self.inner().pending.insert(id, events);
        let committed = transaction.commit();
        self.timeline.note("engine", || match &committed {
            Ok(position) => format!("transaction {id} commits at {position}"),
            Err(error) => format!("transaction {id} may commit or not: {error}"),
        });
        match committed {
            Ok(_) => {}
            Err(error) if error.kind == LogErrorKind::Full => {
                self.inner().pending.remove(&id);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        self.inner().acknowledged.insert(id);
        self.look()?;
        if self.always {
            self.must_be_shown(&BTreeSet::from([id]), "acknowledged as durable");
        }
        Ok(())
    }

    fn must_be_shown(&self, ids: &BTreeSet<u64>, why: &str) {
        let missing = {
            let inner = self.inner();
            ids.iter()
                .find(|id| inner.pending.contains_key(id))
                .copied()
        };
        if let Some(id) = missing {
            self.oracle
                .violated(format!("transaction {id} is {why}, and no tail shows it"));
        }
    }

    /// Reads what the log shows; each transaction must be one that was committed, as it was.
    fn look(&self) -> Result<(), LogError> {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let Some(mirror) = &mut inner.mirror else {
            return Ok(());
        };
        let limit = BatchLimit::default();
        let mut shown: Vec<ChangeEvent> = Vec::new();
        while let Some(batch) = mirror.poll_batch(&limit)? {
            for event in batch.events() {
                shown.push(event.clone());
                if !event.last {
                    continue;
                }
                let id = event.transaction.id;
                let what = match inner.pending.remove(&id) {
                    None => Some("which nobody committed"),
                    Some(meant) if !same(&meant, &shown) => Some("which is not what was committed"),
                    Some(_) => None,
                };
                inner.acknowledged.remove(&id);
                if let Some(what) = what {
                    self.oracle
                        .violated(format!("the log shows transaction {id}, {what}"));
                    return Ok(());
                }
                self.oracle.committed(&shown);
                inner.shown = Position::end_of(event.position.commit);
                shown.clear();
            }
        }
        if !shown.is_empty() {
            self.oracle
                .violated("the log shows a part of a transaction");
        }
        Ok(())
    }
}

fn change(transaction: &mut cdc_wal::Transaction, event: &ChangeEvent) -> Result<(), LogError> {
    transaction.change(
        event.op,
        &event.relation,
        &event.before,
        &event.after,
        Cause::Client,
        None,
    )
}

/// True if the log shows what was meant; positions and commit times are the log's own.
fn same(meant: &[ChangeEvent], shown: &[ChangeEvent]) -> bool {
    meant.len() == shown.len()
        && meant.iter().zip(shown).all(|(meant, shown)| {
            meant.position.ordinal == shown.position.ordinal
                && meant.op == shown.op
                && meant.relation == shown.relation
                && meant.before == shown.before
                && meant.after == shown.after
                && meant.last == shown.last
        })
}

/// Cursors hold the log where the stored checkpoints are, before anything is written.
pub(crate) fn hold(log: &Log, name: &str, stored: Option<Position>) -> Result<(), LogError> {
    let oldest = log.oldest()?;
    let position = stored
        .unwrap_or(oldest)
        .max(oldest)
        .min(log.end().max(oldest));
    log.register_cursor(name, position)
}

/// True if there is a log in this directory.
pub(crate) fn exists(storage: &dyn Storage, dir: &str) -> bool {
    storage.exists(&Path::new(dir).join("control"))
}
