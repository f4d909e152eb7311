//! The reader: connection, reconnection, batches.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use cdc_core::{
    BatchLimit, EventBatch, Lsn, Position, SourceError, SourceErrorKind, SourceInfo, WalSource,
};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf, ReadHalf};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::assemble::Assembler;
use super::backoff::Backoff;
use super::buffer::FrameBuffer;
use super::catalog::{Catalog, Lookup};
use super::config::PostgresConfig;
use super::connection::{Connection, Purpose, Stream};
use super::decode::{self, Envelope, Message};
use super::error::{ServerError, broken, protocol};
use super::feedback::{Feedback, Progress};
use super::relation::{OwnedDef, Table};
use super::setup::{self, SlotState, Started};
use super::types::Types;

/// A read that gave less than this took all there was.
const READ_SHORT: usize = 32 << 10;
/// After a pause a read that gives less than this means that little is going on.
const READ_TRICKLE: usize = 8 << 10;
/// The pause after a short read while data flow: it lets the server write more than one message
/// a wake-up, of both sides.
const COALESCE: Duration = Duration::from_micros(500);
/// Data that were waited for this long do not flow.
const QUIET: Duration = Duration::from_millis(1);
/// Longest time finished events wait for more, while data flow.
const FILL_MAX: Duration = Duration::from_millis(10);

/// A running stream.
struct Session {
    read: ReadHalf<Stream>,
    buffer: FrameBuffer,
    /// Ends with the session.
    feedback: Feedback,
    /// How long nothing may come before the connection counts as dead.
    silence_max: Duration,
    /// Time spent waiting since something came.
    silent: Duration,
    /// The last read took all there was.
    short: bool,
    /// Data had to be waited for, and nothing was given out since.
    quiet: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({} bytes buffered)", self.buffer.len())
    }
}

type Task<T> = JoinHandle<Result<T, SourceError>>;

#[derive(Debug)]
enum Link {
    Up(Box<Session>),
    /// A task reconnects, with backoff, until it is done or it makes no sense to go on.
    Connecting(Task<Started>),
    Down,
}

impl Drop for PostgresSource {
    fn drop(&mut self) {
        if let Link::Connecting(task) = &self.link {
            task.abort();
        }
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
    /// When the first event of the batch being filled was there.
    filling_since: Option<Instant>,
    /// The batch being filled goes out with what is decoded now.
    give: bool,
    start: Position,
    reconnects: u64,
    created_publication: bool,
    server_end: Lsn,
}

impl PostgresSource {
    /// Connects, creates what is absent and may be created, and starts streaming after
    /// `resume_from`, or where the slot stands.
    ///
    /// # Errors
    /// [`SourceErrorKind::Unreachable`], [`SourceErrorKind::Configuration`],
    /// [`SourceErrorKind::InUse`], [`SourceErrorKind::Gap`] if the slot cannot send what follows
    /// `resume_from`, [`SourceErrorKind::Refused`] if the server's log ends before it. This first
    /// attempt is not repeated.
    pub async fn connect(
        config: PostgresConfig,
        resume_from: Option<Position>,
    ) -> Result<Self, SourceError> {
        config.validate()?;
        let config = Arc::new(config);
        let started = setup::start(&config, resume_from).await.map_err(|mut e| {
            if e.kind == SourceErrorKind::Transient {
                e.kind = SourceErrorKind::Unreachable;
            }
            e
        })?;
        let progress = Arc::new(Progress::default());
        let assembler = Assembler::new(started.floor);
        Ok(Self {
            info: Arc::new(started.info.clone()),
            start: assembler.covered(),
            assembler,
            types: Types::new(),
            catalog: Catalog::new(config.clone()),
            created_publication: started.created_publication,
            server_end: started.server_end,
            link: Link::Up(Box::new(Session::new(started, &progress))),
            progress,
            lookup: None,
            filling_since: None,
            give: false,
            reconnects: 0,
            config,
        })
    }

    /// Everything up to here is not part of the stream: the position to check point before
    /// anything is read.
    pub const fn start(&self) -> Position {
        self.start
    }

