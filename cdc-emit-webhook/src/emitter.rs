//! The emitter: one batch, one request, one answer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cdc_core::{
    Clock, Delivery, EmitError, EmitErrorKind, Emitter, EventBatch, Receipt, ResumeToken,
    wall_micros,
};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request};
use http_body_util::Full;
use tokio::time::Instant;

use crate::answer::{TOO_LONG, excerpt, rejections};
use crate::body::{Body, BodyWriter};
use crate::config::{WebhookConfig, WebhookConfigError};
use crate::connect::{ConnectError, Connector, Protocol, Resolve};
use crate::connection::{Answer, AnswerEnd, ExchangeError};
use crate::pool::Pool;
use crate::sign::{Secret, batch_id, signature};
use crate::status::{classify, http_date, remedy, retry_after};

/// Bytes of an answer's body that are read, and as many more an event as a listed failure takes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
const ANSWER_BYTES_EVENT: usize = 128;

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const CDC_FIRST: HeaderName = HeaderName::from_static("cdc-first");
const CDC_LAST: HeaderName = HeaderName::from_static("cdc-last");
const CDC_COUNT: HeaderName = HeaderName::from_static("cdc-count");
const CDC_ATTEMPT: HeaderName = HeaderName::from_static("cdc-attempt");

/// Posts batches to one URL.
///
/// Every batch is one request; a 2xx answer makes it durable. An emitter has one request in flight;
/// for more at once, [clone](Clone) it: the clones post to the same place over the same connections,
/// of which there are at most [`connections_max`](WebhookConfig::connections_max) (with HTTP/2 one,
/// which carries all requests). Must be used within a tokio runtime with I/O and time enabled.
///
/// # Ordering
/// The batches of one emitter arrive in the order they are given; between clones there is no order.
/// A request that timed out may still be applied late by a slow receiver, behind its own repetition:
/// receivers deduplicate by event id or `webhook-id`.
///
/// # Durability
/// Every receipt is [`Delivery::Durable`].
///
/// # Cancel safety
/// A dropped `emit` ends its request (and with HTTP/1.1 its connection); the outcome is unknown and
/// the batch is sent again with the same id and the same body.
pub struct WebhookEmitter {
    shared: Arc<Shared>,
    /// Id of the batch that was not delivered yet, and how often it was tried.
    unfinished: Option<(String, u32)>,
}

/// What all clones use.
#[derive(Clone)]
struct Shared {
    name: String,
    connector: Connector,
    pool: Arc<Pool>,
    headers: HeaderMap,
    secrets: Vec<Secret>,
    body: BodyWriter,
    batch_size: usize,
    request_timeout: Duration,
    clock: Option<Arc<dyn Clock>>,
}

impl Clone for WebhookEmitter {
    /// Another emitter to the same place, over the same connections, with nothing in flight.
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            unfinished: None,
        }
    }
}

impl fmt::Debug for WebhookEmitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookEmitter")
            .field("name", &self.shared.name)
            .field("origin", &self.origin())
            .finish_non_exhaustive()
    }
}

/// A batch on its way.
#[derive(Clone, Debug)]
struct Outgoing {
    count: usize,
    id: HeaderValue,
    first: HeaderValue,
    last: HeaderValue,
    body: Bytes,
    attempts: u32,
}

impl WebhookEmitter {
    /// An emitter. Connects when the first batch comes.
    ///
    /// # Errors
    /// [`WebhookConfigError`] if the configuration cannot work.
    pub fn new(config: WebhookConfig) -> Result<Self, WebhookConfigError> {
        config.check()?;
        Ok(Self {
            shared: Arc::new(Shared {
                connector: Connector::new(&config)?,
                pool: Arc::new(Pool::new(config.connections_max, config.idle_timeout)),
                headers: config.fixed_headers()?,
                body: BodyWriter::new(
                    config.body,
                    config.json,
                    config.debezium,
                    config.gzip,
                    config.body_bytes_max,
                ),
                batch_size: if config.body == Body::Json {
                    1
                } else {
                    config.batch_size
                },
                request_timeout: config.request_timeout,
                name: config.name,
                secrets: config.secrets,
                clock: None,
            }),
            unfinished: None,
        })
    }

