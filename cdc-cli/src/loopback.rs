//! A receiver of webhooks on loopback, for the demonstration and the benchmark.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::thread;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

/// A receiver that answers as long as this lives.
#[derive(Debug)]
pub(crate) struct Receiver {
    address: SocketAddr,
    /// Dropped, it ends the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Receiver {
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets it answer as long as the process lives.
    pub(crate) fn keep(mut self) -> SocketAddr {
        self.thread = None;
        if let Some(stop) = self.stop.take() {
            std::mem::forget(stop);
        }
        self.address
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It has nothing to say that anybody would hear.
            drop(thread.join());
        }
    }
}

/// Answers requests on a free port, on a thread of its own.
///
/// # Errors
/// Loopback has no port for it, or there is no thread to be had.
pub(crate) fn serve<H, F>(handler: H) -> io::Result<Receiver>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = StatusCode> + Send + 'static,
{
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = thread::Builder::new()
        .name("receiver".into())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, handler) => {}
                    _ = stopped => {}
                }
            });
        })?;
    Ok(Receiver {
        address,
        stop: Some(stop),
        thread: Some(thread),
    })
}

async fn accept<H, F>(listener: std::net::TcpListener, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = StatusCode> + Send + 'static,
{
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    while let Ok((stream, _)) = listener.accept().await {
        let handler = handler.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let status = handler(request);
                async {
                    let mut response = Response::new(Full::<Bytes>::default());
                    *response.status_mut() = status.await;
                    Ok::<_, Infallible>(response)
                }
            });
            // A connection that breaks is the sender's to retry.
            drop(
                http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
    }
}
