//! The head of the wal-index (`-shm` file), which says what of the log is committed.
//!
//! All numbers are in the machine's byte order. Two copies of a header of 48 bytes: version (u32,
//! 3007000), unused, change counter, initialised (u8), big-endian checksums (u8), page size (u16;
//! 1 is 65536), last committed frame (u32), size of the database in pages (u32), checksum of that
//! frame (2 x u32), salts (8 bytes), checksum of the 40 bytes before (2 x u32). Then at 96: frames
//! copied back into the database (u32), five read marks (u32), lock bytes (8), frames whose copying
//! back was begun (u32, at 128).
//!
//! It is read with `pread`, which on one machine sees what other processes map.

use std::fs::File;

use cdc_core::SourceError;

use super::format::{Checksum, Salts};
use super::log_file::{io_error, read_up_to};

/// Bytes that are read.
pub(crate) const INDEX_BYTES: usize = 136;

/// What the wal-index says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WalIndex {
    /// Changes whenever a transaction commits or the log begins anew.
    pub(crate) change: u32,
    /// 0 while there is no log.
    pub(crate) page_size: u32,
    /// The last committed frame; 0 if the log is empty.
    pub(crate) last_frame: u32,
    /// Size of the database in pages.
    pub(crate) count: u32,
    /// Checksum of that frame.
    pub(crate) checksum: Checksum,
    pub(crate) salts: Salts,
    /// Frames that are in the database file.
    pub(crate) backfilled: u32,
    /// Frames that may be in the database file.
    pub(crate) backfill_begun: u32,
}

#[cfg(target_endian = "little")]
const fn native(bytes: [u8; 4]) -> u32 {
    u32::from_le_bytes(bytes)
}

#[cfg(target_endian = "big")]
const fn native(bytes: [u8; 4]) -> u32 {
    u32::from_be_bytes(bytes)
}

impl WalIndex {
    /// Reads the head; `None` while it is being written, or if it is not one.
    pub(crate) fn parse(bytes: &[u8; INDEX_BYTES]) -> Option<Self> {
        let (one, rest) = bytes.split_first_chunk::<48>()?;
        let (two, _) = rest.split_first_chunk::<48>()?;
        let word = |at: usize| {
            let part = bytes.get(at..at + 4)?;
            Some(native(part.try_into().ok()?))
        };
        let big = cfg!(target_endian = "big");
        let sum = Checksum::default().over(one.get(..40)?, big);
        if one != two || sum != Checksum(word(40)?, word(44)?) {
            return None;
        }
        if word(0)? != 3_007_000 || bytes.get(12) != Some(&1) {
            return None;
        }
        let pair = [*bytes.get(14)?, *bytes.get(15)?];
        let size = if big {
            u16::from_be_bytes(pair)
        } else {
            u16::from_le_bytes(pair)
        };
        Some(Self {
            change: word(8)?,
            page_size: if size == 1 { 65536 } else { size.into() },
            last_frame: word(16)?,
            count: word(20)?,
            checksum: Checksum(word(24)?, word(28)?),
            salts: bytes.get(32..40)?.try_into().ok()?,
            backfilled: word(96)?,
            backfill_begun: word(128)?,
        })
    }

    /// Size of the database in pages: without a log the wal-index names none, and the file's length
    /// says it, as to SQLite.
    pub(crate) fn pages(&self, main: &File, page_size: u32) -> Result<u32, SourceError> {
        if self.count > 0 {
            return Ok(self.count);
        }
        let length = main
            .metadata()
            .map_err(|e| io_error("look at the database file", e))?
            .len();
        let pages = length / u64::from(page_size.max(1));
        Ok(u32::try_from(pages).unwrap_or(u32::MAX))
    }

    /// Reads it from the file.
    pub(crate) fn read(file: &File) -> Result<Option<Self>, SourceError> {
        let mut bytes = [0; INDEX_BYTES];
        let got = read_up_to(file, &mut bytes, 0).map_err(|e| io_error("read the -shm file", e))?;
        Ok(if got < INDEX_BYTES {
            None
        } else {
            Self::parse(&bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_an_index_or_none(bytes in proptest::collection::vec(any::<u8>(), INDEX_BYTES)) {
            let bytes: [u8; INDEX_BYTES] = bytes.try_into().unwrap();
            prop_assert_eq!(WalIndex::parse(&bytes), None);
        }
    }
}
