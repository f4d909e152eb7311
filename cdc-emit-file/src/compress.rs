//! Compressing closed files, on a thread of its own, one at a time.
//!
//! `X` becomes `X.gz`: written as `X.gz.tmp`, synced, renamed, and only then is `X` removed. The
//! manifest does not change, for it speaks of the bytes that were written; so whoever wants to may
//! decompress or compress again with any tool, and `verify` still proves the lines. A crash leaves
//! `X`, or `X` and `X.gz` (made again), and perhaps a temporary file (removed at the next start).

use std::collections::VecDeque;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use cdc_core::storage::{OpenMode, Storage, StorageFile, open_if_there};
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use tracing::{info, warn};

/// What a compressed file has at the end of its name.
pub(crate) const GZ: &str = ".gz";
/// What it has while it is being made.
pub(crate) const GZ_TMP: &str = ".gz.tmp";

/// Most names that wait; further files are compressed after the next start.
const WAITING_MAX: usize = 4096;
const CHUNK: usize = 256 << 10;

/// The files to be compressed, and the thread that does it.
#[derive(Default)]
pub(crate) struct Compressor {
    waiting: VecDeque<String>,
    running: Option<(String, JoinHandle<io::Result<()>>)>,
    stop: Arc<AtomicBool>,
    /// The last one failed: nothing more is begun until another file is closed.
    paused: bool,
}

impl Compressor {
    /// A closed file. Compression begins with the next [`Self::tend`].
    pub(crate) fn add(&mut self, name: String) {
        self.paused = false;
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(name);
        }
    }

    /// Takes the result of what ended and begins the next.
    pub(crate) fn tend(&mut self, storage: &Arc<dyn Storage>, dir: &Path) {
        if let Some((_, thread)) = &self.running
            && thread.is_finished()
        {
            self.join();
        }
        if self.running.is_some() || self.paused {
            return;
        }
        let Some(name) = self.waiting.pop_front() else {
            return;
        };
        let (storage, path, stop) = (storage.clone(), dir.join(&name), self.stop.clone());
        let begun = std::thread::Builder::new()
            .name("cdc-file-gzip".to_owned())
            .spawn(move || compress(&*storage, &path, &stop));
        match begun {
            Ok(thread) => self.running = Some((name, thread)),
            Err(error) => {
                warn!(file = %name, %error, "start a thread that compresses; the file stays as it is until another is closed");
                self.waiting.push_front(name);
                self.paused = true;
            }
        }
    }

    /// Works until nothing waits; false if something could not be compressed.
    pub(crate) fn finish(&mut self, storage: &Arc<dyn Storage>, dir: &Path) -> bool {
        loop {
            self.tend(storage, dir);
            if self.running.is_none() {
                return self.waiting.is_empty();
            }
            self.join();
        }
    }

    /// Waits for the thread.
    fn join(&mut self) {
        let Some((name, thread)) = self.running.take() else {
            return;
        };
        match thread.join() {
            Ok(Ok(())) => info!(file = %name, "file compressed"),
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            // Should its whole directory be away, the next start finds it again.
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                warn!(file = %name, "a file is gone that was to be compressed; it is looked for again at the next start");
            }
            Ok(Err(error)) => {
                warn!(file = %name, %error, "compress a closed file; it stays as it is until another is closed");
                self.waiting.push_back(name);
                self.paused = true;
            }
            Err(_) => warn!(file = %name, "compressing a closed file panicked; it stays as it is"),
        }
    }

    /// Ends the thread, within a chunk, and forgets what waits.
    pub(crate) fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.join();
        self.stop = Arc::default();
        self.waiting.clear();
        self.paused = false;
    }
}

impl Drop for Compressor {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Replaces a file by its compressed form.
fn compress(storage: &dyn Storage, path: &Path, stop: &AtomicBool) -> io::Result<()> {
    let [packed, temporary] = [GZ, GZ_TMP].map(|end| with_end(path, end));
    if storage.exists(&temporary) {
        storage.remove(&temporary)?;
    }
    let source = storage.open(path, OpenMode::Read)?;
    let target = storage.open(&temporary, OpenMode::CreateNew)?;
    let done = (|| {
        let mut encoder = GzEncoder::new(Appender::new(&*target), Compression::default());
        let mut reader = FileReader::new(&*source);
        let mut chunk = vec![0; CHUNK];
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            match reader.read(&mut chunk)? {
                0 => break,
                n => encoder.write_all(&chunk[..n])?,
            }
        }
        encoder.finish()?.flush()?;
        target.sync_data()
    })();
    if let Err(error) = done {
        // What is left is removed by the next start at the latest.
        let _ = storage.remove(&temporary);
        return Err(error);
    }
    let dir = path.parent().unwrap_or(Path::new("."));
    storage.rename(&temporary, &packed)?;
    storage.sync_dir(dir)?;
    storage.remove(path)?;
    storage.sync_dir(dir)
}

/// Writes the first `length` bytes of a compressed file's content into a new file, synced. Fewer if
/// there are fewer.
pub(crate) fn inflate(
    storage: &dyn Storage,
    packed: &Path,
    into: &Path,
    length: u64,
) -> io::Result<()> {
    let source = storage.open(packed, OpenMode::Read)?;
    // What is there stays, empty: it says that the compressed one is being opened.
    let target = match open_if_there(storage, into, OpenMode::ReadWrite)? {
        Some(target) => {
            target.set_len(0)?;
            target
        }
        None => storage.open(into, OpenMode::CreateNew)?,
    };
    let reader = GzDecoder::new(BufReader::with_capacity(CHUNK, FileReader::new(&*source)));
    let mut out = Appender::new(&*target);
    io::copy(&mut reader.take(length), &mut out)?;
    out.flush()?;
    target.sync_data()
}

/// The content of a compressed file. Its errors of kind `InvalidInput`, `InvalidData` and
/// `UnexpectedEof` say that it is no whole gzip file ([`is_damage`]).
pub(crate) struct Unpacked<'a> {
    decoder: GzDecoder<BufReader<FileReader<'a>>>,
    ended: bool,
}

impl<'a> Unpacked<'a> {
    pub(crate) fn new(file: &'a dyn StorageFile) -> Self {
        let reader = BufReader::with_capacity(CHUNK, FileReader::new(file));
        Self {
            decoder: GzDecoder::new(reader),
            ended: false,
        }
    }
}

impl Read for Unpacked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        let got = self.decoder.read(buffer)?;
        if got == 0 && !buffer.is_empty() {
            self.ended = true;
            // One file, one member, and nothing behind it.
            if self.decoder.get_mut().read(&mut [0])? > 0 {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(got)
    }
}

/// True if a compressed file is damaged, rather than unreadable.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}

pub(crate) fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(end);
    text.into()
}

/// Reads a file from its start.
pub(crate) struct FileReader<'a> {
    file: &'a dyn StorageFile,
    at: u64,
}

impl<'a> FileReader<'a> {
    pub(crate) fn new(file: &'a dyn StorageFile) -> Self {
        Self { file, at: 0 }
    }
}

impl Read for FileReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read_at(buffer, self.at)?;
        self.at += got as u64;
        Ok(got)
    }
}

/// Writes a file from its start, in chunks.
struct Appender<'a> {
    file: &'a dyn StorageFile,
    at: u64,
    buffer: Vec<u8>,
}

impl<'a> Appender<'a> {
    fn new(file: &'a dyn StorageFile) -> Self {
        Self {
            file,
            at: 0,
            buffer: Vec::with_capacity(CHUNK),
        }
    }
}

impl Write for Appender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > CHUNK {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.at)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
