//! The connections of one destination, shared by all emitters that post there.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::connect::{ConnectError, Connector, Protocol};
use crate::connection::Connection;

/// Keeps connections for the next request. At most `connections_max` HTTP/1.1 connections are open
/// at once, idle ones included; with HTTP/2 there is one, which all requests share.
pub(crate) struct Pool {
    /// One permit a request: who has one may open a connection if none is idle.
    permits: Semaphore,
    /// The one used last is at the end, and is used first: the others may grow old and go.
    idle: Mutex<Vec<Connection>>,
    idle_timeout: Duration,
    /// Held while connecting unless the peer is known to speak HTTP/1.1, so that requests that
    /// begin together end up on one HTTP/2 connection.
    opening: tokio::sync::Mutex<()>,
    speaks_http1: AtomicBool,
}

/// A connection for one request.
pub(crate) struct Lease<'a> {
    pub(crate) connection: Connection,
    /// It carried a request before: the peer may have closed it meanwhile.
    pub(crate) reused: bool,
    _permit: SemaphorePermit<'a>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("idle", &self.idle().len())
            .finish_non_exhaustive()
    }
}

impl Pool {
    pub(crate) fn new(connections_max: usize, idle_timeout: Duration) -> Self {
        Self {
            permits: Semaphore::new(connections_max),
            idle: Mutex::default(),
            idle_timeout,
            opening: tokio::sync::Mutex::new(()),
            speaks_http1: AtomicBool::new(false),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection; a new one if `fresh` or if none can be used again. Waits while as many
    /// requests run as there may be connections.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn take(
        &self,
        connector: &Connector,
        fresh: bool,
    ) -> Result<Lease<'_>, ConnectError> {
        // Never closed.
        let permit = self
            .permits
            .acquire()
            .await
            .map_err(|_| ConnectError::Timeout)?;
        let lease = |connection, reused| Lease {
            connection,
            reused,
            _permit: permit,
        };
        if !fresh && let Some(connection) = self.kept() {
            return Ok(lease(connection, true));
        }
        let opening = if self.speaks_http1.load(Ordering::Relaxed) {
            None
        } else {
            // Whoever holds it is connecting, within the same limit.
            let guard = timeout(connector.timeout, self.opening.lock())
                .await
                .map_err(|_| ConnectError::Timeout)?;
            // Somebody opened one that takes several requests while we waited.
            if let Some(connection) = self.shared() {
                return Ok(lease(connection, true));
            }
            Some(guard)
        };
        let (stream, protocol) = connector.connect().await?;
        let connection = Connection::open(stream, protocol)
            .await
            .map_err(ConnectError::Http)?;
        self.speaks_http1
            .store(protocol == Protocol::Http1, Ordering::Relaxed);
        if let Some(shared) = connection.share() {
            self.idle().push(shared);
        }
        drop(opening);
        Ok(lease(connection, false))
    }

    /// One that can be used again. Those that cannot are closed.
    fn kept(&self) -> Option<Connection> {
        let mut idle = self.idle();
        idle.retain(|connection| connection.is_fresh(self.idle_timeout));
        match idle.last()?.share() {
            Some(shared) => Some(shared),
            None => idle.pop(),
        }
    }

    fn shared(&self) -> Option<Connection> {
        let mut idle = self.idle();
        idle.retain(|connection| connection.is_fresh(self.idle_timeout));
        idle.last()?.share()
    }

    /// Takes a connection back that can be used again.
    pub(crate) fn keep(&self, lease: Lease<'_>) {
        // A shared one never left.
        if lease.connection.protocol() == Protocol::Http1 {
            self.idle().push(lease.connection);
        }
    }

    /// Lets go of a connection that cannot be used again.
    pub(crate) fn discard(&self, connection: &Connection) {
        self.idle().retain(|kept| !kept.is(connection));
    }

    /// Lets go of all idle HTTP/1.1 connections: a peer that closed one has most likely closed the
    /// others. (An HTTP/2 connection that is still here is newer than the one that failed.)
    pub(crate) fn clear(&self) {
        self.idle()
            .retain(|kept| kept.protocol() != Protocol::Http1);
    }
}
