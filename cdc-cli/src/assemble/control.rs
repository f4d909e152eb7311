//! The control socket of a running pipeline: `<state_path>/control.sock`, mode 0600 by its
//! directory's 0700.
//!
//! One request a connection, one JSON document a line each way. It is private to this binary's
//! versions, not an interface for others.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cdc_core::EventId;
use cdc_core::pipeline::{LaneControl, RedriveReport, RedriveRequest};
use cdc_dlq::FileDlq;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tracing::warn;

use super::dead_letters;
use super::status::{LaneReading, PipelineStatus};

/// Longest request or answer in bytes.
const LINE_MAX: u64 = 16 << 20;
/// Requests answered at once; more wait.
const REQUESTS_MAX: usize = 64;
/// Longest wait for a client's request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of a path in a socket's address, the zero behind it included.
const ADDRESS_LEN: usize = 108;

/// What a command asks of a running pipeline.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(crate) enum Request {
    /// How it is doing.
    Status,
    /// Send dead letters again.
    Redrive {
        /// The emitter.
        emitter: String,
        /// Positions of the letters, as event ids print them; empty: all.
        ids: Vec<String>,
        /// Without transforms.
        as_was: bool,
    },
    /// Give dead letters up.
    Discard {
        /// The emitter.
        emitter: String,
        /// Event ids of the letters.
        ids: Vec<String>,
    },
    /// Deliver nothing more to an emitter.
    Pause {
        /// The emitter.
        emitter: String,
    },
    /// Go on delivering to it.
    Resume {
        /// The emitter.
        emitter: String,
    },
    /// Go on strictly behind another position.
    Move {
        /// The emitter.
        emitter: String,
        /// The position.
        to: String,
    },
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(crate) enum Reply {
    /// How it is doing.
    Status(PipelineStatus),
    /// What a redrive did.
    Redrive(Redriven),
    /// How many letters were given up.
    Discarded {
        /// How many.
        count: u64,
    },
    /// It is done.
    Done,
    /// The emitter was moved.
    Moved {
        /// Where it was.
        from: String,
    },
    /// It cannot.
    Refused {
        /// Why.
        reason: String,
    },
}

/// What a redrive did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Redriven {
    /// Letters delivered and closed.
    pub(crate) delivered: u64,
    /// Letters that failed again.
    pub(crate) failed: u64,
    /// Letters left alone.
    pub(crate) skipped: u64,
    /// Why it ended early, if it did.
    pub(crate) stopped: Option<String>,
}

impl From<RedriveReport> for Redriven {
    fn from(report: RedriveReport) -> Self {
        let RedriveReport {
            delivered,
            failed,
            skipped,
            stopped,
        } = report;
        Self {
            delivered,
            failed,
            skipped,
            stopped,
        }
    }
}

/// A lane as the control socket sees it.
#[derive(Clone, Debug)]
pub(crate) struct ControlledLane {
    pub(crate) reading: LaneReading,
    pub(crate) control: LaneControl,
}

/// The path of a socket as its address takes it. One that is too long leads through its directory,
/// which must be held open for as long as the address is used.
fn address(path: &Path) -> io::Result<(PathBuf, Option<File>)> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    if path.as_os_str().len() < ADDRESS_LEN {
        return Ok((path.to_path_buf(), None));
    }
    let dir = File::open(dir)?;
    let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string());
    Ok((short.join(name), Some(dir)))
}

/// True if a process listens there.
pub(crate) fn is_served(path: &Path) -> bool {
    let connect =
        |(address, _dir): (PathBuf, Option<File>)| std::os::unix::net::UnixStream::connect(address);
    address(path).and_then(connect).is_ok()
}

/// Listens until dropped. A socket left behind by a dead process is replaced: the caller holds the
/// directory's lock.
///
/// # Errors
/// From the operating system (no permission, a long path without `/proc`).
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (address, _dir) = address(path)?;
    UnixListener::bind(address)
}

