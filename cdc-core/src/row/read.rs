//! Reading values from encoded bytes.

use std::fmt;

use super::{NESTING_MAX, RowError, Value, tag};

/// One value, borrowed from the row's bytes.
///
/// `Debug` prints the type only.
#[derive(Clone, Copy, PartialEq)]
pub enum ValueRef<'a> {
    /// SQL null or its like.
    Null,
    /// The source did not send the value. Never the same as null.
    Unavailable,
    /// Boolean.
    Bool(bool),
    /// Signed integer, whole.
    Int(i64),
    /// Unsigned integer, whole.
    UInt(u64),
    /// 32-bit float, bit-exact.
    Float32(f32),
    /// 64-bit float, bit-exact.
    Float64(f64),
    /// Decimal number as the source's digits (`-12.340`, `NaN`, `Infinity`).
    Decimal(&'a str),
    /// Text.
    Text(&'a str),
    /// Bytes.
    Bytes(&'a [u8]),
    /// UUID, big-endian as printed.
    Uuid([u8; 16]),
    /// JSON text as the source keeps it.
    Json(&'a str),
    /// Days since 1970-01-01; `i32::MIN` and `i32::MAX` are minus and plus infinity.
    Date(i32),
    /// Microseconds since midnight, without zone.
    Time(i64),
    /// Microseconds since 1970-01-01T00:00:00 without zone; `i64::MIN`/`MAX` are infinities.
    Timestamp(i64),
    /// Microseconds since 1970-01-01T00:00:00Z; `i64::MIN`/`MAX` are infinities.
    TimestampTz(i64),
    /// List of values.
    Array(ArrayRef<'a>),
    /// Text keys to values, in the source's order.
    Map(MapRef<'a>),
    /// Vector of 32-bit floats, bit-exact.
    Vector(VectorRef<'a>),
}

impl fmt::Debug for ValueRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.type_name())
    }
}

impl ValueRef<'_> {
    /// The name of the variant, for messages.
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Unavailable => "unavailable",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::UInt(_) => "uint",
            Self::Float32(_) => "float32",
            Self::Float64(_) => "float64",
            Self::Decimal(_) => "decimal",
            Self::Text(_) => "text",
            Self::Bytes(_) => "bytes",
            Self::Uuid(_) => "uuid",
            Self::Json(_) => "json",
            Self::Date(_) => "date",
            Self::Time(_) => "time",
            Self::Timestamp(_) => "timestamp",
            Self::TimestampTz(_) => "timestamptz",
            Self::Array(_) => "array",
            Self::Map(_) => "map",
            Self::Vector(_) => "vector",
        }
    }

    /// An owned copy.
    pub fn to_value(&self) -> Result<Value, RowError> {
        self.validate(0)?;
        self.copy()
    }

    fn copy(&self) -> Result<Value, RowError> {
        Ok(match *self {
            Self::Null => Value::Null,
            Self::Unavailable => Value::Unavailable,
            Self::Bool(v) => Value::Bool(v),
            Self::Int(v) => Value::Int(v),
            Self::UInt(v) => Value::UInt(v),
            Self::Float32(v) => Value::Float32(v),
            Self::Float64(v) => Value::Float64(v),
            Self::Decimal(v) => Value::Decimal(v.to_owned()),
            Self::Text(v) => Value::Text(v.to_owned()),
            Self::Bytes(v) => Value::Bytes(v.to_vec()),
            Self::Uuid(v) => Value::Uuid(v),
            Self::Json(v) => Value::Json(v.to_owned()),
            Self::Date(v) => Value::Date(v),
            Self::Time(v) => Value::Time(v),
            Self::Timestamp(v) => Value::Timestamp(v),
            Self::TimestampTz(v) => Value::TimestampTz(v),
            Self::Array(v) => Value::Array(v.iter().map(|v| v?.copy()).collect::<Result<_, _>>()?),
            Self::Map(v) => Value::Map(
                v.iter()
                    .map(|entry| entry.and_then(|(k, v)| Ok((k.to_owned(), v.copy()?))))
                    .collect::<Result<_, _>>()?,
            ),
            Self::Vector(v) => Value::Vector(v.iter().collect()),
        })
    }

    pub(super) fn validate(&self, depth: usize) -> Result<(), RowError> {
        if depth > NESTING_MAX {
            return Err(RowError {
                what: "values nested too deep",
                offset: 0,
                len: 0,
            });
        }
        match self {
            Self::Array(array) => array.iter().try_for_each(|v| v?.validate(depth + 1)),
            Self::Map(map) => map
                .iter()
                .try_for_each(|entry| entry?.1.validate(depth + 1)),
            _ => Ok(()),
        }
    }
}

/// A checked walk over encoded bytes; offsets in errors count from the start of the slice.
#[derive(Clone, Copy)]
struct Reader<'a> {
    /// What is still to be read.
    rest: &'a [u8],
    /// Length of the slice it began with.
    len: usize,
}