    /// The same emitter with another clock for `webhook-timestamp`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        Arc::make_mut(&mut self.shared).clock = Some(clock);
        self
    }

    /// The same emitter with another resolver. What it gives is judged by the egress guard as well.
    #[must_use]
    pub fn with_resolver(mut self, resolver: Arc<dyn Resolve>) -> Self {
        Arc::make_mut(&mut self.shared).connector.resolver = resolver;
        self
    }

    /// The emitter's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Scheme, host and port of the URL; never its path, which may hold a key.
    pub fn origin(&self) -> &str {
        &self.shared.connector.endpoint.origin
    }
    /// The batch as it goes out. The same batch makes the same id and the same bytes, here, in a
    /// clone and after a restart, so nothing of it is kept but the id, to count its attempts.
    fn outgoing(&mut self, batch: &EventBatch) -> Result<Outgoing, EmitError> {
        let count = batch.len();
        let (Some(first), Some(last)) = (batch.events().first(), batch.events().last()) else {
            return Err(self
                .shared
                .error(EmitErrorKind::Fatal, 0, "the batch is empty"));
        };
        let body = self.shared.body.write(batch).map_err(|cause| {
            let what = "it cannot be made into a body";
            self.shared
                .error(EmitErrorKind::Event, count, what)
                .with_cause(cause)
        })?;
        let lineage = batch.source().lineage;
        let token = |position| ResumeToken::new(lineage, position).to_string();
        let (first, last) = (token(first.position), token(last.position));
        let positions = batch.events().iter().map(|event| event.position);
        let id = batch_id(&self.shared.name, &first, positions);
        let value = |text: &str| {
            HeaderValue::from_str(text).map_err(|cause| {
                let what = "an id cannot be made into a header";
                self.shared
                    .error(EmitErrorKind::Fatal, count, what)
                    .with_cause(cause)
            })
        };
        let attempts = match &self.unfinished {
            Some((known, attempts)) if *known == id => attempts.saturating_add(1),
            _ => 1,
        };
        let outgoing = Outgoing {
            count,
            id: value(&id)?,
            first: value(&first)?,
            last: value(&last)?,
            body,
            attempts,
        };
        self.unfinished = Some((id, attempts));
        Ok(outgoing)
    }
}

impl Shared {
    fn now(&self) -> i64 {
        let micros = self
            .clock
            .as_ref()
            .map_or_else(wall_micros, |clock| clock.wall_micros());
        micros.div_euclid(1_000_000)
    }

    fn error(&self, kind: EmitErrorKind, count: usize, what: impl fmt::Display) -> EmitError {
        let events = if count == 1 { "event" } else { "events" };
        let origin = &self.connector.endpoint.origin;
        EmitError::new(kind, format!("post {count} {events} to {origin}: {what}"))
    }

    fn request(
        &self,
        outgoing: &Outgoing,
        protocol: Protocol,
    ) -> Result<Request<Full<Bytes>>, EmitError> {
        let count = outgoing.count;
        let timestamp = self.now();
        let mut request = Request::new(Full::new(outgoing.body.clone()));
        *request.method_mut() = Method::POST;
        let endpoint = &self.connector.endpoint;
        *request.headers_mut() = self.headers.clone();
        match protocol {
            Protocol::Http1 => {
                *request.uri_mut() = endpoint.path.clone();
                let host = endpoint.host_header.clone();
                request.headers_mut().insert(header::HOST, host);
            }
            // Host and scheme are what `:authority` and `:scheme` say.
            #[cfg(feature = "http2")]
            Protocol::Http2 => *request.uri_mut() = endpoint.url.clone(),
        }
        let headers = request.headers_mut();
        headers.insert(WEBHOOK_ID, outgoing.id.clone());
        headers.insert(WEBHOOK_TIMESTAMP, timestamp.into());
        headers.insert(IDEMPOTENCY_KEY, outgoing.id.clone());
        headers.insert(CDC_FIRST, outgoing.first.clone());
        headers.insert(CDC_LAST, outgoing.last.clone());
        headers.insert(CDC_COUNT, count.into());
        headers.insert(CDC_ATTEMPT, outgoing.attempts.into());
        if !self.secrets.is_empty() {
            let id = outgoing.id.to_str().unwrap_or_default();
            let text = signature(&self.secrets, id, timestamp, &outgoing.body);
            let mut value = HeaderValue::from_str(&text).map_err(|cause| {
                let what = "its signature cannot be made into a header";
                self.error(EmitErrorKind::Fatal, count, what)
                    .with_cause(cause)
            })?;
            value.set_sensitive(true);
            headers.insert(WEBHOOK_SIGNATURE, value);
        }
        Ok(request)
    }

    fn connect_error(&self, count: usize, cause: ConnectError) -> EmitError {
        let kind = match cause {
            ConnectError::Refused { .. } => EmitErrorKind::EndpointStop,
            _ => EmitErrorKind::EndpointRetry { retry_after: None },
        };
        let then = match &cause {
            ConnectError::Refused { private: true, .. } => {
                "use another `url`, or set allow_private = true if that is meant"
            }
            ConnectError::Refused { private: false, .. } => "use another `url`",
            _ => "the batch will be sent again",
        };
        let error = self.error(kind, count, format!("{cause}; {then}"));
        match cause.into_cause() {
            Some(cause) => error.with_cause(cause),
            None => error,
        }
    }

