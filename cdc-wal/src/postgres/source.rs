//! The reader: connection, reconnection, batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cdc_core::{
    BatchLimit, EventBatch, Lsn, Position, SourceError, SourceErrorKind, SourceInfo, WalSource,
};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::assemble::Assembler;
use super::buffer::FrameBuffer;
use super::catalog::{Catalog, Lookup};
use super::config::PostgresConfig;
use super::connection::{Connection, Purpose};
use super::decode::{self, Envelope, Message};
use super::error::{ServerError, protocol};
use super::feedback::Progress;
use super::key::{Attribute, key_of};
use super::publication::drop_publication;
use super::pump::{Begun, Pump};
use super::relation::{OwnedDef, Table};
use super::setup;
use super::slot::{SlotState, slot_state};
use super::types::Types;

/// Longest wait for the server's goodbye.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(3);

/// A running stream.
#[derive(Debug)]
struct Session {
    pump: Pump,
    /// Whole messages being decoded.
    chunk: Option<FrameBuffer>,
}

#[derive(Debug)]
enum Link {
    Up(Session),
    /// The thread reconnects, with backoff, until it is done or it makes no sense to go on.
    Connecting(Pump, oneshot::Receiver<Result<Begun, SourceError>>),
    Down,
}

type Task<T> = JoinHandle<Result<T, SourceError>>;

impl Drop for PostgresSource {
    fn drop(&mut self) {
        if let Some(task) = &self.lookup {
            task.abort();
        }
    }
}

/// What stopped decoding.
enum Stop {
    /// Nothing more is received.
    Dry,
    /// The batch is full.
    Full,
    /// A relation whose definition must be completed; its message is not consumed yet.
    Describe(OwnedDef),
}

/// Reads committed changes from a PostgreSQL logical replication slot.
///
/// # Positions
/// `commit` is the LSN of the transaction's commit record, the ordinal counts its row events as the
/// publication sends them. A transaction that was begun but not finished when the connection broke
/// comes again from ordinal 0; finished ones are not given twice by one value.
///
/// # Confirmation
/// [`WalSource::confirm`] moves the slot's `confirmed_flush_lsn` to the position's
/// [`confirmable`](Position::confirmable) LSN, within about 100 ms and never further; a task of its
/// own tells it, and keeps the connection alive however long [`WalSource::next_batch`] is not
/// called.
///
/// # Failures
/// A connection that breaks is built up again by a background task, with a random, growing, bounded
/// wait; meanwhile batches are empty. What waiting cannot mend is returned: a wrong password, a slot
/// in use ([`SourceErrorKind::InUse`]), changes that are gone ([`SourceErrorKind::Gap`]).
///
/// Must be made and used within a tokio runtime. Dropping it closes the connection at once;
/// [`PostgresSource::close`] also delivers the last confirmation.
#[derive(Debug)]
pub struct PostgresSource {
    config: Arc<PostgresConfig>,
    info: Arc<SourceInfo>,
    assembler: Assembler,
    types: Types,
    catalog: Catalog,
    progress: Arc<Progress>,
    link: Link,
    lookup: Option<Task<Lookup>>,
    start: Position,
    reconnects: u64,
    created_publication: bool,
    server_end: Lsn,
    up: Arc<AtomicBool>,
}

impl PostgresSource {
    /// Connects, creates what is absent and may be created, and starts streaming after
    /// `resume_from`, or where the slot stands.
    ///
    /// # Errors
    /// [`SourceErrorKind::Unreachable`], [`SourceErrorKind::Configuration`],
    /// [`SourceErrorKind::InUse`], [`SourceErrorKind::Gap`] if the slot cannot send what follows
    /// `resume_from`, [`SourceErrorKind::Refused`] if the server's log ends before it, or before
    /// [`PostgresConfig::captured_to`]. This first
    /// attempt is not repeated.
    pub async fn connect(
        config: PostgresConfig,
        resume_from: Option<Position>,
    ) -> Result<Self, SourceError> {
        config.validate()?;
        let config = Arc::new(config);
        let progress = Arc::new(Progress::default());
        let (pump, answer) = Pump::spawn(&config, resume_from, progress.clone(), false)?;
        let outcome = answer.await.unwrap_or_else(|_| Err(stopped("connect")));
        let begun = outcome.map_err(|mut error| {
            if error.kind == SourceErrorKind::Transient {
                error.kind = SourceErrorKind::Unreachable;
            }
            error
        })?;
        progress.receive(begun.confirmed.0);
        let assembler = Assembler::new(begun.floor);
        Ok(Self {
            info: Arc::new(begun.info),
            start: assembler.covered(),
            server_end: begun.server_end,
            assembler,
            types: Types::new(),
            catalog: Catalog::new(config.clone()),
            created_publication: begun.created_publication,
            link: Link::Up(Session { pump, chunk: None }),
            progress,
            lookup: None,
            reconnects: 0,
            up: Arc::new(AtomicBool::new(true)),
            config,
        })
    }

