//! One HTTP/1.1 connection, and one exchange on it.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use crate::connect::Stream;

/// Most bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A connection that is not in use. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    #[expect(
        dead_code,
        reason = "held for its drop: no connection outlives its owner"
    )]
    task: AbortOnDrop,
    idle_since: Instant,
}

#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
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
    pub(crate) async fn open(stream: Box<dyn Stream>) -> Result<Self, hyper::Error> {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await?;
        // Its errors come out of the exchange as well.
        let task = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self {
            sender,
            task: AbortOnDrop(task.abort_handle()),
            idle_since: Instant::now(),
        })
    }

    /// True if it can be used again at this moment.
    pub(crate) fn is_fresh(&self, idle_timeout: std::time::Duration) -> bool {
        !self.sender.is_closed() && self.idle_since.elapsed() < idle_timeout
    }

    /// Sends a request and reads the answer, its body up to `body_max` bytes. Gives the connection
    /// back if it can be used again.
    ///
    /// Cancel safety: dropping the future closes the connection; the outcome is unknown.
    pub(crate) async fn exchange(
        mut self,
        request: Request<Full<Bytes>>,
        body_max: usize,
        deadline: Instant,
    ) -> Result<(Answer, Option<Self>), ExchangeError> {
        let sending = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
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
        if let Ok(end) = timeout_at(deadline, drain(&mut body, &mut read, body_max)).await {
            answer.end = end;
        }
        answer.body = read.into();
        if !matches!(answer.end, AnswerEnd::Whole) {
            return Ok((answer, None));
        }
        self.idle_since = Instant::now();
        let again = (!self.sender.is_closed()).then_some(self);
        Ok((answer, again))
    }
}

async fn drain(body: &mut Incoming, into: &mut Vec<u8>, max: usize) -> AnswerEnd {
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                let Ok(data) = frame.into_data() else {
                    continue;
                };
                let room = max - into.len();
                into.extend_from_slice(&data[..data.len().min(room)]);
                if data.len() > room {
                    return AnswerEnd::TooLong;
                }
            }
            Err(error) => return AnswerEnd::Broken(error),
        }
    }
    AnswerEnd::Whole
}
