//! Change records.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cdc_core::{Cause, Image, Meta, Op, RowImage, Value, row::RowWriter};

use super::{FormatError, META_PAIRS_MAX};

/// Fixed part of a record.
pub const CHANGE_HEADER: usize = 8;
const META: u8 = 1;
const ORDINAL: u8 = 2;

/// A record as it stands in a buffer: what happened, and where its parts are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeRecord {
    /// The relation's id within the segment.
    pub relation: u32,
    /// What happened.
    pub op: Op,
    /// Why.
    pub cause: Cause,
    /// Its place in the transaction, if it is not just the next one.
    pub ordinal: Option<u32>,
    before: u8,
    after: u8,
    /// Where the parts begin: before, after, meta, each as long as its length says.
    parts: usize,
    before_len: u32,
    after_len: u32,
    meta_len: u32,
    /// Where the next record begins.
    pub end: usize,
}

/// Reads the record that starts at `at`.
///
/// # Errors
/// If the bytes are no change record.
#[inline]
pub fn decode(bytes: &[u8], at: usize) -> Result<ChangeRecord, FormatError> {
    const CUT: FormatError = FormatError("a change record that is cut off");
    let mut rest = bytes.get(at..).ok_or(CUT)?;
    let (head, tail) = rest.split_first_chunk::<CHANGE_HEADER>().ok_or(CUT)?;
    rest = tail;
    let [r0, r1, r2, r3, op, cause, images, bits] = *head;
    let (before, after) = (images & 15, images >> 4);
    let op = Op::from_u8(op);
    let cause = Cause::from_u8(cause);
    let (Some(op), Some(cause), true) = (op, cause, before < 4 && after < 4 && bits < 4) else {
        return Err(FormatError("a change record with unknown fields"));
    };
    let mut next = |present: bool| -> Result<u32, FormatError> {
        if !present {
            return Ok(0);
        }
        let (length, tail) = rest.split_first_chunk::<4>().ok_or(CUT)?;
        rest = tail;
        Ok(u32::from_le_bytes(*length))
    };
    let ordinal = if bits & ORDINAL == 0 {
        None
    } else {
        Some(next(true)?)
    };
    let before_len = next(before != 0)?;
    let after_len = next(after != 0)?;
    let meta_len = next(bits & META != 0)?;
    let parts = bytes.len() - rest.len();
    // Three lengths of 32 bits do not overflow one of 64.
    let length = u64::from(before_len) + u64::from(after_len) + u64::from(meta_len);
    let length = usize::try_from(length).map_err(|_| CUT)?;
    if length > rest.len() {
        return Err(CUT);
    }
    Ok(ChangeRecord {
        relation: u32::from_le_bytes([r0, r1, r2, r3]),
        op,
        cause,
        ordinal,
        before,
        after,
        parts,
        before_len,
        after_len,
        meta_len,
        end: parts + length,
    })
}

impl ChangeRecord {
    /// The row before, a slice of `bytes`, which are those the record was read from.
    #[inline]
    pub fn before(&self, bytes: &Bytes) -> Image {
        image(self.before, bytes, self.parts..self.after_at())
    }

    /// The row after.
    #[inline]
    pub fn after(&self, bytes: &Bytes) -> Image {
        image(self.after, bytes, self.after_at()..self.meta_at())
    }

    const fn after_at(&self) -> usize {
        self.parts + self.before_len as usize
    }

    const fn meta_at(&self) -> usize {
        self.after_at() + self.after_len as usize
    }

    /// Bytes of both images.
    pub const fn row_bytes(&self) -> usize {
        self.before_len as usize + self.after_len as usize
    }

    /// Engine extras.
    ///
    /// # Errors
    /// If they are malformed.
    #[inline]
    pub fn meta(&self, bytes: &Bytes) -> Result<Option<Arc<Meta>>, FormatError> {
        if self.meta_len == 0 {
            return Ok(None);
        }
        decode_meta(bytes.slice(self.meta_at()..self.end)).map(Some)
    }
}

#[inline(never)]
fn decode_meta(bytes: Bytes) -> Result<Arc<Meta>, FormatError> {
    const BAD: FormatError = FormatError("malformed meta of a change");
    let row = RowImage::from_bytes(bytes);
    let columns = row.columns().map_err(|_| BAD)?;
    if columns.remaining() > META_PAIRS_MAX * 2 || columns.remaining() % 2 != 0 {
        return Err(BAD);
    }
    let mut pairs = Vec::with_capacity(columns.remaining() / 2);
    let mut values = columns.map(|value| value.and_then(|v| v.to_value()));
    while let (Some(name), Some(value)) = (values.next(), values.next()) {
        match (name, value) {
            (Ok(Value::Text(name)), Ok(value)) => pairs.push((Arc::from(name), value)),
            _ => return Err(BAD),
        }
    }
    Ok(Arc::new(Meta(pairs)))
}

#[inline]
fn image(kind: u8, bytes: &Bytes, at: Range<usize>) -> Image {
    if kind == 0 {
        return Image::Absent;
    }
    let row = RowImage::from_bytes(bytes.slice(at));
    match kind {
        1 => Image::Full(row),
        2 => Image::Key(row),
        _ => Image::Partial(row),
    }
}

