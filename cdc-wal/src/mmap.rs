//! Windows of sealed segments, mapped into memory: what is read of them are slices of the page
//! cache. The workspace's one file with `unsafe` code.
//!
//! # Where it is used
//! By the inspector (`wal info`, `dump`, `verify`), where it costs the same as reading and takes no
//! memory the system cannot drop. Tails read, since mapping them was measured to be slower.
//! Processor time an event, medians of 7 to 9 runs by turns in one process, on a busy machine of two
//! cores, Linux 6.18, ext4, everything in the page cache:
//!
//! | | mapped | read |
//! |---|---|---|
//! | inspecting, windows of 4 MiB | 46 to 62 ns | 47 to 60 ns |
//! | tail of small transactions, 4 MiB | 85, 86 ns | 78, 79 ns |
//! | tail of a transaction larger than its memory, 1 MiB | 132 to 140 ns | 131 ns |
//!
//! `examples/mapping.rs` measures the first row again.
//!
//! # Contract
//! What a map shows must not change while anybody holds a slice of it. [`window`] therefore takes
//! only a [`Sealed`] range, which a reader makes of a segment of our own that ends at or below an
//! LSN known to be **flushed**:
//! - The writer never writes to a segment behind whose seal it has synced, as long as it is one.
//! - Recovery cuts only at or above what is known to be flushed, and refuses the log otherwise. A
//!   segment that is merely sealed is not enough: under
//!   [`SyncPolicy::Never`](crate::SyncPolicy::Never) a sealed one may still be torn and cut.
//! - A segment is created at full size and never shrunk. Trimming renames or unlinks it and a repair
//!   puts another file in its place; a map keeps the old one, as it was, until the last slice is gone.
//!   A renamed one is written over only by who can lock its file exclusively
//!   ([`claim`](cdc_core::storage::StorageFile::claim)); a reader shares that lock before it looks at
//!   the header, and on Linux the lock lasts as long as the open file, which a map of it holds.
//! - The directory has mode 0700 and files 0600: only the same user could break this, by writing
//!   into a segment by other means. Whoever restores a log replaces the directory while nothing
//!   reads it, as is needed for any reader.
//!
//! # Failed reads of the disk
//! A page that cannot be read would end the process with `SIGBUS` at the access. Each window is
//! therefore brought in as a whole before it is used (`MADV_POPULATE_READ`, Linux 5.14), which
//! reports such a page as an error; the reader then goes on with ordinary reads, whose error names
//! the file. What is left is a clean page that memory pressure evicted while an event was held and
//! that the disk then fails to give back. Where the system cannot do this, nothing is mapped.

#![expect(
    unsafe_code,
    reason = "mapping a file is unsafe in itself; the contract above is kept by the callers"
)]

use std::fs::File;
use std::io;

use bytes::Bytes;

/// A range of a segment's file that is never written again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sealed {
    offset: u64,
    len: usize,
}

impl Sealed {
    /// The range of `len` bytes at `offset` of the segment that ends behind `segment_end`; `None`
    /// unless everything below `flushed`, which covers the whole segment, is known to be durable,
    /// and the range lies in the segment.
    pub(crate) fn new(
        segment_base: u64,
        segment_end: u64,
        flushed: u64,
        offset: u64,
        len: usize,
    ) -> Option<Self> {
        let end = offset.checked_add(u64::try_from(len).ok()?)?;
        let fits = end <= segment_end.checked_sub(segment_base)?;
        (fits && len > 0 && segment_end <= flushed).then_some(Self { offset, len })
    }
}

/// Maps a range of a sealed segment, every page of it read. The map lives as long as a slice of
/// the bytes; it is file-backed, so the system may drop its pages under pressure.
///
/// # Errors
/// If the file is shorter than the range, the system has no more maps, a page cannot be read, or
/// the system cannot bring pages in ahead.
#[cfg(target_os = "linux")]
pub(crate) fn window(file: &File, range: Sealed) -> io::Result<Bytes> {
    use memmap2::{Advice, MmapOptions};

    // Access behind the end of the file would be a `SIGBUS`: a damaged copy of a log may be short.
    let end = range.offset.saturating_add(range.len as u64);
    if file.metadata()?.len() < end {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // SAFETY: `Sealed` is made only of ranges of our own segments that are durable to their end.
    // Those are never written, truncated or shrunk again by writer, recovery or trimming while the
    // open file, which the map holds, is shared (see the contract above), so the bytes stay as they
    // are while the map or a slice of it lives, and the range was seen to lie within the file. The
    // map is read-only and owned by the `Bytes`, so no slice outlives it.
    let map = unsafe {
        MmapOptions::new()
            .offset(range.offset)
            .len(range.len)
            .map(file)?
    };
    map.advise(Advice::Sequential)?;
    map.advise(Advice::PopulateRead)?;
    Ok(Bytes::from_owner(map))
}

/// Pages cannot be brought in ahead with their errors: nothing is mapped.
#[cfg(not(target_os = "linux"))]
pub(crate) fn window(_file: &File, _range: Sealed) -> io::Result<Bytes> {
    Err(io::ErrorKind::Unsupported.into())
}
