//! Appending and syncing with nothing around it, to compare with.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use cdc_core::storage::{OpenMode, StdStorage, Storage, StorageFile};

use crate::support::Failure;

/// One file.
pub(crate) struct Raw {
    path: PathBuf,
    file: Box<dyn StorageFile>,
}

impl Raw {
    /// A new, empty file.
    pub(crate) fn growing(path: &Path) -> Result<Self, Failure> {
        let file = StdStorage.open(path, OpenMode::CreateNew)?;
        let path = path.to_owned();
        Ok(Self { path, file })
    }

    /// A file that was written full of zeros, for so many appends.
    pub(crate) fn zeroed(path: &Path, batch: &[u8], count: u64) -> Result<Self, Failure> {
        let raw = Self::growing(path)?;
        fill(raw.file.as_ref(), batch.len() as u64 * count)?;
        Ok(raw)
    }

    /// Appends and syncs; gives the time, and removes the file.
    pub(crate) fn appends(self, batch: &[u8], count: u64) -> Result<Duration, Failure> {
        let start = Instant::now();
        for n in 0..count {
            self.file.write_all_at(batch, n * batch.len() as u64)?;
            self.file.sync_data()?;
        }
        let time = start.elapsed();
        std::fs::remove_file(&self.path)?;
        Ok(time)
    }
}

/// Files of one size, the next one prepared by a thread while the current one fills, as the log does.
pub(crate) struct Segments {
    dir: PathBuf,
    size: u64,
    current: Box<dyn StorageFile>,
    at: u64,
    number: u64,
    asked: bool,
    ask: Sender<()>,
    prepared: Receiver<std::io::Result<Box<dyn StorageFile>>>,
}

impl Segments {
    pub(crate) fn new(dir: &Path, size: u64) -> Result<Self, Failure> {
        std::fs::create_dir_all(dir)?;
        let (ask, asked) = channel();
        let (give, prepared) = channel();
        let next = dir.join("next");
        std::thread::spawn(move || {
            while asked.recv().is_ok() && give.send(prepare(&next, size)).is_ok() {}
        });
        let mut segments = Self {
            dir: dir.to_owned(),
            size,
            current: StdStorage.open(&dir.join("none"), OpenMode::CreateNew)?,
            at: size,
            number: 0,
            asked: false,
            ask,
            prepared,
        };
        segments.roll()?;
        Ok(segments)
    }

    fn ask(&mut self) -> Result<(), Failure> {
        if !self.asked {
            self.ask.send(())?;
            self.asked = true;
        }
        Ok(())
    }

    fn roll(&mut self) -> Result<(), Failure> {
        self.ask()?;
        let file = self.prepared.recv()??;
        self.asked = false;
        // A header, a name, and both durable.
        file.write_all_at(&[1; 4096], 0)?;
        file.sync_data()?;
        self.number += 1;
        StdStorage.rename(
            &self.dir.join("next"),
            &self.dir.join(self.number.to_string()),
        )?;
        StdStorage.sync_dir(&self.dir)?;
        (self.current, self.at) = (file, 4096);
        Ok(())
    }

    /// Appends and syncs; gives the time.
    pub(crate) fn appends(&mut self, batch: &[u8], count: u64) -> Result<Duration, Failure> {
        let length = batch.len() as u64;
        let start = Instant::now();
        for _ in 0..count {
            if self.at + length > self.size {
                self.roll()?;
            }
            self.current.write_all_at(batch, self.at)?;
            self.current.sync_data()?;
            self.at += length;
            if self.at >= self.size / 4 {
                self.ask()?;
            }
        }
        Ok(start.elapsed())
    }
}

fn prepare(path: &Path, size: u64) -> std::io::Result<Box<dyn StorageFile>> {
    let file = StdStorage.open(path, OpenMode::CreateNew)?;
    fill(file.as_ref(), size)?;
    Ok(file)
}

fn fill(file: &dyn StorageFile, size: u64) -> std::io::Result<()> {
    const PIECE: u64 = 1 << 20;
    let zeros = vec![0; 1 << 20];
    for at in (0..size).step_by(1 << 20) {
        let length = usize::try_from(PIECE.min(size - at)).unwrap_or(zeros.len());
        file.write_all_at(&zeros[..length], at)?;
    }
    file.sync_data()
}