    /// Where the server's log ended when this value connected: everything committed before then
    /// has a commit LSN below it.
    pub const fn server_end(&self) -> Lsn {
        self.server_end
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
        let state = setup::slot_state(&mut connection, &self.config.slot).await?;
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
        if let Link::Up(session) = std::mem::replace(&mut self.link, Link::Down) {
            session.close().await;
        }
        self.catalog.close().await;
        if self.config.temporary && self.created_publication {
            let mut connection = Connection::open(&self.config, Purpose::Sql).await?;
            setup::drop_publication(&mut connection, &self.config.publication).await?;
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
            let Some(frame) = session.buffer.peek().map_err(corrupt)? else {
                break Stop::Dry;
            };
            let body = session.buffer.body(&frame);
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
            session.buffer.consume(&frame);
        };
        self.progress.receive(received);
        Ok(stop)
    }

    /// Completes a relation's definition, from the catalog if need be, and consumes its message.
    /// Dropping the future loses nothing: the task asks on, and its answer is waited for again.
    async fn describe(&mut self, def: &OwnedDef) -> Result<(), SourceError> {
        let unknown = def.unknown_types(&self.types);
        let mut primary_key = Vec::new();
        if !unknown.is_empty() || def.needs_primary_key() {
            let task = self.lookup.get_or_insert_with(|| {
                let (catalog, def) = (self.catalog.clone(), def.clone());
                tokio::spawn(async move { catalog.look_up(&def, &unknown).await })
            });
            let outcome = task.await;
            self.lookup = None;
            let lookup = outcome.map_err(|e| stopped("look up a relation", &e))??;
            for (oid, info) in lookup.types {
                self.types.insert(oid, info);
            }
            primary_key = lookup.primary_key;
        }
        let table = Table::new(def, &self.types, &primary_key);
        self.assembler.define(def, table);
        if let Link::Up(session) = &mut self.link
            && let Ok(Some(frame)) = session.buffer.peek()
        {
            session.buffer.consume(&frame);
        }
        Ok(())
    }

    /// The connection is given up. What it was about decides if another is built up.
    fn broke(&mut self, error: SourceError) -> Result<(), SourceError> {
        self.link = Link::Down;
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
            let (config, resume) = (self.config.clone(), self.assembler.covered());
            self.link = Link::Connecting(tokio::spawn(reconnect(config, resume)));
        }
        let Link::Connecting(task) = &mut self.link else {
            return Ok(true);
        };
        let Ok(outcome) = timeout_at(deadline, task).await else {
            return Ok(false);
        };
        self.link = Link::Down;
        let started = outcome.map_err(|e| stopped("reconnect", &e))??;
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
        self.link = Link::Up(Box::new(Session::new(started, &self.progress)));
        Ok(true)
    }

    fn batch(&mut self) -> EventBatch {
        self.filling_since = None;
        self.give = false;
        let (events, end) = self.assembler.take();
        if let Link::Up(session) = &mut self.link {
            session.quiet &= events.is_empty();
        }
        EventBatch::new(self.info.clone(), events, end)
    }

    /// Receives more. False if the batch should go out as it is.
    ///
    /// After a quiet time a transaction goes out as soon as it is whole. While data flow, a pause
    /// comes after every read that took all there was: without it both sides wake up for every
    /// message, which costs more than the messages themselves.
    async fn fill(&mut self, deadline: Instant) -> Result<bool, SourceError> {
        let ready = self.assembler.ready() > 0;
        let between = !self.assembler.in_transaction();
        let Link::Up(session) = &mut self.link else {
            return Ok(false);
        };
        let mut until = deadline;
        if ready {
            let full_at = *self.filling_since.get_or_insert_with(Instant::now) + FILL_MAX;
            if (session.quiet && between) || self.give || Instant::now() >= full_at {
                return Ok(false);
            }
            until = deadline.min(full_at);
        }
        if !session.short {
            session.read_now().await?;
            return Ok(true);
        }
        if !session.quiet {
            sleep(COALESCE).await;
            let count = session.read_now().await?;
            // Decode what came, then give: little is going on.
            self.give = ready && count < READ_TRICKLE;
            if ready || count > 0 {
                return Ok(true);
            }
        }
        match timeout_at(until, session.read()).await {
            Ok(outcome) => outcome.map(|()| true),
            Err(_) => Ok(false),
        }
    }
}

impl WalSource for PostgresSource {
    fn source(&self) -> &Arc<SourceInfo> {
        &self.info
    }

