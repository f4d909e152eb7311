//! The 4 KiB header of a segment.

use cdc_core::{Lineage, Lsn, Position, SourceInfo, SourceKind};

use super::{
    FormatError, HEADER_BYTES, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, put_text, take, take_text,
    take_u32, take_u64,
};

const MAGIC: &[u8; 8] = b"WKCDCWAL";
const VERSION: u32 = 1;
const CRC_AT: usize = 4092;
const _: () = assert!(CRC_AT as u64 + 4 == HEADER_BYTES);

/// Longest name of a source or database.
pub const NAME_BYTES_MAX: usize = 1024;

/// What a segment says about itself and its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Size of every segment of this log.
    pub segment_bytes: u32,
    /// The log's own id.
    pub uuid: [u8; 16],
    /// The log's epoch.
    pub epoch: u32,
    /// LSN of the segment's first byte.
    pub base: u64,
    /// When it was created, microseconds since 1970-01-01T00:00:00Z.
    pub created_micros: i64,
    /// Last position before this segment.
    pub prev: Position,
    /// Begin LSN of the oldest transaction open at creation, or the first frame's LSN.
    pub restart: u64,
    /// Everything below was durable at creation.
    pub flushed: u64,
    /// Whose changes the log holds.
    pub source: SourceInfo,
}

impl SegmentHeader {
    /// The CRC seed of the segment's frames.
    pub fn seed(&self) -> u32 {
        seed(&self.uuid, self.epoch, self.base)
    }

    /// The header's bytes.
    ///
    /// # Errors
    /// If a name is longer than [`NAME_BYTES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let names = [&self.source.name, &self.source.database];
        if names.iter().any(|name| name.len() > NAME_BYTES_MAX) {
            return Err(FormatError("a source name is longer than 1024 bytes"));
        }
        let mut bytes = Vec::with_capacity(CRC_AT + 4);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.segment_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.uuid);
        bytes.extend_from_slice(&self.epoch.to_le_bytes());
        bytes.extend_from_slice(&self.base.to_le_bytes());
        bytes.extend_from_slice(&self.created_micros.to_le_bytes());
        bytes.extend_from_slice(&self.prev.commit.0.to_le_bytes());
        bytes.extend_from_slice(&self.prev.ordinal.to_le_bytes());
        bytes.extend_from_slice(&self.restart.to_le_bytes());
        bytes.extend_from_slice(&self.flushed.to_le_bytes());
        let lineage = &self.source.lineage;
        bytes.push(lineage.kind as u8);
        bytes.extend_from_slice(&lineage.source_id);
        bytes.extend_from_slice(&lineage.timeline.to_le_bytes());
        for name in names {
            put_text(&mut bytes, name).ok_or(FormatError("a source name is too long"))?;
        }
        bytes.resize(CRC_AT, 0);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        Ok(bytes)
    }

    /// Reads a header.
    ///
    /// # Errors
    /// If the bytes are no valid header of version 1.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let invalid = |what| HeaderError::Invalid(FormatError(what));
        let mut rest = bytes;
        let magic = take::<8>(&mut rest).ok_or_else(|| invalid("the header is cut off"))?;
        if &magic != MAGIC {
            return Err(invalid("this is not a log segment"));
        }
        let version = take_u32(&mut rest).ok_or_else(|| invalid("the header is cut off"))?;
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        let (Some(body), Some(crc)) = (bytes.get(..CRC_AT), bytes.get(CRC_AT..CRC_AT + 4)) else {
            return Err(invalid("the header is cut off"));
        };
        if crc32c::crc32c(body).to_le_bytes() != *crc {
            return Err(invalid("the header's checksum does not match"));
        }
        let header = Self::fields(&mut rest).ok_or_else(|| invalid("the header is malformed"))?;
        let size = header.segment_bytes;
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&size)
            || !size.is_multiple_of(4096)
            || !header.base.is_multiple_of(u64::from(size))
            || header.base.checked_add(u64::from(size)).is_none()
        {
            return Err(invalid("the header's sizes do not fit together"));
        }
        Ok(header)
    }

    fn fields(rest: &mut &[u8]) -> Option<Self> {
        let segment_bytes = take_u32(rest)?;
        let uuid = take(rest)?;
        let epoch = take_u32(rest)?;
        let base = take_u64(rest)?;
        let created_micros = i64::from_le_bytes(take(rest)?);
        let prev = Position::new(Lsn(take_u64(rest)?), take_u32(rest)?);
        let restart = take_u64(rest)?;
        let flushed = take_u64(rest)?;
        let kind = SourceKind::from_u8(take::<1>(rest)?[0])?;
        let lineage = Lineage::new(kind, take(rest)?, take_u32(rest)?);
        let name = take_text(rest)?;
        let database = take_text(rest)?;
        Some(Self {
            segment_bytes,
            uuid,
            epoch,
            base,
            created_micros,
            prev,
            restart,
            flushed,
            source: SourceInfo::new(name, database, lineage),
        })
    }
}

/// The CRC seed of frames in one segment.
pub(crate) fn seed(uuid: &[u8; 16], epoch: u32, base: u64) -> u32 {
    let crc = crc32c::crc32c(uuid);
    let crc = crc32c::crc32c_append(crc, &epoch.to_le_bytes());
    crc32c::crc32c_append(crc, &base.to_le_bytes())
}

/// Why a header cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// Written by another version.
    Version(u32),
    /// Damaged, or no header.
    Invalid(FormatError),
}