    /// Everything up to here is not part of the stream: the position to check point before
    /// anything is read.
    pub const fn start(&self) -> Position {
        self.start
    }

    /// Where the server's log ended when this value connected: everything committed before then
    /// has a commit LSN below it, with `synchronous_commit = off` too, unless the server took more
    /// than two seconds to write it to its disk.
    pub const fn server_end(&self) -> Lsn {
        self.server_end
    }

    /// True while there is a connection, false while it is built up again; for others to look at.
    pub fn is_up(&self) -> Arc<AtomicBool> {
        self.up.clone()
    }

    /// The server's WAL position as last heard of.
    pub fn wal_end(&self) -> Lsn {
        Lsn(self.progress.received.load(Ordering::Relaxed))
    }

    /// What the server has been told, or will be within about 100 ms. Zero before the first
    /// confirmation.
    pub fn confirmed(&self) -> Lsn {
        Lsn(self.progress.confirmed.load(Ordering::Relaxed))
    }

    /// Bytes of log between the last confirmation and the server's position.
    pub fn lag_bytes(&self) -> u64 {
        let confirmed = self.confirmed().max(Lsn(self.start.confirmable().0));
        self.wal_end().0.saturating_sub(confirmed.0)
    }

    /// How often the connection was built up again.
    pub const fn reconnects(&self) -> u64 {
        self.reconnects
    }

    /// False while the connection is being built up again.
    pub const fn is_connected(&self) -> bool {
        matches!(self.link, Link::Up(_))
    }

    /// Asks the server, over a connection of its own, how the slot is.
    ///
    /// # Errors
    /// As for connecting; [`SourceErrorKind::Configuration`] if there is no such slot.
    pub async fn slot_state(&self) -> Result<SlotState, SourceError> {
        let mut connection = Connection::open(&self.config, Purpose::Sql).await?;
        let state = slot_state(&mut connection, &self.config.slot).await?;
        connection.close().await;
        state.ok_or_else(|| {
            SourceError::new(
                SourceErrorKind::Configuration,
                format!(
                    "look at replication slot {}: there is none",
                    self.config.slot
                ),
            )
        })
    }

    /// Delivers the last confirmation and leaves the server; with `temporary` also drops the
    /// publication if this value created it. Takes at most a few seconds.
    ///
    /// # Errors
    /// Only if a publication was to be dropped and could not be.
    pub async fn close(mut self) -> Result<(), SourceError> {
        if let Link::Up(mut session) = std::mem::replace(&mut self.link, Link::Down) {
            self.progress.close();
            // What is still sent is not read: it was not confirmed, so it comes again. Once the
            // server has let go of the slot, the channel ends.
            let drained = async { while let Some(Ok(_)) = session.pump.chunks.recv().await {} };
            let _ignored = timeout(CLOSE_TIME_MAX, drained).await;
        }
        self.catalog.close().await;
        if self.config.temporary && self.created_publication {
            let mut connection = Connection::open(&self.config, Purpose::Sql).await?;
            drop_publication(&mut connection, &self.config.publication).await?;
            connection.close().await;
        }
        Ok(())
    }

