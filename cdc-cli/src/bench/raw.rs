//! The limits that deliveries are held against: to files, the same bytes, in files of the same size, written
//! to the same disk by a plain program that makes them durable as often; in latency, a plain program that makes
//! the same commits durable when they are due.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use cdc_emit_file::{FileConfig, Fsync};

use super::histogram::Histogram;
use super::workload::Workload;

/// Bytes of a write: about what a batch of the lane comes to.
const CHUNK: usize = 512 << 10;

/// Megabytes a second of plain appends to new files. As the file emitter does by default, a file is closed
/// at a certain length, and what is written is durable at the end, when a file is closed, and every 50 ms
/// until then; and so is the name of each file.
///
/// # Errors
/// From the disk.
pub(super) fn append(dir: &Path, bytes: u64) -> io::Result<f64> {
    let config = FileConfig::new(dir, "raw");
    let Fsync::Interval(interval) = config.fsync else {
        return Err(io::Error::other("the default is an interval"));
    };
    let place = dir.join("raw");
    std::fs::create_dir(&place)?;
    let chunk: Vec<u8> = (b' '..=b'~').cycle().take(CHUNK).collect();
    let began = Instant::now();
    let (mut left, mut number) = (bytes, 0);
    while left > 0 {
        let length = left.min(config.rotate_bytes);
        append_file(&place, number, length, &chunk, interval)?;
        left -= length;
        number += 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    std::fs::remove_dir_all(place)?;
    Ok(super::as_f64(bytes) / seconds / 1e6)
}

/// One file, durable with its name.
fn append_file(
    dir: &Path,
    number: u32,
    mut left: u64,
    chunk: &[u8],
    interval: Duration,
) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(dir.join(number.to_string()))?;
    File::open(dir)?.sync_all()?;
    let mut synced = Instant::now();
    while left > 0 {
        let length = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
        file.write_all(&chunk[..length])?;
        left -= length as u64;
        if synced.elapsed() >= interval {
            file.sync_data()?;
            synced = Instant::now();
        }
    }
    file.sync_data()
}

/// Zeroes that are there before they are written over, as in a segment of the log.
const PREPARED: u64 = 64 << 20;

/// How long after it was due each event was durable, when one thread writes what is due, syncs it, and looks
/// again: what the disk leaves of a latency before anything is delivered.
///
/// # Errors
/// From the disk.
pub(super) fn durable_on_time(dir: &Path, workload: &Workload, rate: u64) -> io::Result<Histogram> {
    let path = dir.join("raw");
    let file = File::create(&path)?;
    let zeroes = vec![0; CHUNK];
    for at in (0..PREPARED).step_by(CHUNK) {
        file.write_all_at(&zeroes, at)?;
    }
    file.sync_all()?;
    let transaction = u64::from(workload.transaction);
    let bytes = vec![
        1;
        workload
            .row_bytes
            .saturating_mul(workload.transaction as usize)
    ];
    let length = bytes.len() as u64;
    let mut durable = Histogram::default();
    let schedule = workload.schedule(rate);
    let (mut next, mut at) = (0, 0);
    while next < workload.events {
        std::thread::sleep(schedule.due(next).saturating_duration_since(Instant::now()));
        let (first, now) = (next, Instant::now());
        while next < workload.events && schedule.due(next) <= now {
            if at + length > PREPARED {
                at = 0;
            }
            file.write_all_at(&bytes, at)?;
            at += length;
            next += transaction;
        }
        file.sync_data()?;
        let now = Instant::now();
        for event in first..next {
            durable.add(now.saturating_duration_since(schedule.due(event)));
        }
    }
    std::fs::remove_file(path)?;
    Ok(durable)
}

/// Writes as many bytes as will be measured, and removes them again. On a virtual machine the first write to a
/// page of memory that the host has to supply costs ten times a later one, and hosts take free memory back
/// within seconds: whoever comes first would pay for it.
///
/// # Errors
/// From the disk.
pub(super) fn warm(dir: &Path, bytes: u64) -> io::Result<()> {
    let path = dir.join("warm");
    let mut file = File::create(&path)?;
    let chunk = vec![1; CHUNK];
    for _ in 0..bytes.div_ceil(CHUNK as u64) {
        file.write_all(&chunk)?;
    }
    drop(file);
    std::fs::remove_file(path)
}

/// Bytes of the files in a directory.
///
/// # Errors
/// From the disk.
pub(super) fn bytes(dir: &Path) -> io::Result<u64> {
    std::fs::read_dir(dir)?
        .map(|entry| Ok(entry?.metadata()?.len()))
        .sum()
}
