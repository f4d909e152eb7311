//! The thread that owns a connection: it connects, reads, and lets the feedback task run.
//!
//! A thread of its own, with a runtime of its own, for two reasons. The server hears from us
//! however busy or blocked the application's runtime is. And reading can pause
//! without being woken up for every message that arrives meanwhile: the server writes
//! one packet a message, and a shared event loop would wake up for each, which costs more than
//! decoding them. How long it pauses is said in `pace.rs`.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use cdc_core::{Lsn, Position, SourceError, SourceErrorKind, SourceInfo};
use tokio::io::{AsyncReadExt, ReadHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::backoff::Backoff;
use super::buffer::FrameBuffer;
use super::config::PostgresConfig;
use super::connection::Stream;
use super::error::broken;
use super::feedback::{Feedback, Progress};
use super::pace::Pace;
use super::setup::{self, Started};

/// Filled buffers that may wait for the consumer. Each is 256 KiB, or one larger message.
const CHUNKS: usize = 2;
/// Data that were waited for this long do not flow: they are passed on at once.
const QUIET: Duration = Duration::from_millis(1);
/// Longest time bytes are collected before they are passed on.
const FILL_TIME: Duration = Duration::from_millis(5);
/// Bytes that are passed on without collecting more.
const FILL_BYTES: usize = 192 << 10;

/// What the consumer learns about a stream that has begun.
#[derive(Clone, Debug)]
pub(crate) struct Begun {
    pub(crate) info: SourceInfo,
    /// Everything up to here is not part of the stream.
    pub(crate) floor: Position,
    /// What the slot has as confirmed.
    pub(crate) confirmed: Lsn,
    /// The server's WAL position when the stream began.
    pub(crate) server_end: Lsn,
    /// The publication was created just now.
    pub(crate) created_publication: bool,
}

/// The consumer's end. Dropping it ends the thread and closes the connection.
#[derive(Debug)]
pub(crate) struct Pump {
    /// Whole messages, in order; an error is the last item.
    pub(crate) chunks: mpsc::Receiver<Result<FrameBuffer, SourceError>>,
    empties: mpsc::Sender<FrameBuffer>,
}

impl Pump {
    /// Starts the thread. The answer tells when the stream has begun; with `retry` the thread
    /// tries again, with backoff, until it has or until waiting cannot help.
    pub(crate) fn spawn(
        config: &Arc<PostgresConfig>,
        resume: Option<Position>,
        progress: Arc<Progress>,
        retry: bool,
    ) -> Result<(Self, oneshot::Receiver<Result<Begun, SourceError>>), SourceError> {
        let (to_consumer, chunks) = mpsc::channel(CHUNKS);
        let (empties, from_consumer) = mpsc::channel(CHUNKS);
        let (begun, answer) = oneshot::channel();
        let failed = |error: io::Error| {
            SourceError::new(
                SourceErrorKind::Io,
                format!("start a thread for {}: {error}", config.address()),
            )
            .with_cause(error)
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(failed)?;
        let job = {
            let config = config.clone();
            async move {
                let run = async {
                    let started = match connect(&config, resume, retry).await {
                        Ok(started) => started,
                        Err(error) => {
                            // Nobody waits any more: then nobody is interested.
                            let _ignored = begun.send(Err(error));
                            return;
                        }
                    };
                    let told = Begun {
                        info: started.info.clone(),
                        floor: started.floor,
                        confirmed: started.confirmed,
                        server_end: started.server_end,
                        created_publication: started.created_publication,
                    };
                    if begun.send(Ok(told)).is_ok() {
                        pump(&config, started, progress, &to_consumer, from_consumer).await;
                    }
                };
                tokio::select! {
                    () = run => {}
                    // Even while connecting or waiting for bytes.
                    () = to_consumer.closed() => {}
                }
            }
        };
        thread::Builder::new()
            .name("cdc-postgres".to_owned())
            .spawn(move || runtime.block_on(job))
            .map_err(failed)?;
        Ok((Self { chunks, empties }, answer))
    }

    /// Gives an emptied buffer back for use.
    pub(crate) fn recycle(&self, buffer: FrameBuffer) {
        // Too many, or nobody there: then it is freed.
        let _ignored = self.empties.try_send(buffer);
    }
}

async fn connect(
    config: &PostgresConfig,
    resume: Option<Position>,
    retry: bool,
) -> Result<Started, SourceError> {
    if !retry {
        return setup::start(config, resume, false).await;
    }
    // A gap is accepted at a start, by whoever records it there. Nobody would record this one.
    let config = &PostgresConfig {
        accept_gap: false,
        ..config.clone()
    };
    let mut backoff = Backoff::new(config.backoff_min, config.backoff_max);
    loop {
        sleep(backoff.next()).await;
        match setup::start(config, resume, true).await {
            Err(error) if error.is_transient() => {
                tracing::info!(source = %config.address(), %error, "not connected yet");
            }
            outcome => return outcome,
        }
    }
}

/// Reads until the stream or the consumer ends.
async fn pump(
    config: &PostgresConfig,
    started: Started,
    progress: Arc<Progress>,
    chunks: &mpsc::Sender<Result<FrameBuffer, SourceError>>,
    mut empties: mpsc::Receiver<FrameBuffer>,
) {
    let interval = started.status_interval;
    let (read, write) = tokio::io::split(started.stream);
    // Ends with this function.
    let _feedback = Feedback::spawn(write, progress, interval);
    let mut reader = Reader {
        read,
        buffer: started.buffer,
        silence_max: started.silence_max,
        quiet: true,
        pace: Pace::new(config.host.starts_with('/')),
    };
    loop {
        match reader.collect(config).await {
            Ok(()) => {
                let next = empties.try_recv().unwrap_or_else(|_| FrameBuffer::new());
                if let Some(chunk) = reader.buffer.split_whole(next)
                    && chunks.send(Ok(chunk)).await.is_err()
                {
                    return;
                }
            }
            Err(error) => {
                // The consumer may be gone: then nobody is interested.
                let _ignored = chunks.send(Err(error)).await;
                return;
            }
        }
    }
}

struct Reader {
    read: ReadHalf<Stream>,
    buffer: FrameBuffer,
    silence_max: Duration,
    /// Data had to be waited for, and the transaction they began with is not whole yet.
    quiet: bool,
    pace: Pace,
}

impl Reader {
    /// Waits for bytes, and collects more while they flow.
    async fn collect(&mut self, config: &PostgresConfig) -> Result<(), SourceError> {
        let began = Instant::now();
        let Ok(count) = timeout(self.silence_max, self.receive()).await else {
            let what = format!("nothing was heard for {:?}", self.silence_max);
            return Err(setup::ended(config, &what));
        };
        let mut count = count?;
        let first = Instant::now();
        self.quiet |= first - began >= QUIET;
        self.quiet &= count < self.pace.short();
        while !self.quiet && self.buffer.len() < FILL_BYTES && first.elapsed() < FILL_TIME {
            let paused = count < self.pace.short();
            if paused {
                // Blocks this thread, and with it the event loop: that is the point.
                thread::sleep(self.pace.pause());
            }
            let messages = self.buffer.messages();
            // Whatever is there now; nothing is an answer too.
            count = match timeout(Duration::ZERO, self.receive()).await {
                Ok(count) => count?,
                Err(_) => 0,
            };
            let came = self.buffer.messages().saturating_sub(messages);
            if paused && !self.pace.after_pause(count, came) {
                break;
            }
        }
        // A transaction that begins after a quiet time is passed on without pauses to its end.
        self.quiet &= !self.buffer.ends_between_transactions();
        Ok(())
    }

    async fn receive(&mut self) -> Result<usize, SourceError> {
        match self.read.read(self.buffer.space()).await {
            Ok(0) => Err(broken(
                "read the replication stream",
                io::ErrorKind::UnexpectedEof.into(),
            )),
            Ok(count) => {
                self.buffer.received(count);
                Ok(count)
            }
            Err(error) => Err(broken("read the replication stream", error)),
        }
    }
}
