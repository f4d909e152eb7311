//! Configuration, checked before anything is sent.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use cdc_core::envelope::{DebeziumOptions, JsonOptions};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Uri, uri::PathAndQuery};

use crate::body::Body;
use crate::guard::Policy;
use crate::sign::Secret;

/// Most events of a batch.
pub const BATCH_SIZE_MAX: usize = 10_000;
/// Most headers of one's own.
pub const HEADERS_MAX: usize = 64;
/// Most requests at once.
pub const CONNECTIONS_MAX: usize = 1024;

/// Which version of HTTP is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/2 if the receiver offers it in the TLS handshake, else HTTP/1.1. Without TLS, HTTP/1.1.
    #[default]
    Auto,
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only; without TLS it is assumed that the receiver speaks it ("prior knowledge").
    /// Feature `http2`.
    Http2,
}

#[cfg(feature = "tls")]
impl HttpVersion {
    /// What the TLS handshake offers, the best first.
    pub(crate) fn offers(self) -> Vec<Vec<u8>> {
        let (http1, http2) = (b"http/1.1".to_vec(), b"h2".to_vec());
        match self {
            Self::Auto if cfg!(feature = "http2") => vec![http2, http1],
            Self::Http2 => vec![http2],
            Self::Auto | Self::Http1 => vec![http1],
        }
    }
}

/// A certificate that this side shows to a receiver that asks for one (mutual TLS).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// PEM file: the certificate, then those between it and the authority.
    pub chain: PathBuf,
    /// PEM file: its private key (PKCS #8, PKCS #1 or SEC1), not encrypted.
    pub key: PathBuf,
}

/// How a webhook is sent. [`WebhookConfig::new`] gives the defaults.
///
/// `Debug` shows neither secrets nor the values of headers, nor more of the URL than its origin
/// (paths and queries often hold a key).
#[derive(Clone)]
pub struct WebhookConfig {
    /// The emitter's name. Part of every `webhook-id`: changing it changes the ids.
    pub name: String,
    /// Where to post to. `https`, or `http` to loopback.
    pub url: String,
    /// Signing keys, newest first; while keys are changed, old and new ones sign. Without keys
    /// requests are not signed. Default none.
    pub secrets: Vec<Secret>,
    /// Headers of one's own, such as `authorization`. Default none; at most [`HEADERS_MAX`].
    pub headers: Vec<(String, String)>,
    /// Most events a request. Default 100, at most [`BATCH_SIZE_MAX`]; 1 if `body` is
    /// [`Body::Json`].
    pub batch_size: usize,
    /// How a batch becomes a body. Default [`Body::Array`].
    pub body: Body,
    /// Options of JSON and CloudEvents.
    pub json: JsonOptions,
    /// Options of [`Body::Debezium`].
    pub debezium: DebeziumOptions,
    /// Compresses bodies, `content-encoding: gzip`. Default false.
    pub gzip: bool,
    /// Largest body in bytes, before compression. A batch above it is halved; a single event above
    /// it is a dead letter. Default no limit but that of the batch.
    pub body_bytes_max: Option<usize>,
    /// Longest wait for an answer, its body included. Default 15 s.
    pub request_timeout: Duration,
    /// Longest wait for name, connection and TLS together. Default 5 s.
    pub connect_timeout: Duration,
    /// An unused connection older than this is not used again. Default 4 s: many servers close
    /// theirs after 5 s.
    pub idle_timeout: Duration,
    /// Allows private, shared and loopback addresses. Default false. Link-local, multicast and
    /// metadata addresses are refused even so.
    pub allow_private: bool,
    /// Allows `http` to other hosts than loopback. Default false.
    pub allow_http: bool,
    /// Certificate authorities (PEM) to trust instead of the operating system's. Default none.
    pub ca_file: Option<PathBuf>,
    /// Shown to a receiver that asks for one. Default none.
    pub client_certificate: Option<ClientCertificate>,
    /// Which version of HTTP is spoken. Default [`HttpVersion::Auto`].
    pub http_version: HttpVersion,
    /// Most requests at once of an emitter and its clones together, and so most HTTP/1.1
    /// connections; more wait for their turn. Default 16, at most [`CONNECTIONS_MAX`].
    pub connections_max: usize,
}

