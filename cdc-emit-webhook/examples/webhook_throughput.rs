//! Measures the webhook on loopback: `cargo run --release -p cdc-emit-webhook --example webhook_throughput`.
//!
//! A receiver on a thread of its own reads each request to its end and answers 200; the emitter
//! signs with one key. Nanoseconds an event are those the emitter's thread had a processor.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "printing is what this program is for, and it stops at the first error"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use cdc_core::{Emitter, testing};
use cdc_emit_webhook::{Secret, WebhookConfig, WebhookEmitter};

const BATCHES: u64 = 20_000;
const BATCH: u32 = 100;
const EVENTS: u64 = BATCHES * BATCH as u64;

fn main() {
    for (gzip, at_once) in [(false, 1), (false, 4), (true, 1)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                std::thread::spawn(move || receive(stream));
            }
        });
        let mut config = WebhookConfig::new("bench", format!("http://127.0.0.1:{port}/"));
        config.secrets = vec![Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap()];
        config.gzip = gzip;
        config.batch_size = 100;
        let emitter = WebhookEmitter::new(config).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let batches: Vec<_> = (0..64)
            .map(|commit| testing::transaction(commit + 1, 1, BATCH))
            .collect();
        let (start, busy) = (Instant::now(), cpu());
        runtime.block_on(async {
            let mut workers = Vec::new();
            for worker in 0..at_once {
                let (mut emitter, batches) = (emitter.clone(), batches.clone());
                workers.push(tokio::spawn(async move {
                    for number in (worker..BATCHES).step_by(usize::try_from(at_once).unwrap()) {
                        let batch = usize::try_from(number).unwrap() % batches.len();
                        emitter.emit(&batches[batch]).await.unwrap();
                    }
                }));
            }
            for worker in workers {
                worker.await.unwrap();
            }
        });
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{at_once} at once{}: {:.0} K events/s signed, {:.0} requests/s, {} ns of processor an event",
            if gzip { ", gzip" } else { "" },
            EVENTS as f64 / seconds / 1e3,
            BATCHES as f64 / seconds,
            (cpu() - busy) / EVENTS,
        );
    }
}

/// Reads requests and answers them until the emitter goes away.
fn receive(stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut answers = stream.try_clone().unwrap();
    let mut requests = BufReader::with_capacity(256 << 10, stream);
    let (mut line, mut body) = (String::new(), Vec::new());
    loop {
        let mut length = 0;
        loop {
            line.clear();
            if requests.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(text) = line.strip_prefix("content-length: ") {
                length = text.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        body.resize(length, 0);
        requests.read_exact(&mut body).unwrap();
        let sent = answers.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        if sent.is_err() {
            return;
        }
    }
}

/// Nanoseconds this thread has had a processor.
fn cpu() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}
