//! The HTTP surface of a running pipeline: health, metrics, status, event streams, consumers that
//! fetch, dead letters. Off unless `http.listen` is set; described in `docs/http.md`.
//!
//! It has threads of its own and looks at the pipeline through handles: the log, counters, and the
//! orders a lane takes. What a client can cost is bounded: connections, the head and the body of a
//! request, what is made ahead of a slow reader, and how long a reader may not read.

mod access;
mod consumer;
mod dlq;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod lines;
mod metrics;
mod pull;
mod query;
mod reply;
mod route;
mod server;
mod stream;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cdc_core::pipeline::{Shutdown, ShutdownTrigger};
use cdc_dlq::FileDlq;
use tracing::info;

pub(crate) use pull::{PullEmitter, PullHandle};
pub(crate) use route::{Live, Pulled, Surface};

use crate::config::HttpConfig;
use crate::exit::Exit;
use crate::report::CliError;

/// Threads that answer: a slow disk under one stream must not stop the others.
const THREADS: usize = 2;
/// How long an end waits for requests under way.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// A surface that listens. Dropping it closes every connection.
#[derive(Debug)]
pub(crate) struct Http {
    surface: Arc<Surface>,
    stop: ShutdownTrigger,
    runtime: Option<tokio::runtime::Runtime>,
    serving: Option<tokio::task::JoinHandle<()>>,
    /// Where it listens; the port is the system's choice if 0 was configured.
    pub(crate) address: SocketAddr,
}

impl Http {
    /// Listens and answers health from now on; everything else once there is a pipeline
    /// ([`Http::live`]).
    ///
    /// # Errors
    /// Exit code 3 if the address is not this machine's or is in use, 1 without resources.
    pub(crate) fn start(
        config: &HttpConfig,
        dead_letters: Arc<Mutex<FileDlq>>,
    ) -> Result<Self, CliError> {
        let refused = |cause: std::io::Error| {
            CliError::new(
                Exit::Configuration,
                format!(
                    "listen on {} for HTTP: choose another http.listen, or stop what listens there",
                    config.listen
                ),
            )
            .with_cause(cause)
        };
        let listener = std::net::TcpListener::bind(config.listen).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("http")
            .enable_all()
            .build()
            .map_err(|cause| {
                CliError::new(Exit::Runtime, "start the threads of the HTTP surface")
                    .with_cause(cause)
            })?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(refused)?
        };
        let (stop, stopped) = Shutdown::new();
        let surface = Arc::new(Surface::new(config.clone(), dead_letters, stopped.clone())?);
        let serving = runtime.spawn(server::serve(listener, surface.clone(), stopped));
        info!(address = %address, "HTTP surface");
        Ok(Self {
            surface,
            stop,
            runtime: Some(runtime),
            serving: Some(serving),
            address,
        })
    }

    /// There is a pipeline to look at.
    pub(crate) fn live(&self, live: Live) {
        self.surface.set_live(live);
    }

    /// Ends streams, lets requests under way end, closes.
    pub(crate) async fn stop(mut self) {
        self.stop.trigger();
        if let Some(serving) = self.serving.take() {
            drop(tokio::time::timeout(STOP_TIMEOUT, serving).await);
        }
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.stop.trigger();
        if let Some(runtime) = self.runtime.take() {
            // Dropping a runtime inside another one would block it.
            runtime.shutdown_background();
        }
    }
}
