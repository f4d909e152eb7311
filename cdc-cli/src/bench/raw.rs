//! The limit that delivery to files is held against: the same bytes, in files of the same size, written to
//! the same disk by a plain program that makes them durable as often.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use cdc_emit_file::{FileConfig, Fsync};

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
