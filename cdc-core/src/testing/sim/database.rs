//! A database with a log and one slot, and the reader of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Alive, Oracle, SimClock, SimRandom, Timeline, TransactionSpec, Workload, locked};
use crate::{
    BatchLimit, ChangeEvent, Clock as _, EventBatch, Lineage, Lsn, Position, RowImage, SourceError,
    SourceErrorKind, SourceInfo, SourceKind, TokenRefusal, Transaction, WalSource,
};

/// Size of a commit's message in the stream.
const COMMIT_BYTES: u64 = 26;
/// Wait between two attempts to connect.
const RECONNECT: Duration = Duration::from_millis(50);

/// A simulated database. Clones are the same one.
#[derive(Clone, Debug)]
pub struct SimDatabase {
    clock: SimClock,
    timeline: Timeline,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    random: SimRandom,
    /// The judge of the history that is written now.
    oracle: Oracle,
    workload: Workload,
    /// Committed transactions that the slot may still have to send, oldest first.
    log: VecDeque<Committed>,
    end: Lsn,
    next_id: u64,
    timeline: u32,
    /// The slot: commits below this are never sent again.
    confirmed: Lsn,
    /// What of that survives a crash of the database.
    durable: Lsn,
    down_until: Duration,
    /// Grows when connections break.
    epoch: u64,
    /// Connections break after this many more bytes.
    break_in: Option<u64>,
    /// Confirmations are judged against what is delivered.
    judge_confirm: bool,
}

#[derive(Debug)]
struct Committed {
    commit: Lsn,
    events: Arc<Vec<ChangeEvent>>,
}

impl SimDatabase {
    /// Where the log begins.
    pub const BEGIN: Lsn = Lsn(1000);

