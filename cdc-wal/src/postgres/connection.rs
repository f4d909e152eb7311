//! One connection: socket, TLS, start-up, authentication, questions and answers.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use cdc_core::{SourceError, SourceErrorKind};
use postgres_protocol::authentication;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::buffer::{Frame, FrameBuffer};
use super::config::{PostgresConfig, SslMode};
use super::decode::Reader;
use super::error::{ServerError, broken, protocol};

/// What a connection runs over: TCP, TLS on it, or a Unix socket.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub(crate) type Stream = Box<dyn Io>;

/// What the connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Replication commands, and SQL before the stream starts.
    Replication,
    /// SQL only.
    Sql,
}

/// One row of an answer, as text.
pub(crate) type Row = Vec<Option<String>>;

/// An open, authenticated connection that waits for a question.
pub(crate) struct Connection {
    stream: Stream,
    buffer: FrameBuffer,
    address: String,
    timeout: Duration,
    /// Version as the server tells it, such as `15.18`.
    server_version: String,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({})", self.address)
    }
}

impl Connection {
    /// Most bytes of one answer that are kept.
    const ANSWER_BYTES_MAX: usize = 64 << 20;

    /// Connects and authenticates, within the configured time.
    pub(crate) async fn open(
        config: &PostgresConfig,
        purpose: Purpose,
    ) -> Result<Self, SourceError> {
        let attempted = format!("connect to {}", config.address());
        match timeout(
            config.connect_timeout,
            Self::connect(config, purpose, &attempted),
        )
        .await
        {
            Ok(done) => done,
            Err(_) => Err(broken(
                format_args!(
                    "{attempted}: no answer in {:?}; check host, port and firewall",
                    config.connect_timeout
                ),
                io::ErrorKind::TimedOut.into(),
            )),
        }
    }

    async fn connect(
        config: &PostgresConfig,
        purpose: Purpose,
        attempted: &str,
    ) -> Result<Self, SourceError> {
        let stream = open_stream(config, attempted).await?;
        let mut connection = Self {
            stream,
            buffer: FrameBuffer::new(),
            address: config.address(),
            timeout: config.connect_timeout,
            server_version: String::new(),
        };
        let mut out = BytesMut::new();
        let mut parameters = vec![
            ("user", config.user.as_str()),
            ("database", config.database.as_str()),
            ("application_name", config.application_name.as_str()),
            // The value decoder reads exactly these forms.
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO"),
            ("IntervalStyle", "iso_8601"),
            ("TimeZone", "UTC"),
            ("extra_float_digits", "3"),
            ("bytea_output", "hex"),
            // Nobody's objects can stand in for the catalog's.
            ("search_path", "pg_catalog"),
        ];
        if purpose == Purpose::Replication {
            parameters.push(("replication", "database"));
        }
        frontend::startup_message(parameters, &mut out).map_err(|e| broken(attempted, e))?;
        connection.send(&out, attempted).await?;
        connection.authenticate(config, attempted).await?;
        Ok(connection)
    }

