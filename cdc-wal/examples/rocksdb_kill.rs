//! A real RocksDB is written by a process that is killed (`kill -9`) again and again, while its log
//! is read; then what was read is compared with what RocksDB recovers.
//! `cargo run -p cdc-wal --features rocksdb --example rocksdb_kill [kills]`
//! Needs `ldb` of the package rocksdb-tools.

#![expect(clippy::print_stdout, reason = "a run reports what it did")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cdc_core::storage::StdStorage;
use cdc_core::{Op, Value};
use cdc_wal::kinds::key_value::Family;
use cdc_wal::rocksdb::{Batch, Families, WalDirectory};

type Error = Box<dyn std::error::Error>;
type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// How long nothing may be read from a process that writes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Reads until nothing is whole any more, or `enough` batches were read.
fn read(wal: &mut WalDirectory, rows: &mut Rows, enough: u64) -> Result<u64, Error> {
    let families = Families::new().with(0, &Family::new("store", "default"), "none");
    let mut count = 0;
    while count < enough
        && let Some(bytes) = wal.next_batch()?
    {
        for event in families.events(&Batch::decode(&bytes)?, 0)? {
            let row = event.after.row().ok_or("an event without a row")?;
            match (event.op, row.to_values()?.as_slice()) {
                (Op::Update, [Value::Bytes(key), Value::Bytes(value), _]) => {
                    rows.insert(key.clone(), value.clone());
                }
                _ => return Err("an event that is no put".into()),
            }
        }
        count += 1;
    }
    Ok(count)
}

/// Writes to the database until its log was read for `enough` batches; then kills the writer.
fn write_and_kill(
    db: &Path,
    wal: &mut WalDirectory,
    rows: &mut Rows,
    round: u64,
    enough: u64,
) -> Result<(), Error> {
    let mut ldb = Command::new("ldb")
        .arg(format!("--db={}", db.display()))
        .args(["--create_if_missing", "load"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("start ldb: {error}; install rocksdb-tools"))?;
    let mut input = ldb.stdin.take().ok_or("no pipe to ldb")?;
    let writer = std::thread::spawn(move || {
        for n in 0u64.. {
            let filler = "x".repeat(usize::try_from(n * n % 977).unwrap_or(0));
            // Fails when the process was killed.
            if writeln!(input, "key{} ==> {round}-{n}-{filler}", n % 5000).is_err() {
                break;
            }
        }
    });
    let (mut seen, mut last) = (0, Instant::now());
    while seen < enough {
        match read(wal, rows, enough - seen)? {
            0 if last.elapsed() > PATIENCE => return Err("nothing to read for a minute".into()),
            0 => std::thread::yield_now(),
            more => (seen, last) = (seen + more, Instant::now()),
        }
    }
    ldb.kill()?;
    ldb.wait()?;
    writer.join().map_err(|_| "the writer panicked")?;
    Ok(())
}

/// What RocksDB has after its own recovery.
fn scan(db: &Path) -> Result<Rows, Error> {
    let output = Command::new("ldb")
        .arg(format!("--db={}", db.display()))
        .arg("scan")
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let row = |line: &str| {
        let (key, value) = line.split_once(" : ")?;
        Some((key.as_bytes().to_vec(), value.as_bytes().to_vec()))
    };
    Ok(text.lines().filter_map(row).collect())
}

fn main() -> Result<(), Error> {
    let kills: u64 = std::env::args()
        .nth(1)
        .map_or(Ok(10), |text| text.parse())?;
    let dir = tempfile::tempdir()?;
    let db = dir.path().join("db");
    let (mut rows, mut next) = (Rows::new(), 1);
    for round in 0..kills {
        let mut wal = WalDirectory::after(StdStorage::shared(), &db, next - 1);
        let enough = 50 + round * 7919 % 9000;
        write_and_kill(&db, &mut wal, &mut rows, round, enough)?;
        // What it wrote after we looked.
        read(&mut wal, &mut rows, u64::MAX)?;
        next = wal.next_sequence();
        let recovered = scan(&db)?;
        if recovered != rows {
            return Err(format!(
                "kill {round}: RocksDB recovers {} rows, the events give {}, {} of them others",
                recovered.len(),
                rows.len(),
                rows.iter()
                    .filter(|(key, value)| recovered.get(*key) != Some(value))
                    .count()
            )
            .into());
        }
    }
    println!(
        "{kills} kills, {} changes read, {} rows alike",
        next - 1,
        rows.len()
    );
    Ok(())
}
