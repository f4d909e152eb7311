//! Row changes of one table: its old rows against its new ones.
//!
//! Both sides come in key order, so that they are merged: memory does not depend on the number of
//! rows. Rows whose bytes are equal are not decoded.

use std::cmp::Ordering;

use bytes::Bytes;
use cdc_core::{Op, RowImage, SourceError};

use super::format::{Encoding, Geometry};
use super::layout::{Layout, Projection};
use super::map::{Mark, PageMap};
use super::page::Cell;
use super::pages::{Pages, Side, malformed, payload};
use super::record::{self, Field};
use super::rows::{Differing, Rows, skip_equal};
use super::sink::{Row, Sink};
use super::walk::Item;

/// What becomes of overflow pages, applied to the map when all tables are done.
#[derive(Debug, Default)]
pub(crate) struct Chains {
    /// Pages of rows that are gone.
    pub(crate) freed: Vec<u32>,
    /// Runs of: the page with the row's cell, the number of pages, the pages.
    pub(crate) claimed: Vec<u32>,
    /// First overflow pages whose row now stands on another page.
    pub(crate) moved: Vec<(u32, u32)>,
}

impl Chains {
    pub(crate) fn claim(&mut self, holder: u32, chain: &[u32]) {
        if let (Ok(length), false) = (u32::try_from(chain.len()), chain.is_empty()) {
            self.claimed.extend_from_slice(&[holder, length]);
            self.claimed.extend_from_slice(chain);
        }
    }
}

/// Which changes a pass over the rows gives out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    All,
    /// Deletes, and the old halves of changes of a key.
    Deletes,
    /// What [`Pass::Deletes`] left.
    Rest,
}

/// The table before and after.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shapes<'a> {
    pub(crate) old: &'a Layout,
    pub(crate) new: &'a Layout,
    /// How old rows are shown, if the layout changed.
    pub(crate) projection: Option<&'a Projection>,
}

impl Shapes<'_> {
    fn key_moves(&self) -> bool {
        self.old.key_moves || self.new.key_moves
    }
}

/// Buffers used again from row to row.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    old_payload: Vec<u8>,
    new_payload: Vec<u8>,
    old_chain: Vec<u32>,
    new_chain: Vec<u32>,
    fields: Vec<Field>,
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Scratch {
    /// Most bytes kept from one transaction to the next.
    const KEEP: usize = 1 << 20;

    pub(crate) fn trim(&mut self) {
        for buffer in [
            &mut self.old_payload,
            &mut self.new_payload,
            &mut self.before,
            &mut self.after,
        ] {
            if buffer.capacity() > Self::KEEP {
                *buffer = Vec::new();
            }
        }
    }
}

/// A comparison of one table.
pub(crate) struct Diff<'a> {
    pub(crate) pages: &'a dyn Pages,
    pub(crate) geometry: Geometry,
    pub(crate) map: &'a PageMap,
    pub(crate) shapes: Shapes<'a>,
    pub(crate) scratch: &'a mut Scratch,
    pub(crate) chains: &'a mut Chains,
    pub(crate) sink: &'a mut dyn Sink,
}