impl WebhookConfig {
    /// A configuration with defaults.
    pub fn new(name: impl Into<String>, url: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            url: url.into(),
            secrets: Vec::new(),
            headers: Vec::new(),
            batch_size: 100,
            body: Body::Array,
            json: JsonOptions::default(),
            debezium: DebeziumOptions::default(),
            gzip: false,
            body_bytes_max: None,
            request_timeout: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(4),
            allow_private: false,
            allow_http: false,
            ca_file: None,
            client_certificate: None,
            http_version: HttpVersion::Auto,
            connections_max: 16,
        }
    }
}

impl fmt::Debug for WebhookConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        let origin = Endpoint::parse(&self.url).map_or("malformed".to_owned(), |e| e.origin);
        f.debug_struct("WebhookConfig")
            .field("name", &self.name)
            .field("origin", &origin)
            .field("secrets", &self.secrets.len())
            .field("headers", &names)
            .field("batch_size", &self.batch_size)
            .field("body", &self.body)
            .field("gzip", &self.gzip)
            .field("body_bytes_max", &self.body_bytes_max)
            .field("request_timeout", &self.request_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("idle_timeout", &self.idle_timeout)
            .field("allow_private", &self.allow_private)
            .field("allow_http", &self.allow_http)
            .field("ca_file", &self.ca_file)
            .field("client_certificate", &self.client_certificate)
            .field("http_version", &self.http_version)
            .field("connections_max", &self.connections_max)
            .finish_non_exhaustive()
    }
}

/// A webhook cannot be sent as configured. Messages hold no secrets, no header values and no more
/// of the URL than its host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookConfigError {
    /// The URL cannot be used.
    #[error("read the webhook's url: {what}")]
    Url {
        /// What is wrong with it, and what to do.
        what: &'static str,
    },
    /// `http` to a host that is not loopback.
    #[error(
        "read the webhook's url: http to {host} sends rows in the clear; use https, or set allow_http = true"
    )]
    PlainHttp {
        /// The host.
        host: String,
    },
    /// The URL's address is one the egress guard refuses.
    #[error("read the webhook's url: {host} is {kind}; {remedy}")]
    Address {
        /// The address as written.
        host: String,
        /// What kind of address it is.
        kind: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// A header cannot be sent.
    #[error("read the webhook's header {name:?}: {what}")]
    Header {
        /// Its name.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A number is out of its bounds.
    #[error("read the webhook's {key}: {what}")]
    Value {
        /// The configuration key.
        key: &'static str,
        /// What is wrong, and what is possible.
        what: &'static str,
    },
    /// This build has no TLS.
    #[error(
        "read the webhook's url: this build cannot speak https; build it with the feature `tls`"
    )]
    NoTls,
    /// This build has no HTTP/2.
    #[error(
        "read the webhook's http_version: this build cannot speak HTTP/2; build it with the feature `http2`"
    )]
    NoHttp2,
    /// The client certificate or its key cannot be used.
    #[error("load the webhook's client certificate from {file}: {what}")]
    ClientCertificate {
        /// The file.
        file: String,
        /// What is wrong. Holds nothing of the key.
        what: String,
    },
    /// Certificate authorities cannot be loaded.
    #[error("load certificate authorities from {from}: {what}")]
    Authorities {
        /// The file, or where the operating system keeps them.
        from: String,
        /// What went wrong.
        what: String,
    },
}

/// Where to connect and what to ask for.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) https: bool,
    /// Without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The value of `host`.
    pub(crate) host_header: HeaderValue,
    pub(crate) path: Uri,
    /// The whole URL, for HTTP/2.
    #[cfg(feature = "http2")]
    pub(crate) url: Uri,
    /// Scheme, host and port: as much of the URL as messages show.
    pub(crate) origin: String,
}

