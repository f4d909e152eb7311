//! Frames from segment files, in large reads or mapped windows.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cdc_core::storage::{OpenMode, Storage};

use crate::format::frame::{self, FRAME_HEADER, FrameHeader, FrameKind, Parsed};
use crate::format::header::SegmentHeader;
use crate::format::{HEADER_BYTES, frame_max};
use crate::log::recent::Follower;
use crate::log::state::ARENA_BYTES;
use crate::mmap::{self, Sealed};
use crate::segment::Segment;
use crate::{LogError, LogErrorKind};

/// One read of a file.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;

/// Chunks kept for reuse: 4 MiB.
const RETIRED_MAX: usize = 16;

/// Which log, so that a file of another one is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogId {
    pub(crate) uuid: [u8; 16],
    pub(crate) epoch: u32,
    pub(crate) segment_bytes: u32,
}

impl LogId {
    pub(crate) fn of(header: &SegmentHeader) -> Self {
        Self {
            uuid: header.uuid,
            epoch: header.epoch,
            segment_bytes: header.segment_bytes,
        }
    }

    pub(crate) fn base(&self, lsn: u64) -> u64 {
        lsn - lsn % u64::from(self.segment_bytes)
    }

    /// The file of the segment that holds an LSN.
    pub(crate) fn file(&self, dir: &Path, lsn: u64) -> PathBuf {
        dir.join(crate::segment::file_name(self.base(lsn)))
    }

    /// Where the next frame stands after one that ends at `lsn`, or after a seal.
    pub(crate) fn next_segment(&self, lsn: u64) -> u64 {
        self.base(lsn) + u64::from(self.segment_bytes) + HEADER_BYTES
    }
}

/// A frame, its payload a slice of the read it came with.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) header: FrameHeader,
    pub(crate) payload: Bytes,
}

/// A cursor over frames. Files are read in chunks of 256 KiB that frames are slices of; after
/// [`set_flushed`](Self::set_flushed), segments that are durable to their end are read in mapped
/// windows if the disk is a real one.
#[derive(Debug)]
pub(crate) struct FrameReader {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    id: LogId,
    frame_max: usize,
    segment: Option<Segment>,
    chunk: Bytes,
    chunk_at: u64,
    /// The chunk is a mapped window.
    mapped: bool,
    /// The log whose writer is this process gives what it has just written.
    follower: Option<Follower>,
    /// The chunk was given by the writer.
    fresh: bool,
    /// Everything below is known to be durable.
    flushed: u64,
    /// Bytes of a window.
    window: usize,
    /// A window could not be mapped: everything is read from then on.
    unmappable: bool,
    /// Earlier chunks, to be used again once nothing is a slice of them.
    retired: VecDeque<Bytes>,
    /// Whether checksums are looked at.
    verify: bool,
}

impl FrameReader {
    pub(crate) fn new(storage: Arc<dyn Storage>, dir: &Path, id: LogId, verify: bool) -> Self {
        Self {
            storage,
            dir: dir.to_owned(),
            id,
            frame_max: frame_max(id.segment_bytes),
            segment: None,
            chunk: Bytes::new(),
            chunk_at: 0,
            mapped: false,
            follower: None,
            fresh: false,
            flushed: 0,
            window: 0,
            unmappable: false,
            retired: VecDeque::new(),
            verify,
        }
    }

    /// Another cursor over the same log.
    pub(crate) fn again(&self) -> Self {
        Self::new(self.storage.clone(), &self.dir, self.id, self.verify)
    }

    /// Another cursor over the same log that looks at checksums.
    pub(crate) fn verifying(&self) -> Self {
        Self::new(self.storage.clone(), &self.dir, self.id, true)
    }

    /// Where the log is.
    pub(crate) fn place(&self) -> (Arc<dyn Storage>, PathBuf) {
        (self.storage.clone(), self.dir.clone())
    }

