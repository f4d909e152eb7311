//! A receiver on hyper: both versions of HTTP, with or without TLS, that counts what runs at once.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cdc_emit_webhook::WebhookConfig;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) connection: usize,
    pub(crate) version: Version,
    pub(crate) uri: String,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

/// A running receiver; it stops with the test's runtime.
#[derive(Clone, Debug)]
pub(crate) struct Receiver {
    pub(crate) port: u16,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    got: Mutex<Vec<Got>>,
    connections: Mutex<Vec<JoinHandle<()>>>,
    running: AtomicUsize,
    most: AtomicUsize,
    /// A request is answered when it gets a permit, which it uses up.
    answers: Semaphore,
}

/// What the receiver speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
}

impl Receiver {
    /// A receiver without TLS that gives `answers` answers until [`Self::answer`] allows more.
    pub(crate) async fn start(speaks: Speaks, answers: usize) -> Self {
        let (receiver, listener) = Self::bind(answers).await;
        let inner = receiver.inner.clone();
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let task = tokio::spawn(serve(stream, speaks, connection, inner.clone()));
                inner.connections.lock().unwrap().push(task);
            }
        });
        receiver
    }

    /// A receiver with TLS, which speaks what the handshake agrees on.
    #[cfg(feature = "tls")]
    pub(crate) async fn start_tls(acceptor: tokio_rustls::TlsAcceptor) -> Self {
        let (receiver, listener) = Self::bind(Semaphore::MAX_PERMITS).await;
        let inner = receiver.inner.clone();
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, shared) = (acceptor.clone(), inner.clone());
                let task = tokio::spawn(async move {
                    // A client that refuses the certificate, or shows none, ends here.
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let speaks = match stream.get_ref().1.alpn_protocol() {
                        Some(b"h2") => Speaks::Http2,
                        _ => Speaks::Http1,
                    };
                    serve(stream, speaks, connection, shared).await;
                });
                inner.connections.lock().unwrap().push(task);
            }
        });
        receiver
    }

    async fn bind(answers: usize) -> (Self, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self {
            port: listener.local_addr().unwrap().port(),
            inner: Arc::new(Inner {
                got: Mutex::default(),
                connections: Mutex::default(),
                running: AtomicUsize::new(0),
                most: AtomicUsize::new(0),
                answers: Semaphore::new(answers),
            }),
        };
        (receiver, listener)
    }

    pub(crate) fn config(&self) -> WebhookConfig {
        WebhookConfig::new("hook", format!("http://127.0.0.1:{}/in?key=1", self.port))
    }

    pub(crate) fn got(&self) -> Vec<Got> {
        self.inner.got.lock().unwrap().clone()
    }

    /// Most requests that waited for their answer at the same time.
    pub(crate) fn most_at_once(&self) -> usize {
        self.inner.most.load(Ordering::SeqCst)
    }

    /// How many connections came.
    pub(crate) fn connections(&self) -> usize {
        self.inner.connections.lock().unwrap().len()
    }

    /// Lets `count` more requests be answered.
    pub(crate) fn answer(&self, count: usize) {
        self.inner.answers.add_permits(count);
    }

    /// Waits until `count` requests wait for their answer.
    pub(crate) async fn running(&self, count: usize) {
        while self.inner.running.load(Ordering::SeqCst) != count {
            tokio::task::yield_now().await;
        }
    }

    /// Closes every connection at once, as a server does that is killed.
    pub(crate) async fn close_connections(&self) {
        let tasks: Vec<_> = self.inner.connections.lock().unwrap().drain(..).collect();
        for task in tasks {
            task.abort();
            // Gone when this returns: whatever it returns.
            let _ = task.await;
        }
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    speaks: Speaks,
    connection: usize,
    inner: Arc<Inner>,
) {
    let service = service_fn(move |request| answer(request, connection, inner.clone()));
    let stream = TokioIo::new(stream);
    // Errors are the client's going away.
    let _ = match speaks {
        Speaks::Http1 => {
            hyper::server::conn::http1::Builder::new()
                .serve_connection(stream, service)
                .await
        }
        Speaks::Http2 => {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(stream, service)
                .await
        }
    };
}

/// Counts a request as running until it is dropped.
struct Running(Arc<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn answer(
    request: Request<Incoming>,
    connection: usize,
    inner: Arc<Inner>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(Full::default());
    let Ok(body) = body.collect().await else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(response);
    };
    inner.got.lock().unwrap().push(Got {
        connection,
        version: head.version,
        uri: head.uri.to_string(),
        headers: head.headers,
        body: body.to_bytes(),
    });
    let now = inner.running.fetch_add(1, Ordering::SeqCst) + 1;
    inner.most.fetch_max(now, Ordering::SeqCst);
    let running = Running(inner.clone());
    inner.answers.acquire().await.unwrap().forget();
    drop(running);
    Ok(response)
}
