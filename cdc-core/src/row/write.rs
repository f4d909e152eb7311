//! Writing encoded rows.

use std::fmt;

use super::{Value, ValueRef, tag};

/// Appends one encoded row to a buffer that may already hold others.
///
/// The column count is filled in by [`RowWriter::finish`]. Dropping the writer without finishing
/// leaves a row with no columns and stray bytes behind it: always finish.
///
/// ```
/// use cdc_core::row::{RowImage, RowWriter, ValueRef};
/// let mut buffer = Vec::new();
/// let mut row = RowWriter::new(&mut buffer);
/// row.int(7);
/// row.text("seven");
/// row.finish();
/// let row = RowImage::from_bytes(buffer.into());
/// assert_eq!(row.get(0).unwrap(), Some(ValueRef::Int(7)));
/// ```
pub struct RowWriter<'a> {
    buffer: &'a mut Vec<u8>,
    start: usize,
    count: u32,
    gaps: u32,
}

/// Prints counts only: row contents belong to destinations, not to logs.
impl fmt::Debug for RowWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowWriter({} values)", self.count)
    }
}

/// Lengths are 32 bits on disk: a value of 4 GiB or more cannot exist here, since every source
/// bounds its fields at 1 GiB and every log bounds its records below that.
fn length(n: usize) -> [u8; 4] {
    u32::try_from(n)
        .expect("a value is bounded well below 4 GiB by every source")
        .to_le_bytes()
}

impl<'a> RowWriter<'a> {
    /// Starts a row at the end of `buffer`.
    pub fn new(buffer: &'a mut Vec<u8>) -> Self {
        let start = buffer.len();
        buffer.extend_from_slice(&[0, 0]);
        Self {
            buffer,
            start,
            count: 0,
            gaps: 0,
        }
    }

    /// Ends the row and gives its length in bytes.
    pub fn finish(self) -> usize {
        // `Relation::COLUMNS_MAX` is far below: a source refuses wider tables when it meets them.
        let count = u16::try_from(self.count)
            .expect("a row has at most 65535 columns")
            .to_le_bytes();
        self.buffer[self.start..self.start + 2].copy_from_slice(&count);
        self.buffer.len() - self.start
    }

    /// Number of columns written so far.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Number of them that are unavailable.
    pub const fn gap_count(&self) -> u32 {
        self.gaps
    }

    /// Length of the buffer: where the next value will begin, for [`repeat`](Self::repeat).
    #[inline]
    pub fn at(&self) -> usize {
        self.buffer.len()
    }

    /// Appends the value that stands in the buffer at `from..to` once more, as it is encoded there, say
    /// one of another row that was written before.
    ///
    /// # Panics
    /// If the buffer does not reach that far.
    #[inline]
    pub fn repeat(&mut self, from: usize, to: usize) {
        self.count += 1;
        self.gaps += u32::from(self.buffer.get(from) == Some(&tag::UNAVAILABLE));
        self.buffer.extend_from_within(from..to);
    }

    #[inline]
    fn tag(&mut self, tag: u8) {
        self.count += 1;
        self.buffer.push(tag);
    }

    #[inline]
    fn fixed<const N: usize>(&mut self, tag: u8, body: [u8; N]) {
        self.tag(tag);
        self.buffer.extend_from_slice(&body);
    }

    #[inline]
    fn sized(&mut self, tag: u8, body: &[u8]) {
        self.tag(tag);
        self.buffer.extend_from_slice(&length(body.len()));
        self.buffer.extend_from_slice(body);
    }

    /// Null.
    pub fn null(&mut self) {
        self.tag(tag::NULL);
    }

    /// A value the source did not send.
    pub fn unavailable(&mut self) {
        self.tag(tag::UNAVAILABLE);
        self.gaps += 1;
    }

    /// A boolean.
    pub fn bool(&mut self, value: bool) {
        self.tag(if value { tag::TRUE } else { tag::FALSE });
    }

    /// A signed integer.
    pub fn int(&mut self, value: i64) {
        self.fixed(tag::INT, value.to_le_bytes());
    }

    /// An unsigned integer.
    pub fn uint(&mut self, value: u64) {
        self.fixed(tag::UINT, value.to_le_bytes());
    }

    /// A 32-bit float.
    pub fn float32(&mut self, value: f32) {
        self.fixed(tag::FLOAT32, value.to_le_bytes());
    }

    /// A 64-bit float.
    pub fn float64(&mut self, value: f64) {
        self.fixed(tag::FLOAT64, value.to_le_bytes());
    }

    /// A decimal as digits.
    pub fn decimal(&mut self, digits: &str) {
        self.sized(tag::DECIMAL, digits.as_bytes());
    }

    /// Text.
    pub fn text(&mut self, text: &str) {
        self.sized(tag::TEXT, text.as_bytes());
    }

