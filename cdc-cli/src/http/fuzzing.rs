//! Fuzz targets of the HTTP surface.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use cdc_core::testing::sim_storage::SimStorage;
use cdc_dlq::{DlqOptions, FileDlq};

use super::Http;
use super::query::Query;
use crate::config::{HttpConfig, Layers, load};

/// What shows that a request may change something.
const TOKEN: &str = "a-token-of-the-fuzz-target";
/// Longest wait for an answer: a request that waits on purpose is cut off.
const ANSWER: Duration = Duration::from_secs(5);

/// A surface without a pipeline, once for the whole process.
fn surface() -> &'static Http {
    static SURFACE: OnceLock<Http> = OnceLock::new();
    SURFACE.get_or_init(|| {
        let options = DlqOptions {
            letters_max: 10,
            bytes_max: 1 << 20,
            segment_bytes: 4096,
        };
        let letters = FileDlq::open(SimStorage::new().shared(), "/dlq", options);
        let letters = Arc::new(Mutex::new(letters.expect("a new queue")));
        Http::start(&config(), letters).expect("a port of loopback")
    })
}

fn config() -> HttpConfig {
    let sets = ["http.listen=127.0.0.1:0", &format!("http.token={TOKEN}")];
    let layers = Layers {
        sets: sets.iter().map(|&set| set.to_owned()).collect(),
        ..Layers::default()
    };
    let config = load(&layers).unwrap_or_else(|error| panic!("{error:?}"));
    config.http.expect("a surface was asked for")
}

/// Any bytes sent to the surface; `{T}` stands for the token. It answers with HTTP or closes, and
/// answers the next one.
pub(crate) fn http(data: &[u8]) {
    let text: Vec<u8> = match data.windows(3).position(|window| window == b"{T}") {
        Some(at) => [&data[..at], TOKEN.as_bytes(), &data[at + 3..]].concat(),
        None => data.to_vec(),
    };
    let answer = exchange(&text, true);
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1."),
        "an answer that is none"
    );
    if text.is_empty() {
        let alive = b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let answer = exchange(alive, false);
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "it is not alive");
    }
}

/// Sends the bytes and reads what comes. A client that `ends` its side may be taken for one that
/// left, and be owed no answer: the server is free to see the end before it has answered.
fn exchange(bytes: &[u8], ends: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect(surface().address).expect("it listens");
    stream.set_read_timeout(Some(ANSWER)).expect("a timeout");
    // It may have closed in the middle of what it does not take.
    let _sent = stream.write_all(bytes);
    if ends {
        let _closed = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    let _read = stream.read_to_end(&mut answer);
    answer
}

/// What stands behind `?`.
pub(crate) fn query(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(query) = Query::parse(&text) else {
        return;
    };
    let _known = query.only(&["tables", "after"]);
    let _one = query.one("table");
    let _all = query.all("tables");
    if let Ok(count) = query.count("limit", 10, 100) {
        assert!(count <= 100, "over its bound");
    }
    if let Ok(wait) = query.wait() {
        assert!(wait <= Duration::from_secs(60), "over its bound");
    }
    let _start = query.start(None);
    let _header = query.start(Some(&text));
    let _filter = query.filter();
    let _format = query.format(cdc_core::envelope::Format::Json);
}

#[cfg(test)]
pub(crate) fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let requests = [
        "",
        "GET /v1/status HTTP/1.1\r\nhost: localhost\r\n\r\nGET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "GET /v1/dlq?emitter=a&limit=3&table=public.t HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "GET /v1/stream?after=earliest&ops=insert HTTP/1.1\r\nhost: 127.0.0.1\r\nlast-event-id: 0/1:2\r\norigin: http://x\r\n\r\n",
        "POST /v1/dlq/discard HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {T}\r\ncontent-length: 17\r\n\r\n{\"emitter\": \"a\"}\n",
        "POST /v1/consumers/a/ack HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {T}\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n2\r\n1}\r\n0\r\n\r\n",
        "OPTIONS * HTTP/1.0\r\n\r\n",
    ];
    let queries = [
        "after=earliest&limit=10&wait=5s",
        "tables=public.%2A&ops=insert,delete&where=id%20%3E+7&format=debezium",
        "after=time:2026-01-01T00:00:00Z",
        "after=position:0/1A:3&after=latest&a=%ff",
    ];
    let of = |target: &'static str, texts: &[&str]| {
        let texts = texts.iter().enumerate();
        let seed = |(n, text): (usize, &&str)| (target, n.to_string(), text.as_bytes().to_vec());
        texts.map(seed).collect::<Vec<_>>()
    };
    [of("http", &requests), of("http-query", &queries)].concat()
}
