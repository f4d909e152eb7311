//! Rows of a list of pages, one after the other.

use std::cmp::Ordering;

use bytes::Bytes;
use cdc_core::SourceError;

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
    /// The payload of the current row of a table without rowid.
    pub(crate) key: Record,
    before: Record,
}

/// A payload with its values found.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) payload: Vec<u8>,
    pub(crate) fields: Vec<Field>,
}

impl<'a> Rows<'a> {
    /// Before the first row; call [`Rows::advance`] to get there.
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
            key: Record::default(),
            before: Record::default(),
        }
    }

    /// Goes to the next row, or behind the last one.
    pub(crate) fn advance(&mut self) -> Result<(), SourceError> {
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
                None => read(self.pages, self.side, item.page)?,
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

    /// As [`Rows::advance`], and checks that rowids grow: the comparison of two trees rests on it.
    pub(crate) fn next_rowid(&mut self) -> Result<(), SourceError> {
        self.advance()?;
        let Some((number, cell)) = self.current()? else {
            return Ok(());
        };
        let rowid = cell.rowid;
        if self.last.is_some_and(|last| last >= rowid) {
            return Err(malformed(number, "its rows are not in order"));
        }
        self.last = Some(rowid);
        Ok(())
    }

    /// As [`Rows::advance`], reads the row's payload, and checks that keys grow.
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
            let place = (number, &cell);
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