    /// Bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.sized(tag::BYTES, bytes);
    }

    /// A UUID.
    pub fn uuid(&mut self, uuid: [u8; 16]) {
        self.fixed(tag::UUID, uuid);
    }

    /// JSON text, kept as written.
    pub fn json(&mut self, json: &str) {
        self.sized(tag::JSON, json.as_bytes());
    }

    /// Days since 1970-01-01.
    pub fn date(&mut self, days: i32) {
        self.fixed(tag::DATE, days.to_le_bytes());
    }

    /// Microseconds since midnight.
    pub fn time(&mut self, micros: i64) {
        self.fixed(tag::TIME, micros.to_le_bytes());
    }

    /// Microseconds since 1970-01-01T00:00:00, no zone.
    pub fn timestamp(&mut self, micros: i64) {
        self.fixed(tag::TIMESTAMP, micros.to_le_bytes());
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    pub fn timestamp_tz(&mut self, micros: i64) {
        self.fixed(tag::TIMESTAMP_TZ, micros.to_le_bytes());
    }

    /// A vector of 32-bit floats.
    pub fn vector(&mut self, elements: &[f32]) {
        self.tag(tag::VECTOR);
        self.buffer.extend_from_slice(&length(elements.len()));
        for element in elements {
            self.buffer.extend_from_slice(&element.to_le_bytes());
        }
    }

    /// A list: `items` writes its values with the writer it is given, nested lists included.
    pub fn array(&mut self, items: impl FnOnce(&mut RowWriter<'_>)) {
        self.tag(tag::ARRAY);
        let at = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 8]);
        let mut inner = RowWriter {
            buffer: self.buffer,
            start: 0,
            count: 0,
            gaps: 0,
        };
        items(&mut inner);
        let count = inner.count;
        self.patch(at, count);
    }

    /// A map of text keys to values, in the order given.
    pub fn map<'v>(&mut self, entries: impl IntoIterator<Item = (&'v str, &'v Value)>) {
        self.tag(tag::MAP);
        let at = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 8]);
        let mut count = 0u32;
        for (key, value) in entries {
            self.buffer.extend_from_slice(&length(key.len()));
            self.buffer.extend_from_slice(key.as_bytes());
            RowWriter {
                buffer: self.buffer,
                start: 0,
                count: 0,
                gaps: 0,
            }
            .value(value);
            count += 1;
        }
        self.patch(at, count);
    }

    /// A map whose entries are written one by one, without owned values.
    ///
    /// ```
    /// use cdc_core::row::{RowImage, RowWriter, Value};
    /// let mut buffer = Vec::new();
    /// let mut row = RowWriter::new(&mut buffer);
    /// row.map_with(|entries| {
    ///     entries.entry("id", |value| value.int(7));
    ///     entries.entry("tags", |value| value.array(|tags| tags.text("new")));
    /// });
    /// row.finish();
    /// let values = RowImage::from_bytes(buffer.into()).to_values().unwrap();
    /// let Value::Map(entries) = &values[0] else { panic!("a map") };
    /// assert_eq!(entries[0], ("id".to_owned(), Value::Int(7)));
    /// assert_eq!(entries[1].0, "tags");
    /// ```
    pub fn map_with(&mut self, entries: impl FnOnce(&mut MapWriter<'_>)) {
        self.tag(tag::MAP);
        let at = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 8]);
        let mut inner = MapWriter {
            buffer: self.buffer,
            count: 0,
        };
        entries(&mut inner);
        let count = inner.count;
        self.patch(at, count);
    }

    fn patch(&mut self, at: usize, count: u32) {
        let body = length(self.buffer.len() - at - 4);
        self.buffer[at..at + 4].copy_from_slice(&body);
        self.buffer[at + 4..at + 8].copy_from_slice(&count.to_le_bytes());
    }

    /// An owned value.
    pub fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.null(),
            Value::Unavailable => self.unavailable(),
            Value::Bool(v) => self.bool(*v),
            Value::Int(v) => self.int(*v),
            Value::UInt(v) => self.uint(*v),
            Value::Float32(v) => self.float32(*v),
            Value::Float64(v) => self.float64(*v),
            Value::Decimal(v) => self.decimal(v),
            Value::Text(v) => self.text(v),
            Value::Bytes(v) => self.bytes(v),
            Value::Uuid(v) => self.uuid(*v),
            Value::Json(v) => self.json(v),
            Value::Date(v) => self.date(*v),
            Value::Time(v) => self.time(*v),
            Value::Timestamp(v) => self.timestamp(*v),
            Value::TimestampTz(v) => self.timestamp_tz(*v),
            Value::Array(v) => self.array(|items| v.iter().for_each(|v| items.value(v))),
            Value::Map(v) => self.map(v.iter().map(|(k, v)| (k.as_str(), v))),
            Value::Vector(v) => self.vector(v),
        }
    }

    /// The encoded bytes of one value of another row, as [`Columns::next_raw`](super::Columns::next_raw)
    /// gives them: copies a column without decoding it.
    pub fn raw(&mut self, encoded: &[u8]) {
        debug_assert!(!encoded.is_empty());
        self.count += 1;
        self.gaps += u32::from(encoded.first() == Some(&tag::UNAVAILABLE));
        self.buffer.extend_from_slice(encoded);
    }

    /// A borrowed scalar value; lists and maps are copied through their owned form.
    pub fn value_ref(&mut self, value: ValueRef<'_>) -> Result<(), super::RowError> {
        self.value(&value.to_value()?);
        Ok(())
    }
}

/// The entries of a map being written, see [`RowWriter::map_with`].
pub struct MapWriter<'a> {
    buffer: &'a mut Vec<u8>,
    count: u32,
}

/// As for [`RowWriter`].
impl fmt::Debug for MapWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MapWriter({} entries)", self.count)
    }
}

impl MapWriter<'_> {
    /// One entry: `value` writes exactly one value. Null stands for one that writes none; of
    /// several the first is kept.
    pub fn entry(&mut self, name: &str, value: impl FnOnce(&mut RowWriter<'_>)) {
        self.buffer.extend_from_slice(&length(name.len()));
        self.buffer.extend_from_slice(name.as_bytes());
        let start = self.buffer.len();
        let mut one = RowWriter {
            buffer: self.buffer,
            start: 0,
            count: 0,
            gaps: 0,
        };
        value(&mut one);
        match one.count {
            0 => one.null(),
            1 => {}
            _ => {
                let first = super::read::first_len(&self.buffer[start..]);
                self.buffer.truncate(start + first);
            }
        }
        self.count += 1;
    }
}
