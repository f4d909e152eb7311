//! Measures the file emitter: `cargo run --release --example file_throughput -- /dev/shm/cdc [FORMAT]`.
//!
//! Rates are by the wall clock; nanoseconds an event are those the thread had a processor, which on a
//! busy machine says more.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "printing is what this program is for, and it stops at the first error"
)]

use std::path::PathBuf;
use std::time::Instant;

use blake3::Hasher;
use cdc_core::envelope::{Encoder, Format};
use cdc_core::storage::{OpenMode, StdStorage, Storage};
use cdc_core::{Emitter, EventBatch, Lsn, Position, testing};
use cdc_emit_file::{FileConfig, FileEmitter};

const EVENTS: u64 = 3_000_000;
const BATCH: u32 = 1000;

fn main() {
    let dir = std::env::args().nth(1).map(PathBuf::from).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let only = std::env::args().nth(2);
    for format in Format::ALL {
        if only.as_ref().is_some_and(|only| only != format.name()) {
            continue;
        }
        let dir = dir.join(format.name());
        let mut config = FileConfig::new(&dir, "bench");
        config.encoder = Encoder::new(format);
        let mut emitter = FileEmitter::new(config).unwrap();
        let mut batches: Vec<EventBatch> = Vec::new();
        for commit in 1..=EVENTS / u64::from(BATCH) {
            let events = (0..BATCH).map(|n| {
                let mut event = testing::insert(commit, n, n.into());
                event.last = n + 1 == BATCH;
                event
            });
            let end = Position::end_of(Lsn(commit));
            batches.push(EventBatch::new(testing::source(), events.collect(), end));
        }
        let (start, busy) = (Instant::now(), cpu());
        runtime.block_on(async {
            emitter.resume(None).await.unwrap();
            for batch in &batches {
                emitter.emit(batch).await.unwrap();
                emitter.durable().unwrap();
            }
            emitter.flush().await.unwrap();
        });
        let seconds = start.elapsed().as_secs_f64();
        let nanos = (cpu() - busy) / EVENTS;
        drop(emitter);
        let bytes: u64 = std::fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        let raw = raw_append(&dir, bytes);
        let (hash, crc) = hashes(bytes / EVENTS);
        println!(
            "{format}: {:.2} M events/s, {:.0} MB/s, {} bytes an event; the same bytes raw: {raw:.0} MB/s; {nanos} ns of processor an event, of which BLAKE3 {hash:.0} and CRC-32C {crc:.0}",
            EVENTS as f64 / seconds / 1e6,
            bytes as f64 / seconds / 1e6,
            bytes / EVENTS,
        );
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

/// Megabytes a second of plain writes of 256 KiB with a sync at the end.
fn raw_append(dir: &std::path::Path, bytes: u64) -> f64 {
    let file = StdStorage
        .open(&dir.join("raw"), OpenMode::CreateNew)
        .unwrap();
    let chunk = vec![b'x'; 256 << 10];
    let start = Instant::now();
    let mut at = 0;
    while at < bytes {
        file.write_all_at(&chunk, at).unwrap();
        at += chunk.len() as u64;
    }
    file.sync_data().unwrap();
    bytes as f64 / start.elapsed().as_secs_f64() / 1e6
}

/// Nanoseconds this thread has had a processor.
fn cpu() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// Nanoseconds an event of the two sums over its bytes, taken as the emitter takes them.
fn hashes(bytes_an_event: u64) -> (f64, f64) {
    const ROUNDS: u64 = 200;
    let chunk = vec![b'x'; usize::try_from(bytes_an_event * u64::from(BATCH)).unwrap()];
    let events = (ROUNDS * u64::from(BATCH)) as f64;
    let before = cpu();
    let mut hash = Hasher::new();
    for _ in 0..ROUNDS {
        hash.update(&chunk);
    }
    std::hint::black_box(hash.finalize());
    let between = cpu();
    let mut crc = 0;
    for _ in 0..ROUNDS {
        crc = crc32c::crc32c_append(crc, &chunk);
    }
    std::hint::black_box(crc);
    let after = cpu();
    (
        (between - before) as f64 / events,
        (after - between) as f64 / events,
    )
}
