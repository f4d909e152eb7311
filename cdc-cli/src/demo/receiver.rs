//! A webhook receiver on loopback that can be told to fail.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

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
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let receiver = self.clone();
        thread::Builder::new()
            .name("receiver".into())
            .spawn(move || {
                runtime.block_on(async move {
                    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
                        return;
                    };
                    while let Ok((stream, _)) = listener.accept().await {
                        let receiver = receiver.clone();
                        tokio::spawn(async move {
                            let service = service_fn(|request| answer(receiver.clone(), request));
                            // A connection that breaks is the sender's to retry.
                            drop(
                                http1::Builder::new()
                                    .serve_connection(TokioIo::new(stream), service)
                                    .await,
                            );
                        });
                    }
                });
            })?;
        Ok(address)
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

async fn answer(
    receiver: Arc<Receiver>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let status = if receiver.down.load(Ordering::Relaxed) {
        receiver.refused.fetch_add(1, Ordering::Relaxed);
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        let body = http_body_util::Limited::new(request.into_body(), BODY_MAX);
        match body.collect().await {
            Ok(body) => receiver.take(&body.to_bytes()),
            Err(_) => StatusCode::PAYLOAD_TOO_LARGE,
        }
    };
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    Ok(response)
}
