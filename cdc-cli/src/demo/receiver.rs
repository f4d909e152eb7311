//! A webhook receiver on loopback that can be told to fail.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Request, StatusCode};

use crate::loopback;

/// Longest body it reads.
const BODY_MAX: usize = 16 << 20;

/// What the receiver does and has seen.
#[derive(Debug, Default)]
pub(crate) struct Receiver {
    /// Answer 503 to everything.
    pub(crate) down: AtomicBool,
    /// Answer 400 to a body that holds an order with a note of this kind.
    pub(crate) dislikes_poison: AtomicBool,
    /// Requests refused while it was down.
    pub(crate) refused: AtomicU64,
    seen: Mutex<Seen>,
}

/// Events the receiver has taken.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// How often each event id came.
    pub(crate) ids: HashMap<String, u64>,
    /// Statuses of each order, in the order they came.
    pub(crate) histories: HashMap<i64, Vec<String>>,
    /// Cards as they arrived.
    pub(crate) card: Option<String>,
}

impl Receiver {
    /// What it has taken.
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts it on a free port; it lives as long as the process.
    ///
    /// # Errors
    /// If loopback has no port for it.
    pub(crate) fn start(self: &Arc<Self>) -> io::Result<SocketAddr> {
        let receiver = self.clone();
        loopback::serve(move |request| answer(receiver.clone(), request))
            .map(loopback::Receiver::keep)
    }

    fn take(&self, body: &[u8]) -> StatusCode {
        let Ok(serde_json::Value::Array(events)) = serde_json::from_slice(body) else {
            return StatusCode::BAD_REQUEST;
        };
        let poison = |event: &serde_json::Value| event["after"]["note"] == "poison";
        if self.dislikes_poison.load(Ordering::Relaxed) && events.iter().any(poison) {
            return StatusCode::BAD_REQUEST;
        }
        let mut seen = self.seen();
        for event in events {
            let Some(id) = event["id"].as_str() else {
                return StatusCode::BAD_REQUEST;
            };
            let times = seen.ids.entry(id.to_owned()).or_default();
            *times += 1;
            if *times == 1
                && let (Some(order), Some(status)) = (
                    event["key"]["id"].as_i64(),
                    event["after"]["status"].as_str(),
                )
            {
                seen.histories
                    .entry(order)
                    .or_default()
                    .push(status.to_owned());
                seen.card = event["after"]["card"].as_str().map(str::to_owned);
            }
        }
        StatusCode::OK
    }
}

async fn answer(receiver: Arc<Receiver>, request: Request<Incoming>) -> StatusCode {
    if receiver.down.load(Ordering::Relaxed) {
        receiver.refused.fetch_add(1, Ordering::Relaxed);
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let body = http_body_util::Limited::new(request.into_body(), BODY_MAX);
    match body.collect().await {
        Ok(body) => receiver.take(&body.to_bytes()),
        Err(_) => StatusCode::PAYLOAD_TOO_LARGE,
    }
}