impl Endpoint {
    pub(crate) fn parse(url: &str) -> Result<Self, WebhookConfigError> {
        let refuse = |what| WebhookConfigError::Url { what };
        if url.contains('#') {
            return Err(refuse(
                "it has a fragment (#), which is never sent; leave it out",
            ));
        }
        let uri: Uri = url
            .parse()
            .map_err(|_| refuse("it is not a URL such as https://example.com/hook"))?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(refuse("it starts with neither https:// nor http://")),
        };
        let authority = uri.authority().ok_or_else(|| refuse("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(refuse(
                "it holds a user or password; put them into a header such as authorization",
            ));
        }
        let bracketed = authority.host();
        let host = bracketed
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .unwrap_or(bracketed);
        if host.is_empty() || host.contains(['%', '[', ']']) {
            return Err(refuse("it names no host that can be connected to"));
        }
        // What stands behind the host is a port, whatever its size.
        let behind = authority
            .as_str()
            .strip_prefix(bracketed)
            .unwrap_or_default();
        if !behind.is_empty() && authority.port_u16().is_none_or(|port| port == 0) {
            return Err(refuse("its port is not between 1 and 65535"));
        }
        let default = if https { 443 } else { 80 };
        let port = authority.port_u16().unwrap_or(default);
        let shown = if port == default {
            bracketed.to_owned()
        } else {
            format!("{bracketed}:{port}")
        };
        let path = uri
            .path_and_query()
            .cloned()
            .unwrap_or(PathAndQuery::from_static("/"));
        Ok(Self {
            https,
            host: host.to_ascii_lowercase(),
            port,
            host_header: HeaderValue::from_str(&shown)
                .map_err(|_| refuse("it names no host that can be connected to"))?,
            path: Uri::from(path),
            #[cfg(feature = "http2")]
            url: uri.clone(),
            origin: format!("{}://{shown}", if https { "https" } else { "http" }),
        })
    }

    /// The URL says loopback in as many words.
    pub(crate) fn is_loopback(&self) -> bool {
        matches!(self.host.as_str(), "localhost" | "127.0.0.1" | "::1")
    }
}

impl WebhookConfig {
    /// The endpoint, and which addresses it may be at.
    pub(crate) fn endpoint(&self) -> Result<(Endpoint, Policy), WebhookConfigError> {
        let endpoint = Endpoint::parse(&self.url)?;
        let host = || endpoint.host.clone();
        let policy = match (endpoint.is_loopback(), self.allow_private) {
            (true, _) => Policy::Loopback,
            (false, true) => Policy::Private,
            (false, false) => Policy::Public,
        };
        if !endpoint.https && !endpoint.is_loopback() && !self.allow_http {
            return Err(WebhookConfigError::PlainHttp { host: host() });
        }
        if endpoint.https && cfg!(not(feature = "tls")) {
            return Err(WebhookConfigError::NoTls);
        }
        if self.http_version == HttpVersion::Http2 && cfg!(not(feature = "http2")) {
            return Err(WebhookConfigError::NoHttp2);
        }
        if !endpoint.https && self.client_certificate.is_some() {
            return Err(WebhookConfigError::Value {
                key: "client_certificate",
                what: "the url is http, which shows no certificate; use https",
            });
        }
        if let Ok(address) = endpoint.host.parse::<IpAddr>()
            && let Err(kind) = policy.check(address)
        {
            let remedy = if Policy::Private.check(address).is_ok() {
                "use a public address, or set allow_private = true"
            } else {
                "no webhook is ever sent there"
            };
            return Err(WebhookConfigError::Address {
                host: host(),
                kind,
                remedy,
            });
        }
        Ok((endpoint, policy))
    }

