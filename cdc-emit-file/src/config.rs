//! What an operator sets.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cdc_core::envelope::{Encoder, Format};
use cdc_core::storage::{StdStorage, Storage};
use cdc_core::{Clock, SystemClock};

/// When written bytes are made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// After every batch.
    Batch,
    /// When the oldest byte that is not yet durable is this old, checked with every batch and
    /// every question for the mark.
    Interval(Duration),
    /// Only when a file is closed. Marks follow the write, so a power cut or a crash of the
    /// operating system loses what was written since and is *not* sent again; a crash of the
    /// process alone loses nothing.
    None,
}

impl Default for Fsync {
    fn default() -> Self {
        Self::Interval(Duration::from_millis(50))
    }
}

/// What becomes of closed files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compress {
    /// They stay as they were written.
    #[default]
    None,
    /// `X` becomes `X.gz`, on a thread beside the emitter, one file at a time.
    Gzip,
}

/// What happens on restart to lines behind the checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRestart {
    /// They are cut off, for the lane sends them again: no line is ever repeated. A closed file
    /// that the checkpoint does not cover yet is opened again.
    #[default]
    Truncate,
    /// Whole lines stay, only a torn last line is cut off: lines may be repeated, but nothing a
    /// reader has seen ever goes away. So it is after a loss without a restart, too.
    Append,
}

/// Settings of a file emitter.
#[derive(Clone, Debug)]
pub struct FileConfig {
    /// The directory. Created if it is not there; one emitter owns it, held by a lock.
    pub path: PathBuf,
    /// First part of the file names: 1 to 64 of `A-Z a-z 0-9 _ -` and, inside, dots.
    pub stream: String,
    /// Format and options of the lines. Default: our JSON.
    pub encoder: Encoder,
    /// A file is closed at the first end of a transaction at or past this length. Default 256 MiB.
    pub rotate_bytes: u64,
    /// A file is closed at the first end of a transaction past this age, when something is written
    /// or the mark is asked for. Default one hour.
    pub rotate_age: Duration,
    /// Default every 50 ms.
    pub fsync: Fsync,
    /// Default: truncate.
    pub on_restart: OnRestart,
    /// Default: no compression.
    pub compress: Compress,
    /// Default: the machine's file system.
    pub storage: Arc<dyn Storage>,
    /// Default: the machine's clock.
    pub clock: Arc<dyn Clock>,
}

impl FileConfig {
    /// Longest stream name in bytes.
    pub const STREAM_MAX: usize = 64;

    /// Settings with every default.
    pub fn new(path: impl Into<PathBuf>, stream: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            stream: stream.into(),
            encoder: Encoder::new(Format::Json),
            rotate_bytes: 256 << 20,
            rotate_age: Duration::from_secs(3600),
            fsync: Fsync::default(),
            on_restart: OnRestart::default(),
            compress: Compress::default(),
            storage: StdStorage::shared(),
            clock: Arc::new(SystemClock::new()),
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`FileConfigError`].
    pub fn validate(&self) -> Result<(), FileConfigError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        let stream = &self.stream;
        if stream.is_empty()
            || stream.len() > Self::STREAM_MAX
            || !stream.bytes().all(plain)
            || stream.starts_with('.')
            || stream.ends_with('.')
        {
            return Err(FileConfigError::Stream {
                stream: stream.chars().take(Self::STREAM_MAX).collect(),
            });
        }
        if self.rotate_bytes == 0 {
            return Err(FileConfigError::Zero {
                key: "rotate_bytes",
            });
        }
        if self.rotate_age.is_zero() {
            return Err(FileConfigError::Zero { key: "rotate_age" });
        }
        Ok(())
    }
}

/// Settings that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FileConfigError {
    /// The name would not survive in a file name.
    #[error(
        "name files after stream {stream:?}: use 1 to 64 of A-Z, a-z, 0-9, _, - and dots that are neither first nor last"
    )]
    Stream {
        /// The name.
        stream: String,
    },
    /// A bound of zero would close every file at once.
    #[error("write files: {key} is 0, which would give every transaction its own file; raise it")]
    Zero {
        /// The configuration key.
        key: &'static str,
    },
}