    async fn next_batch(&mut self, limit: BatchLimit) -> Result<Option<EventBatch>, SourceError> {
        let began = Instant::now();
        let deadline = began + limit.linger;
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
                Ok(false) => {
                    self.note_silence(began)?;
                    return Ok(Some(self.batch()));
                }
                Err(error) => self.broke(error)?,
            }
        }
    }

    async fn confirm(&mut self, up_to: Position) -> Result<(), SourceError> {
        self.progress.confirm(up_to.confirmable().0);
        Ok(())
    }
}

impl PostgresSource {
    /// Adds a wait in vain to the silence; too long a one breaks the connection.
    fn note_silence(&mut self, began: Instant) -> Result<(), SourceError> {
        let Link::Up(session) = &mut self.link else {
            return Ok(());
        };
        if self.assembler.ready() > 0 {
            return Ok(());
        }
        session.silent += began.elapsed();
        if session.silent < session.silence_max {
            return Ok(());
        }
        let what = format!("nothing was heard for {:?}", session.silent);
        self.broke(setup::ended(&self.config, &what))
    }
}

impl Session {
    fn new(started: Started, progress: &Arc<Progress>) -> Self {
        progress.receive(started.confirmed.0);
        let interval = started.status_interval;
        let (read, write) = tokio::io::split(started.stream);
        Self {
            read,
            buffer: started.buffer,
            feedback: Feedback::spawn(write, progress.clone(), interval),
            silence_max: (interval * 3).max(Duration::from_secs(30)),
            silent: Duration::ZERO,
            short: true,
            quiet: true,
        }
    }

    fn took(&mut self, count: usize) {
        self.buffer.received(count);
        self.silent = Duration::ZERO;
        self.short = count < READ_SHORT;
        self.quiet &= self.short;
    }

    /// Waits for bytes.
    async fn read(&mut self) -> Result<(), SourceError> {
        let began = Instant::now();
        let count = self
            .read
            .read(self.buffer.space())
            .await
            .map_err(|e| broken("read the replication stream", e))?;
        if count == 0 {
            return Err(broken(
                "read the replication stream",
                io::ErrorKind::UnexpectedEof.into(),
            ));
        }
        self.took(count);
        self.quiet |= began.elapsed() >= QUIET;
        Ok(())
    }

    /// Takes the bytes that are there; 0 if there are none.
    async fn read_now(&mut self) -> Result<usize, SourceError> {
        let outcome = poll_fn(|context| {
            let mut space = ReadBuf::new(self.buffer.space());
            match Pin::new(&mut self.read).poll_read(context, &mut space) {
                Poll::Pending => Poll::Ready(Ok(None)),
                Poll::Ready(Ok(())) => Poll::Ready(Ok(Some(space.filled().len()))),
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            }
        })
        .await;
        match outcome {
            Ok(None) => {
                self.short = true;
                Ok(0)
            }
            Ok(Some(0)) => Err(broken(
                "read the replication stream",
                io::ErrorKind::UnexpectedEof.into(),
            )),
            Ok(Some(count)) => {
                self.took(count);
                Ok(count)
            }
            Err(error) => Err(broken("read the replication stream", error)),
        }
    }

    /// Says goodbye and waits until the server has let go of the slot, at most two seconds.
    async fn close(mut self) {
        self.feedback.close().await;
        let drained = async {
            loop {
                let mut space = [0; 4096];
                match self.read.read(&mut space).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            }
        };
        // The server drops the slot with the connection in any case.
        let _ignored = tokio::time::timeout(Duration::from_secs(2), drained).await;
    }
}

/// Connects until it works or waiting cannot help.
async fn reconnect(config: Arc<PostgresConfig>, resume: Position) -> Result<Started, SourceError> {
    let mut backoff = Backoff::new(config.backoff_min, config.backoff_max);
    loop {
        sleep(backoff.next()).await;
        match setup::start(&config, Some(resume)).await {
            Err(error) if error.is_transient() => {
                tracing::info!(source = %config.address(), %error, "not connected yet");
            }
            outcome => return outcome,
        }
    }
}

fn stopped(attempted: &str, error: &tokio::task::JoinError) -> SourceError {
    SourceError::new(
        SourceErrorKind::Transient,
        format!("{attempted}: its task was stopped: {error}"),
    )
}
