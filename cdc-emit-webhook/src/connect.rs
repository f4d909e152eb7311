//! Connecting: resolve, judge, connect to what was judged, TLS.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::config::{Endpoint, HttpVersion, WebhookConfig, WebhookConfigError};
use crate::guard::Policy;

/// Most addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;

/// The future of [`Resolve::resolve`].
pub type Resolving = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Turns a host name into addresses. The egress guard judges what it gives; the connection goes to
/// an address that it gave, so a name that changes in between changes nothing.
pub trait Resolve: Send + Sync + fmt::Debug {
    /// The addresses of `host`, each with `port`.
    fn resolve(&self, host: &str, port: u16) -> Resolving;
}

/// The operating system's resolver.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, host: &str, port: u16) -> Resolving {
        let host = host.to_owned();
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// A byte stream, with or without TLS.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    #[cfg(feature = "http2")]
    Http2,
}

/// There is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("its name cannot be resolved")]
    Resolve(#[source] io::Error),
    #[error("its name has no addresses")]
    NoAddress,
    #[error("its address is {kind}, which the egress guard refuses")]
    Refused {
        kind: &'static str,
        /// `allow_private` would allow it.
        private: bool,
    },
    #[error("it cannot be connected to")]
    Tcp(#[source] io::Error),
    #[error("it cannot be connected to in time")]
    Timeout,
    #[cfg(feature = "tls")]
    #[error("TLS with it fails")]
    Tls(#[source] io::Error),
    #[cfg(all(feature = "tls", feature = "http2"))]
    #[error("it does not speak HTTP/2, which http_version demands")]
    NoHttp2,
    #[error("the connection failed")]
    Http(#[source] hyper::Error),
}

impl ConnectError {
    /// What is behind it, which its own text does not say.
    pub(crate) fn into_cause(self) -> Option<Box<dyn std::error::Error + Send + Sync>> {
        match self {
            Self::Resolve(cause) | Self::Tcp(cause) => Some(cause.into()),
            #[cfg(feature = "tls")]
            Self::Tls(cause) => Some(cause.into()),
            #[cfg(all(feature = "tls", feature = "http2"))]
            Self::NoHttp2 => None,
            Self::Http(cause) => Some(cause.into()),
            Self::NoAddress | Self::Refused { .. } | Self::Timeout => None,
        }
    }
}

/// Opens connections to one endpoint.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) endpoint: Endpoint,
    policy: Policy,
    pub(crate) resolver: Arc<dyn Resolve>,
    pub(crate) timeout: Duration,
    http_version: HttpVersion,
    #[cfg(feature = "tls")]
    tls: Option<crate::tls::Tls>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connector({})", self.endpoint.origin)
    }
}

impl Connector {
    pub(crate) fn new(config: &WebhookConfig) -> Result<Self, WebhookConfigError> {
        let (endpoint, policy) = config.endpoint()?;
        #[cfg(feature = "tls")]
        let tls = if endpoint.https {
            Some(crate::tls::Tls::new(&endpoint.host, config)?)
        } else {
            None
        };
        Ok(Self {
            endpoint,
            policy,
            resolver: Arc::new(SystemResolver),
            timeout: config.connect_timeout,
            http_version: config.http_version,
            #[cfg(feature = "tls")]
            tls,
        })
    }

    /// A new connection, within the time limit, and what is spoken on it.
    pub(crate) async fn connect(&self) -> Result<(Box<dyn Stream>, Protocol), ConnectError> {
        let deadline = Instant::now() + self.timeout;
        let stream = self.tcp(deadline).await?;
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return match timeout_at(deadline, tls.connect(stream)).await {
                Ok(Ok(stream)) => {
                    let protocol = self.agreed(stream.get_ref().1.alpn_protocol())?;
                    Ok((Box::new(stream), protocol))
                }
                Ok(Err(error)) => Err(ConnectError::Tls(error)),
                Err(_) => Err(ConnectError::Timeout),
            };
        }
        let protocol = match self.http_version {
            // Without TLS nothing is agreed on: who configures it knows that the peer speaks it.
            #[cfg(feature = "http2")]
            HttpVersion::Http2 => Protocol::Http2,
            _ => Protocol::Http1,
        };
        Ok((Box::new(stream), protocol))
    }

    /// What the TLS handshake agreed on.
    #[cfg(feature = "tls")]
    fn agreed(&self, alpn: Option<&[u8]>) -> Result<Protocol, ConnectError> {
        match (alpn, self.http_version) {
            #[cfg(feature = "http2")]
            (Some(b"h2"), _) => Ok(Protocol::Http2),
            #[cfg(feature = "http2")]
            (_, HttpVersion::Http2) => Err(ConnectError::NoHttp2),
            _ => Ok(Protocol::Http1),
        }
    }

    async fn tcp(&self, deadline: Instant) -> Result<TcpStream, ConnectError> {
        let addresses = timeout_at(deadline, self.addresses())
            .await
            .map_err(|_| ConnectError::Timeout)??;
        let mut last = ConnectError::NoAddress;
        let mut left = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        for address in addresses {
            // Each gets its share of what is left, so that one that swallows packets does not keep
            // the others from being tried.
            let now = Instant::now();
            let share = deadline.saturating_duration_since(now) / left.max(1);
            left = left.saturating_sub(1);
            match timeout_at(now + share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Requests are written whole: waiting for more only adds delay.
                    stream.set_nodelay(true).map_err(ConnectError::Tcp)?;
                    return Ok(stream);
                }
                Ok(Err(error)) => last = ConnectError::Tcp(error),
                Err(_) => last = ConnectError::Timeout,
            }
        }
        Err(last)
    }

    /// The addresses that may be connected to.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, ConnectError> {
        let port = self.endpoint.port;
        let found = if let Ok(address) = self.endpoint.host.parse::<IpAddr>() {
            vec![SocketAddr::new(address, port)]
        } else if self.policy == Policy::Loopback {
            // `localhost` is loopback, whatever a resolver says.
            let loopback = [
                IpAddr::from(Ipv4Addr::LOCALHOST),
                Ipv6Addr::LOCALHOST.into(),
            ];
            loopback
                .map(|address| SocketAddr::new(address, port))
                .to_vec()
        } else {
            let resolving = self.resolver.resolve(&self.endpoint.host, port);
            resolving.await.map_err(ConnectError::Resolve)?
        };
        let mut refused = ConnectError::NoAddress;
        let mut allowed = Vec::new();
        for address in found {
            match self.policy.check(address.ip()) {
                Ok(()) => allowed.push(address),
                Err(kind) => {
                    let private = Policy::Private.check(address.ip()).is_ok();
                    refused = ConnectError::Refused { kind, private };
                }
            }
        }
        allowed.truncate(ADDRESSES_MAX);
        if allowed.is_empty() {
            Err(refused)
        } else {
            Ok(allowed)
        }
    }
}
