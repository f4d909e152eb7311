//! Records: a row's values as SQLite stores them.
//!
//! A record is a header (its length, then one serial type a value, all variable-length integers)
//! and the values. Serial types: 0 null; 1 to 6 integers of 1, 2, 3, 4, 6, 8 bytes; 7 a float; 8
//! and 9 the integers 0 and 1; 12, 14, ... blobs; 13, 15, ... text of (n - 12) / 2 bytes.

use std::cmp::Ordering;

use cdc_core::row::RowWriter;

use super::bytes::{signed, varint};
use super::format::Encoding;

/// One value of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) serial: u64,
    start: usize,
    length: usize,
}

/// Most values of one record; SQLite allows 32767 columns.
const FIELDS_MAX: usize = 65_536;

/// Finds the values of a record. The error says what is wrong.
#[inline]
pub(crate) fn parse(payload: &[u8], fields: &mut Vec<Field>) -> Result<(), &'static str> {
    fields.clear();
    let (header, mut at) = varint(payload).ok_or("a record is cut short")?;
    let header = usize::try_from(header)
        .ok()
        .filter(|n| *n >= at && *n <= payload.len())
        .ok_or("a record's header is longer than the record")?;
    let mut start = header;
    while at < header {
        let rest = payload.get(at..header).unwrap_or_default();
        let (serial, skip) = varint(rest).ok_or("a record's header is cut short")?;
        at += skip;
        let length = match serial {
            0 | 8 | 9 => 0,
            1..=4 => usize::try_from(serial).unwrap_or(0),
            5 => 6,
            6 | 7 => 8,
            10 | 11 => return Err("a record uses a reserved type"),
            n => usize::try_from((n - 12) / 2).map_err(|_| "a value is longer than its record")?,
        };
        let end = start
            .checked_add(length)
            .filter(|end| *end <= payload.len())
            .ok_or("a value is longer than its record")?;
        if fields.len() == FIELDS_MAX {
            return Err("a record has more values than a table has columns");
        }
        fields.push(Field {
            serial,
            start,
            length,
        });
        start = end;
    }
    Ok(())
}

/// A value, borrowed from its record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Stored<'a> {
    Null,
    Int(i64),
    Real(f64),
    /// In the database's encoding.
    Text(&'a [u8]),
    Blob(&'a [u8]),
}

impl Field {
    /// The value.
    #[inline]
    pub(crate) fn value<'a>(&self, payload: &'a [u8]) -> Stored<'a> {
        let bytes = payload
            .get(self.start..self.start + self.length)
            .unwrap_or_default();
        match self.serial {
            0 => Stored::Null,
            1..=6 => Stored::Int(signed(bytes)),
            7 => {
                let bits = bytes.try_into().map_or(0, u64::from_be_bytes);
                let real = f64::from_bits(bits);
                // As SQLite reads it.
                if real.is_nan() {
                    Stored::Null
                } else {
                    Stored::Real(real)
                }
            }
            8 => Stored::Int(0),
            9 => Stored::Int(1),
            n if n % 2 == 0 => Stored::Blob(bytes),
            _ => Stored::Text(bytes),
        }
    }
}

/// Text as UTF-8; `None` if it is not valid in its encoding.
pub(crate) fn text(bytes: &[u8], encoding: Encoding) -> Option<String> {
    let units = |big: bool| {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let units = pairs.iter().map(|pair| {
            if big {
                u16::from_be_bytes(*pair)
            } else {
                u16::from_le_bytes(*pair)
            }
        });
        if rest.is_empty() {
            char::decode_utf16(units)
                .collect::<Result<String, _>>()
                .ok()
        } else {
            None
        }
    };
    match encoding {
        Encoding::Utf8 => std::str::from_utf8(bytes).ok().map(str::to_owned),
        Encoding::Utf16Le => units(false),
        Encoding::Utf16Be => units(true),
    }
}

/// Text as it is stored.
pub(crate) fn stored_text(text: &str, encoding: Encoding) -> Vec<u8> {
    let units = text.encode_utf16();
    match encoding {
        Encoding::Utf8 => text.as_bytes().to_vec(),
        Encoding::Utf16Le => units.flat_map(u16::to_le_bytes).collect(),
        Encoding::Utf16Be => units.flat_map(u16::to_be_bytes).collect(),
    }
}

/// Writes a value into a row. Text that is not valid in the database's encoding is written as
/// bytes, as stored: nothing is replaced. `real` is true in columns that read integers as floats.
#[inline]
pub(crate) fn write(row: &mut RowWriter<'_>, value: Stored<'_>, real: bool, encoding: Encoding) {
    match value {
        Stored::Null => row.null(),
        #[expect(clippy::cast_precision_loss, reason = "SQLite converts the same way")]
        Stored::Int(n) if real => row.float64(n as f64),
        Stored::Int(n) => row.int(n),
        Stored::Real(n) => row.float64(n),
        Stored::Blob(bytes) => row.bytes(bytes),
        Stored::Text(bytes) if encoding == Encoding::Utf8 => match std::str::from_utf8(bytes) {
            Ok(valid) => row.text(valid),
            Err(_) => row.bytes(bytes),
        },
        Stored::Text(bytes) => match text(bytes, encoding) {
            Some(valid) => row.text(&valid),
            None => row.bytes(bytes),
        },
    }
}

/// A collating sequence SQLite has built in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Collation {
    Binary,
    NoCase,
    RTrim,
}