/// Answers requests for ever: several at once, since a redrive may take long and `status` should
/// not wait for it.
pub(crate) async fn serve(
    listener: UnixListener,
    lanes: Vec<ControlledLane>,
    dlq: Arc<Mutex<FileDlq>>,
    status: impl Fn() -> PipelineStatus + Send + Sync + 'static,
) {
    let (lanes, status) = (Arc::new(lanes), Arc::new(status));
    let mut requests = JoinSet::new();
    loop {
        tokio::select! {
            _ = requests.join_next(), if !requests.is_empty() => {}
            accepted = listener.accept(), if requests.len() < REQUESTS_MAX => match accepted {
                Ok((stream, _)) => {
                    let (lanes, dlq, status) = (lanes.clone(), dlq.clone(), status.clone());
                    requests.spawn(async move {
                        if let Err(error) = answer(stream, &lanes, &dlq, &*status).await {
                            warn!(error = %error, "control request");
                        }
                    });
                }
                Err(error) => {
                    warn!(error = %error, "control socket");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            },
        }
    }
}

async fn answer(
    stream: UnixStream,
    lanes: &[ControlledLane],
    dlq: &Mutex<FileDlq>,
    status: &impl Fn() -> PipelineStatus,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    let mut limited = (&mut stream).take(LINE_MAX);
    match tokio::time::timeout(REQUEST_TIMEOUT, limited.read_line(&mut line)).await {
        Ok(read) => read?,
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    let reply = match serde_json::from_str(&line) {
        Ok(Request::Status) => Reply::Status(status()),
        Ok(Request::Redrive {
            emitter,
            ids,
            as_was,
        }) => redrive(lanes, &emitter, &ids, as_was).await,
        Ok(Request::Discard { emitter, ids }) => discard(lanes, dlq, &emitter, &ids).await,
        Ok(Request::Pause { emitter }) => match named(lanes, &emitter, &[]) {
            Ok((lane, _)) => done(&emitter, lane.control.pause().await),
            Err(refused) => *refused,
        },
        Ok(Request::Resume { emitter }) => match named(lanes, &emitter, &[]) {
            Ok((lane, _)) => done(&emitter, lane.control.resume().await),
            Err(refused) => *refused,
        },
        Ok(Request::Move { emitter, to }) => seek(lanes, &emitter, &to).await,
        Err(error) => Reply::Refused {
            reason: format!("the request is not understood: {error}"),
        },
    };
    let mut text = serde_json::to_string(&reply)?;
    text.push('\n');
    stream.get_mut().write_all(text.as_bytes()).await
}

fn refused(reason: String) -> Box<Reply> {
    Box::new(Reply::Refused { reason })
}

/// The lane and the ids a request names, or why there are none.
fn named<'a>(
    lanes: &'a [ControlledLane],
    emitter: &str,
    ids: &[String],
) -> Result<(&'a ControlledLane, Vec<EventId>), Box<Reply>> {
    let lane = lane_of(lanes, emitter);
    let lane = lane.ok_or_else(|| refused(format!("there is no emitter {emitter}")))?;
    Ok((lane, parse(ids)?))
}

fn lane_of<'a>(lanes: &'a [ControlledLane], emitter: &str) -> Option<&'a ControlledLane> {
    lanes.iter().find(|lane| &*lane.reading.name == emitter)
}

fn parse(ids: &[String]) -> Result<Vec<EventId>, Box<Reply>> {
    let ids: Result<Vec<EventId>, _> = ids.iter().map(|id| id.parse()).collect();
    ids.map_err(|error| refused(error.to_string()))
}

fn ended(emitter: &str) -> Reply {
    Reply::Refused {
        reason: format!("the lane of emitter {emitter} has ended"),
    }
}

fn done(emitter: &str, outcome: Option<()>) -> Reply {
    outcome.map_or_else(|| ended(emitter), |()| Reply::Done)
}

async fn seek(lanes: &[ControlledLane], emitter: &str, to: &str) -> Reply {
    let lane = match named(lanes, emitter, &[]) {
        Ok((lane, _)) => lane,
        Err(refused) => return *refused,
    };
    let to = match to.parse() {
        Ok(to) => to,
        Err(error) => return *refused(format!("read the position: {error}")),
    };
    match lane.control.seek(to).await {
        Some(Ok(from)) => Reply::Moved {
            from: from.to_string(),
        },
        Some(Err(error)) => *refused(error.to_string()),
        None => ended(emitter),
    }
}

async fn redrive(lanes: &[ControlledLane], emitter: &str, ids: &[String], as_was: bool) -> Reply {
    let (lane, ids) = match named(lanes, emitter, ids) {
        Ok(named) => named,
        Err(refused) => return *refused,
    };
    let report = lane.control.redrive(RedriveRequest { ids, as_was }).await;
    report.map_or_else(|| ended(emitter), |report| Reply::Redrive(report.into()))
}

async fn discard(
    lanes: &[ControlledLane],
    dlq: &Mutex<FileDlq>,
    emitter: &str,
    ids: &[String],
) -> Reply {
    let ids = match parse(ids) {
        Ok(ids) => ids,
        Err(refused) => return *refused,
    };
    let Some(lane) = lane_of(lanes, emitter) else {
        // A few syncs, for which other requests wait.
        let mut dlq = dlq.lock().unwrap_or_else(PoisonError::into_inner);
        return match dead_letters::discard(&mut dlq, emitter, &ids) {
            Ok(count) => Reply::Discarded { count },
            Err(error) => *refused(error.to_string()),
        };
    };
    let count = lane.control.discard(ids).await;
    count.map_or_else(|| ended(emitter), |count| Reply::Discarded { count })
}

/// Asks a running pipeline; `None` if none is listening there.
///
/// # Errors
/// If it listens and does not answer.
pub(crate) async fn ask(path: &Path, request: &Request) -> io::Result<Option<Reply>> {
    let connect = async {
        let (address, _dir) = address(path)?;
        UnixStream::connect(address).await
    };
    let mut stream = match connect.await {
        Ok(stream) => BufReader::new(stream),
        Err(error) => {
            return match error.kind() {
                // Nobody listens at a path that no address can hold.
                io::ErrorKind::NotFound
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::InvalidInput => Ok(None),
                _ => Err(error),
            };
        }
    };
    let mut text = serde_json::to_string(request)?;
    text.push('\n');
    stream.get_mut().write_all(text.as_bytes()).await?;
    let mut line = String::new();
    (&mut stream).take(LINE_MAX).read_line(&mut line).await?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(serde_json::from_str(&line)?))
}