    /// An empty database. With `judge_confirm` every confirmation must be covered by what
    /// destinations have.
    pub fn new(
        random: SimRandom,
        clock: SimClock,
        timeline: Timeline,
        oracle: Oracle,
        workload: Workload,
        judge_confirm: bool,
    ) -> Self {
        let inner = Inner {
            random,
            oracle,
            workload,
            log: VecDeque::new(),
            end: Self::BEGIN,
            next_id: 700,
            timeline: 1,
            confirmed: Self::BEGIN,
            durable: Self::BEGIN,
            down_until: Duration::ZERO,
            epoch: 0,
            break_in: None,
            judge_confirm,
        };
        Self {
            clock,
            timeline,
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// The history every database of these simulations begins with.
    pub const fn lineage(timeline: u32) -> Lineage {
        Lineage::new(SourceKind::Postgres, [0x5d; 16], timeline)
    }

    /// Carries out a transaction; an aborted one leaves nothing but a longer log.
    pub fn execute(&self, spec: &TransactionSpec) {
        let mut inner = locked(&self.inner);
        let inner = &mut *inner;
        let grown = inner.random.between(8, 200) + u64::from(spec.events) * 8;
        inner.end = Lsn(inner.end.0 + grown);
        inner.next_id += 1;
        if spec.aborts {
            self.timeline.note("database", || {
                format!("transaction {} aborts", inner.next_id)
            });
            return;
        }
        let transaction = Transaction {
            id: inner.next_id,
            commit_micros: self.clock.wall_micros(),
        };
        let commit = inner.end;
        let events = inner.workload.events(spec, commit, transaction);
        // The commit record has a length: the next one begins behind it.
        inner.end = Lsn(inner.end.0 + 8);
        self.timeline.note("database", || {
            format!(
                "transaction {} commits {} events at {commit}",
                transaction.id,
                events.len()
            )
        });
        inner.oracle.committed(&events);
        inner.log.push_back(Committed {
            commit,
            events: Arc::new(events),
        });
    }

    /// The log grows without a transaction for us.
    pub fn idle(&self, bytes: u64) {
        let mut inner = locked(&self.inner);
        inner.end = Lsn(inner.end.0 + bytes);
    }

    /// A table changes its shape.
    pub fn change_schema(&self) {
        self.timeline.note("database", || "schema changes".into());
        locked(&self.inner).workload.change_schema();
    }

    /// The slot's position is written to the database's disk.
    pub fn checkpoint(&self) {
        let mut inner = locked(&self.inner);
        inner.durable = inner.confirmed;
        let forget = inner.durable;
        inner.log.retain(|committed| committed.commit >= forget);
    }

    /// Connections break, after `bytes` more bytes of the stream.
    pub fn disconnect_after(&self, bytes: u64) {
        locked(&self.inner).break_in = Some(bytes);
    }

    /// A standby takes over, on a timeline of its own. It has everything up to `per_mille` of the
    /// way from the slot's stored position to the log's end; what was committed behind that is
    /// gone, and its positions are given to other transactions. `oracle` judges the new history.
    pub fn fail_over(&self, per_mille: u64, oracle: Oracle) {
        let mut inner = locked(&self.inner);
        let inner = &mut *inner;
        let kept = inner.end.0 - inner.durable.0;
        let fork = Lsn(inner.durable.0 + kept * per_mille / 1000);
        inner.timeline += 1;
        inner.log.retain(|committed| {
            let gone = committed.commit < inner.durable || committed.commit >= fork;
            !gone
        });
        inner.end = fork;
        inner.confirmed = inner.durable;
        inner.epoch += 1;
        inner.oracle = oracle;
        for committed in &inner.log {
            inner.oracle.committed(&committed.events);
        }
        self.timeline.note("database", || {
            format!(
                "fails over to timeline {} at {fork}, the slot is at {}",
                inner.timeline, inner.durable
            )
        });
    }

    /// The history that is written now.
    pub fn lineage_now(&self) -> Lineage {
        Self::lineage(locked(&self.inner).timeline)
    }

    /// The database crashes: its slot steps back to what it had written down, and it is away for
    /// a while.
    pub fn crash(&self, away: Duration) {
        let mut inner = locked(&self.inner);
        self.timeline.note("database", || {
            format!(
                "crashes; the slot steps back from {} to {}",
                inner.confirmed, inner.durable
            )
        });
        inner.confirmed = inner.durable;
        inner.epoch += 1;
        inner.down_until = self.clock.now() + away;
    }

    /// What the slot was told.
    pub fn confirmed(&self) -> Lsn {
        locked(&self.inner).confirmed
    }

    /// End of the log.
    pub fn end(&self) -> Lsn {
        locked(&self.inner).end
    }

    /// Connects, waiting while the database is away.
    pub async fn connect(&self, alive: Alive) -> SimSource {
        loop {
            if let Some((epoch, start, info)) = self.link(None) {
                return SimSource {
                    database: self.clone(),
                    info,
                    alive,
                    start,
                    epoch: Some(epoch),
                    next: start,
                    ordinal: 0,
                    covered: Position::before(start),
                    told: Lsn::ZERO,
                };
            }
            self.clock.wait(RECONNECT).await;
        }
    }

    /// A connection: its epoch and the first commit it sends.
    fn link(&self, covered: Option<Position>) -> Option<(u64, Lsn, Arc<SourceInfo>)> {
        let mut inner = locked(&self.inner);
        if self.clock.now() < inner.down_until {
            return None;
        }
        // The server sends from the slot's position, or further if the client asks for that.
        let asked = covered.map_or(Lsn::ZERO, Position::confirmable);
        let from = if inner.random.chance(500) {
            inner.confirmed.max(asked)
        } else {
            inner.confirmed
        };
        let lineage = Self::lineage(inner.timeline);
        self.timeline
            .note("database", || format!("connection, sends from {from}"));
        let info = Arc::new(SourceInfo::new("shop", "shop", lineage));
        Some((inner.epoch, from, info))
    }
}

/// The reader of a [`SimDatabase`], with reconnects of its own.
#[derive(Debug)]
pub struct SimSource {
    database: SimDatabase,
    info: Arc<SourceInfo>,
    alive: Alive,
    start: Lsn,
    epoch: Option<u64>,
    /// The next commit to send.
    next: Lsn,
    /// The next event of it.
    ordinal: u32,
    /// Everything up to this was given.
    covered: Position,
    told: Lsn,
}

/// True if the message of an event comes whole before the connection breaks.
fn comes(left: &mut u64, event: &ChangeEvent) -> bool {
    let rows = [&event.before, &event.after].into_iter();
    let rows = rows.filter_map(|image| image.row()).map(RowImage::len);
    let bytes = 12 + rows.sum::<usize>() as u64;
    if *left < bytes {
        *left = 0;
        return false;
    }
    *left -= bytes;
    true
}

/// What a look at the log gave.
enum Look {
    Batch(EventBatch),
    Nothing,
    Broken,
}

impl SimSource {
    /// Where the first connection began to send.
    pub const fn start(&self) -> Position {
        Position::before(self.start)
    }

    fn look(&mut self, limit: BatchLimit) -> Look {
        let database = self.database.clone();
        let mut inner = locked(&database.inner);
        let inner = &mut *inner;
        if self.epoch != Some(inner.epoch) {
            return Look::Broken;
        }
        // Bytes that still come. A message that does not come whole is nothing.
        let mut left = inner.break_in.unwrap_or(u64::MAX);
        let mut events = Vec::new();
        let most = 1 + inner.random.index(limit.events_max.max(1));
        let mut end = self.covered;
        let first = inner
            .log
            .partition_point(|committed| committed.commit < self.next);
        let mut whole = true;
        for committed in inner.log.iter().skip(first) {
            if committed.commit != self.next {
                self.next = committed.commit;
                self.ordinal = 0;
            }
            let from = self.ordinal as usize;
            let room = most - events.len();
            let part = &committed.events[from..committed.events.len().min(from + room)];
            let came = part.iter().take_while(|event| comes(&mut left, event));
            let part = &part[..came.count()];
            events.extend_from_slice(part);
            if from + part.len() < committed.events.len() {
                self.ordinal = u32::try_from(from + part.len()).unwrap_or(u32::MAX);
                if let Some(last) = events.last() {
                    end = end.max(last.position);
                }
                whole = false;
                break;
            }
            // The last event is known to be the last when the commit has come.
            if left < COMMIT_BYTES {
                left = 0;
                events.pop();
                self.ordinal = u32::try_from(committed.events.len() - 1).unwrap_or(u32::MAX);
                if let Some(last) = events.last() {
                    end = end.max(last.position);
                }
                whole = false;
                break;
            }
            left -= COMMIT_BYTES;
            self.next = Lsn(committed.commit.0 + 1);
            self.ordinal = 0;
            end = end.max(Position::end_of(committed.commit));
            if events.len() >= most {
                break;
            }
        }
        if inner.break_in.is_some() {
            inner.break_in = Some(left);
        }
        if left == 0 {
            inner.break_in = None;
            inner.epoch += 1;
            whole = false;
        }
        let all = inner.log.back().is_none_or(|last| last.commit < self.next);
        if whole && all && inner.random.chance(500) {
            // A keepalive: everything below the log's end was sent.
            end = end.max(Position::before(inner.end));
        }
        if events.is_empty() && end == self.covered {
            return Look::Nothing;
        }
        self.covered = self.covered.max(end);
        database.timeline.stir(events.len() as u64);
        database.timeline.note("database", || {
            format!("sends {} events, up to {end}", events.len())
        });
        let end = events.last().map_or(end, |last| end.max(last.position));
        Look::Batch(EventBatch::new(self.info.clone(), events, end))
    }
}

impl WalSource for SimSource {
    fn source(&self) -> &Arc<SourceInfo> {
        &self.info
    }

    async fn next_batch(&mut self, limit: BatchLimit) -> Result<Option<EventBatch>, SourceError> {
        let clock = self.database.clock.clone();
        let deadline = clock.now() + limit.linger;
        loop {
            let wait = Duration::from_micros(locked(&self.database.inner).random.between(50, 3000));
            clock.wait(wait).await;
            self.alive.or_wait().await;
            if self.epoch.is_none() {
                let covered = self.covered.is_transaction_end().then_some(self.covered);
                match self.database.link(covered) {
                    Some((epoch, from, info)) => {
                        if info.lineage != self.info.lineage {
                            return Err(SourceError::new(
                                SourceErrorKind::Refused(TokenRefusal::OtherTimeline {
                                    token: self.covered,
                                    timeline: self.info.lineage.timeline,
                                    current: info.lineage.timeline,
                                }),
                                "reconnect to the simulated database: it is another timeline",
                            ));
                        }
                        self.epoch = Some(epoch);
                        self.next = from;
                        self.ordinal = 0;
                    }
                    None => clock.wait(RECONNECT).await,
                }
            }
            match self.look(limit) {
                Look::Batch(batch) => return Ok(Some(batch)),
                Look::Broken => self.epoch = None,
                Look::Nothing => {}
            }
            if clock.now() >= deadline {
                return Ok(Some(EventBatch::heartbeat(self.info.clone(), self.covered)));
            }
        }
    }

    async fn confirm(&mut self, up_to: Position) -> Result<(), SourceError> {
        self.alive.or_wait().await;
        let mut inner = locked(&self.database.inner);
        let lsn = up_to.confirmable();
        if self.epoch != Some(inner.epoch) || lsn <= self.told {
            return Ok(());
        }
        self.told = lsn;
        if inner.judge_confirm {
            inner.oracle.confirmed(up_to);
        }
        if lsn > inner.confirmed {
            inner.confirmed = lsn;
            self.database
                .timeline
                .note("database", || format!("slot confirmed to {lsn}"));
        }
        if lsn > inner.end {
            inner.oracle.violated(format!(
                "the source was told {lsn}, which it has not reached"
            ));
        }
        Ok(())
    }
}
