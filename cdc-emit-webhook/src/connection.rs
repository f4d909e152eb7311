//! One connection, and one exchange on it: HTTP/1.1, or HTTP/2 where many run at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
#[cfg(feature = "http2")]
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use crate::answer::Search;
use crate::connect::{Protocol, Stream};

/// Most bytes of an answer's head.
const HEAD_BYTES_MAX: u32 = 64 * 1024;
/// Most bytes of a success that are looked through for a list of failures, behind what is kept.
const SEARCHED_BYTES_MAX: usize = 16 << 20;

/// The right to send one request on a connection. Dropping it closes an HTTP/1.1 connection; an
/// HTTP/2 connection stays for the others that use it.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: Sender,
    shared: Arc<Shared>,
}

#[derive(Debug)]
enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    #[cfg(feature = "http2")]
    Two(http2::SendRequest<Full<Bytes>>),
}

/// What all users of a connection share; the last one closes it.
#[derive(Debug)]
struct Shared {
    task: AbortHandle,
    used: Mutex<Instant>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // No connection outlives its owners.
        self.task.abort();
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// The body, up to the limit.
    pub(crate) body: Bytes,
    pub(crate) end: AnswerEnd,
}

/// How reading the answer's body ended.
#[derive(Debug)]
pub(crate) enum AnswerEnd {
    Whole,
    /// A success beyond the limit. The rest was read, too, and let go: it lists no failures.
    Searched,
    /// A success whose rest lists failures, or may do so.
    Unknown,
    /// There is more than the limit; it is not read.
    TooLong,
    /// It stopped in the middle.
    Broken(hyper::Error),
    Timeout,
}

/// No answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error("the connection failed before an answer came")]
    Broken(#[source] hyper::Error),
    #[error("no answer came in time")]
    Timeout,
}

impl ExchangeError {
    /// True for what a peer that closes an idle connection looks like from here: nothing was
    /// answered. On a connection that was used before, that says nothing about the request.
    pub(crate) fn is_closed(&self) -> bool {
        match self {
            Self::Broken(error) => !error.is_parse() && !error.is_user() && !error.is_timeout(),
            Self::Timeout => false,
        }
    }
}

impl Connection {
    pub(crate) async fn open(
        stream: Box<dyn Stream>,
        protocol: Protocol,
    ) -> Result<Self, hyper::Error> {
        let stream = TokioIo::new(stream);
        let head_max = usize::try_from(HEAD_BYTES_MAX).unwrap_or(usize::MAX);
        // Errors of the driving tasks come out of the exchanges as well.
        let (sender, task) = match protocol {
            Protocol::Http1 => {
                let (sender, driver) = http1::Builder::new()
                    .max_buf_size(head_max)
                    .handshake(stream)
                    .await?;
                let task = tokio::spawn(async move {
                    let _ = driver.await;
                });
                (Sender::One(sender), task)
            }
            #[cfg(feature = "http2")]
            Protocol::Http2 => {
                let (sender, driver) = http2::Builder::new(hyper_util::rt::TokioExecutor::new())
                    .max_header_list_size(HEAD_BYTES_MAX)
                    .handshake(stream)
                    .await?;
                let task = tokio::spawn(async move {
                    let _ = driver.await;
                });
                (Sender::Two(sender), task)
            }
        };
        Ok(Self {
            sender,
            shared: Arc::new(Shared {
                task: task.abort_handle(),
                used: Mutex::new(Instant::now()),
            }),
        })
    }

    /// The protocol it speaks.
    pub(crate) const fn protocol(&self) -> Protocol {
        match self.sender {
            Sender::One(_) => Protocol::Http1,
            #[cfg(feature = "http2")]
            Sender::Two(_) => Protocol::Http2,
        }
    }

    /// Another user of the same connection, if it can have several.
    pub(crate) fn share(&self) -> Option<Self> {
        match &self.sender {
            Sender::One(_) => None,
            #[cfg(feature = "http2")]
            Sender::Two(sender) => Some(Self {
                sender: Sender::Two(sender.clone()),
                shared: self.shared.clone(),
            }),
        }
    }

    /// True if both are the same connection.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// True if it can be used again at this moment: open, and in use or used not long ago.
    pub(crate) fn is_fresh(&self, idle_timeout: Duration) -> bool {
        let closed = match &self.sender {
            Sender::One(sender) => sender.is_closed(),
            #[cfg(feature = "http2")]
            Sender::Two(sender) => sender.is_closed(),
        };
        let in_use = Arc::strong_count(&self.shared) > 1;
        let used = *self.used();
        !closed && (in_use || used.elapsed() < idle_timeout)
    }

    fn used(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.shared
            .used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request and reads the answer, its body up to `body_max` bytes, and says whether the
    /// connection can be used again.
    ///
    /// Cancel safety: dropping the future, and with it the connection, ends the request; the
    /// outcome is unknown.
    pub(crate) async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        body_max: usize,
        deadline: Instant,
    ) -> Result<(Answer, bool), ExchangeError> {
        let sending = async {
            match &mut self.sender {
                Sender::One(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await
                }
                #[cfg(feature = "http2")]
                Sender::Two(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await
                }
            }
        };
        let response = timeout_at(deadline, sending)
            .await
            .map_err(|_| ExchangeError::Timeout)?
            .map_err(ExchangeError::Broken)?;
        let (head, mut body) = response.into_parts();
        let mut answer = Answer {
            status: head.status,
            headers: head.headers,
            body: Bytes::new(),
            end: AnswerEnd::Timeout,
        };
        let mut read = Vec::new();
        let success = answer.status.is_success();
        let draining = drain(&mut body, &mut read, body_max, success);
        if let Ok(end) = timeout_at(deadline, draining).await {
            answer.end = end;
        }
        answer.body = read.into();
        *self.used() = Instant::now();
        let again = match (&answer.end, self.protocol()) {
            (AnswerEnd::Whole | AnswerEnd::Searched, _) => true,
            // Only this answer's stream is given up.
            #[cfg(feature = "http2")]
            (AnswerEnd::TooLong | AnswerEnd::Unknown, Protocol::Http2) => true,
            _ => false,
        };
        Ok((answer, again))
    }
}

/// Reads a body into `into`, up to `max` bytes. Of a success the rest is looked through as well: what is
/// not known to list no failures may list some.
async fn drain(body: &mut Incoming, into: &mut Vec<u8>, max: usize, success: bool) -> AnswerEnd {
    let mut rest: Option<(Search, usize)> = None;
    while let Some(frame) = body.frame().await {
        let data = match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(data)) => data,
            Ok(Err(_)) => continue,
            Err(error) => return AnswerEnd::Broken(error),
        };
        let room = max.saturating_sub(into.len()).min(data.len());
        into.extend_from_slice(&data[..room]);
        let more = &data[room..];
        if more.is_empty() {
            continue;
        }
        if !success {
            return AnswerEnd::TooLong;
        }
        let (search, searched) = rest.get_or_insert_with(|| (Search::behind(into), 0));
        *searched = searched.saturating_add(more.len());
        if search.finds(more) || *searched > SEARCHED_BYTES_MAX {
            return AnswerEnd::Unknown;
        }
    }
    match rest {
        None => AnswerEnd::Whole,
        Some(_) => AnswerEnd::Searched,
    }
}