    /// The headers that are the same for every request.
    pub(crate) fn fixed_headers(&self) -> Result<HeaderMap, WebhookConfigError> {
        let mut map = HeaderMap::new();
        let agent = concat!("weftkit-cdc/", env!("CARGO_PKG_VERSION"));
        map.insert(header::USER_AGENT, HeaderValue::from_static(agent));
        if self.headers.len() > HEADERS_MAX {
            let what = "there are more than 64";
            return Err(WebhookConfigError::Value {
                key: "headers",
                what,
            });
        }
        for (name, value) in &self.headers {
            let refuse = |what| WebhookConfigError::Header {
                name: name.chars().take(100).collect(),
                what,
            };
            let key = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| refuse("this is not the name of a header"))?;
            if is_reserved(&key) {
                return Err(refuse("the webhook sets it itself"));
            }
            let mut value = HeaderValue::from_str(value)
                .map_err(|_| refuse("its value holds characters that no header may hold"))?;
            value.set_sensitive(true);
            if key == header::USER_AGENT {
                map.insert(key, value);
            } else {
                map.append(key, value);
            }
        }
        // Ours last, so that nothing replaces them.
        map.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(self.body.content_type()),
        );
        // Answers are read as they come.
        let plain = HeaderValue::from_static("identity");
        map.insert(header::ACCEPT_ENCODING, plain);
        if self.gzip {
            map.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Ok(map)
    }

    /// All that can be judged without reading a file or resolving a name: for a check before anything starts.
    ///
    /// # Errors
    /// [`WebhookConfigError`], as [`WebhookEmitter::new`](crate::WebhookEmitter::new) would give it.
    pub fn validate(&self) -> Result<(), WebhookConfigError> {
        self.check()?;
        self.endpoint()?;
        self.fixed_headers().map(drop)
    }

    /// Everything but URL, headers and authorities.
    pub(crate) fn check(&self) -> Result<(), WebhookConfigError> {
        let refuse = |key, what| Err(WebhookConfigError::Value { key, what });
        if self.name.is_empty() || self.name.len() > 256 {
            return refuse("name", "it has no characters, or more than 256 bytes");
        }
        if !(1..=BATCH_SIZE_MAX).contains(&self.batch_size) {
            return refuse("batch_size", "it is not between 1 and 10000");
        }
        if !(1..=CONNECTIONS_MAX).contains(&self.connections_max) {
            return refuse("connections_max", "it is not between 1 and 1024");
        }
        if self.body_bytes_max == Some(0) {
            return refuse(
                "body_bytes_max",
                "no body has 0 bytes; leave it out for no limit",
            );
        }
        if self.secrets.len() > 8 {
            return refuse("secrets", "there are more than 8; remove the oldest");
        }
        let hour = Duration::from_secs(3600);
        for (key, value) in [
            ("request_timeout", self.request_timeout),
            ("connect_timeout", self.connect_timeout),
        ] {
            if value.is_zero() || value > hour {
                return refuse(key, "it is not above zero and at most an hour");
            }
        }
        Ok(())
    }
}

