//! A server on loopback that follows a script, byte by byte.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use cdc_core::testing::transaction;
use cdc_core::{EmitError, Emitter, EventBatch, Receipt};
use cdc_emit_webhook::{WebhookConfig, WebhookEmitter};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

/// What the server does with one request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Answers and keeps the connection.
    Answer(Vec<u8>),
    /// Answers and closes without having said so.
    AnswerThenClose(Vec<u8>),
    /// Closes without an answer.
    Close,
    /// Answers, then sends zeros until the client goes away.
    Flood(Vec<u8>),
    /// Answers and says nothing more, ever.
    Stall(Vec<u8>),
}

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Which connection it came on, from 0.
    pub(crate) connection: usize,
    pub(crate) line: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .unwrap_or_else(|| panic!("no header {name}"))
    }
}

/// A running server; it stops with the test's runtime.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    script: VecDeque<Reply>,
    seen: Vec<Seen>,
}

/// The bytes of an answer.
pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} Text\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text += &format!("content-length: {}\r\n\r\n{body}", body.len());
    text.into_bytes()
}

/// Answers with this status and nothing else.
pub(crate) fn status(status: u16) -> Reply {
    Reply::Answer(answer(status, &[], ""))
}

impl Server {
    /// A server that follows the script, then answers 200.
    pub(crate) async fn start(script: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State {
            script: script.into_iter().collect(),
            seen: Vec::new(),
        }));
        let shared = state.clone();
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, connection, shared.clone()));
            }
        });
        Self { port, state }
    }

    /// Like [`Server::start`], over streams that `wrap` makes of the accepted ones.
    #[cfg(feature = "tls")]
    pub(crate) async fn start_tls(acceptor: tokio_rustls::TlsAcceptor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, shared) = (acceptor.clone(), shared.clone());
                tokio::spawn(async move {
                    // A client that refuses the certificate ends here.
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, connection, shared).await;
                    }
                });
            }
        });
        Self { port, state }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    /// A configuration that posts here.
    pub(crate) fn config(&self) -> WebhookConfig {
        WebhookConfig::new("hook", format!("http://127.0.0.1:{}/in?key=1", self.port))
    }

    pub(crate) fn emitter(&self) -> WebhookEmitter {
        WebhookEmitter::new(self.config()).unwrap()
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    connection: usize,
    state: Arc<Mutex<State>>,
) {
    while let Some(seen) = read(&mut stream, connection).await {
        let reply = {
            let mut state = state.lock().unwrap();
            state.seen.push(seen);
            state.script.pop_front().unwrap_or_else(|| status(200))
        };
        // Errors are the client's going away.
        match reply {
            Reply::Answer(bytes) => {
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Reply::AnswerThenClose(bytes) => {
                let _ = stream.write_all(&bytes).await;
                return;
            }
            Reply::Close => return,
            Reply::Flood(bytes) => {
                let mut going = stream.write_all(&bytes).await.is_ok();
                while going {
                    going = stream.write_all(&[b'0'; 4096]).await.is_ok();
                }
                return;
            }
            Reply::Stall(bytes) => {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.read(&mut [0]).await;
                return;
            }
        }
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin), connection: usize) -> Option<Seen> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let line = lines.next().unwrap().to_owned();
    let headers: HashMap<_, _> = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    stream.read_exact(&mut body).await.ok()?;
    Some(Seen {
        connection,
        line,
        headers,
        body,
    })
}

/// A batch of `count` events.
pub(crate) fn batch(count: u32) -> EventBatch {
    transaction(5, 1, count)
}

/// The outcome of sending one batch of three to a server with this script.
pub(crate) async fn outcome(script: impl IntoIterator<Item = Reply>) -> Result<Receipt, EmitError> {
    let server = Server::start(script).await;
    server.emitter().emit(&batch(3)).await
}
