//! Headers of the database file and of the `-wal` file, and the log's checksum.
//!
//! Database header (first 100 bytes of page 1), big-endian:
//!
//! | Offset | Bytes | Meaning |
//! |---|---|---|
//! | 0 | 16 | `SQLite format 3\0` |
//! | 16 | 2 | page size; 1 means 65536 |
//! | 18, 19 | 1, 1 | write and read version; 2 is WAL |
//! | 20 | 1 | bytes reserved at the end of each page |
//! | 28 | 4 | size in pages |
//! | 40 | 4 | schema cookie |
//! | 44 | 4 | schema format; below 4 `DESC` is ignored in keys |
//! | 52 | 4 | largest root page; not 0 with auto-vacuum |
//! | 56 | 4 | encoding: 1 UTF-8, 2 UTF-16 little-endian, 3 UTF-16 big-endian |
//!
//! WAL header (32 bytes), big-endian: magic `0x377f0682` (checksums over little-endian words) or
//! `..83` (big-endian words), version 3007000, page size, checkpoint number, two salts, two
//! checksum words over the first 24 bytes.
//!
//! Frame header (24 bytes): page number, size of the database in pages if the frame commits (else
//! 0), the two salts, two checksum words over the first 8 bytes and the page, continued from the
//! frame before. Source: sqlite.org/fileformat2.html, checked against files of SQLite 3.40 and 3.54.

use super::bytes::{u16_at, u32_at};

/// Bytes of a database header.
pub(crate) const DB_HEADER: usize = 100;
/// Bytes of a WAL header.
pub(crate) const WAL_HEADER: usize = 32;
/// Bytes of a frame header.
pub(crate) const FRAME_HEADER: usize = 24;

/// The first of the bytes of the database file that SQLite takes locks on; in tests, whose databases are
/// smaller, nearer: comparing files up to there takes seconds.
const LOCK_BYTE: u32 = if cfg!(test) { 64 << 20 } else { 0x4000_0000 };

const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const WAL_MAGIC: u32 = 0x377f_0682;
const WAL_VERSION: u32 = 3_007_000;

/// The pages of a database of `count` pages that hold something: all but the one with the lock bytes,
/// which SQLite writes neither to the file nor to a log. The file may end before it while the log has
/// pages behind it.
pub(crate) fn stored_pages(page_size: u32, count: u32) -> impl Iterator<Item = u32> {
    let locked = LOCK_BYTE / page_size.max(1) + 1;
    (1..=count).filter(move |page| *page != locked)
}

/// How text is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Utf8,
    Utf16Le,
    Utf16Be,
}

impl Encoding {
    /// SQLite's name of it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Utf8 => "UTF-8",
            Self::Utf16Le => "UTF-16le",
            Self::Utf16Be => "UTF-16be",
        }
    }
}

/// What must not change while pages are compared with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// 512 to 65536, a power of two.
    pub(crate) page_size: u32,
    /// The page without its reserved bytes; at least 480.
    pub(crate) usable: usize,
    pub(crate) encoding: Encoding,
}

/// The header of a database file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DbHeader {
    pub(crate) geometry: Geometry,
    /// Write and read version: 1 is a rollback journal, 2 is WAL.
    pub(crate) versions: (u8, u8),
    pub(crate) schema_cookie: u32,
    pub(crate) schema_format: u32,
}

/// Why a header is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("it is shorter than its header")]
    Short,
    #[error(
        "it does not begin as a SQLite database does: it is encrypted, compressed, or another kind of file"
    )]
    Magic,
    #[error("its header names a page size of {0}")]
    PageSize(u32),
    #[error("its header reserves {0} bytes a page")]
    Reserved(u8),
    #[error("its header names the text encoding {0}")]
    Encoding(u32),
    #[error("its version is {0}")]
    Version(u32),
    #[error("the checksum of its header is wrong")]
    Checksum,
}

fn page_size(stored: u32) -> Result<u32, HeaderError> {
    let size = if stored == 1 { 65536 } else { stored };
    if size.is_power_of_two() && (512..=65536).contains(&size) {
        Ok(size)
    } else {
        Err(HeaderError::PageSize(stored))
    }
}

impl DbHeader {
    /// Reads the first 100 bytes of a database.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let header = bytes.get(..DB_HEADER).ok_or(HeaderError::Short)?;
        if !header.starts_with(MAGIC) {
            return Err(HeaderError::Magic);
        }
        let page_size = page_size(u16_at(header, 16).ok_or(HeaderError::Short)?.into())?;
        let byte = |at: usize| header.get(at).copied().ok_or(HeaderError::Short);
        let word = |at: usize| u32_at(header, at).ok_or(HeaderError::Short);
        let reserved = byte(20)?;
        let usable = page_size as usize - usize::from(reserved);
        if usable < 480 {
            return Err(HeaderError::Reserved(reserved));
        }
        let encoding = match word(56)? {
            // 0 in a database without any table.
            0 | 1 => Encoding::Utf8,
            2 => Encoding::Utf16Le,
            3 => Encoding::Utf16Be,
            other => return Err(HeaderError::Encoding(other)),
        };
        Ok(Self {
            geometry: Geometry {
                page_size,
                usable,
                encoding,
            },
            versions: (byte(18)?, byte(19)?),
            schema_cookie: word(40)?,
            schema_format: word(44)?,
        })
    }

    /// True if the database is in WAL mode.
    pub(crate) fn is_wal(&self) -> bool {
        self.versions == (2, 2)
    }
}

