//! Rows of a list of pages, one after the other.

use std::cmp::Ordering;

use bytes::Bytes;
use cdc_core::SourceError;

use super::bytes::u16_at;
use super::format::Encoding;
use super::page::{BTreePage, Cell};
use super::pages::{Pages, Side, malformed, payload, read};
use super::record::{self, Field, KeyPart};
use super::walk::Item;

/// Steps through rows in key order, holding one page.
pub(crate) struct Rows<'a> {
    pages: &'a dyn Pages,
    pub(crate) side: Side,
    usable: usize,
    items: &'a [Item],
    at: usize,
    page: Option<(u32, Bytes)>,
    cell: u32,
    end: u32,
    last: Option<i64>,
    /// Bytes of rows on the pages passed, and how many those pages have: the rows of a sound
    /// database do not overlap, so that a page gives no more than it has.
    taken: u64,
    room: u64,
    /// Overflow pages of the rows passed: no more than the database has, for each belongs to one row.
    overflowed: u64,
    /// The payload of the current row of a table without rowid.
    pub(crate) key: Record,
    before: Record,
}

/// Bytes of a page that are compared at once.
const BLOCK: usize = 64;
/// Blocks of the largest page.
const BLOCKS: usize = 65536 / BLOCK;

/// Which blocks of a page differ between its two versions.
#[derive(Debug)]
pub(crate) struct Differing {
    page: u32,
    blocks: [bool; BLOCKS],
}

impl Default for Differing {
    fn default() -> Self {
        Self {
            page: 0,
            blocks: [false; BLOCKS],
        }
    }
}

impl Differing {
    fn compare(&mut self, page: u32, old: &[u8], new: &[u8]) {
        self.page = page;
        let pairs = old.chunks(BLOCK).zip(new.chunks(BLOCK));
        for (differs, (old, new)) in self.blocks.iter_mut().zip(pairs) {
            *differs = old != new;
        }
    }

    fn same(&self, from: usize, to: usize) -> bool {
        let blocks = self.blocks.get(from / BLOCK..=to / BLOCK);
        blocks.is_some_and(|blocks| !blocks.contains(&true))
    }
}

/// Passes over rows of a table with rowids that stand on one page and are equal in both its
/// versions, and may stop before the first that is not. Most rows of a page that was written
/// are: they are told by comparing the page as a whole.
pub(crate) fn skip_equal(
    old: &mut Rows<'_>,
    new: &mut Rows<'_>,
    differing: &mut Differing,
) -> Result<(), SourceError> {
    let (Some((page, one)), Some((other, two))) = (&old.page, &new.page) else {
        return Ok(());
    };
    // The first page begins with another header.
    if page != other || *page == 1 || one.len() != two.len() {
        return Ok(());
    }
    let leaf = |data: &Bytes| data.first() == Some(&13);
    if !leaf(one) || !leaf(two) {
        return Ok(());
    }
    if differing.page != *page {
        differing.compare(*page, one, two);
    }
    let place = |data: &Bytes, cell: u32| u16_at(data, 8 + 2 * cell as usize).map(usize::from);
    let mut skipped = 0;
    // The last row of a page is left: what comes behind it is another page.
    while old.cell + skipped + 1 < old.end && new.cell + skipped + 1 < new.end {
        let at = place(one, old.cell + skipped);
        let Some(at) = at.filter(|at| Some(*at) == place(two, new.cell + skipped)) else {
            break;
        };
        // A payload of one length byte has no overflow; then comes a rowid of at most nine.
        let Some(length) = one.get(at).filter(|length| **length < 0x80) else {
            break;
        };
        if !differing.same(at, at + 10 + usize::from(*length)) {
            break;
        }
        skipped += 1;
    }
    if skipped > 0 {
        old.cell += skipped - 1;
        new.cell += skipped - 1;
        let last = old.current()?.map(|(_, cell)| cell.rowid);
        (old.last, new.last) = (last, last);
        old.cell += 1;
        new.cell += 1;
        old.in_order()?;
        new.in_order()?;
    }
    Ok(())
}

/// Bytes of a row: on its page, and on overflow pages.
#[derive(Clone, Copy, Debug)]
struct Size {
    here: u64,
    elsewhere: u64,
}

impl Size {
    #[inline]
    fn of(cell: &Cell<'_>) -> Self {
        Self {
            here: cell.raw.len() as u64,
            elsewhere: cell.length.saturating_sub(cell.local.len() as u64),
        }
    }
}

/// A payload with its values found.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) payload: Vec<u8>,
    pub(crate) fields: Vec<Field>,
}