impl Collation {
    /// By its name in a schema; `None` if the application defines it.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [
            ("binary", Self::Binary),
            ("nocase", Self::NoCase),
            ("rtrim", Self::RTrim),
        ]
        .into_iter()
        .find_map(|(known, collation)| name.eq_ignore_ascii_case(known).then_some(collation))
    }

    fn compare(self, one: &[u8], two: &[u8], encoding: Encoding) -> Ordering {
        if self == Self::Binary {
            return one.cmp(two);
        }
        // The other two are defined over UTF-8 only.
        if encoding != Encoding::Utf8 {
            let utf8 = |bytes: &[u8]| text(bytes, encoding).map(String::into_bytes);
            if let (Some(one), Some(two)) = (utf8(one), utf8(two)) {
                return self.compare(&one, &two, Encoding::Utf8);
            }
            return one.cmp(two);
        }
        match self {
            Self::Binary => one.cmp(two),
            Self::NoCase => {
                // As sqlite3StrNICmp: the comparison ends at a zero byte, then lengths decide.
                for (a, b) in one.iter().zip(two) {
                    let order = a.to_ascii_lowercase().cmp(&b.to_ascii_lowercase());
                    if order.is_ne() {
                        return order;
                    }
                    if *a == 0 {
                        break;
                    }
                }
                one.len().cmp(&two.len())
            }
            Self::RTrim => {
                let trimmed = |bytes: &[u8]| {
                    bytes.len() - bytes.iter().rev().take_while(|byte| **byte == b' ').count()
                };
                let (a, b) = (trimmed(one), trimmed(two));
                one.get(..a).cmp(&two.get(..b))
            }
        }
    }
}

/// A column of a key, as the b-tree is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyPart {
    pub(crate) collation: Collation,
    pub(crate) descending: bool,
}

/// Compares the first values of two records as SQLite orders them in a b-tree.
pub(crate) fn compare_keys(
    one: (&[u8], &[Field]),
    two: (&[u8], &[Field]),
    key: &[KeyPart],
    encoding: Encoding,
) -> Ordering {
    for (n, part) in key.iter().enumerate() {
        let value = |(payload, fields): (_, &[Field])| {
            fields
                .get(n)
                .map_or(Stored::Null, |field| field.value(payload))
        };
        let order = compare(value(one), value(two), part.collation, encoding);
        if order.is_ne() {
            return if part.descending {
                order.reverse()
            } else {
                order
            };
        }
    }
    Ordering::Equal
}

fn compare(one: Stored<'_>, two: Stored<'_>, collation: Collation, encoding: Encoding) -> Ordering {
    use Stored::{Blob, Int, Null, Real, Text};
    let class = |value| match value {
        Null => 0,
        Int(_) | Real(_) => 1,
        Text(_) => 2,
        Blob(_) => 3,
    };
    match (one, two) {
        (Int(a), Int(b)) => a.cmp(&b),
        (Real(a), Real(b)) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
        (Int(a), Real(b)) => compare_mixed(a, b),
        (Real(a), Int(b)) => compare_mixed(b, a).reverse(),
        (Text(a), Text(b)) => collation.compare(a, b, encoding),
        (Blob(a), Blob(b)) => a.cmp(b),
        (a, b) => class(a).cmp(&class(b)),
    }
}

/// An integer with a float, exactly: neither is rounded to the other's type.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the range is checked first, and what the cast cuts off is compared afterwards"
)]
fn compare_mixed(int: i64, real: f64) -> Ordering {
    if real >= 9_223_372_036_854_775_808.0 {
        return Ordering::Less;
    }
    if real < -9_223_372_036_854_775_808.0 {
        return Ordering::Greater;
    }
    let whole = real.trunc();
    let order = int.cmp(&(whole as i64));
    if order.is_ne() {
        return order;
    }
    0.0f64
        .partial_cmp(&(real - whole))
        .unwrap_or(Ordering::Equal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mixed_numbers_compare_exactly() {
        for (int, real, order) in [
            (1, 1.0, Ordering::Equal),
            (1, 1.5, Ordering::Less),
            (-1, -1.5, Ordering::Greater),
            (i64::MAX, 9_223_372_036_854_775_807.0, Ordering::Less),
            (i64::MIN, -9_223_372_036_854_775_808.0, Ordering::Equal),
            (
                9_007_199_254_740_993,
                9_007_199_254_740_992.0,
                Ordering::Greater,
            ),
            (0, f64::INFINITY, Ordering::Less),
            (0, f64::NEG_INFINITY, Ordering::Greater),
        ] {
            assert_eq!(compare_mixed(int, real), order, "{int} {real}");
        }
    }

    #[test]
    fn collations_order_as_sqlite_does() {
        let utf8 = Encoding::Utf8;
        assert!(Collation::NoCase.compare(b"ABC", b"abd", utf8).is_lt());
        assert!(Collation::NoCase.compare(b"ABC", b"abc", utf8).is_eq());
        assert!(Collation::NoCase.compare(b"a\0b", b"a\0c", utf8).is_eq());
        assert!(Collation::NoCase.compare(b"_", b"A", utf8).is_lt());
        assert!(Collation::RTrim.compare(b"a  ", b"a", utf8).is_eq());
        assert!(Collation::RTrim.compare(b"a ", b"a!", utf8).is_lt());
        assert!(Collation::Binary.compare(b"a ", b"a", utf8).is_gt());
    }

    proptest! {
        #[test]
        fn any_record_is_read_or_refused(payload in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut fields = Vec::new();
            if parse(&payload, &mut fields).is_ok() {
                let mut buffer = Vec::new();
                let mut row = RowWriter::new(&mut buffer);
                for field in &fields {
                    write(&mut row, field.value(&payload), true, Encoding::Utf16Le);
                }
                row.finish();
            }
        }
    }
}
