//! Connections: accepted, counted, timed, closed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use cdc_core::pipeline::Shutdown;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};
use tracing::{debug, warn};

use super::route::{self, Surface};

/// Longest wait for the head of a request, also between two of one connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a request's head, and of what is read or written at once.
const BUFFER_BYTES: usize = 32 * 1024;
/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// How long open connections may end what they are at when the process stops.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// What a connection over the limit gets.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 99\r\nretry-after: 1\r\nconnection: close\r\n\r\n{\"error\":{\"kind\":\"busy\",\"message\":\"there are as many connections as http.connections_max allows\"}}\n";

/// Accepts until told to stop, then closes what is open.
pub(crate) async fn serve(listener: TcpListener, surface: Arc<Surface>, mut stop: Shutdown) {
    let most = surface.config().connections_max;
    let slots = Arc::new(Semaphore::new(most));
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.asked() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file handles, most likely: closing connections frees some.
                warn!(error = %error, "accept an HTTP connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Answers are small and wait for nobody's acknowledgement.
        drop(stream.set_nodelay(true));
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            debug!("HTTP connection refused: there are {most} already");
            tokio::spawn(busy(stream));
            continue;
        };
        let (surface, stop) = (surface.clone(), stop.clone());
        tokio::spawn(async move {
            connection(stream, surface, stop).await;
            drop(slot);
        });
    }
    // Every slot back means that every connection has ended.
    let all = u32::try_from(most).unwrap_or(u32::MAX);
    drop(tokio::time::timeout(CLOSE_TIMEOUT, slots.acquire_many(all)).await);
}

async fn busy(mut stream: TcpStream) {
    let answer = async {
        stream.write_all(BUSY).await?;
        stream.shutdown().await
    };
    drop(tokio::time::timeout(CLOSE_TIMEOUT, answer).await);
}

async fn connection(stream: TcpStream, surface: Arc<Surface>, mut stop: Shutdown) {
    let timed = TimedWrites {
        stream,
        timeout: surface.config().write_timeout,
        waiting: None,
    };
    let service = service_fn(|request| route::answer(surface.clone(), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER_BYTES)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(timed), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.asked() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(error = %error, "HTTP connection");
    }
}

/// A stream whose writes fail when the peer has not taken anything for a while.
struct TimedWrites {
    stream: TcpStream,
    timeout: Duration,
    /// Since when a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl TimedWrites {
    /// Passes a write on, and ends one that has waited for too long.
    fn timed<T>(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let written = write(Pin::new(&mut self.stream), context);
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let until = Instant::now() + self.timeout;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        waiting.as_mut().poll(context).map(|()| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client does not read",
            ))
        })
    }
}

impl AsyncRead for TimedWrites {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for TimedWrites {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.timed(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.timed(context, |stream, context| {
            stream.poll_write_vectored(context, bytes)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.timed(context, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.timed(context, AsyncWrite::poll_shutdown)
    }
}

#[cfg(test)]
mod tests {
    use super::BUSY;

    #[test]
    fn the_answer_to_one_too_many_is_well_formed() {
        let text = std::str::from_utf8(BUSY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let length = head.split("content-length: ").nth(1).unwrap();
        let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
        assert_eq!(length, body.len());
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"]["kind"], "busy");
    }
}