fn is_reserved(name: &HeaderName) -> bool {
    let text = name.as_str();
    text.starts_with("webhook-")
        || text.starts_with("cdc-")
        || matches!(
            text,
            "host"
                | "content-type"
                | "content-length"
                | "content-encoding"
                | "transfer-encoding"
                | "connection"
                | "keep-alive"
                | "te"
                | "trailer"
                | "upgrade"
                | "expect"
                | "idempotency-key"
                | "accept-encoding"
                | "proxy-connection"
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_url_is_read_or_refused(text in "\\PC{0,60}|https?://[a-z@:.\\[\\]0-9%/?#]{0,30}") {
            let mut config = WebhookConfig::new("hook", text);
            config.allow_http = true;
            let _ = (config.endpoint(), format!("{config:?}"));
        }
    }

    fn url(url: &str) -> Result<(Endpoint, Policy), String> {
        WebhookConfig::new("hook", url)
            .endpoint()
            .map_err(|e| e.to_string())
    }

    #[test]
    fn urls_are_taken_apart() {
        let (endpoint, policy) = url("https://Example.COM/hook?key=1").unwrap();
        assert_eq!(
            (endpoint.host.as_str(), endpoint.port, policy),
            ("example.com", 443, Policy::Public)
        );
        assert_eq!(endpoint.path.to_string(), "/hook?key=1");
        assert_eq!(endpoint.origin, "https://Example.COM");
        let (endpoint, policy) = url("http://[::1]:8080").unwrap();
        assert_eq!(
            (endpoint.host.as_str(), endpoint.port, policy),
            ("::1", 8080, Policy::Loopback)
        );
        assert_eq!(endpoint.host_header, "[::1]:8080");
        assert_eq!(endpoint.path.to_string(), "/");
        assert_eq!(url("http://localhost/").unwrap().1, Policy::Loopback);
    }

    #[test]
    fn hostile_urls_are_refused() {
        for (text, words) in [
            ("", "not a URL"),
            ("example.com/hook", "not a URL"),
            ("/hook", "neither https"),
            ("ftp://example.com/", "neither https"),
            ("file:///etc/passwd", ""),
            ("https:///hook", ""),
            ("https://user:pw@example.com/", "user or password"),
            ("https://example.com/#a", "fragment"),
            ("https://example.com:0/", "port"),
            ("https://example.com:99999/", "port"),
            ("https://example.com:/", "port"),
            ("http://example.com/", "in the clear"),
            ("http://127.0.0.2/", "in the clear"),
            (
                "https://127.0.0.2/",
                "127.0.0.2 is loopback; use a public address, or set allow_private",
            ),
            ("https://10.1.2.3/", "is private"),
            ("https://[fd00::1]/", "is private"),
            ("https://[::ffff:10.0.0.1]/", "is private"),
            (
                "https://169.254.169.254/latest/meta-data",
                "is link-local; no webhook is ever sent there",
            ),
            ("https://[fd00:ec2::254]/", "metadata"),
            ("https://[64:ff9b::a9fe:a9fe]/", "link-local"),
            ("https://0.0.0.0/", "unspecified"),
            ("https://[::]/", "unspecified"),
            ("https://[fe80::1%25eth0]/", ""),
        ] {
            let error = url(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
            assert!(
                !error.contains("pw") && !error.contains("meta-data"),
                "{error}"
            );
        }
        let mut config = WebhookConfig::new("hook", "http://10.0.0.1/");
        config.allow_http = true;
        config.allow_private = true;
        assert_eq!(config.endpoint().unwrap().1, Policy::Private);
    }

    #[test]
    fn headers_are_checked_and_not_shown() {
        let mut config = WebhookConfig::new("hook", "https://example.com/services/T00/SECRET");
        config.headers = vec![("Authorization".into(), "Bearer SECRET".into())];
        let map = config.fixed_headers().unwrap();
        assert_eq!(map["authorization"], "Bearer SECRET");
        assert!(
            map["user-agent"]
                .to_str()
                .unwrap()
                .starts_with("weftkit-cdc/")
        );
        assert!(
            !format!("{config:?} {map:?}").contains("SECRET"),
            "{config:?}"
        );
        for (name, value) in [
            ("Content-Type", "text/plain"),
            ("webhook-id", "1"),
            ("CDC-First", "1"),
            ("host", "x"),
            ("transfer-encoding", "chunked"),
            ("bad name", "x"),
            ("x", "line\r\nSECRET: 1"),
            ("", "x"),
        ] {
            config.headers = vec![(name.into(), value.into())];
            let error = config.fixed_headers().expect_err(name).to_string();
            assert!(!error.contains("SECRET"), "{error}");
        }
    }

    #[test]
    fn bounds_are_checked() {
        let check = |change: fn(&mut WebhookConfig)| {
            let mut config = WebhookConfig::new("hook", "https://example.com");
            change(&mut config);
            config.check()
        };
        assert!(check(|_| {}).is_ok());
        assert!(check(|c| c.batch_size = 0).is_err());
        assert!(check(|c| c.batch_size = BATCH_SIZE_MAX + 1).is_err());
        assert!(check(|c| c.body_bytes_max = Some(0)).is_err());
        assert!(check(|c| c.connections_max = 0).is_err());
        assert!(check(|c| c.connections_max = CONNECTIONS_MAX + 1).is_err());
        assert!(check(|c| c.request_timeout = Duration::ZERO).is_err());
        assert!(check(|c| c.connect_timeout = Duration::from_secs(4000)).is_err());
        assert!(check(|c| c.name.clear()).is_err());
    }
}
