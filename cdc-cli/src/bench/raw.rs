//! The limit that delivery to files is held against: the same bytes, written to the same disk by a
//! plain program that makes them durable as often.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of a write: about what a batch of the lane comes to.
const CHUNK: usize = 512 << 10;
/// As the file emitter does by default.
const SYNC: Duration = Duration::from_millis(50);

/// Megabytes a second of plain appends to a new file, durable at the end and every 50 ms until then.
///
/// # Errors
/// From the disk.
pub(super) fn append(dir: &Path, bytes: u64) -> io::Result<f64> {
    let path = dir.join("raw");
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)?;
    let chunk: Vec<u8> = (b' '..=b'~').cycle().take(CHUNK).collect();
    let began = Instant::now();
    let (mut left, mut synced) = (bytes, began);
    while left > 0 {
        let length = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        file.write_all(&chunk[..length])?;
        left -= length as u64;
        if synced.elapsed() >= SYNC {
            file.sync_data()?;
            synced = Instant::now();
        }
    }
    file.sync_data()?;
    let seconds = began.elapsed().as_secs_f64();
    drop(file);
    std::fs::remove_file(path)?;
    Ok(super::as_f64(bytes) / seconds / 1e6)
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
