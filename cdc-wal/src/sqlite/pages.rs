//! The seam between decoding and where pages come from.

use bytes::Bytes;
use cdc_core::{SourceError, SourceErrorKind};

use super::page::{Cell, Malformed};

/// Before or after the transaction that is being decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Old,
    New,
}

/// Pages of a database before and after one transaction.
pub(crate) trait Pages {
    /// The whole page.
    fn page(&self, side: Side, number: u32) -> Result<Bytes, SourceError>;

    /// Size of the database in pages.
    fn count(&self, side: Side) -> u32;
}

impl From<Malformed> for SourceError {
    fn from(malformed: Malformed) -> Self {
        Self::new(
            SourceErrorKind::Corrupt,
            format!(
                "decode the database: {malformed}; run PRAGMA integrity_check on it, and take a new snapshot"
            ),
        )
    }
}

/// The error of a page that contradicts the format.
pub(crate) fn malformed(page: u32, what: &'static str) -> SourceError {
    Malformed { page, what }.into()
}

/// Reads a page, refusing numbers the database does not have.
pub(crate) fn read(pages: &dyn Pages, side: Side, number: u32) -> Result<Bytes, SourceError> {
    if number == 0 || number > pages.count(side) {
        return Err(malformed(number, "it lies behind the end of the database"));
    }
    pages.page(side, number)
}

/// Longest row that is captured: two images of it must fit into one record of a log.
pub(crate) const PAYLOAD_MAX: u64 = 480 << 20;

/// Reads a row's payload into `buffer` if it is not wholly on its page, and gives it. The numbers
/// of the overflow pages go to `chain`.
///
/// Takes no more memory than pages were read: a length that is not backed by pages is an error.
pub(crate) fn payload<'a>(
    pages: &dyn Pages,
    side: Side,
    usable: usize,
    (page, cell): (u32, &Cell<'a>),
    buffer: &'a mut Vec<u8>,
    chain: &mut Vec<u32>,
) -> Result<&'a [u8], SourceError> {
    chain.clear();
    let Some(first) = cell.overflow else {
        return Ok(cell.local);
    };
    if cell.length > PAYLOAD_MAX {
        return Err(SourceError::new(
            SourceErrorKind::Unsupported,
            format!(
                "decode a row on page {page}: it has {} bytes, at most {PAYLOAD_MAX} are captured",
                cell.length
            ),
        ));
    }
    let mut rest = usize::try_from(cell.length).unwrap_or(usize::MAX) - cell.local.len();
    buffer.clear();
    buffer.extend_from_slice(cell.local);
    let mut next = first;
    // A page met now and then, ever more seldom: a chain that leads back meets it again.
    let (mut met, mut renew) = (None, 1);
    while rest > 0 {
        if met == Some(next) {
            return Err(malformed(next, "a chain of overflow pages has no end"));
        }
        if chain.len() == renew {
            (met, renew) = (Some(next), renew * 2);
        }
        let data = read(pages, side, next)?;
        chain.push(next);
        let bad = || malformed(next, "an overflow page is cut short");
        let take = rest.min(usable - 4);
        buffer.extend_from_slice(data.get(4..4 + take).ok_or_else(bad)?);
        rest -= take;
        next = super::bytes::u32_at(&data, 0).ok_or_else(bad)?;
    }
    Ok(buffer)
}
