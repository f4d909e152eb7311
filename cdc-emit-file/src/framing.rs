//! How events stand in a file, and what of a file is whole.
//!
//! Text formats: one line an event, ended by a line feed. The compact form: `length u32 | crc32c
//! u32 | payload` an event, little-endian; the checksum covers length and payload.

use std::io::{self, Read};

use blake3::Hasher;
use cdc_core::envelope::Format;
use cdc_core::storage::StorageFile;

use crate::compress::FileReader;

const FRAME_HEADER: usize = 8;
const READ_SIZE: usize = 256 << 10;

/// Lines or frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Lines,
    Frames,
}

impl Framing {
    pub(crate) const fn of(format: Format) -> Self {
        match format {
            Format::Bincode => Self::Frames,
            Format::Json | Format::Debezium | Format::CloudEvents => Self::Lines,
        }
    }

    /// Makes room for what stands before an event.
    pub(crate) fn begin(self, out: &mut Vec<u8>) {
        if self == Self::Frames {
            out.extend_from_slice(&[0; FRAME_HEADER]);
        }
    }

    /// Ends the event that began at `start`; false if it is too long for a frame.
    pub(crate) fn end(self, out: &mut Vec<u8>, start: usize) -> bool {
        if self == Self::Lines {
            out.push(b'\n');
            return true;
        }
        let Ok(length) = u32::try_from(out.len() - start - FRAME_HEADER) else {
            return false;
        };
        let length = length.to_le_bytes();
        let crc = crc32c::crc32c_append(crc32c::crc32c(&length), &out[start + FRAME_HEADER..]);
        out[start..start + 4].copy_from_slice(&length);
        out[start + 4..start + FRAME_HEADER].copy_from_slice(&crc.to_le_bytes());
        true
    }
}

/// What [`scan`] found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scan {
    /// Bytes that were read.
    pub(crate) read: u64,
    /// Bytes of whole lines or frames from the start.
    pub(crate) whole: u64,
    /// How many those are.
    pub(crate) lines: u64,
    /// Checksum of the whole part.
    pub(crate) crc: u32,
    /// Hash of the whole part, to be continued.
    pub(crate) hash: Hasher,
}

/// Reads `limit` bytes from the start of a file, or all of it if it is shorter, and says which are
/// whole. Holds one read buffer, whatever the file's length.
pub(crate) fn scan(file: &dyn StorageFile, limit: u64, framing: Framing) -> io::Result<Scan> {
    scan_from(&mut FileReader::new(file), limit, framing)
}

/// As [`scan`], of the bytes a reader gives.
pub(crate) fn scan_from(from: &mut impl Read, limit: u64, framing: Framing) -> io::Result<Scan> {
    let mut scan = Scan::default();
    let mut walker = Walker::new(framing);
    let mut buffer = vec![0; READ_SIZE];
    // Runs ahead of the last whole event, which may end many reads later.
    let (mut crc, mut hash) = (0, Hasher::new());
    let mut offset = 0;
    while offset < limit {
        let want = usize::try_from(limit - offset)
            .unwrap_or(READ_SIZE)
            .min(READ_SIZE);
        let got = from.read(&mut buffer[..want])?;
        if got == 0 {
            break;
        }
        let chunk = &buffer[..got];
        let (lines, end) = walker.feed(chunk);
        let end = end.map_or(0, |end| {
            crc = crc32c::crc32c_append(crc, &chunk[..end]);
            hash.update(&chunk[..end]);
            scan.crc = crc;
            scan.hash = hash.clone();
            scan.whole = offset + end as u64;
            scan.lines += lines;
            end
        });
        crc = crc32c::crc32c_append(crc, &chunk[end..]);
        hash.update(&chunk[end..]);
        offset += got as u64;
        scan.read = offset;
        if walker.broken {
            break;
        }
    }
    Ok(scan)
}

/// Finds the ends of events in bytes that come in any cut.
struct Walker {
    framing: Framing,
    header: [u8; FRAME_HEADER],
    header_len: usize,
    /// Bytes of the payload still to come, once the header is there.
    left: usize,
    crc: u32,
    broken: bool,
}

impl Walker {
    const fn new(framing: Framing) -> Self {
        Self {
            framing,
            header: [0; FRAME_HEADER],
            header_len: 0,
            left: 0,
            crc: 0,
            broken: false,
        }
    }

    /// How many events end in the chunk, and where the last of them does.
    fn feed(&mut self, chunk: &[u8]) -> (u64, Option<usize>) {
        match self.framing {
            Framing::Lines => self.lines(chunk),
            Framing::Frames => self.frames(chunk),
        }
    }

    fn lines(&mut self, chunk: &[u8]) -> (u64, Option<usize>) {
        // No text format holds a zero byte: it stands where a power cut kept the file's length and
        // lost a sector before it.
        let sound = chunk.iter().position(|byte| *byte == 0);
        self.broken = sound.is_some();
        let sound = &chunk[..sound.unwrap_or(chunk.len())];
        let end = sound
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map(|at| at + 1);
        let count = sound.iter().filter(|byte| **byte == b'\n').count();
        (count as u64, end)
    }

    fn frames(&mut self, chunk: &[u8]) -> (u64, Option<usize>) {
        let (mut at, mut count, mut end) = (0, 0, None);
        while at < chunk.len() && !self.broken {
            if self.header_len < FRAME_HEADER {
                let n = (FRAME_HEADER - self.header_len).min(chunk.len() - at);
                self.header[self.header_len..self.header_len + n]
                    .copy_from_slice(&chunk[at..at + n]);
                self.header_len += n;
                at += n;
                if self.header_len < FRAME_HEADER {
                    break;
                }
                let [a, b, c, d, ..] = self.header;
                self.left = u32::from_le_bytes([a, b, c, d]) as usize;
                self.crc = crc32c::crc32c(&self.header[..4]);
            }
            let n = self.left.min(chunk.len() - at);
            self.crc = crc32c::crc32c_append(self.crc, &chunk[at..at + n]);
            self.left -= n;
            at += n;
            if self.left == 0 {
                let [.., a, b, c, d] = self.header;
                if self.crc == u32::from_le_bytes([a, b, c, d]) {
                    count += 1;
                    end = Some(at);
                    self.header_len = 0;
                } else {
                    self.broken = true;
                }
            }
        }
        (count, end)
    }
}
