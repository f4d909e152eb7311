//! Integration tests of this crate, one binary.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

mod append;
mod beside;
mod compress;
mod conformance;
mod crash;
mod divided;
mod failures;
mod files;
mod looks;
mod power;
mod restart;
mod taken_back;
mod tamper;
mod thread;
mod verify;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cdc_core::storage::{OpenMode, Storage, read_exact_at};
use cdc_core::testing::sim_storage::SimStorage;
use cdc_core::{
    Checkpoint, DurableMark, EmitError, Emitter, EventBatch, Lsn, Position, Receipt, testing,
};
use cdc_emit_file::{FileConfig, FileEmitter, Verified};

const STREAM: &str = "shop";

fn dir() -> PathBuf {
    PathBuf::from("/cdc/out")
}

fn config(disk: &SimStorage) -> FileConfig {
    let mut config = FileConfig::new(dir(), STREAM);
    config.storage = disk.shared();
    config.fsync = cdc_emit_file::Fsync::Batch;
    config
}

/// Runs one call of the emitter, none of which waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("the emitter waits"),
    }
}

fn resume(emitter: &mut FileEmitter, from: Option<&Checkpoint>) -> Result<(), EmitError> {
    now(emitter.resume(from))
}

fn emit(emitter: &mut FileEmitter, batch: &EventBatch) -> Result<Receipt, EmitError> {
    now(emitter.emit(batch))
}

fn flush(emitter: &mut FileEmitter) -> DurableMark {
    now(emitter.flush()).unwrap().unwrap()
}

fn open(config: FileConfig, from: Option<&Checkpoint>) -> FileEmitter {
    let mut emitter = FileEmitter::new(config).unwrap();
    resume(&mut emitter, from).unwrap();
    emitter
}

fn checkpoint(mark: &DurableMark) -> Checkpoint {
    Checkpoint {
        lineage: testing::source().lineage,
        position: mark.through,
        state: mark.state.clone(),
        stored_micros: 0,
    }
}

fn at(commit: u64, ordinal: u32) -> Position {
    Position::new(Lsn(commit), ordinal)
}

fn transaction(commit: u64, count: u32) -> EventBatch {
    testing::transaction(commit, i64::from(count), count)
}

/// Names in the directory, sorted.
fn names(storage: &dyn Storage) -> Vec<String> {
    storage.list(&dir()).unwrap()
}

fn read(storage: &dyn Storage, path: &Path) -> Vec<u8> {
    let file = storage.open(path, OpenMode::Read).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    read_exact_at(&*file, &mut bytes, 0).unwrap();
    bytes
}

/// What is inside a data file, compressed or not; `None` if it is no whole compressed file.
fn try_content(storage: &dyn Storage, name: &str) -> Option<Vec<u8>> {
    let bytes = read(storage, &dir().join(name));
    if !name.ends_with(".gz") {
        return Some(bytes);
    }
    let mut plain = Vec::new();
    let mut decoder = flate2::bufread::GzDecoder::new(&bytes[..]);
    decoder.read_to_end(&mut plain).ok()?;
    decoder.into_inner().is_empty().then_some(plain)
}

fn content(storage: &dyn Storage, name: &str) -> Vec<u8> {
    try_content(storage, name).unwrap()
}

/// Positions of all JSON lines of the stream, in the order of file names.
fn positions(storage: &dyn Storage) -> Vec<Position> {
    let mut found = Vec::new();
    let names = names(storage);
    for name in &names {
        // Of the two forms that a crash may leave, a reader takes one.
        let twice = names.contains(&format!("{name}.gz"));
        if !name.starts_with("shop-") || name.ends_with(".gz.tmp") || twice {
            continue;
        }
        let text = String::from_utf8(content(storage, name)).unwrap();
        for line in text.split_inclusive('\n') {
            assert!(line.ends_with('\n'), "torn line in {name}");
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            found.push(value["position"].as_str().unwrap().parse().unwrap());
        }
    }
    found
}

fn verified(storage: &dyn Storage) -> Verified {
    cdc_emit_file::verify(storage, &dir(), STREAM).unwrap()
}

fn all(batches: &[EventBatch]) -> Vec<Position> {
    let events = batches.iter().flat_map(EventBatch::events);
    events.map(|event| event.position).collect()
}

fn shared(disk: &SimStorage) -> Arc<dyn Storage> {
    disk.shared()
}