impl<'a> Reader<'a> {
    const fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            len: bytes.len(),
        }
    }

    /// Offset of the next byte.
    #[inline]
    const fn at(&self) -> usize {
        self.len - self.rest.len()
    }

    #[cold]
    fn error(&self, what: &'static str) -> RowError {
        RowError {
            what,
            offset: self.at(),
            len: self.len,
        }
    }

    #[inline]
    fn take(&mut self, n: usize) -> Result<&'a [u8], RowError> {
        match self.rest.split_at_checked(n) {
            Some((slice, rest)) => {
                self.rest = rest;
                Ok(slice)
            }
            None => Err(self.error("value cut off")),
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], RowError> {
        match self.rest.split_first_chunk::<N>() {
            Some((chunk, rest)) => {
                self.rest = rest;
                Ok(*chunk)
            }
            None => Err(self.error("value cut off")),
        }
    }

    /// What was read since `before`, an earlier state of this reader.
    #[inline]
    fn since(&self, before: &Self) -> &'a [u8] {
        let read = before.rest.len() - self.rest.len();
        before.rest.get(..read).unwrap_or_default()
    }

    #[inline]
    fn length(&mut self) -> Result<usize, RowError> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    #[inline]
    fn sized(&mut self) -> Result<&'a [u8], RowError> {
        let length = self.length()?;
        self.take(length)
    }

    #[inline]
    fn text(&mut self) -> Result<&'a str, RowError> {
        let bytes = self.sized()?;
        simdutf8::basic::from_utf8(bytes).map_err(|_| self.error("text is not UTF-8"))
    }

    /// A nested body: `byte length u32 | count u32 | items`.
    #[inline]
    fn body(&mut self) -> Result<(u32, &'a [u8]), RowError> {
        let mut body = Reader::new(self.sized()?);
        let count = u32::from_le_bytes(body.array()?);
        Ok((count, body.rest))
    }

    #[inline]
    fn value(&mut self) -> Result<ValueRef<'a>, RowError> {
        let before = *self;
        let [tag] = self.array()?;
        Ok(match tag {
            tag::NULL => ValueRef::Null,
            tag::UNAVAILABLE => ValueRef::Unavailable,
            tag::FALSE => ValueRef::Bool(false),
            tag::TRUE => ValueRef::Bool(true),
            tag::INT => ValueRef::Int(i64::from_le_bytes(self.array()?)),
            tag::UINT => ValueRef::UInt(u64::from_le_bytes(self.array()?)),
            tag::FLOAT32 => ValueRef::Float32(f32::from_le_bytes(self.array()?)),
            tag::FLOAT64 => ValueRef::Float64(f64::from_le_bytes(self.array()?)),
            tag::DECIMAL => ValueRef::Decimal(self.text()?),
            tag::TEXT => ValueRef::Text(self.text()?),
            tag::BYTES => ValueRef::Bytes(self.sized()?),
            tag::UUID => ValueRef::Uuid(self.array()?),
            tag::JSON => ValueRef::Json(self.text()?),
            tag::DATE => ValueRef::Date(i32::from_le_bytes(self.array()?)),
            tag::TIME => ValueRef::Time(i64::from_le_bytes(self.array()?)),
            tag::TIMESTAMP => ValueRef::Timestamp(i64::from_le_bytes(self.array()?)),
            tag::TIMESTAMP_TZ => ValueRef::TimestampTz(i64::from_le_bytes(self.array()?)),
            tag::ARRAY => {
                let (count, bytes) = self.body()?;
                ValueRef::Array(ArrayRef { count, bytes })
            }
            tag::MAP => {
                let (count, bytes) = self.body()?;
                ValueRef::Map(MapRef { count, bytes })
            }
            tag::VECTOR => {
                let count = self.length()?;
                let length = count
                    .checked_mul(4)
                    .ok_or_else(|| self.error("vector too long"))?;
                ValueRef::Vector(VectorRef {
                    bytes: self.take(length)?,
                })
            }
            _ => {
                return Err(before.error("unknown value tag"));
            }
        })
    }
}

impl<'a> Reader<'a> {
    /// Steps over a value without looking into it.
    #[inline]
    fn skip(&mut self) -> Result<(), RowError> {
        let before = *self;
        let [tag] = self.array()?;
        let length = match tag {
            tag::NULL | tag::UNAVAILABLE | tag::FALSE | tag::TRUE => 0,
            tag::FLOAT32 | tag::DATE => 4,
            tag::INT
            | tag::UINT
            | tag::FLOAT64
            | tag::TIME
            | tag::TIMESTAMP
            | tag::TIMESTAMP_TZ => 8,
            tag::UUID => 16,
            tag::DECIMAL | tag::TEXT | tag::BYTES | tag::JSON | tag::ARRAY | tag::MAP => {
                self.length()?
            }
            tag::VECTOR => {
                let count = self.length()?;
                let length = count.checked_mul(4);
                length.ok_or_else(|| self.error("vector too long"))?
            }
            _ => {
                return Err(before.error("unknown value tag"));
            }
        };
        self.take(length).map(drop)
    }
}