    async fn send(&mut self, bytes: &[u8], attempted: &str) -> Result<(), SourceError> {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|e| broken(attempted, e))
    }

    /// Waits for the next message; notices and parameter changes are passed over.
    async fn receive(&mut self, attempted: &str) -> Result<Frame, SourceError> {
        loop {
            if let Some(frame) = self.buffer.peek().map_err(|e| protocol(attempted, e))? {
                match frame.tag {
                    b'N' | b'A' => self.buffer.consume(&frame),
                    b'S' => {
                        self.parameter(&frame);
                        self.buffer.consume(&frame);
                    }
                    _ => return Ok(frame),
                }
                continue;
            }
            let space = self.buffer.space();
            match self.stream.read(space).await {
                Ok(0) => {
                    return Err(broken(attempted, io::ErrorKind::UnexpectedEof.into()));
                }
                Ok(count) => self.buffer.received(count),
                Err(e) => return Err(broken(attempted, e)),
            }
        }
    }

    fn parameter(&mut self, frame: &Frame) {
        let mut r = Reader::new(self.buffer.body(frame));
        if let (Ok(b"server_version"), Ok(version)) = (r.cstr(), r.cstr()) {
            self.server_version = String::from_utf8_lossy(version).into_owned();
        }
    }

    async fn authenticate(
        &mut self,
        config: &PostgresConfig,
        attempted: &str,
    ) -> Result<(), SourceError> {
        let mut scram: Option<ScramSha256> = None;
        loop {
            let frame = self.receive(attempted).await?;
            let body = self.buffer.body(&frame);
            let mut out = BytesMut::new();
            match frame.tag {
                b'E' => return Err(ServerError::parse(body).into_source(attempted)),
                b'R' => authentication_step(config, body, &mut scram, &mut out, attempted)?,
                b'Z' => {
                    self.buffer.consume(&frame);
                    return Ok(());
                }
                // BackendKeyData, NegotiateProtocolVersion.
                b'K' | b'v' => {}
                tag => return Err(unexpected(attempted, tag)),
            }
            self.buffer.consume(&frame);
            if !out.is_empty() {
                self.send(&out, attempted).await?;
            }
        }
    }

    /// Major version, such as 15.
    pub(crate) fn major_version(&self) -> u32 {
        let digits = self.server_version.split(|c: char| !c.is_ascii_digit());
        digits
            .into_iter()
            .next()
            .and_then(|d| d.parse().ok())
            .unwrap_or(0)
    }

    pub(crate) fn server_version(&self) -> &str {
        &self.server_version
    }

    /// Asks one question, within the configured time; gives the rows of all its answers.
    ///
    /// After an error other than the server's own the connection is out of step: drop it. The
    /// same after the future was dropped.
    pub(crate) async fn query(
        &mut self,
        sql: &str,
        attempted: &str,
    ) -> Result<Vec<Row>, SourceError> {
        self.query_within(sql, attempted, self.timeout).await
    }

    /// As [`Connection::query`], with another time limit.
    pub(crate) async fn query_within(
        &mut self,
        sql: &str,
        attempted: &str,
        limit: Duration,
    ) -> Result<Vec<Row>, SourceError> {
        match timeout(limit, self.answer(sql, attempted)).await {
            Ok(done) => done,
            Err(_) => Err(broken(
                format_args!("{attempted} on {}: no answer in {limit:?}", self.address),
                io::ErrorKind::TimedOut.into(),
            )),
        }
    }

    async fn ask(&mut self, sql: &str, attempted: &str) -> Result<(), SourceError> {
        let mut out = BytesMut::new();
        frontend::query(sql, &mut out).map_err(|e| broken(attempted, e))?;
        self.send(&out, attempted).await
    }

    async fn answer(&mut self, sql: &str, attempted: &str) -> Result<Vec<Row>, SourceError> {
        self.ask(sql, attempted).await?;
        let mut rows = Vec::new();
        let mut bytes = 0;
        let mut failed = None;
        loop {
            let frame = match self.receive(attempted).await {
                Ok(frame) => frame,
                // A fatal error closes the connection: it is the reason, not the closing.
                Err(error) => return Err(failed.unwrap_or(error)),
            };
            let body = self.buffer.body(&frame);
            match frame.tag {
                b'D' => {
                    bytes += body.len();
                    if bytes > Self::ANSWER_BYTES_MAX {
                        return Err(protocol(attempted, "an answer of more than 64 MiB"));
                    }
                    rows.push(row(body).map_err(|e| protocol(attempted, e))?);
                }
                b'E' => {
                    let what = format!("{attempted} on {}", self.address);
                    failed = Some(ServerError::parse(body).into_source(what));
                }
                b'Z' => {
                    self.buffer.consume(&frame);
                    return failed.map_or(Ok(rows), Err);
                }
                b'T' | b'C' | b'I' => {}
                tag => return Err(unexpected(attempted, tag)),
            }
            self.buffer.consume(&frame);
        }
    }

    /// Starts streaming: gives the socket and what was received beyond the answer.
    pub(crate) async fn start_copy(
        mut self,
        command: &str,
        attempted: &str,
    ) -> Result<(Stream, FrameBuffer), SourceError> {
        let limit = self.timeout;
        let started = async {
            self.ask(command, attempted).await?;
            let frame = self.receive(attempted).await?;
            let outcome = match frame.tag {
                // CopyBothResponse.
                b'W' => Ok(()),
                b'E' => {
                    let what = format!("{attempted} on {}", self.address);
                    Err(ServerError::parse(self.buffer.body(&frame)).into_source(what))
                }
                tag => Err(unexpected(attempted, tag)),
            };
            self.buffer.consume(&frame);
            outcome
        };
        match timeout(limit, started).await {
            Ok(outcome) => outcome.map(|()| (self.stream, self.buffer)),
            Err(_) => Err(broken(
                format_args!("{attempted}: no answer in {limit:?}"),
                io::ErrorKind::TimedOut.into(),
            )),
        }
    }

    /// Says goodbye; what the server thinks of it is of no interest.
    pub(crate) async fn close(mut self) {
        let mut out = BytesMut::new();
        frontend::terminate(&mut out);
        if self.send(&out, "close").await.is_ok() {
            // Best effort: the process may be about to end.
            let _ignored = timeout(Duration::from_secs(1), self.stream.shutdown()).await;
        }
    }
}

fn unexpected(attempted: &str, tag: u8) -> SourceError {
    protocol(
        attempted,
        format_args!("unexpected message {:?}", char::from(tag)),
    )
}

