//! Answers: whole bodies, streamed bodies, and errors as JSON.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use cdc_core::{ResumeToken, TokenError, TokenRefusal};
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::consumer::PullRefusal;
use crate::assemble::start::{Extent, LocateError, StartError};

/// A body: one piece, or pieces as a task makes them.
#[derive(Debug)]
pub(crate) enum Reply {
    /// All of it.
    Whole(Option<Bytes>),
    /// Pieces; the end of the channel is the end of the body.
    Pieces(mpsc::Receiver<Bytes>),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().filter(|bytes| !bytes.is_empty())),
            Self::Pieces(pieces) => pieces.poll_recv(context),
        };
        piece.map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Pieces(_) => SizeHint::default(),
        }
    }
}

/// An answer.
pub(crate) type Answer = Response<Reply>;

/// A whole body of a type.
pub(crate) fn whole(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Answer {
    let mut response = Response::new(Reply::Whole(Some(body.into())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // Every answer says how things are at one moment.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// Plain text.
pub(crate) fn text(status: StatusCode, body: &str) -> Answer {
    whole(
        status,
        "text/plain; charset=utf-8",
        body.as_bytes().to_vec(),
    )
}

/// One JSON document on a line.
pub(crate) fn json(status: StatusCode, body: &Value) -> Answer {
    let mut bytes = body.to_string().into_bytes();
    bytes.push(b'\n');
    whole(status, "application/json", bytes)
}

/// A body made by a task.
pub(crate) fn pieces(content_type: &'static str, pieces: mpsc::Receiver<Bytes>) -> Answer {
    let mut response = whole(StatusCode::OK, content_type, Vec::new());
    *response.body_mut() = Reply::Pieces(pieces);
    let headers = response.headers_mut();
    // Proxies that collect before they pass on would make a stream stand still.
    headers.insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    response
}

/// Why a request is not answered as it wishes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refusal {
    /// The status.
    pub(crate) status: StatusCode,
    /// A word for programs.
    pub(crate) kind: &'static str,
    /// What was attempted, on what, what to do.
    pub(crate) message: String,
    /// More for programs.
    pub(crate) detail: Value,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            message: message.into(),
            detail: Value::Null,
        }
    }

    /// 400.
    pub(crate) fn request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// 500.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", message)
    }

    /// The error as JSON.
    pub(crate) fn json(&self) -> Value {
        let mut error = json!({ "kind": self.kind, "message": self.message });
        if let (Some(error), Some(detail)) = (error.as_object_mut(), self.detail.as_object()) {
            error.extend(detail.clone());
        }
        json!({ "error": error })
    }

    /// The answer.
    pub(crate) fn answer(&self) -> Answer {
        let mut response = json(self.status, &self.json());
        if self.status == StatusCode::UNAUTHORIZED {
            let headers = response.headers_mut();
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }

    /// A start that a log refuses. `extent` names the oldest token there is.
    pub(crate) fn of_token(refusal: &TokenRefusal, extent: &Extent) -> Self {
        let status = StatusCode::from_u16(refusal.http_status());
        let mut refused = Self::new(
            status.unwrap_or(StatusCode::CONFLICT),
            refusal_name(refusal),
            refusal.to_string(),
        );
        if let TokenRefusal::Expired { oldest, .. } = refusal {
            let oldest = ResumeToken::new(*extent.lineage(), *oldest).to_string();
            refused.detail = json!({ "oldest": oldest });
        }
        refused
    }
}

/// The word for programs of a refused token.
const fn refusal_name(refusal: &TokenRefusal) -> &'static str {
    match refusal {
        TokenRefusal::OtherSource { .. } => "token_of_another_source",
        TokenRefusal::OtherTimeline { .. } => "token_of_another_timeline",
        TokenRefusal::Ahead { .. } => "token_ahead",
        TokenRefusal::Expired { .. } => "token_expired",
        _ => "token_refused",
    }
}

impl From<&TokenError> for Refusal {
    fn from(error: &TokenError) -> Self {
        let kind = match error {
            TokenError::NewerVersion { .. } => "token_of_a_newer_version",
            TokenError::Damaged => "token_damaged",
            _ => "token_malformed",
        };
        Self::new(StatusCode::BAD_REQUEST, kind, error.to_string())
    }
}

impl From<StartError> for Refusal {
    fn from(error: StartError) -> Self {
        match &error {
            StartError::Token(error) => error.into(),
            other => Self::request(other.to_string()),
        }
    }
}

impl From<cdc_wal::LogError> for Refusal {
    fn from(error: cdc_wal::LogError) -> Self {
        // Trimmed while it was being opened: as if it had been asked for a moment later.
        if error.kind == cdc_wal::LogErrorKind::Trimmed {
            return Self::new(StatusCode::GONE, "token_expired", error.to_string());
        }
        Self::failed(error.to_string())
    }
}

impl Refusal {
    /// A start that cannot be used.
    pub(crate) fn of_start(error: LocateError, extent: &Extent) -> Self {
        match error {
            LocateError::Refused(refusal) => Self::of_token(&refusal, extent),
            LocateError::Log(error) => error.into(),
        }
    }
}

impl From<PullRefusal> for Refusal {
    fn from(refusal: PullRefusal) -> Self {
        let PullRefusal::NoConsumer { name, known } = refusal;
        let known = if known.is_empty() {
            "no emitter has custom.pull = true".to_owned()
        } else {
            format!("there are {}", known.join(", "))
        };
        Self::new(
            StatusCode::NOT_FOUND,
            "no_such_consumer",
            format!("find the consumer {name}: {known}"),
        )
    }
}