    /// Decodes what is received, up to the limit.
    fn decode(&mut self, limit: BatchLimit) -> Result<Stop, SourceError> {
        let Link::Up(session) = &mut self.link else {
            return Ok(Stop::Dry);
        };
        const ATTEMPTED: &str = "decode the replication stream";
        let corrupt = |e| protocol(ATTEMPTED, e);
        let mut received = 0;
        let stop = loop {
            let ready = self.assembler.ready();
            if ready >= limit.events_max.max(1)
                || (ready > 0 && self.assembler.bytes() >= limit.bytes_max)
            {
                break Stop::Full;
            }
            let Some(chunk) = &mut session.chunk else {
                break Stop::Dry;
            };
            let Some(frame) = chunk.peek().map_err(corrupt)? else {
                if let Some(empty) = session.chunk.take() {
                    session.pump.recycle(empty);
                }
                break Stop::Dry;
            };
            let body = chunk.body(&frame);
            match frame.tag {
                b'd' => match decode::copy_data(body).map_err(corrupt)? {
                    Envelope::Data {
                        wal_end,
                        sent_micros,
                        payload,
                    } => {
                        received = received.max(wal_end);
                        match decode::message(payload).map_err(corrupt)? {
                            Message::Relation(def) => {
                                break Stop::Describe(OwnedDef::from(&def));
                            }
                            message => self.assembler.push(&message, sent_micros)?,
                        }
                    }
                    Envelope::Keepalive { wal_end, reply } => {
                        received = received.max(wal_end);
                        self.assembler.keepalive(wal_end);
                        if reply {
                            self.progress.request_reply();
                        }
                    }
                },
                b'E' => {
                    let attempted = format!(
                        "stream from slot {} of {}",
                        self.config.slot,
                        self.config.address()
                    );
                    return Err(ServerError::parse(body).into_source(attempted));
                }
                // Notices and changed parameters.
                b'N' | b'S' | b'A' => {}
                // CopyDone and what follows: the server shuts down.
                b'c' | b'C' | b'Z' => {
                    return Err(setup::ended(&self.config, "the server ended the stream"));
                }
                tag => {
                    return Err(protocol(
                        ATTEMPTED,
                        format_args!("unexpected message {:?}", char::from(tag)),
                    ));
                }
            }
            chunk.consume(&frame);
        };
        self.progress.receive(received);
        Ok(stop)
    }

    /// Completes a relation's definition, from the catalog if need be, and consumes its message.
    /// Dropping the future loses nothing: the task asks on, and its answer is waited for again.
    async fn describe(&mut self, def: &OwnedDef) -> Result<(), SourceError> {
        let unknown = def.unknown_types(&self.types);
        let (mut primary_key, mut since, mut lacking) = (Vec::new(), None, false);
        if !unknown.is_empty() || def.needs_primary_key() {
            let task = self.lookup.get_or_insert_with(|| {
                let (catalog, def) = (self.catalog.clone(), def.clone());
                tokio::spawn(async move { catalog.look_up(&def, &unknown).await })
            });
            let outcome = task.await;
            self.lookup = None;
            let lookup = outcome.unwrap_or_else(|_| Err(stopped("look up a relation")))?;
            for (oid, info) in lookup.types {
                self.types.insert(oid, info);
            }
            if def.needs_primary_key() {
                primary_key = self.primary_key(def, &lookup.attributes);
                since = lookup.key_since;
                lacking = lookup.lacking;
            }
        }
        let mut table = Table::new(def, &self.types, &primary_key, since);
        table.lacking |= lacking;
        self.assembler.define(def, table);
        if let Link::Up(session) = &mut self.link
            && let Some(chunk) = &mut session.chunk
            && let Ok(Some(frame)) = chunk.peek()
        {
            chunk.consume(&frame);
        }
        Ok(())
    }

    /// The key of a table with replica identity full, as it was when it was written.
    fn primary_key(&self, def: &OwnedDef, attributes: &[Attribute]) -> Vec<usize> {
        if let Some(key) = key_of(def, attributes) {
            return key;
        }
        tracing::warn!(
            source = %self.config.address(),
            table = %format_args!("{}.{}", def.schema, def.table),
            "this table was altered since these changes were made, and which columns were its primary key then cannot be told: they come without a key, and their rows are told apart by all columns"
        );
        Vec::new()
    }

