//! One value as JSON.

use super::spelled::Member;
use super::{JsonOptions, NumberStyle, raw_json, text, time};
use crate::row::{ArrayRef, MapRef, NESTING_MAX, RowError, Value, ValueRef};

/// Largest integer every reader keeps whole, even one with 64-bit floats only.
const SAFE_MAX: u64 = (1 << 53) - 1;

/// What Debezium writes for a value its source did not send.
pub(super) const DEBEZIUM_UNAVAILABLE: &[u8] = b"\"__debezium_unavailable_value\"";

/// How values are spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spelling {
    plain_numbers: bool,
    /// Debezium's: integers and temporal values as numbers, a placeholder for unavailable ones.
    debezium: bool,
}

impl Spelling {
    pub(super) const fn json(options: JsonOptions) -> Self {
        Self {
            plain_numbers: matches!(options.numbers, NumberStyle::Plain),
            debezium: false,
        }
    }

    /// Numbers as numbers.
    pub(super) const PLAIN: Self = Self {
        plain_numbers: true,
        debezium: false,
    };

    pub(super) const DEBEZIUM: Self = Self {
        plain_numbers: false,
        debezium: true,
    };
}

#[cold]
fn refuse(what: &'static str) -> RowError {
    RowError {
        what,
        offset: 0,
        len: 0,
    }
}

fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

/// Appends a value. `depth` counts the lists and maps around it.
///
/// A top-level unavailable value is the caller's to leave out; it is refused here, since JSON has
/// no word for it that is not a value.
pub(super) fn value(
    out: &mut Vec<u8>,
    value: ValueRef<'_>,
    spelling: Spelling,
    depth: usize,
) -> Result<(), RowError> {
    match value {
        ValueRef::Null => out.extend_from_slice(b"null"),
        ValueRef::Unavailable if spelling.debezium => out.extend_from_slice(DEBEZIUM_UNAVAILABLE),
        ValueRef::Unavailable => return Err(refuse("unavailable value inside a list")),
        ValueRef::Bool(true) => out.extend_from_slice(b"true"),
        ValueRef::Bool(false) => out.extend_from_slice(b"false"),
        ValueRef::Int(number) => {
            if number.unsigned_abs() <= SAFE_MAX || spelling.plain_numbers || spelling.debezium {
                text::integer(out, number);
            } else {
                quoted(out, |out| text::integer(out, number));
            }
        }
        ValueRef::UInt(number) => {
            if number <= SAFE_MAX || spelling.plain_numbers || spelling.debezium {
                text::integer(out, number);
            } else {
                quoted(out, |out| text::integer(out, number));
            }
        }
        ValueRef::Float32(number) => text::float32(out, number),
        ValueRef::Float64(number) => text::float64(out, number),
        ValueRef::Decimal(digits) => {
            if spelling.plain_numbers && text::is_json_number(digits) {
                out.extend_from_slice(digits.as_bytes());
            } else {
                text::string(out, digits);
            }
        }
        ValueRef::Text(value) => text::string(out, value),
        ValueRef::Bytes(bytes) => quoted(out, |out| text::base64(out, bytes)),
        ValueRef::Uuid(uuid) => quoted(out, |out| text::uuid(out, uuid)),
        ValueRef::Json(json) => {
            if spelling.debezium || !raw_json::embed(out, json, depth) {
                text::string(out, json);
            }
        }
        ValueRef::Date(days) if spelling.debezium => text::integer(out, days),
        ValueRef::Time(micros) | ValueRef::Timestamp(micros) if spelling.debezium => {
            text::integer(out, micros);
        }
        ValueRef::Date(i32::MAX)
        | ValueRef::Timestamp(i64::MAX)
        | ValueRef::TimestampTz(i64::MAX) => out.extend_from_slice(b"\"infinity\""),
        ValueRef::Date(i32::MIN)
        | ValueRef::Timestamp(i64::MIN)
        | ValueRef::TimestampTz(i64::MIN) => out.extend_from_slice(b"\"-infinity\""),
        ValueRef::Date(days) => quoted(out, |out| time::date(out, days.into())),
        ValueRef::Time(micros) => quoted(out, |out| time::time(out, micros)),
        ValueRef::Timestamp(micros) => quoted(out, |out| time::timestamp(out, micros)),
        ValueRef::TimestampTz(micros) => {
            out.push(b'"');
            time::timestamp(out, micros);
            out.extend_from_slice(b"Z\"");
        }
        ValueRef::Array(items) => array(out, items, spelling, deeper(depth)?)?,
        ValueRef::Map(entries) => map(out, entries, spelling, deeper(depth)?)?,
        ValueRef::Vector(elements) => vector(out, elements.iter()),
    }
    Ok(())
}

