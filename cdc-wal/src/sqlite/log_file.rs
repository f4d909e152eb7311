//! Transactions of a `-wal` file, read frame by frame with their checksums.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use cdc_core::{SourceError, SourceErrorKind};

use super::format::{
    Checksum, FRAME_HEADER, FrameHeader, Salts, WAL_HEADER, WalHeader, frame_offset,
};

/// Bytes read from the log at once.
const BLOCK: usize = 1 << 20;
/// Page images of one transaction that are kept in memory; further ones are read again.
const IMAGES_MAX: usize = 8 << 20;

/// A committed transaction in the log.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    /// Its commit frame.
    pub(crate) last: u32,
    /// Size of the database afterwards, in pages.
    pub(crate) count: u32,
    /// Checksum of the commit frame.
    pub(crate) checksum: Checksum,
    /// The newest frame of each page, by page.
    pub(crate) pages: Vec<Written>,
}

/// A page a transaction wrote.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) page: u32,
    pub(crate) frame: u32,
    /// The page, if memory allowed to keep it.
    pub(crate) image: Option<Bytes>,
}

/// Why the log ends where a frame was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    /// The file ends.
    End,
    /// A frame of another generation.
    Salts,
    /// A frame of this generation whose checksum is wrong.
    Checksum,
}

impl Break {
    /// What to tell about it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::End => "the file ends before it",
            Self::Salts => "it is of another generation",
            Self::Checksum => "its checksum is wrong",
        }
    }
}

/// What the scanner came to.
#[derive(Debug)]
pub(crate) enum Scanned {
    Transaction(Committed),
    /// No further whole transaction up to the limit.
    Nothing,
    /// A frame up to the limit is not what it should be.
    Broken {
        frame: u32,
        why: Break,
    },
}

/// Reads transactions of one generation of the log, in order.
#[derive(Debug)]
pub(crate) struct Scanner {
    header: WalHeader,
    /// The last frame of the last transaction given.
    at: u32,
    checksum: Checksum,
    block: Vec<u8>,
    /// The first frame in the block, and how many there are.
    block_first: u32,
    block_frames: u32,
}

/// The error of a file that cannot be read.
pub(crate) fn io_error(attempted: &str, cause: io::Error) -> SourceError {
    SourceError::new(
        SourceErrorKind::Io,
        format!("{attempted}: {cause}; check the disk and the permissions of the file"),
    )
    .with_cause(cause)
}

/// Fills the buffer as far as the file reaches.
pub(crate) fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        let at = offset + done as u64;
        match file.read_at(buffer.get_mut(done..).unwrap_or_default(), at) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// The log's header; `None` if the file holds no valid one.
pub(crate) fn wal_header(file: &File) -> Result<Option<WalHeader>, SourceError> {
    let mut bytes = [0; WAL_HEADER];
    read_up_to(file, &mut bytes, 0).map_err(|e| io_error("read the header of the -wal file", e))?;
    Ok(WalHeader::parse(&bytes).ok())
}

impl Scanner {
    /// Before the first frame.
    pub(crate) fn new(header: WalHeader) -> Self {
        Self {
            checksum: header.checksum,
            header,
            at: 0,
            block: Vec::new(),
            block_first: 1,
            block_frames: 0,
        }
    }

    /// At the same place, with nothing read ahead.
    pub(crate) fn again(&self) -> Self {
        Self {
            header: self.header,
            at: self.at,
            checksum: self.checksum,
            block: Vec::new(),
            block_first: 1,
            block_frames: 0,
        }
    }

    /// The commit frame of the last transaction given; 0 before the first.
    pub(crate) const fn at(&self) -> u32 {
        self.at
    }

    /// That frame's checksum.
    pub(crate) const fn checksum(&self) -> Checksum {
        self.checksum
    }

    /// Forgets what was read ahead: frames behind the last commit may be written anew.
    pub(crate) fn forget_ahead(&mut self) {
        self.block_frames = 0;
    }

