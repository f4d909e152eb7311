//! Records of RocksDB's write-ahead log files: `db/log_format.h` and `db/log_reader.cc`, as of 7.8.
//!
//! A file is blocks of 32 KiB. A record, or a part of one, has a header of `crc u32 | length u16 |
//! type u8`, in recycled files with the file's number `u32` behind it. Fewer bytes than a header
//! at the end of a block are filled with zeros. The checksum is CRC-32C over type (and number) and
//! payload, masked.

use std::fmt;

use cdc_core::storage::StorageFile;

const BLOCK: u64 = 32 << 10;
const HEADER: usize = 7;
const HEADER_RECYCLED: usize = 11;
/// Longest record that is put together: RocksDB bounds a batch at 4 GiB, an engine should not.
pub const RECORD_BYTES_MAX: usize = 1 << 30;

/// What ends the reading of a file.
#[derive(Debug)]
pub(super) enum ReadError {
    /// From the disk.
    Io(std::io::Error),
    /// What was written whole is damaged.
    Corrupt(&'static str),
    /// A record of a kind that is not read.
    Unsupported(&'static str),
}

/// Reads the whole records of one file, in order.
pub(super) struct FileRecords {
    file: Box<dyn StorageFile>,
    /// The number in its name, low half.
    number: u32,
    at: u64,
    block: Vec<u8>,
    /// Where the block begins; its bytes are read again when they were not all there.
    block_at: Option<u64>,
}

/// Prints the place only: the block holds row contents.
impl fmt::Debug for FileRecords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileRecords({}, at byte {})", self.number, self.at)
    }
}

/// One part of a record.
struct Part {
    kind: u8,
    start: usize,
    end: usize,
}

impl FileRecords {
    pub(super) fn new(file: Box<dyn StorageFile>, number: u64) -> Self {
        Self {
            file,
            number: u32::try_from(number & 0xffff_ffff).unwrap_or(0),
            at: 0,
            block: Vec::new(),
            block_at: None,
        }
    }

    /// Byte behind the last whole record.
    pub(super) const fn at(&self) -> u64 {
        self.at
    }

    /// The next record; `None` at the end of what is there whole. More may follow later.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, ReadError> {
        let start = self.at;
        let mut record: Option<Vec<u8>> = None;
        // The block in memory may be of a time when less was written.
        let mut fresh = self.block_at.is_none();
        loop {
            let Some(part) = self.part()? else {
                // Cut off within a record, or the end: from its start again.
                self.at = start;
                self.block_at = None;
                if std::mem::replace(&mut fresh, true) {
                    return Ok(None);
                }
                record = None;
                continue;
            };
            let payload = self.block.get(part.start..part.end).unwrap_or_default();
            let kind = if part.kind > 4 {
                part.kind - 4
            } else {
                part.kind
            };
            match (kind, &mut record) {
                (1, None) => return Ok(Some(payload.to_vec())),
                (2, None) => record = Some(payload.to_vec()),
                (3 | 4, Some(record)) => {
                    if record.len() + payload.len() > RECORD_BYTES_MAX {
                        return Err(ReadError::Corrupt("a record of more than 1 GiB"));
                    }
                    record.extend_from_slice(payload);
                }
                _ => return Err(ReadError::Corrupt("parts of records in a wrong order")),
            }
            if kind == 4 {
                return Ok(record);
            }
        }
    }

    /// The next part that counts; moves behind it.
    fn part(&mut self) -> Result<Option<Part>, ReadError> {
        loop {
            let block_at = self.at / BLOCK * BLOCK;
            if self.block_at != Some(block_at) {
                self.read(block_at)?;
            }
            let offset = usize::try_from(self.at - block_at).unwrap_or(usize::MAX);
            let left = BLOCK - (self.at - block_at);
            if left < HEADER as u64 {
                // The rest of a block that holds no header.
                self.at += left;
                continue;
            }
            let header = self
                .block
                .get(offset..)
                .and_then(<[u8]>::first_chunk::<HEADER>);
            let Some([c0, c1, c2, c3, l0, l1, kind]) = header.copied() else {
                return Ok(None);
            };
            let length = usize::from(u16::from_le_bytes([l0, l1]));
            if kind == 0 && length == 0 {
                if left < HEADER_RECYCLED as u64 {
                    // The rest of a block that holds no header of a recycled file. If it is
                    // one that was not written yet, nothing is in the next block either.
                    self.at += left;
                    continue;
                }
                // Space that was reserved and not written.
                return Ok(None);
            }
            let recycled = (5..=8).contains(&kind) || kind == 131 || kind == 11;
            let head = if recycled { HEADER_RECYCLED } else { HEADER };
            let (start, end) = (offset + head, offset + head + length);
            if end as u64 > BLOCK {
                return Err(ReadError::Corrupt("a record over the end of its block"));
            }
            let Some(covered) = self.block.get(offset + 6..end) else {
                return Ok(None);
            };
            if recycled && covered.get(1..5) != Some(&self.number.to_le_bytes()) {
                // What an older file left behind.
                return Ok(None);
            }
            if masked(crc32c::crc32c(covered)) != u32::from_le_bytes([c0, c1, c2, c3]) {
                return Err(ReadError::Corrupt("a wrong checksum"));
            }
            self.at = block_at + end as u64;
            match kind {
                1..=8 => return Ok(Some(Part { kind, start, end })),
                9 => return Err(ReadError::Unsupported("a compressed write-ahead log")),
                10 | 11 => return Err(ReadError::Unsupported("user-defined timestamps")),
                // Those may be passed over by definition.
                128.. => {}
                _ => return Err(ReadError::Unsupported("a record of an unknown type")),
            }
        }
    }

    fn read(&mut self, block_at: u64) -> Result<(), ReadError> {
        let size = usize::try_from(BLOCK).unwrap_or(usize::MAX);
        self.block.resize(size, 0);
        let mut filled = 0;
        while filled < size {
            let at = block_at + filled as u64;
            let read = self.file.read_at(&mut self.block[filled..], at);
            match read.map_err(ReadError::Io)? {
                0 => break,
                n => filled += n,
            }
        }
        self.block.truncate(filled);
        self.block_at = Some(block_at);
        Ok(())
    }
}

/// RocksDB stores checksums masked, so that a checksum of bytes with checksums in them stays good.
const fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}
