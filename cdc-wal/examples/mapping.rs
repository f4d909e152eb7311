//! Measures on this machine what inspecting a log costs when durable segments are mapped and when
//! they are read: the same log, by turns. `cargo run --release -p cdc-wal --example mapping [directory]`

#![expect(clippy::print_stdout, reason = "a measurement is printed")]

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use cdc_core::storage::{OpenMode, StdStorage, Storage, StorageFile, StorageLock};
use cdc_core::{Column, EngineKind, Relation};
use cdc_wal::inspect::Inspector;
use cdc_wal::{Log, LogConfig, SyncPolicy};

const TRANSACTIONS: u64 = 250_000;
const ROUNDS: usize = 9;

/// The machine's disk, whose files have nothing to map.
#[derive(Debug)]
struct Unmapped;

#[derive(Debug)]
struct UnmappedFile(Box<dyn StorageFile>);

impl Storage for Unmapped {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        StdStorage.create_dir_all(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(UnmappedFile(StdStorage.open(path, mode)?)))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        StdStorage.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        StdStorage.remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        StdStorage.list(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        StdStorage.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        StdStorage.lock(path)
    }
    fn exists(&self, path: &Path) -> bool {
        StdStorage.exists(path)
    }
}

impl StorageFile for UnmappedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// Processor time of this thread, which a busy machine distorts less than the wall clock.
fn cpu_nanos() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = stat.split(' ').next().and_then(|n| n.parse().ok());
    first.unwrap_or_default()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let base = std::env::args()
        .nth(1)
        .map_or_else(std::env::temp_dir, Into::into);
    let dir = base.join(format!("cdc-wal-mapping-{}", std::process::id()));
    let result = measure(&dir);
    std::fs::remove_dir_all(&dir)?;
    result
}

fn measure(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let names = ["id", "account", "total", "filler", "at"];
    let columns = names.map(|name| Column::new(name, "int8")).to_vec();
    let relation = Relation::new(EngineKind::Relational, "public", "orders", columns, vec![0]);
    let relation = Arc::new(relation);
    let log = Log::open(LogConfig {
        sync: SyncPolicy::Never,
        ..LogConfig::new(dir)
    })?;
    for id in 0..TRANSACTIONS {
        let mut tx = log.begin(id);
        for n in 0..10 {
            tx.insert_with(&relation, |row| {
                row.int(n);
                row.int(1);
                row.decimal("1234.50");
                row.text(&"a filler ".repeat(12));
                row.timestamp_tz(1_795_352_707_123_456);
            })?;
        }
        tx.commit_unsynced()?;
    }
    log.flush()?;
    let (bytes, events) = (log.retained_bytes(), TRANSACTIONS * 10);
    drop(log);

    println!("{} MB, {events} events, {ROUNDS} rounds", bytes / 1_000_000);
    let mut costs = [const { Vec::new() }; 2];
    for round in 0..2 * ROUNDS {
        let disk: Arc<dyn Storage> = match round % 2 {
            0 => StdStorage::shared(),
            _ => Arc::new(Unmapped),
        };
        let (wall, cpu) = (Instant::now(), cpu_nanos());
        let report = Inspector::open(disk, dir)?.verify()?;
        let wall = u64::try_from(wall.elapsed().as_nanos())?;
        assert!(report.damage.is_none() && report.events == events);
        costs[round % 2].push(((cpu_nanos() - cpu) / events, wall / events));
    }
    for (how, mut costs) in ["mapped", "read"].into_iter().zip(costs) {
        costs.sort_unstable();
        let (least, median) = (costs[0], costs[ROUNDS / 2]);
        println!(
            "inspect, {how:<7} median {:>4} CPU ns/event, least {:>4} (wall {})",
            median.0, least.0, least.1
        );
    }
    Ok(())
}