fn row(body: &[u8]) -> Result<Row, super::decode::DecodeError> {
    let mut r = Reader::new(body);
    let count = r.u16()?;
    // A cell takes four bytes or more, so what is there bounds what is reserved.
    let mut row = Vec::with_capacity(usize::from(count).min(body.len() / 4));
    for _ in 0..count {
        let text = r.nullable()?;
        row.push(text.map(|t| String::from_utf8_lossy(t).into_owned()));
    }
    Ok(row)
}

fn authentication_step(
    config: &PostgresConfig,
    body: &[u8],
    scram: &mut Option<ScramSha256>,
    out: &mut BytesMut,
    attempted: &str,
) -> Result<(), SourceError> {
    let password = || {
        config.password.as_deref().ok_or_else(|| {
            SourceError::new(
                SourceErrorKind::Unreachable,
                format!("{attempted}: the server asks for a password and none is configured; put it into the connection string or PGPASSWORD"),
            )
        })
    };
    let refused = |what: &dyn std::fmt::Display| {
        SourceError::new(
            SourceErrorKind::Unreachable,
            format!("{attempted}: {what}; check the password and the server's pg_hba.conf"),
        )
    };
    let cut = |e| protocol(attempted, e);
    let io = |e: io::Error| refused(&e);
    let mut r = Reader::new(body);
    match r.u32().map_err(cut)? {
        0 => {}
        3 => frontend::password_message(password()?.as_bytes(), out).map_err(io)?,
        5 => {
            let salt = r.u32().map_err(cut)?.to_be_bytes();
            let user = config.user.as_bytes();
            let hash = authentication::md5_hash(user, password()?.as_bytes(), salt);
            frontend::password_message(hash.as_bytes(), out).map_err(io)?;
        }
        10 => {
            let mut offered = false;
            while let Ok(mechanism) = r.cstr() {
                offered |= mechanism == b"SCRAM-SHA-256";
            }
            if !offered {
                return Err(refused(
                    &"it offers no SASL mechanism known here (SCRAM-SHA-256)",
                ));
            }
            let exchange = ScramSha256::new(password()?.as_bytes(), ChannelBinding::unsupported());
            frontend::sasl_initial_response("SCRAM-SHA-256", exchange.message(), out)
                .map_err(io)?;
            *scram = Some(exchange);
        }
        11 => {
            let exchange = scram
                .as_mut()
                .ok_or_else(|| protocol(attempted, "SASL goes on before it began"))?;
            exchange.update(r.rest()).map_err(io)?;
            frontend::sasl_response(exchange.message(), out).map_err(io)?;
        }
        12 => {
            let exchange = scram
                .as_mut()
                .ok_or_else(|| protocol(attempted, "SASL ends before it began"))?;
            exchange.finish(r.rest()).map_err(io)?;
        }
        other => {
            return Err(refused(&format_args!(
                "it asks for authentication method {other}, which is not supported (trust, password, md5 and scram-sha-256 are)"
            )));
        }
    }
    Ok(())
}

async fn open_stream(config: &PostgresConfig, attempted: &str) -> Result<Stream, SourceError> {
    if config.host.starts_with('/') {
        let path = format!(
            "{}/.s.PGSQL.{}",
            config.host.trim_end_matches('/'),
            config.port
        );
        let stream = UnixStream::connect(&path)
            .await
            .map_err(|e| broken(format_args!("{attempted} at {path}"), e))?;
        return Ok(Box::new(stream));
    }
    let mut stream = TcpStream::connect((config.host.as_str(), config.port))
        .await
        .map_err(|e| broken(attempted, e))?;
    stream.set_nodelay(true).map_err(|e| broken(attempted, e))?;
    if config.ssl_mode == SslMode::Disable || cfg!(not(feature = "tls")) {
        return Ok(Box::new(stream));
    }
    let mut out = BytesMut::new();
    frontend::ssl_request(&mut out);
    stream
        .write_all(&out)
        .await
        .map_err(|e| broken(attempted, e))?;
    // Exactly one byte: more would be bytes somebody slipped in before the encryption.
    let answer = stream.read_u8().await.map_err(|e| broken(attempted, e))?;
    match answer {
        #[cfg(feature = "tls")]
        b'S' => super::tls::wrap(config, stream, attempted).await,
        b'N' if config.ssl_mode == SslMode::Prefer => Ok(Box::new(stream)),
        b'N' => Err(SourceError::new(
            SourceErrorKind::Unreachable,
            format!(
                "{attempted}: the server has no TLS and sslmode is {}; set ssl = on at the server, or use sslmode=disable",
                config.ssl_mode.name()
            ),
        )),
        other => Err(unexpected(attempted, other)),
    }
}