impl Diff<'_> {
    /// Gives out what changed between the old rows and the new ones.
    ///
    /// In a table whose key is not what its b-tree is ordered by, all deletes come first: a new
    /// row may carry the key of one that is deleted further on.
    pub(crate) fn run(&mut self, old: &[Item], new: &[Item]) -> Result<(), SourceError> {
        if self.shapes.new.without_rowid {
            return self.keyed(old, new);
        }
        if self.shapes.key_moves() && !old.is_empty() && !new.is_empty() {
            self.by_rowid(old, new, Pass::Deletes)?;
            return self.by_rowid(old, new, Pass::Rest);
        }
        self.by_rowid(old, new, Pass::All)
    }

    fn rows<'p>(&self, side: Side, items: &'p [Item], pages: &'p dyn Pages) -> Rows<'p> {
        Rows::new(pages, side, self.geometry.usable, items)
    }

    fn by_rowid(&mut self, old: &[Item], new: &[Item], pass: Pass) -> Result<(), SourceError> {
        let pages = self.pages;
        let mut old = self.rows(Side::Old, old, pages);
        let mut new = self.rows(Side::New, new, pages);
        old.next_rowid()?;
        new.next_rowid()?;
        let mut differing = Differing::default();
        loop {
            skip_equal(&mut old, &mut new, &mut differing)?;
            let (one, two) = (old.current()?, new.current()?);
            let order = match (&one, &two) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((_, one)), Some((_, two))) => one.rowid.cmp(&two.rowid),
            };
            match (order, one, two) {
                (Ordering::Less, Some(one), _) => {
                    if pass != Pass::Rest {
                        self.deleted(one)?;
                    }
                    old.next_rowid()?;
                }
                (Ordering::Greater, _, Some(two)) => {
                    if pass != Pass::Deletes {
                        self.inserted(two)?;
                    }
                    new.next_rowid()?;
                }
                (_, Some(one), Some(two)) => {
                    self.pair(one, two, pass)?;
                    old.next_rowid()?;
                    new.next_rowid()?;
                }
                _ => return Ok(()),
            }
        }
    }

    fn keyed(&mut self, old: &[Item], new: &[Item]) -> Result<(), SourceError> {
        let pages = self.pages;
        let encoding: Encoding = self.geometry.encoding;
        let key = &self.shapes.new.key;
        let mut unused = Vec::new();
        let mut old = self.rows(Side::Old, old, pages);
        let mut new = self.rows(Side::New, new, pages);
        old.next_key(key, encoding, &mut unused)?;
        new.next_key(key, encoding, &mut unused)?;
        loop {
            let (one, two) = (old.current()?, new.current()?);
            let order = match (&one, &two) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((_, a)), Some((_, b))) if self.same(a, b) => Ordering::Equal,
                (Some(_), Some(_)) => record::compare_keys(
                    (&old.key.payload, &old.key.fields),
                    (&new.key.payload, &new.key.fields),
                    key,
                    encoding,
                ),
            };
            match (order, one, two) {
                (Ordering::Less, Some(one), _) => {
                    self.deleted(one)?;
                    old.next_key(key, encoding, &mut unused)?;
                }
                (Ordering::Greater, _, Some(two)) => {
                    self.inserted(two)?;
                    new.next_key(key, encoding, &mut unused)?;
                }
                (_, Some(one), Some(two)) => {
                    self.pair(one, two, Pass::All)?;
                    old.next_key(key, encoding, &mut unused)?;
                    new.next_key(key, encoding, &mut unused)?;
                }
                _ => return Ok(()),
            }
        }
    }

    /// Writes an old row as the new layout shows it.
    fn write_old(
        shapes: Shapes<'_>,
        out: &mut Vec<u8>,
        fields: &mut Vec<Field>,
        payload: &[u8],
        (page, rowid): (u32, i64),
    ) -> Result<(), SourceError> {
        out.clear();
        record::parse(payload, fields)
            .map(|()| match shapes.projection {
                None => shapes.old.write(out, payload, fields, rowid),
                Some(projection) => {
                    let old = shapes.old;
                    old.write_as(shapes.new, projection, out, payload, fields, rowid);
                }
            })
            .map_err(|what| malformed(page, what))
    }

    fn write_new(
        shapes: Shapes<'_>,
        out: &mut Vec<u8>,
        fields: &mut Vec<Field>,
        payload: &[u8],
        (page, rowid): (u32, i64),
    ) -> Result<(), SourceError> {
        out.clear();
        record::parse(payload, fields)
            .map(|()| shapes.new.write(out, payload, fields, rowid))
            .map_err(|what| malformed(page, what))
    }

    fn emit(&mut self, op: Op, rowid: i64) -> Result<(), SourceError> {
        let (before, after) = (&self.scratch.before, &self.scratch.after);
        let layout = self.shapes.new;
        self.sink.row(Row {
            relation: &layout.relation,
            op,
            before: (op != Op::Insert).then_some(before.as_slice()),
            after: (op != Op::Delete).then_some(after.as_slice()),
            rowid: (layout.is_keyless() && !layout.without_rowid).then_some(rowid),
        })
    }

    fn deleted(&mut self, (page, cell): (u32, Cell<'_>)) -> Result<(), SourceError> {
        let s = &mut *self.scratch;
        let place = (page, &cell);
        let usable = self.geometry.usable;
        let payload = payload(
            self.pages,
            Side::Old,
            usable,
            place,
            &mut s.old_payload,
            &mut s.old_chain,
        )?;
        let at = (page, cell.rowid);
        Self::write_old(self.shapes, &mut s.before, &mut s.fields, payload, at)?;
        self.chains.freed.extend_from_slice(&s.old_chain);
        self.emit(Op::Delete, cell.rowid)
    }

    fn inserted(&mut self, (page, cell): (u32, Cell<'_>)) -> Result<(), SourceError> {
        let s = &mut *self.scratch;
        let place = (page, &cell);
        let usable = self.geometry.usable;
        let payload = payload(
            self.pages,
            Side::New,
            usable,
            place,
            &mut s.new_payload,
            &mut s.new_chain,
        )?;
        let at = (page, cell.rowid);
        Self::write_new(self.shapes, &mut s.after, &mut s.fields, payload, at)?;
        self.chains.claim(page, &s.new_chain);
        self.emit(Op::Insert, cell.rowid)
    }

    /// Whether an old cell and a new one are one row, told without reading overflow pages. Equal bytes
    /// alone do not say it: a page that one row left may have been taken by another.
    fn same(&self, one: &Cell<'_>, two: &Cell<'_>) -> bool {
        let dirty = |page| self.map.has(page, Mark::Dirty);
        one.raw == two.raw && !one.overflow.is_some_and(dirty)
    }

    /// Two rows of one key.
    fn pair(
        &mut self,
        (old_page, one): (u32, Cell<'_>),
        (new_page, two): (u32, Cell<'_>),
        pass: Pass,
    ) -> Result<(), SourceError> {
        let same = self.same(&one, &two);
        if same {
            if let Some(first) = two.overflow
                && old_page != new_page
                && pass != Pass::Deletes
            {
                self.chains.moved.push((first, new_page));
            }
            if self.shapes.projection.is_none() {
                return Ok(());
            }
        }
        let s = &mut *self.scratch;
        let usable = self.geometry.usable;
        let (place_old, place_new) = ((old_page, &one), (new_page, &two));
        let (bo, co) = (&mut s.old_payload, &mut s.old_chain);
        let (bn, cn) = (&mut s.new_payload, &mut s.new_chain);
        let old = payload(self.pages, Side::Old, usable, place_old, bo, co)?;
        let new = payload(self.pages, Side::New, usable, place_new, bn, cn)?;
        if !same && pass != Pass::Deletes {
            self.chains.freed.extend_from_slice(&s.old_chain);
            self.chains.claim(new_page, &s.new_chain);
        }
        if old == new && self.shapes.projection.is_none() {
            return Ok(());
        }
        let (at_old, at_new) = ((old_page, one.rowid), (new_page, two.rowid));
        Self::write_old(self.shapes, &mut s.before, &mut s.fields, old, at_old)?;
        Self::write_new(self.shapes, &mut s.after, &mut s.fields, new, at_new)?;
        if s.before == s.after {
            return Ok(());
        }
        let key_changed = self.shapes.key_moves()
            && key_differs(self.shapes.new, &s.before, &s.after)
                .ok_or_else(|| malformed(new_page, "a row cannot be read back"))?;
        match (key_changed, pass) {
            (false, Pass::Deletes) => Ok(()),
            (false, _) => self.emit(Op::Update, two.rowid),
            (true, Pass::Deletes) => self.emit(Op::Delete, two.rowid),
            (true, Pass::Rest) => self.emit(Op::Insert, two.rowid),
            (true, Pass::All) => {
                self.emit(Op::Delete, two.rowid)?;
                self.emit(Op::Insert, two.rowid)
            }
        }
    }
}

/// Whether two encoded rows differ in a column of the key.
fn key_differs(layout: &Layout, before: &[u8], after: &[u8]) -> Option<bool> {
    let row = |bytes: &[u8]| RowImage::from_bytes(Bytes::copy_from_slice(bytes));
    let (before, after) = (row(before), row(after));
    let (mut one, mut two) = (before.columns().ok()?, after.columns().ok()?);
    let last = usize::from(*layout.relation.key.last()?);
    for n in 0..=last {
        let (a, b) = (one.next_raw()?.ok()?, two.next_raw()?.ok()?);
        if a != b && layout.relation.key.contains(&u16::try_from(n).ok()?) {
            return Some(true);
        }
    }
    Some(false)
}

/// Whether two lists of rows hold the same rows in the same order, the new ones numbered from 1: what
/// `VACUUM` leaves of a table whose rows it numbers anew. (In a merged transaction there may have been
/// more than that.)
pub(crate) fn same_sequence(
    pages: &dyn Pages,
    usable: usize,
    old: &[Item],
    new: &[Item],
    scratch: &mut Scratch,
) -> Result<bool, SourceError> {
    let mut old = Rows::new(pages, Side::Old, usable, old);
    let mut new = Rows::new(pages, Side::New, usable, new);
    let mut moved = false;
    for number in 1.. {
        old.next_rowid()?;
        new.next_rowid()?;
        match (old.current()?, new.current()?) {
            (None, None) => return Ok(moved),
            (Some((old_page, one)), Some((new_page, two))) => {
                let rowid = two.rowid;
                moved |= one.rowid != rowid;
                let (bo, co) = (&mut scratch.old_payload, &mut scratch.old_chain);
                let (bn, cn) = (&mut scratch.new_payload, &mut scratch.new_chain);
                let one = payload(pages, Side::Old, usable, (old_page, &one), bo, co)?;
                let two = payload(pages, Side::New, usable, (new_page, &two), bn, cn)?;
                if rowid != number || one != two {
                    return Ok(false);
                }
            }
            _ => return Ok(false),
        }
    }
    Ok(false)
}
