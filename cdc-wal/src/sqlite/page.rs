//! B-tree pages and their cells.
//!
//! A page begins (page 1: behind the 100 bytes of the database header) with its type (2 index
//! interior, 5 table interior, 10 index leaf, 13 table leaf), the first free block (2), the number
//! of cells (2), the start of the cells' contents (2), fragmented bytes (1) and, on interior pages,
//! the rightmost child (4). Then come the cells' offsets, 2 bytes each, in key order.

use super::bytes::{u16_at, u32_at, varint};
use super::format::DB_HEADER;

/// Something on a page contradicts the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("page {page}: {what}")]
pub(crate) struct Malformed {
    pub(crate) page: u32,
    pub(crate) what: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageKind {
    IndexInterior,
    TableInterior,
    IndexLeaf,
    TableLeaf,
}

impl PageKind {
    pub(crate) const fn is_leaf(self) -> bool {
        matches!(self, Self::IndexLeaf | Self::TableLeaf)
    }

    const fn is_table(self) -> bool {
        matches!(self, Self::TableInterior | Self::TableLeaf)
    }
}

/// A page read as part of a b-tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BTreePage<'a> {
    pub(crate) number: u32,
    pub(crate) kind: PageKind,
    /// Number of cells.
    pub(crate) cells: usize,
    /// The page without its reserved bytes.
    data: &'a [u8],
    /// Where the cells' offsets begin.
    pointers: usize,
    right: u32,
}

/// One cell that holds a row, or the part of it that is on the page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell<'a> {
    /// 0 in index pages.
    pub(crate) rowid: i64,
    /// Bytes of the whole payload.
    pub(crate) length: u64,
    /// The payload on this page.
    pub(crate) local: &'a [u8],
    /// First overflow page, if the payload does not fit here.
    pub(crate) overflow: Option<u32>,
    /// The cell's bytes but its child: equal bytes are an equal row, unless its overflow changed.
    pub(crate) raw: &'a [u8],
}

impl<'a> BTreePage<'a> {
    /// Reads a page's header. `data` is the whole page, `usable` its length without reserved bytes.
    pub(crate) fn parse(number: u32, data: &'a [u8], usable: usize) -> Result<Self, Malformed> {
        let bad = |what| Malformed { page: number, what };
        let data = data.get(..usable).ok_or(bad("the page is cut short"))?;
        let start = if number == 1 { DB_HEADER } else { 0 };
        let kind = match data.get(start) {
            Some(2) => PageKind::IndexInterior,
            Some(5) => PageKind::TableInterior,
            Some(10) => PageKind::IndexLeaf,
            Some(13) => PageKind::TableLeaf,
            _ => return Err(bad("it is no b-tree page")),
        };
        let cells = u16_at(data, start + 3).ok_or(bad("its header is cut short"))?;
        let (right, pointers) = if kind.is_leaf() {
            (0, start + 8)
        } else {
            let right = u32_at(data, start + 8).ok_or(bad("its header is cut short"))?;
            (right, start + 12)
        };
        let cells = usize::from(cells);
        if pointers + 2 * cells > data.len() {
            return Err(bad("it claims more cells than fit"));
        }
        Ok(Self {
            number,
            kind,
            cells,
            data,
            pointers,
            right,
        })
    }

    fn bad(&self, what: &'static str) -> Malformed {
        Malformed {
            page: self.number,
            what,
        }
    }

    #[inline]
    fn cell_bytes(&self, n: usize) -> Result<&'a [u8], Malformed> {
        let first = self.pointers + 2 * self.cells;
        if n >= self.cells {
            return Err(self.bad("a cell past the last one"));
        }
        let at = u16_at(self.data, self.pointers + 2 * n).map_or(0, usize::from);
        match self.data.get(at..) {
            Some(bytes) if at >= first && !bytes.is_empty() => Ok(bytes),
            _ => Err(self.bad("a cell lies outside its page")),
        }
    }

    /// Number of children of an interior page.
    pub(crate) fn children(&self) -> usize {
        if self.kind.is_leaf() {
            0
        } else {
            self.cells + 1
        }
    }

    /// The child to the left of cell `n`, or the rightmost one.
    pub(crate) fn child(&self, n: usize) -> Result<u32, Malformed> {
        let child = if n == self.cells {
            self.right
        } else {
            u32_at(self.cell_bytes(n)?, 0).ok_or_else(|| self.bad("a cell is cut short"))?
        };
        if child < 2 {
            return Err(self.bad("a child page has an impossible number"));
        }
        Ok(child)
    }

    /// The rowid of cell `n` of a table leaf, without looking at its row.
    #[inline]
    pub(crate) fn rowid(&self, n: usize) -> Result<i64, Malformed> {
        let bytes = self.cell_bytes(n)?;
        let cut = || self.bad("a cell is cut short");
        let (_, skip) = varint(bytes).ok_or_else(cut)?;
        let (rowid, _) = bytes.get(skip..).and_then(varint).ok_or_else(cut)?;
        Ok(rowid.cast_signed())
    }

    /// The row in cell `n`: of a table leaf or of any index page.
    #[inline]
    pub(crate) fn cell(&self, n: usize) -> Result<Cell<'a>, Malformed> {
        let cut = || self.bad("a cell is cut short");
        let mut bytes = self.cell_bytes(n)?;
        match self.kind {
            PageKind::TableInterior => return Err(self.bad("an interior page holds no row")),
            PageKind::IndexInterior => bytes = bytes.get(4..).ok_or_else(cut)?,
            PageKind::IndexLeaf | PageKind::TableLeaf => {}
        }
        let (length, mut at) = varint(bytes).ok_or_else(cut)?;
        let mut rowid = 0;
        if self.kind == PageKind::TableLeaf {
            let (value, skip) = bytes.get(at..).and_then(varint).ok_or_else(cut)?;
            rowid = value.cast_signed();
            at += skip;
        }
        let here = local_length(length, self.data.len(), self.kind.is_table())
            .ok_or_else(|| self.bad("a row is longer than a row can be"))?;
        let local = bytes.get(at..at + here).ok_or_else(cut)?;
        let mut end = at + here;
        let mut overflow = None;
        if (here as u64) < length {
            overflow = Some(u32_at(bytes, end).ok_or_else(cut)?);
            end += 4;
        }
        if overflow.is_some_and(|page| page < 2) {
            return Err(self.bad("an overflow page has an impossible number"));
        }
        Ok(Cell {
            rowid,
            length,
            local,
            overflow,
            raw: &bytes[..end],
        })
    }
}

/// Bytes of a payload that are kept on the page; `None` if no row is that long.
#[inline]
fn local_length(length: u64, usable: usize, table: bool) -> Option<usize> {
    let length = usize::try_from(length).ok().filter(|n| *n <= 0x7fff_ffff)?;
    let max = if table {
        usable - 35
    } else {
        (usable - 12) * 64 / 255 - 23
    };
    if length <= max {
        return Some(length);
    }
    let min = (usable - 12) * 32 / 255 - 23;
    let fitted = min + (length - min) % (usable - 4);
    Some(if fitted <= max { fitted } else { min })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_page_is_read_or_refused(
            mut data in proptest::collection::vec(any::<u8>(), 512),
            kind in prop::sample::select(vec![2u8, 5, 10, 13]),
            number in 1u32..3,
        ) {
            data[if number == 1 { 100 } else { 0 }] = kind;
            if let Ok(page) = BTreePage::parse(number, &data, 480) {
                for n in 0..page.cells {
                    let _ = page.cell(n);
                    let _ = page.rowid(n);
                    let _ = page.child(n);
                }
            }
        }
    }
}