/// Length of the first encoded value of bytes this crate wrote; all of them if there is none.
pub(super) fn first_len(bytes: &[u8]) -> usize {
    let mut reader = Reader::new(bytes);
    match reader.value() {
        Ok(_) => reader.at(),
        Err(_) => bytes.len(),
    }
}

/// The values of a row, in column order. Stops after the first error.
#[derive(Clone)]
pub struct Columns<'a> {
    reader: Reader<'a>,
    left: usize,
}

impl fmt::Debug for Columns<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Columns({} left)", self.left)
    }
}

impl<'a> Columns<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, RowError> {
        let mut reader = Reader::new(bytes);
        let left = usize::from(u16::from_le_bytes(reader.array()?));
        Ok(Self { reader, left })
    }

    /// How many values are still to come.
    pub const fn remaining(&self) -> usize {
        self.left
    }

    /// Where the next value begins, in bytes from the start of the row.
    #[inline]
    pub(crate) const fn at(&self) -> usize {
        self.reader.at()
    }

    /// Steps over the next value without looking into it and gives its encoded bytes.
    #[inline]
    pub(crate) fn skip_raw(&mut self) -> Option<Result<&'a [u8], RowError>> {
        self.left = self.left.checked_sub(1)?;
        let before = self.reader;
        if let Err(error) = self.reader.skip() {
            self.left = 0;
            return Some(Err(error));
        }
        Some(Ok(self.reader.since(&before)))
    }

    /// The encoded bytes of the next value, tag included, without decoding it.
    pub fn next_raw(&mut self) -> Option<Result<&'a [u8], RowError>> {
        let before = self.reader;
        match self.next()? {
            Ok(_) => Some(Ok(self.reader.since(&before))),
            Err(error) => Some(Err(error)),
        }
    }
}

impl<'a> Iterator for Columns<'a> {
    type Item = Result<ValueRef<'a>, RowError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let value = self.reader.value();
        if value.is_err() {
            self.left = 0;
        }
        Some(value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

/// A list, borrowed.
#[derive(Clone, Copy, PartialEq)]
pub struct ArrayRef<'a> {
    count: u32,
    bytes: &'a [u8],
}

impl<'a> ArrayRef<'a> {
    /// Number of items the list says it has.
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// True if it has none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The items in order.
    pub const fn iter(&self) -> Items<'a> {
        Items {
            reader: Reader::new(self.bytes),
            left: self.count,
        }
    }
}

impl fmt::Debug for ArrayRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArrayRef({} items)", self.count)
    }
}

/// Items of a list. Stops after the first error.
#[derive(Clone)]
pub struct Items<'a> {
    reader: Reader<'a>,
    left: u32,
}

impl fmt::Debug for Items<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Items({} left)", self.left)
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<ValueRef<'a>, RowError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let value = self.reader.value();
        if value.is_err() {
            self.left = 0;
        }
        Some(value)
    }
}

/// A map with text keys, borrowed.
#[derive(Clone, Copy, PartialEq)]
pub struct MapRef<'a> {
    count: u32,
    bytes: &'a [u8],
}

impl<'a> MapRef<'a> {
    /// Number of entries the map says it has.
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// True if it has none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The entries in order.
    pub const fn iter(&self) -> MapEntries<'a> {
        MapEntries {
            reader: Reader::new(self.bytes),
            left: self.count,
        }
    }
}

impl fmt::Debug for MapRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MapRef({} entries)", self.count)
    }
}

/// Entries of a map. Stops after the first error.
#[derive(Clone)]
pub struct MapEntries<'a> {
    reader: Reader<'a>,
    left: u32,
}

impl fmt::Debug for MapEntries<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MapEntries({} left)", self.left)
    }
}

impl<'a> Iterator for MapEntries<'a> {
    type Item = Result<(&'a str, ValueRef<'a>), RowError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let entry = self
            .reader
            .text()
            .and_then(|key| Ok((key, self.reader.value()?)));
        if entry.is_err() {
            self.left = 0;
        }
        Some(entry)
    }
}

/// A vector of 32-bit floats, borrowed.
#[derive(Clone, Copy, PartialEq)]
pub struct VectorRef<'a> {
    bytes: &'a [u8],
}

impl VectorRef<'_> {
    /// Number of elements.
    pub const fn len(&self) -> usize {
        self.bytes.len() / 4
    }

    /// True if it has none.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The elements in order.
    pub fn iter(&self) -> impl Iterator<Item = f32> + '_ {
        self.bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|chunk| f32::from_le_bytes(*chunk))
    }
}

impl fmt::Debug for VectorRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VectorRef({} elements)", self.len())
    }
}