    fn frame_bytes(&self) -> usize {
        FRAME_HEADER + self.header.page_size as usize
    }

    /// Makes the block hold this frame; false if the file ends before the frame does.
    fn fill(&mut self, file: &File, frame: u32, limit: u32) -> Result<bool, SourceError> {
        if frame >= self.block_first && frame - self.block_first < self.block_frames {
            return Ok(true);
        }
        let each = self.frame_bytes();
        let most = u32::try_from((BLOCK / each).max(1)).unwrap_or(1);
        let wanted = most.min(limit.saturating_sub(frame).saturating_add(1));
        self.block.resize(wanted as usize * each, 0);
        let offset = frame_offset(frame, self.header.page_size);
        let got = read_up_to(file, &mut self.block, offset)
            .map_err(|e| io_error("read the -wal file", e))?;
        self.block_first = frame;
        self.block_frames = u32::try_from(got / each).unwrap_or(0);
        Ok(self.block_frames > 0)
    }

    /// The next transaction that ends at or before the frame `limit`: the published end of the log, or
    /// `u32::MAX` where that is not known.
    ///
    /// A frame without salts and checksum below the published end is accepted, and what is behind it:
    /// SQLite before 3.50 may leave such frames there, and its readers use them. Elsewhere it is what
    /// is left of a transaction that was never committed, maybe of a later log that lies over this one.
    pub(crate) fn next(&mut self, file: &File, limit: u32) -> Result<Scanned, SourceError> {
        let published = limit < u32::MAX;
        let mut pages: Vec<Written> = Vec::new();
        let mut kept = 0usize;
        let mut chain = Some(self.checksum);
        let mut frame = self.at;
        while frame < limit {
            frame += 1;
            if !self.fill(file, frame, limit)? {
                return Ok(Scanned::Broken {
                    frame,
                    why: Break::End,
                });
            }
            let each = self.frame_bytes();
            let at = (frame - self.block_first) as usize * each;
            let bytes = self.block.get(at..at + each).unwrap_or_default();
            let Some((head, page)) = bytes.split_first_chunk::<FRAME_HEADER>() else {
                return Ok(Scanned::Broken {
                    frame,
                    why: Break::End,
                });
            };
            let header = FrameHeader::parse(head);
            let empty = header.salts == Salts::default() && header.checksum == Checksum::default();
            if empty && published {
                tracing::warn!(
                    frame,
                    "the -wal file holds a frame without salts and checksum: the writer's SQLite is older than 3.50, and a crash would lose this frame; update it"
                );
                chain = None;
            } else {
                if header.salts != self.header.salts {
                    let why = Break::Salts;
                    return Ok(Scanned::Broken { frame, why });
                }
                let big = self.header.big_endian;
                let computed = chain.map(|sum| sum.over(&head[..8], big).over(page, big));
                if computed.is_some_and(|sum| sum != header.checksum) {
                    let why = Break::Checksum;
                    return Ok(Scanned::Broken { frame, why });
                }
                chain = Some(header.checksum);
            }
            let image = (kept < IMAGES_MAX).then(|| {
                kept += page.len();
                Bytes::copy_from_slice(page)
            });
            pages.push(Written {
                page: header.page,
                frame,
                image,
            });
            if header.commit != 0 {
                self.at = frame;
                self.checksum = chain.unwrap_or_default();
                return Ok(Scanned::Transaction(Committed {
                    last: frame,
                    count: header.commit,
                    checksum: self.checksum,
                    pages: newest(pages),
                }));
            }
        }
        Ok(Scanned::Nothing)
    }
}

/// The newest frame of each page, by page.
fn newest(mut pages: Vec<Written>) -> Vec<Written> {
    // Stable, and frames come in order: of equal pages the newest is last.
    pages.sort_by_key(|written| written.page);
    let mut newest: Vec<Written> = Vec::with_capacity(pages.len());
    for written in pages {
        match newest.last_mut() {
            Some(last) if last.page == written.page => *last = written,
            _ => newest.push(written),
        }
    }
    newest
}
