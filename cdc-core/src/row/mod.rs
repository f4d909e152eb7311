//! Rows as encoded bytes, read column by column without building an owned tree.
//!
//! The byte layout is written down in `docs/formats/row.md`; it is part of the log format and
//! frozen with it. Filters on table and operation touch no row bytes at all, and the JSON
//! envelope is written straight from them.

mod read;
mod value;
mod write;

use std::fmt;

use bytes::Bytes;

pub use read::{ArrayRef, Columns, Items, MapEntries, MapRef, ValueRef, VectorRef};
pub use value::Value;
pub use write::{MapWriter, RowWriter};

/// Deepest nesting of arrays and maps a row may have.
pub const NESTING_MAX: usize = 64;

pub(crate) mod tag {
    //! First byte of every encoded value.
    pub(crate) const NULL: u8 = 0;
    pub(crate) const UNAVAILABLE: u8 = 1;
    pub(crate) const FALSE: u8 = 2;
    pub(crate) const TRUE: u8 = 3;
    pub(crate) const INT: u8 = 4;
    pub(crate) const UINT: u8 = 5;
    pub(crate) const FLOAT32: u8 = 6;
    pub(crate) const FLOAT64: u8 = 7;
    pub(crate) const DECIMAL: u8 = 8;
    pub(crate) const TEXT: u8 = 9;
    pub(crate) const BYTES: u8 = 10;
    pub(crate) const UUID: u8 = 11;
    pub(crate) const JSON: u8 = 12;
    pub(crate) const DATE: u8 = 13;
    pub(crate) const TIME: u8 = 14;
    pub(crate) const TIMESTAMP: u8 = 15;
    pub(crate) const TIMESTAMP_TZ: u8 = 16;
    pub(crate) const ARRAY: u8 = 17;
    pub(crate) const MAP: u8 = 18;
    pub(crate) const VECTOR: u8 = 19;
}

/// The bytes are not an encoded row.
///
/// Names the byte offset only; row contents never appear in errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("decode a row: {what} at byte {offset} of {len}")]
pub struct RowError {
    /// What was wrong.
    pub what: &'static str,
    /// Where, in bytes from the start of the row.
    pub offset: usize,
    /// The row's length in bytes.
    pub len: usize,
}

/// One row in encoded form. Cheap to clone: a slice of a shared buffer.
///
/// Reading is lazy and checked: [`RowImage::columns`] yields each value or the reason why the
/// bytes are not one. Any bytes are safe to hold; none make reading panic or allocate.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct RowImage(Bytes);

impl RowImage {
    /// Takes bytes for a row. They are checked when read.
    pub const fn from_bytes(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The encoded bytes.
    pub const fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Gives the encoded bytes.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// Length of the encoded form in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there are no bytes at all, which is no valid row.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of columns.
    pub fn column_count(&self) -> Result<usize, RowError> {
        Ok(self.columns()?.remaining())
    }

    /// The values in column order.
    pub fn columns(&self) -> Result<Columns<'_>, RowError> {
        Columns::new(&self.0)
    }

    /// The value of one column; `None` past the last one.
    pub fn get(&self, ordinal: usize) -> Result<Option<ValueRef<'_>>, RowError> {
        self.columns()?.nth(ordinal).transpose()
    }

    /// Reads the whole row, nested values too, and says if it is well formed.
    pub fn validate(&self) -> Result<(), RowError> {
        for value in self.columns()? {
            value?.validate(0)?;
        }
        Ok(())
    }

    /// A row from owned values.
    pub fn from_values<'a>(values: impl IntoIterator<Item = &'a Value>) -> Self {
        let mut buffer = Vec::new();
        let mut row = RowWriter::new(&mut buffer);
        for value in values {
            row.value(value);
        }
        row.finish();
        Self(Bytes::from(buffer))
    }

    /// The row as owned values.
    pub fn to_values(&self) -> Result<Vec<Value>, RowError> {
        self.columns()?.map(|value| value?.to_value()).collect()
    }
}

/// Prints the length only: row contents belong to destinations, not to logs.
impl fmt::Debug for RowImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowImage({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests;