    /// Sends the request and gives the answer. A kept connection that turns out to be closed is
    /// replaced by a new one at once: that says nothing about the receiver, only that it stopped
    /// waiting.
    async fn exchange(&self, outgoing: &Outgoing) -> Result<Answer, EmitError> {
        let count = outgoing.count;
        let body_max = ANSWER_BYTES_MAX + count.saturating_mul(ANSWER_BYTES_EVENT);
        let mut fresh = false;
        loop {
            let mut lease = self
                .pool
                .take(&self.connector, fresh)
                .await
                .map_err(|cause| self.connect_error(count, cause))?;
            let protocol = lease.connection.protocol();
            let request = self.request(outgoing, protocol)?;
            let deadline = Instant::now() + self.request_timeout;
            let exchange = lease.connection.exchange(request, body_max, deadline);
            let error = match exchange.await {
                Ok((answer, again)) => {
                    if again {
                        self.pool.keep(lease);
                    } else {
                        self.pool.discard(&lease.connection);
                    }
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let closed = lease.reused && !fresh && error.is_closed();
            self.pool.discard(&lease.connection);
            if closed {
                self.pool.clear();
                fresh = true;
                tracing::debug!(emitter = %self.name, "kept connection was closed, sending again");
                continue;
            }
            let kind = EmitErrorKind::EndpointRetry { retry_after: None };
            let what = format!("{error}; the batch will be sent again");
            return Err(match error {
                ExchangeError::Broken(cause) => self.error(kind, count, what).with_cause(cause),
                ExchangeError::Timeout => self.error(kind, count, what),
            });
        }
    }

    /// What an answer means for the batch.
    fn judge(&self, batch: &EventBatch, answer: Answer) -> Result<Receipt, EmitError> {
        let count = batch.len();
        let status = answer.status.as_u16();
        let header = |name| {
            answer
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        // Against the receiver's own clock if it tells it, so that a wrong clock does not matter.
        let now = header(header::DATE)
            .and_then(http_date)
            .unwrap_or_else(|| self.now());
        let wait = header(header::RETRY_AFTER).and_then(|text| retry_after(text, now));
        if let Some(kind) = classify(status, wait) {
            let what = format!("it answered {}; {}", answer.status, remedy(kind, status));
            return Err(self
                .error(kind, count, what)
                .with_response(status, excerpt(&answer.body)));
        }
        let unclear = |what: &str| {
            let kind = EmitErrorKind::EndpointRetry { retry_after: None };
            let what = format!(
                "it answered {}, but {what}; the batch will be sent again",
                answer.status
            );
            self.error(kind, count, what)
        };
        // A list that is coded in a way nobody asked for cannot be seen.
        let coded = header(header::CONTENT_ENCODING).is_some_and(|coding| !is_identity(coding));
        if coded && !answer.body.is_empty() {
            return Err(unclear("its answer is compressed, which was not asked for"));
        }
        let whole = match answer.end {
            AnswerEnd::Whole => true,
            AnswerEnd::Searched => false,
            AnswerEnd::Unknown | AnswerEnd::TooLong => {
                return Err(unclear(TOO_LONG).with_response(status, excerpt(&answer.body)));
            }
            // What is missing may list events that failed.
            AnswerEnd::Broken(cause) => {
                return Err(unclear("its answer broke off").with_cause(cause));
            }
            AnswerEnd::Timeout => return Err(unclear("its answer did not end in time")),
        };
        let rejected = rejections(batch, &answer.body, whole, status)
            .map_err(|what| unclear(what).with_response(status, excerpt(&answer.body)))?;
        Ok(Receipt {
            delivery: Delivery::Durable,
            rejected,
        })
    }
}

fn is_identity(coding: &str) -> bool {
    let coding = coding.trim();
    coding.is_empty() || coding.eq_ignore_ascii_case("identity")
}

impl Emitter for WebhookEmitter {
    async fn emit(&mut self, batch: &EventBatch) -> Result<Receipt, EmitError> {
        if batch.is_empty() {
            return Ok(Receipt::DURABLE);
        }
        let outgoing = self.outgoing(batch)?;
        let answer = self.shared.exchange(&outgoing).await?;
        tracing::debug!(
            emitter = %self.shared.name,
            id = outgoing.id.to_str().unwrap_or_default(),
            attempt = outgoing.attempts,
            events = outgoing.count,
            body_bytes = outgoing.body.len(),
            status = answer.status.as_u16(),
            "batch answered"
        );
        let receipt = self.shared.judge(batch, answer)?;
        self.unfinished = None;
        Ok(receipt)
    }

    fn worker(&self) -> Option<Self> {
        Some(self.clone())
    }

    fn batch_size(&self) -> usize {
        self.shared.batch_size
    }
}
