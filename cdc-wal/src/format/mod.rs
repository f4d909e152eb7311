//! Bytes of the log, version 1: pure functions between bytes and values (`docs/formats/wal.md`).

pub mod change;
pub mod frame;
pub mod header;
pub mod relation;

/// Smallest segment, for tests.
pub const SEGMENT_BYTES_MIN: u32 = 64 << 10;
/// Largest segment.
pub const SEGMENT_BYTES_MAX: u32 = 1 << 30;
/// Default segment.
pub const SEGMENT_BYTES: u32 = 64 << 20;
/// Length of a segment's header.
pub const HEADER_BYTES: u64 = 4096;
/// Longest frame of any log.
pub const FRAME_BYTES_MAX: u32 = 1 << 20;
/// Longest change record: a value of 1 GiB and what stands around it.
pub const RECORD_BYTES_MAX: usize = (1 << 30) + (64 << 10);
/// Most name and value pairs of an event's meta.
pub const META_PAIRS_MAX: usize = 256;

/// Longest frame, header included, of a log with segments of this size.
pub const fn frame_max(segment_bytes: u32) -> usize {
    let quarter = (segment_bytes - 4096) / 4 / 8 * 8;
    if quarter < FRAME_BYTES_MAX {
        quarter as usize
    } else {
        FRAME_BYTES_MAX as usize
    }
}

/// Up to the next multiple of 8.
pub(crate) const fn align(n: u64) -> u64 {
    n.div_ceil(8) * 8
}

/// Takes `N` bytes off the front.
#[inline]
pub(crate) fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = from.split_first_chunk::<N>()?;
    *from = rest;
    Some(*head)
}

#[inline]
pub(crate) fn take_u32(from: &mut &[u8]) -> Option<u32> {
    take(from).map(u32::from_le_bytes)
}

#[inline]
pub(crate) fn take_u64(from: &mut &[u8]) -> Option<u64> {
    take(from).map(u64::from_le_bytes)
}

#[inline]
pub(crate) fn take_u16(from: &mut &[u8]) -> Option<u16> {
    take(from).map(u16::from_le_bytes)
}

/// Takes a text with a 16-bit length.
pub(crate) fn take_text<'a>(from: &mut &'a [u8]) -> Option<&'a str> {
    let length = take_u16(from)?;
    let (text, rest) = from.split_at_checked(length.into())?;
    *from = rest;
    std::str::from_utf8(text).ok()
}

/// Appends a text with a 16-bit length; `None` if it is too long.
pub(crate) fn put_text(to: &mut Vec<u8>, text: &str) -> Option<()> {
    to.extend_from_slice(&u16::try_from(text.len()).ok()?.to_le_bytes());
    to.extend_from_slice(text.as_bytes());
    Some(())
}

/// The bytes are not what the format says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FormatError(pub &'static str);