    /// The connection is given up. What it was about decides if another is built up.
    fn broke(&mut self, error: SourceError) -> Result<(), SourceError> {
        self.link = Link::Down;
        self.up.store(false, Ordering::Relaxed);
        if let Some(task) = self.lookup.take() {
            task.abort();
        }
        self.assembler.restart();
        if !error.is_transient() {
            return Err(error);
        }
        tracing::warn!(source = %self.config.address(), %error, "connection lost, reconnecting");
        Ok(())
    }

    /// Has a connection or waits for one until the deadline. False if there is none yet.
    async fn link_up(&mut self, deadline: Instant) -> Result<bool, SourceError> {
        if matches!(self.link, Link::Down) {
            let resume = Some(self.assembler.covered());
            let progress = self.progress.clone();
            let (pump, answer) = Pump::spawn(&self.config, resume, progress, true)?;
            self.link = Link::Connecting(pump, answer);
        }
        let Link::Connecting(_, answer) = &mut self.link else {
            return Ok(true);
        };
        let Ok(outcome) = timeout_at(deadline, answer).await else {
            return Ok(false);
        };
        let link = std::mem::replace(&mut self.link, Link::Down);
        let started = outcome.unwrap_or_else(|_| Err(stopped("reconnect")))?;
        if started.info.lineage != self.info.lineage {
            return Err(SourceError::new(
                SourceErrorKind::Refused(cdc_core::TokenRefusal::OtherTimeline {
                    token: self.assembler.covered(),
                    timeline: self.info.lineage.timeline,
                    current: started.info.lineage.timeline,
                }),
                format!(
                    "reconnect to {}: it is now {}, the stream was of {}; start again and let the position be checked",
                    self.config.address(),
                    started.info.lineage,
                    self.info.lineage
                ),
            ));
        }
        self.reconnects += 1;
        self.up.store(true, Ordering::Relaxed);
        if let Link::Connecting(pump, _) = link {
            self.link = Link::Up(Session { pump, chunk: None });
        }
        Ok(true)
    }

    fn batch(&mut self) -> EventBatch {
        let (events, end) = self.assembler.take();
        EventBatch::new(self.info.clone(), events, end)
    }

    /// Gets more messages. False if the batch should go out as it is: it has events and nothing
    /// more is there, or the deadline has come.
    async fn fill(&mut self, deadline: Instant) -> Result<bool, SourceError> {
        let Link::Up(session) = &mut self.link else {
            return Ok(false);
        };
        let chunks = &mut session.pump.chunks;
        let received = match chunks.try_recv() {
            Ok(item) => Some(item),
            Err(TryRecvError::Disconnected) => None,
            Err(TryRecvError::Empty) if self.assembler.ready() > 0 => return Ok(false),
            Err(TryRecvError::Empty) => match timeout_at(deadline, chunks.recv()).await {
                Ok(item) => item,
                Err(_) => return Ok(false),
            },
        };
        let ended = || Err(setup::ended(&self.config, "its thread ended"));
        session.chunk = Some(received.unwrap_or_else(ended)?);
        Ok(true)
    }
}

impl WalSource for PostgresSource {
    fn source(&self) -> &Arc<SourceInfo> {
        &self.info
    }

    async fn next_batch(&mut self, limit: BatchLimit) -> Result<Option<EventBatch>, SourceError> {
        let deadline = Instant::now() + limit.linger;
        loop {
            if !self.link_up(deadline).await? {
                return Ok(Some(self.batch()));
            }
            let step = match self.decode(limit) {
                Ok(Stop::Full) => return Ok(Some(self.batch())),
                Ok(Stop::Describe(def)) => self.describe(&def).await.map(|()| true),
                Ok(Stop::Dry) => self.fill(deadline).await,
                Err(error) => Err(error),
            };
            match step {
                Ok(true) => {}
                Ok(false) => return Ok(Some(self.batch())),
                Err(error) => self.broke(error)?,
            }
        }
    }

    async fn confirm(&mut self, up_to: Position) -> Result<(), SourceError> {
        self.progress.confirm(up_to.confirmable().0);
        Ok(())
    }
}

#[cold]
fn stopped(attempted: &str) -> SourceError {
    SourceError::new(
        SourceErrorKind::Transient,
        format!("{attempted}: its task or thread was stopped"),
    )
}