/// Two running sums over pairs of words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checksum(pub(crate) u32, pub(crate) u32);

impl Checksum {
    /// Continues over bytes whose length is a multiple of 8; the rest is left out.
    #[must_use]
    pub(crate) fn over(self, bytes: &[u8], big_endian: bool) -> Self {
        let Self(mut one, mut two) = self;
        let (pairs, _) = bytes.as_chunks::<8>();
        // Two loops, so that neither asks for the byte order at each word.
        let mut step = |a: u32, b: u32| {
            one = one.wrapping_add(a).wrapping_add(two);
            two = two.wrapping_add(b).wrapping_add(one);
        };
        if big_endian {
            for [a, b, c, d, e, f, g, h] in pairs {
                step(
                    u32::from_be_bytes([*a, *b, *c, *d]),
                    u32::from_be_bytes([*e, *f, *g, *h]),
                );
            }
        } else {
            for [a, b, c, d, e, f, g, h] in pairs {
                step(
                    u32::from_le_bytes([*a, *b, *c, *d]),
                    u32::from_le_bytes([*e, *f, *g, *h]),
                );
            }
        }
        Self(one, two)
    }
}

/// The two salts of a generation of the log, as stored.
pub(crate) type Salts = [u8; 8];

/// The header of a `-wal` file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WalHeader {
    /// Checksums are over big-endian words.
    pub(crate) big_endian: bool,
    pub(crate) page_size: u32,
    pub(crate) salts: Salts,
    /// Where the frames' checksums continue.
    pub(crate) checksum: Checksum,
}

impl WalHeader {
    /// Reads the first 32 bytes of a log.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let header: &[u8; WAL_HEADER] = bytes.first_chunk().ok_or(HeaderError::Short)?;
        let word = |at: usize| u32_at(header, at).unwrap_or(0);
        if word(0) & !1 != WAL_MAGIC {
            return Err(HeaderError::Magic);
        }
        let big_endian = word(0) & 1 == 1;
        let computed = Checksum::default().over(&header[..24], big_endian);
        if computed != Checksum(word(24), word(28)) {
            return Err(HeaderError::Checksum);
        }
        if word(4) != WAL_VERSION {
            return Err(HeaderError::Version(word(4)));
        }
        let mut salts = Salts::default();
        salts.copy_from_slice(&header[16..24]);
        Ok(Self {
            big_endian,
            page_size: page_size(word(8))?,
            salts,
            checksum: computed,
        })
    }
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) page: u32,
    /// Size of the database in pages after the commit; 0 if the frame does not commit.
    pub(crate) commit: u32,
    pub(crate) salts: Salts,
    pub(crate) checksum: Checksum,
}

impl FrameHeader {
    /// Reads a frame's first 24 bytes.
    pub(crate) fn parse(bytes: &[u8; FRAME_HEADER]) -> Self {
        let word = |at: usize| u32_at(bytes, at).unwrap_or(0);
        let mut salts = Salts::default();
        salts.copy_from_slice(&bytes[8..16]);
        Self {
            page: word(0),
            commit: word(4),
            salts,
            checksum: Checksum(word(16), word(20)),
        }
    }
}

/// Byte offset of a frame, counted from 1, in the log.
pub(crate) fn frame_offset(frame: u32, page_size: u32) -> u64 {
    let each = u64::from(page_size) + FRAME_HEADER as u64;
    WAL_HEADER as u64 + u64::from(frame.saturating_sub(1)) * each
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_database_is_refused_by_name() {
        let mut good = vec![0u8; 100];
        good[..16].copy_from_slice(MAGIC);
        good[16..18].copy_from_slice(&[0x10, 0]);
        good[18..20].copy_from_slice(&[2, 2]);
        assert!(DbHeader::parse(&good).unwrap().is_wal());
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            DbHeader::parse(&bytes).unwrap_err()
        };
        assert_eq!(with(0, b's'), HeaderError::Magic);
        assert_eq!(with(17, 1), HeaderError::PageSize(4097));
        assert_eq!(with(59, 9), HeaderError::Encoding(9));
        assert_eq!(DbHeader::parse(&good[..99]), Err(HeaderError::Short));
        let mut small = good.clone();
        small[16..18].copy_from_slice(&[2, 0]);
        small[20] = 33;
        assert_eq!(DbHeader::parse(&small), Err(HeaderError::Reserved(33)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = DbHeader::parse(&bytes);
            let _ = WalHeader::parse(&bytes);
        }
    }
}