impl<'a> Rows<'a> {
    /// Before the first row; call [`Rows::next_row`] to get there.
    pub(crate) fn new(pages: &'a dyn Pages, side: Side, usable: usize, items: &'a [Item]) -> Self {
        Self {
            pages,
            side,
            usable,
            items,
            at: 0,
            page: None,
            cell: 0,
            end: 0,
            last: None,
            taken: 0,
            room: 0,
            overflowed: 0,
            key: Record::default(),
            before: Record::default(),
        }
    }

    /// Goes to the next row, or behind the last one.
    pub(crate) fn next_row(&mut self) -> Result<(), SourceError> {
        self.advance()?;
        if let Some((number, cell)) = self.current()? {
            let size = Size::of(&cell);
            self.account(number, size)?;
        }
        Ok(())
    }

    /// Counts the row stood at, so that no page makes more work than its bytes are worth.
    #[inline]
    fn account(&mut self, number: u32, size: Size) -> Result<(), SourceError> {
        self.taken += size.here;
        if self.taken > self.room {
            return Err(malformed(number, "its rows lie over each other"));
        }
        if size.elsewhere > 0 {
            self.overflowed += size.elsewhere.div_ceil(self.usable as u64 - 4);
            if self.overflowed > u64::from(self.pages.count(self.side)) {
                let what = "its rows claim more overflow pages than there are";
                return Err(malformed(number, what));
            }
        }
        Ok(())
    }

    fn advance(&mut self) -> Result<(), SourceError> {
        if self.page.is_some() {
            self.cell += 1;
        }
        while self.page.is_none() || self.cell >= self.end {
            let Some(item) = self.items.get(self.at) else {
                self.page = None;
                self.items = &[];
                return Ok(());
            };
            self.at += 1;
            let held = self.page.take().filter(|(number, _)| *number == item.page);
            let data = match held {
                Some((_, data)) => data,
                None => {
                    self.room += self.usable as u64;
                    read(self.pages, self.side, item.page)?
                }
            };
            let page = BTreePage::parse(item.page, &data, self.usable)?;
            let cells = u32::try_from(page.cells).unwrap_or(u32::MAX);
            self.cell = item.from;
            self.end = item.to.min(cells);
            self.page = Some((item.page, data));
        }
        Ok(())
    }

    /// The row stood at, and its page.
    #[inline]
    pub(crate) fn current(&self) -> Result<Option<(u32, Cell<'_>)>, SourceError> {
        let Some((number, data)) = &self.page else {
            return Ok(None);
        };
        let page = BTreePage::parse(*number, data, self.usable)?;
        Ok(Some((*number, page.cell(self.cell as usize)?)))
    }

    /// As [`Rows::next_row`], and checks that rowids grow: the comparison of two trees rests on it.
    pub(crate) fn next_rowid(&mut self) -> Result<(), SourceError> {
        self.advance()?;
        self.in_order()
    }

    /// The row stood at comes after the one before.
    #[inline]
    fn in_order(&mut self) -> Result<(), SourceError> {
        let Some((number, cell)) = self.current()? else {
            return Ok(());
        };
        let (rowid, size) = (cell.rowid, Size::of(&cell));
        self.account(number, size)?;
        if self.last.is_some_and(|last| last >= rowid) {
            return Err(malformed(number, "its rows are not in order"));
        }
        self.last = Some(rowid);
        Ok(())
    }

    /// As [`Rows::next_row`], reads the row's payload, and checks that keys grow.
    pub(crate) fn next_key(
        &mut self,
        key: &[KeyPart],
        encoding: Encoding,
        chain: &mut Vec<u32>,
    ) -> Result<(), SourceError> {
        let had_row = self.page.is_some();
        std::mem::swap(&mut self.key, &mut self.before);
        self.advance()?;
        let mut record = std::mem::take(&mut self.key);
        if let Some((number, cell)) = self.current()? {
            let (place, size) = ((number, &cell), Size::of(&cell));
            let mut buffer = std::mem::take(&mut record.payload);
            let whole = payload(
                self.pages,
                self.side,
                self.usable,
                place,
                &mut buffer,
                chain,
            )?;
            record::parse(whole, &mut record.fields).map_err(|what| malformed(number, what))?;
            if cell.overflow.is_none() {
                buffer.clear();
                buffer.extend_from_slice(cell.local);
            }
            record.payload = buffer;
            self.account(number, size)?;
            let order = record::compare_keys(
                (&self.before.payload, &self.before.fields),
                (&record.payload, &record.fields),
                key,
                encoding,
            );
            if had_row && order != Ordering::Less {
                return Err(malformed(number, "its rows are not in order"));
            }
        }
        self.key = record;
        Ok(())
    }
}