    /// Says that everything below an LSN is durable: segments that end there or below are mapped,
    /// `window` bytes at a time. Without it, nothing is.
    pub(crate) fn set_flushed(&mut self, flushed: u64, window: usize) {
        self.flushed = self.flushed.max(flushed);
        self.window = window;
    }

    /// Takes what the writer, in this process, has just written from it, not from the files.
    pub(crate) fn follow(&mut self, follower: Follower) {
        self.follower = Some(follower);
    }

    pub(crate) const fn id(&self) -> &LogId {
        &self.id
    }

    /// Length of the memory the last frame is a slice of.
    pub(crate) fn chunk_len(&self) -> usize {
        if self.fresh {
            ARENA_BYTES.max(self.chunk.len())
        } else {
            self.chunk.len()
        }
    }

    /// The frame at `at`, or `None` at `end`, up to which the log may be read. A seal is given
    /// like any other frame; behind it, go on at [`LogId::next_segment`].
    pub(crate) fn frame(&mut self, at: u64, end: u64) -> Result<Option<Frame>, LogError> {
        if at >= end {
            return Ok(None);
        }
        self.open(at)?;
        let mut need = FRAME_HEADER;
        loop {
            let held = at
                .checked_sub(self.chunk_at)
                .and_then(|skip| usize::try_from(skip).ok())
                .filter(|&skip| skip + need <= self.chunk.len());
            let Some(skip) = held else {
                self.load(at, end, need)?;
                continue;
            };
            let segment = self.segment.as_ref().map_or(0, |segment| segment.seed);
            let bytes = &self.chunk[skip..];
            // What was not read from anywhere needs no checksum.
            let verify = self.verify && !self.fresh;
            match frame::parse(bytes, at, segment, self.frame_max, verify) {
                Ok(Parsed::NeedMore(more)) => need = more,
                Ok(Parsed::Frame(header)) => {
                    let payload = skip + FRAME_HEADER..skip + header.len as usize;
                    return Ok(Some(Frame {
                        header,
                        payload: self.chunk.slice(payload),
                    }));
                }
                Ok(Parsed::Empty) => {
                    return Err(self.corrupt(at, "nothing where a frame should be"));
                }
                Err(error) => return Err(self.corrupt(at, error)),
            }
        }
    }

    /// True if the log ends at `at`: at `stop`, or where nothing was written, unless `written`
    /// says that something was.
    pub(crate) fn at_end(&mut self, at: u64, stop: u64, written: u64) -> Result<bool, LogError> {
        if at >= stop {
            return Ok(true);
        }
        if at < written {
            return Ok(false);
        }
        self.open(at)?;
        let Some(segment) = &self.segment else {
            return Ok(true);
        };
        let mut head = [0; FRAME_HEADER];
        let read = segment
            .file
            .read_at(&mut head, at - segment.base())
            .map_err(|cause| LogError::io("read the log segment", &segment.path, cause))?;
        Ok(head[..read].iter().all(|&byte| byte == 0))
    }

    /// Where to go on behind a frame.
    pub(crate) fn after(&self, frame: &FrameHeader) -> u64 {
        if self.ends_segment(frame) {
            self.id.next_segment(frame.lsn)
        } else {
            frame.end()
        }
    }

    /// True if reading goes on in the next segment behind a frame: a seal, or a gap that reaches
    /// to the end.
    pub(crate) fn ends_segment(&self, frame: &FrameHeader) -> bool {
        let end = self.id.base(frame.lsn) + u64::from(self.id.segment_bytes);
        frame.kind == FrameKind::Seal || frame.end() >= end
    }

    /// An error about the place of an LSN.
    pub(crate) fn corrupt(&self, lsn: u64, what: impl std::fmt::Display) -> LogError {
        let path = self.id.file(&self.dir, lsn);
        LogError::corrupt(&path, lsn - self.id.base(lsn), what)
    }