const fn image_kind(image: &Image) -> u8 {
    match image {
        Image::Absent => 0,
        Image::Full(_) => 1,
        Image::Key(_) => 2,
        Image::Partial(_) => 3,
    }
}

/// What a change is, apart from its rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChangeHead {
    pub(crate) relation: u32,
    pub(crate) op: Op,
    pub(crate) cause: Cause,
    pub(crate) ordinal: Option<u32>,
}

/// Bytes a record with these parts takes, at most.
pub(crate) fn encoded_bound(before: &Image, after: &Image, meta: usize) -> usize {
    CHANGE_HEADER + 16 + before.len() + after.len() + meta
}

/// Appends a record.
pub(crate) fn encode(
    to: &mut Vec<u8>,
    head: ChangeHead,
    before: &Image,
    after: &Image,
    meta: Option<&RowImage>,
) {
    put_head(
        to,
        head,
        image_kind(before) | image_kind(after) << 4,
        meta.is_some(),
    );
    let length = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    for row in [before.row(), after.row(), meta].into_iter().flatten() {
        to.extend_from_slice(&length(row.len()));
    }
    for row in [before.row(), after.row(), meta].into_iter().flatten() {
        to.extend_from_slice(row.as_bytes());
    }
}

/// Which parts of a record are written in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    /// The row before.
    pub(crate) before: bool,
    /// The row after.
    pub(crate) after: bool,
    /// Names and values of the meta.
    pub(crate) meta: bool,
}

/// How many values a part has, and how many of them are unavailable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) values: u32,
    pub(crate) gaps: u32,
}

/// Appends a record whose parts are written in place, in the order of the format. Rows are full
/// until [`set_forms`] says otherwise.
pub(crate) fn encode_parts(
    to: &mut Vec<u8>,
    head: ChangeHead,
    parts: Parts,
    mut write: impl FnMut(Part, &mut RowWriter<'_>),
) -> [Written; 3] {
    put_head(
        to,
        head,
        u8::from(parts.before) | u8::from(parts.after) << 4,
        parts.meta,
    );
    let parts = [
        (Part::Before, parts.before),
        (Part::After, parts.after),
        (Part::Meta, parts.meta),
    ];
    let mut at = to.len();
    to.resize(at + 4 * parts.iter().filter(|(_, there)| *there).count(), 0);
    let mut all = [Written::default(); 3];
    for (written, (part, there)) in all.iter_mut().zip(parts) {
        if there {
            let mut row = RowWriter::new(to);
            write(part, &mut row);
            *written = Written {
                values: row.count(),
                gaps: row.gap_count(),
            };
            let length = u32::try_from(row.finish()).unwrap_or(u32::MAX);
            to[at..at + 4].copy_from_slice(&length.to_le_bytes());
            at += 4;
        }
    }
    all
}

/// Says which forms the rows have of the record that starts at `at`: 1 full, 2 key, 3 partial, 0
/// for none.
pub(crate) fn set_forms(to: &mut [u8], at: usize, before: u8, after: u8) {
    to[at + 6] = before | after << 4;
}

/// A part of a record that holds values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The row before.
    Before,
    /// The row after.
    After,
    /// Names and values by turns.
    Meta,
}

/// Appends a record whose one full row is written in place: `after` of an insert or read,
/// `before` of a delete.
pub(crate) fn encode_with(
    to: &mut Vec<u8>,
    head: ChangeHead,
    after: bool,
    write: impl FnOnce(&mut RowWriter<'_>),
) -> u32 {
    put_head(to, head, if after { 1 << 4 } else { 1 }, false);
    let at = to.len();
    to.extend_from_slice(&[0; 4]);
    let mut row = RowWriter::new(to);
    write(&mut row);
    let values = row.count();
    let length = u32::try_from(row.finish()).unwrap_or(u32::MAX);
    to[at..at + 4].copy_from_slice(&length.to_le_bytes());
    values
}

fn put_head(to: &mut Vec<u8>, head: ChangeHead, images: u8, meta: bool) {
    let bits = if meta { META } else { 0 } | if head.ordinal.is_some() { ORDINAL } else { 0 };
    to.extend_from_slice(&head.relation.to_le_bytes());
    to.extend_from_slice(&[head.op as u8, head.cause as u8, images, bits]);
    if let Some(ordinal) = head.ordinal {
        to.extend_from_slice(&ordinal.to_le_bytes());
    }
}

/// Meta as a row of names and values; `None` if there are too many pairs.
pub(crate) fn encode_meta(meta: &Meta) -> Option<RowImage> {
    if meta.0.len() > META_PAIRS_MAX {
        return None;
    }
    let mut buffer = Vec::new();
    let mut row = RowWriter::new(&mut buffer);
    for (name, value) in &meta.0 {
        row.text(name);
        row.value(value);
    }
    row.finish();
    Some(RowImage::from_bytes(buffer.into()))
}
