//! A webhook receiver: HTTP/1.1 on the standard library, with an answer chosen by the run.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::event::Event;
use crate::error::Context;
use crate::json::Json;
use crate::{Error, Result, ensure};

/// A body may not be larger than this.
const BODY_MAX: usize = 64 << 20;

/// An answer that is none: the connection is closed.
pub(super) const HANG_UP: u16 = 0;

/// Decides the answer to the events of one request, and takes them in if it is 2xx.
pub(super) type Answer = dyn FnMut(Vec<Event>) -> Result<u16> + Send;

/// A listening receiver; dropped, it stops.
pub(super) struct Receiver {
    port: u16,
    stop: Arc<AtomicBool>,
    failure: Arc<Mutex<Option<Error>>>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Receiver {
    /// Listens on a free port of 127.0.0.1 and answers one request at a time.
    ///
    /// # Errors
    /// It cannot listen.
    pub(super) fn start(answer: Box<Answer>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context(|| "listen for webhooks")?;
        let port = listener
            .local_addr()
            .context(|| "listen for webhooks")?
            .port();
        let stop = Arc::new(AtomicBool::new(false));
        let failure = Arc::new(Mutex::new(None));
        let answer = Arc::new(Mutex::new(answer));
        let thread = {
            let (stop, failure) = (Arc::clone(&stop), Arc::clone(&failure));
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let Ok(stream) = stream else { continue };
                    let (answer, failure) = (Arc::clone(&answer), Arc::clone(&failure));
                    // A connection lives as long as its client; its thread ends with it.
                    std::thread::spawn(move || {
                        if let Err(error) = serve(stream, &answer) {
                            failure
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .get_or_insert(error);
                        }
                    });
                }
            })
        };
        Ok(Self {
            port,
            stop,
            failure,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/events", self.port)
    }

    /// The first thing that was wrong with a request.
    ///
    /// # Errors
    /// That.
    pub(super) fn check(&self) -> Result<()> {
        let failure = self
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        failure.map_or(Ok(()), Err)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the listener so that it sees the flag.
        let _woken = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            let _joined = thread.join();
        }
    }
}

/// Answers requests until the client closes; only what is wrong with a whole request is an error.
fn serve(stream: TcpStream, answer: &Mutex<Box<Answer>>) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone().context(|| "read a request")?);
    let mut stream = stream;
    // A client that is killed in the middle of a request sent nothing.
    while let Some(body) = request(&mut reader).unwrap_or(None) {
        let text = String::from_utf8(body).context(|| "read a webhook's body")?;
        let events = events(&text)?;
        let status = answer.lock().unwrap_or_else(PoisonError::into_inner)(events)?;
        if status == HANG_UP {
            break;
        }
        let response = format!("HTTP/1.1 {status} Answer\r\ncontent-length: 0\r\n\r\n");
        if stream.write_all(response.as_bytes()).is_err() {
            break;
        }
    }
    Ok(())
}

/// The body of the next request, `None` at the end of the connection.
fn request(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut length = 0;
    let mut chunked = false;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let header = line.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        chunked |= header.starts_with("transfer-encoding:") && header.contains("chunked");
    }
    if !chunked {
        let mut body = vec![0; length.min(BODY_MAX)];
        reader.read_exact(&mut body)?;
        return Ok(Some(body));
    }
    let mut body = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim().split(';').next().unwrap_or_default(), 16);
        let size = size.map_err(|_| std::io::ErrorKind::InvalidData)?;
        let start = body.len();
        if start + size > BODY_MAX {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        body.resize(start + size, 0);
        reader.read_exact(body.get_mut(start..).unwrap_or_default())?;
        line.clear();
        reader.read_line(&mut line)?;
        if size == 0 {
            return Ok(Some(body));
        }
    }
}

/// The events of a body: an array, one event a line, or one event.
fn events(text: &str) -> Result<Vec<Event>> {
    let body = text.trim();
    let events: Vec<Event> = if body.starts_with('[') {
        Json::parse(body)?
            .items()
            .iter()
            .map(Event::from_json)
            .collect::<Result<_>>()?
    } else {
        body.lines().map(Event::parse).collect::<Result<_>>()?
    };
    ensure!(!events.is_empty(), "read a webhook's body: no events in it");
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_in_both_framings_are_answered() {
        let event = r#"{"id":"a","position":"0/1:0","op":"insert","engine":"relational","source":{"name":"s","kind":"postgres","database":"d"},"schema":"public","table":"t","tx":{"id":"1","ordinal":0,"last":true},"ts":"2026-11-22T13:05:07.123456Z","key":{"id":7},"before":null,"after":{"id":7}}"#;
        let body = format!("[{event}]");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&seen);
        let receiver = Receiver::start(Box::new(move |events| {
            let mut taken = taken.lock().unwrap();
            taken.extend(events.into_iter().map(|event| event.id));
            Ok(if taken.len() > 1 { 400 } else { 200 })
        }))
        .unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", receiver.port)).unwrap();
        let plain = format!(
            "POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let chunked = format!(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        );
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        for (request, expected) in [(plain, "HTTP/1.1 200"), (chunked, "HTTP/1.1 400")] {
            stream.write_all(request.as_bytes()).unwrap();
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            assert!(line.starts_with(expected), "{line}");
            for _ in 0..2 {
                reader.read_line(&mut String::new()).unwrap();
            }
        }
        assert_eq!(*seen.lock().unwrap(), ["a", "a"]);
        receiver.check().unwrap();
    }
}