    fn open(&mut self, lsn: u64) -> Result<(), LogError> {
        let base = self.id.base(lsn);
        if self.segment.as_ref().is_some_and(|s| s.base() == base) {
            return Ok(());
        }
        let segment = Segment::open(self.storage.as_ref(), &self.dir, base, OpenMode::Read)?;
        if LogId::of(&segment.header) != self.id {
            return Err(LogError::new(
                LogErrorKind::Corrupt,
                format!(
                    "read the log segment {}: it belongs to another log; restore the directory as it was",
                    segment.path.display()
                ),
            ));
        }
        self.segment = Some(segment);
        self.retire();
        self.chunk_at = 0;
        Ok(())
    }

    /// Lets go of the chunk, keeping its buffer if it may be used again.
    fn retire(&mut self) {
        let chunk = std::mem::take(&mut self.chunk);
        if !self.mapped && !self.fresh && chunk.len() == CHUNK_BYTES {
            self.retired.push_back(chunk);
        }
        self.mapped = false;
        self.fresh = false;
    }

    /// Maps from `at` on: a window, or as much as is needed; `None` where this cannot be.
    fn map(&self, at: u64, end: u64, need: usize) -> Option<std::io::Result<Bytes>> {
        let segment = self.segment.as_ref().filter(|_| !self.unmappable)?;
        let file = segment.file.as_std()?;
        let limit = usize::try_from(end.min(segment.end()).checked_sub(at)?).ok()?;
        let len = need.max(self.window).min(limit);
        let offset = at.checked_sub(segment.base())?;
        let range = Sealed::new(segment.base(), segment.end(), self.flushed, offset, len)?;
        Some(mmap::window(file, range))
    }

    /// Reads from `at` on: a chunk, or as much as is needed.
    fn load(&mut self, at: u64, end: u64, need: usize) -> Result<(), LogError> {
        if self.segment.is_none() {
            return Err(self.corrupt(at, "no segment"));
        }
        self.retire();
        if let Some((from, written)) = self.follower.as_ref().and_then(|f| f.get(at))
            && at - from + need as u64 <= written.len() as u64
        {
            self.chunk = written;
            self.chunk_at = from;
            self.fresh = true;
            return Ok(());
        }
        match self.map(at, end, need) {
            Some(Ok(window)) if need <= window.len() => {
                self.chunk = window;
                self.chunk_at = at;
                self.mapped = true;
                // No buffer is needed until the tail has come to the segment being written.
                self.retired.clear();
                return Ok(());
            }
            Some(Err(cause)) => {
                // An ordinary read works, or says what is wrong with the file.
                tracing::debug!(%cause, dir = %self.dir.display(), "log segment not mapped");
                self.unmappable = true;
            }
            _ => {}
        }
        // The buffers of events that are gone are used again: fresh memory costs a page fault
        // every 4 KiB.
        let used = match self.retired.front() {
            Some(chunk) if chunk.is_unique() || self.retired.len() > RETIRED_MAX => {
                self.retired.pop_front().unwrap_or_default()
            }
            _ => Bytes::new(),
        };
        let Some(segment) = &self.segment else {
            return Ok(());
        };
        let limit = end.min(segment.end()).saturating_sub(at);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let len = need.max(CHUNK_BYTES).min(limit);
        if need > limit {
            return Err(self.corrupt(at, "a frame that reaches past the end of the log"));
        }
        let mut buffer = match Bytes::try_into_mut(used) {
            Ok(mut buffer) => {
                buffer.resize(len, 0);
                buffer
            }
            Err(_) => BytesMut::zeroed(len),
        };
        let mut filled = 0;
        while filled < buffer.len() {
            let offset = at - segment.base() + filled as u64;
            let n = segment
                .file
                .read_at(&mut buffer[filled..], offset)
                .map_err(|cause| LogError::io("read the log segment", &segment.path, cause))?;
            if n == 0 {
                break;
            }
            filled += n;
        }
        // Behind the end of the file reads as nothing written.
        buffer[filled..].fill(0);
        self.chunk = buffer.freeze();
        self.chunk_at = at;
        Ok(())
    }
}