fn deeper(depth: usize) -> Result<usize, RowError> {
    if depth >= NESTING_MAX {
        return Err(refuse("values nested too deep"));
    }
    Ok(depth + 1)
}

fn array(
    out: &mut Vec<u8>,
    items: ArrayRef<'_>,
    spelling: Spelling,
    depth: usize,
) -> Result<(), RowError> {
    out.push(b'[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        value(out, item?, spelling, depth)?;
    }
    out.push(b']');
    Ok(())
}

fn map(
    out: &mut Vec<u8>,
    entries: MapRef<'_>,
    spelling: Spelling,
    depth: usize,
) -> Result<(), RowError> {
    let mut object = Object::open(out);
    for entry in entries.iter() {
        let (name, entry) = entry?;
        if entry == ValueRef::Unavailable && !spelling.debezium {
            continue;
        }
        value(object.member(name), entry, spelling, depth)?;
    }
    object.close();
    Ok(())
}

fn vector(out: &mut Vec<u8>, elements: impl Iterator<Item = f32>) {
    out.push(b'[');
    for (index, element) in elements.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        text::float32(out, element);
    }
    out.push(b']');
}

/// Appends an owned value, as [`value`] does.
pub(super) fn owned(
    out: &mut Vec<u8>,
    owned_value: &Value,
    spelling: Spelling,
    depth: usize,
) -> Result<(), RowError> {
    let scalar = match owned_value {
        Value::Null => ValueRef::Null,
        Value::Unavailable => ValueRef::Unavailable,
        Value::Bool(v) => ValueRef::Bool(*v),
        Value::Int(v) => ValueRef::Int(*v),
        Value::UInt(v) => ValueRef::UInt(*v),
        Value::Float32(v) => ValueRef::Float32(*v),
        Value::Float64(v) => ValueRef::Float64(*v),
        Value::Decimal(v) => ValueRef::Decimal(v),
        Value::Text(v) => ValueRef::Text(v),
        Value::Bytes(v) => ValueRef::Bytes(v),
        Value::Uuid(v) => ValueRef::Uuid(*v),
        Value::Json(v) => ValueRef::Json(v),
        Value::Date(v) => ValueRef::Date(*v),
        Value::Time(v) => ValueRef::Time(*v),
        Value::Timestamp(v) => ValueRef::Timestamp(*v),
        Value::TimestampTz(v) => ValueRef::TimestampTz(*v),
        Value::Vector(elements) => {
            vector(out, elements.iter().copied());
            return Ok(());
        }
        Value::Array(items) => {
            let depth = deeper(depth)?;
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                owned(out, item, spelling, depth)?;
            }
            out.push(b']');
            return Ok(());
        }
        Value::Map(entries) => {
            let depth = deeper(depth)?;
            let mut object = Object::open(out);
            for (name, entry) in entries {
                if *entry == Value::Unavailable && !spelling.debezium {
                    continue;
                }
                owned(object.member(name), entry, spelling, depth)?;
            }
            object.close();
            return Ok(());
        }
    };
    value(out, scalar, spelling, depth)
}

/// An object being written: puts the commas.
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> Object<'a> {
    pub(super) fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, first: true }
    }

    /// Writes the member's name; its value goes into the buffer given back.
    #[inline]
    pub(super) fn member(&mut self, name: &str) -> &mut Vec<u8> {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        self.out.push(b'"');
        text::escaped(self.out, name);
        self.out.extend_from_slice(b"\":");
        self.out
    }

    /// As [`member`](Self::member), of a name that is spelled with a comma, quotes and colon.
    #[inline]
    pub(super) fn spelled_member(&mut self, member: Member<'_>) -> &mut Vec<u8> {
        let Member { members, from, end } = member;
        text::piece(self.out, members, from + usize::from(self.first), end);
        self.first = false;
        self.out
    }

    pub(super) fn close(self) {
        self.out.push(b'}');
    }
}
