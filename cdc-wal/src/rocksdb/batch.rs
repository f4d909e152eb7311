//! RocksDB's write batch: the payload of a record of its write-ahead log, and what
//! `GetUpdatesSince` gives. Read from bytes, without RocksDB. Format: `db/write_batch.cc` of
//! RocksDB, as of 7.8; unchanged since 2.x but for tags that were added.
//!
//! `sequence u64 | count u32 | records`, little-endian; a record is a tag, for most a column family
//! (varint32), and one or two strings (varint32 length, bytes). Without a column family it is the
//! default one, number 0.

use std::fmt;

/// Length of the header: sequence number and count.
const HEADER: usize = 12;

/// The bytes are no write batch, or one of a kind that is not read.
///
/// Never holds keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("decode a RocksDB write batch: {what} at byte {offset} of {len}")]
pub struct BatchError {
    /// What was wrong.
    pub what: &'static str,
    /// Where.
    pub offset: usize,
    /// Bytes of the batch.
    pub len: usize,
    /// True if the batch may be whole, but holds something that is not read here.
    pub unsupported: bool,
}

/// One record of a batch. Strings are slices of the batch's bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Record<'a> {
    /// A key got a value.
    Put {
        /// Number of the column family.
        family: u32,
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// A key was deleted.
    Delete {
        /// Number of the column family.
        family: u32,
        /// The key.
        key: &'a [u8],
    },
    /// A key that was written once was deleted.
    SingleDelete {
        /// Number of the column family.
        family: u32,
        /// The key.
        key: &'a [u8],
    },
    /// Keys from `start` up to but without `end` were deleted.
    DeleteRange {
        /// Number of the column family.
        family: u32,
        /// The first key.
        start: &'a [u8],
        /// The first key behind the range.
        end: &'a [u8],
    },
    /// An operand was merged into a key.
    Merge {
        /// Number of the column family.
        family: u32,
        /// The key.
        key: &'a [u8],
        /// The operand.
        operand: &'a [u8],
    },
    /// Bytes that only the log keeps, for whoever reads it.
    LogData(&'a [u8]),
    /// What stands between `BeginPrepare` and `EndPrepare` waits for a `Commit` of that name.
    BeginPrepare,
    /// The end of a prepared transaction, with its name.
    EndPrepare(&'a [u8]),
    /// A prepared transaction was committed.
    Commit(&'a [u8]),
    /// A prepared transaction was rolled back.
    Rollback(&'a [u8]),
    /// Nothing: keeps room for a marker.
    Noop,
}

impl Record<'_> {
    /// The name of the variant, for messages.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Put { .. } => "put",
            Self::Delete { .. } => "delete",
            Self::SingleDelete { .. } => "single delete",
            Self::DeleteRange { .. } => "range delete",
            Self::Merge { .. } => "merge",
            Self::LogData(_) => "log data",
            Self::BeginPrepare => "begin prepare",
            Self::EndPrepare(_) => "end prepare",
            Self::Commit(_) => "commit",
            Self::Rollback(_) => "rollback",
            Self::Noop => "noop",
        }
    }

    /// True for records that change data: each takes one sequence number.
    pub const fn is_change(&self) -> bool {
        matches!(
            self,
            Self::Put { .. }
                | Self::Delete { .. }
                | Self::SingleDelete { .. }
                | Self::DeleteRange { .. }
                | Self::Merge { .. }
        )
    }
}

/// Prints the name only: keys and values belong to destinations, not to logs.
impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A write batch, borrowed. Reading is lazy and checked; no bytes make it panic or allocate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Batch<'a> {
    bytes: &'a [u8],
    sequence: u64,
    count: u32,
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} changes from {})", self.count, self.sequence)
    }
}

impl<'a> Batch<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// If the bytes end within it, or the sequence numbers overflow.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, BatchError> {
        let error = |what| BatchError {
            what,
            offset: 0,
            len: bytes.len(),
            unsupported: false,
        };
        let header: &[u8; HEADER] = bytes.first_chunk().ok_or(error("a header cut off"))?;
        let [s0, s1, s2, s3, s4, s5, s6, s7, c0, c1, c2, c3] = *header;
        let sequence = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let count = u32::from_le_bytes([c0, c1, c2, c3]);
        if sequence.checked_add(count.into()).is_none() {
            return Err(error("sequence numbers that overflow"));
        }
        Ok(Self {
            bytes,
            sequence,
            count,
        })
    }

    /// Sequence number of the first change.
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Number of changes, as the header says.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Sequence number of what follows.
    pub fn next_sequence(&self) -> u64 {
        // Checked when it was decoded.
        self.sequence.saturating_add(self.count.into())
    }

    /// The records in order. Stops after the first error; the last item is an error if the changes
    /// are not as many as the header says.
    pub const fn records(&self) -> Records<'a> {
        Records {
            bytes: self.bytes,
            at: HEADER,
            left: Some(self.count),
        }
    }
}

/// The records of a batch.
#[derive(Clone)]
pub struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Changes still to come; `None` behind the end.
    left: Option<u32>,
}

impl fmt::Debug for Records<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Records(at byte {})", self.at)
    }
}

impl<'a> Records<'a> {
    #[cold]
    const fn error(&self, what: &'static str) -> BatchError {
        BatchError {
            what,
            offset: self.at,
            len: self.bytes.len(),
            unsupported: false,
        }
    }

    fn byte(&mut self) -> Result<u8, BatchError> {
        let byte = self.bytes.get(self.at).copied();
        let byte = byte.ok_or(self.error("a record cut off"))?;
        self.at += 1;
        Ok(byte)
    }

    fn varint(&mut self) -> Result<u32, BatchError> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.byte()?;
            let bits = u32::from(byte & 0x7f);
            if shift == 28 && byte > 0x0f {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.error("a number of more than 32 bits"))
    }

    fn string(&mut self) -> Result<&'a [u8], BatchError> {
        let length = self.varint()? as usize;
        let string = self
            .at
            .checked_add(length)
            .and_then(|end| self.bytes.get(self.at..end));
        let string = string.ok_or(self.error("a string cut off"))?;
        self.at += length;
        Ok(string)
    }

    fn record(&mut self) -> Result<Record<'a>, BatchError> {
        let start = self.at;
        let tag = self.byte()?;
        // Those with a column family, each beside its tag for the default one.
        let (plain, family) = match tag {
            0x4 => (0x0, self.varint()?),
            0x5 => (0x1, self.varint()?),
            0x6 => (0x2, self.varint()?),
            0x8 => (0x7, self.varint()?),
            0xe => (0xf, self.varint()?),
            other => (other, 0),
        };
        Ok(match plain {
            0x0 => Record::Delete {
                family,
                key: self.string()?,
            },
            0x1 => Record::Put {
                family,
                key: self.string()?,
                value: self.string()?,
            },
            0x2 => Record::Merge {
                family,
                key: self.string()?,
                operand: self.string()?,
            },
            0x3 => Record::LogData(self.string()?),
            0x7 => Record::SingleDelete {
                family,
                key: self.string()?,
            },
            0xf => Record::DeleteRange {
                family,
                start: self.string()?,
                end: self.string()?,
            },
            // Persisted and unprepared ones begin alike.
            0x9 | 0x12 | 0x13 => Record::BeginPrepare,
            0xa => Record::EndPrepare(self.string()?),
            0xb => Record::Commit(self.string()?),
            0x15 => {
                let _timestamp = self.string()?;
                Record::Commit(self.string()?)
            }
            0xc => Record::Rollback(self.string()?),
            0xd => Record::Noop,
            0x10 | 0x11 => return Err(self.unsupported(start, "a blob index")),
            0x16 | 0x17 => return Err(self.unsupported(start, "a wide-column entity")),
            0x18 | 0x19 => {
                return Err(self.unsupported(start, "a value with a preferred sequence number"));
            }
            _ => {
                self.at = start;
                return Err(self.error("an unknown tag"));
            }
        })
    }

    #[cold]
    const fn unsupported(&self, at: usize, what: &'static str) -> BatchError {
        BatchError {
            what,
            offset: at,
            len: self.bytes.len(),
            unsupported: true,
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let left = self.left?;
        if self.at >= self.bytes.len() {
            self.left = None;
            return (left > 0).then(|| Err(self.error("fewer changes than the header says")));
        }
        let record = self.record();
        self.left = match &record {
            Err(_) => None,
            Ok(record) if !record.is_change() => Some(left),
            Ok(_) => match left.checked_sub(1) {
                Some(left) => Some(left),
                None => {
                    self.left = None;
                    return Some(Err(self.error("more changes than the header says")));
                }
            },
        };
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A batch with this header and these bytes behind it.
    fn batch(sequence: u64, count: u32, records: &[&[u8]]) -> Vec<u8> {
        let mut bytes = sequence.to_le_bytes().to_vec();
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend(records.concat());
        bytes
    }

    #[track_caller]
    fn check(bytes: &[u8], expected: &[Record<'_>]) {
        let batch = Batch::decode(bytes).expect("a header");
        let records: Result<Vec<_>, _> = batch.records().collect();
        assert_eq!(records.expect("records"), expected);
    }

    #[test]
    fn every_tag_is_read() {
        let bytes = batch(
            7,
            10,
            &[
                b"\x01\x01k\x02vw",
                b"\x05\x03\x01k\x00",
                b"\x00\x01k",
                b"\x04\x81\x01\x01k",
                b"\x07\x01k",
                b"\x08\x02\x01k",
                b"\x0f\x01a\x01b",
                b"\x0e\x02\x01a\x01b",
                b"\x02\x01k\x01o",
                b"\x06\x02\x01k\x01o",
                b"\x03\x03log",
                b"\x09\x0a\x01x\x0b\x01x\x0c\x01x\x0d",
                b"\x12\x13\x15\x02ts\x01x",
            ],
        );
        let key = b"k".as_slice();
        check(
            &bytes,
            &[
                Record::Put {
                    family: 0,
                    key,
                    value: b"vw",
                },
                Record::Put {
                    family: 3,
                    key,
                    value: b"",
                },
                Record::Delete { family: 0, key },
                Record::Delete { family: 129, key },
                Record::SingleDelete { family: 0, key },
                Record::SingleDelete { family: 2, key },
                Record::DeleteRange {
                    family: 0,
                    start: b"a",
                    end: b"b",
                },
                Record::DeleteRange {
                    family: 2,
                    start: b"a",
                    end: b"b",
                },
                Record::Merge {
                    family: 0,
                    key,
                    operand: b"o",
                },
                Record::Merge {
                    family: 2,
                    key,
                    operand: b"o",
                },
                Record::LogData(b"log"),
                Record::BeginPrepare,
                Record::EndPrepare(b"x"),
                Record::Commit(b"x"),
                Record::Rollback(b"x"),
                Record::Noop,
                Record::BeginPrepare,
                Record::BeginPrepare,
                Record::Commit(b"x"),
            ],
        );
        assert_eq!(Batch::decode(&bytes).map(|b| b.next_sequence()), Ok(17));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (bytes, what) in [
            (b"short".to_vec(), "a header cut off"),
            (batch(u64::MAX, 1, &[]), "sequence numbers that overflow"),
            (batch(1, 1, &[]), "fewer changes than the header says"),
            (
                batch(1, 0, &[b"\x00\x01k"]),
                "more changes than the header says",
            ),
            (batch(1, 1, &[b"\x01\x01k"]), "a record cut off"),
            (batch(1, 1, &[b"\x01\x09k"]), "a string cut off"),
            (
                batch(1, 1, &[b"\x01\xff\xff\xff\xff\x1f"]),
                "a number of more than 32 bits",
            ),
            (batch(1, 1, &[b"\x7f"]), "an unknown tag"),
            (batch(1, 1, &[b"\x11\x01k\x01b"]), "a blob index"),
            (batch(1, 1, &[b"\x16\x01k\x01b"]), "a wide-column entity"),
        ] {
            let read = Batch::decode(&bytes)
                .and_then(|batch| batch.records().collect::<Result<Vec<_>, _>>());
            assert_eq!(read.expect_err(what).what, what);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), low in any::<bool>()) {
            if low {
                // Mostly tags and short lengths.
                bytes.iter_mut().skip(8).for_each(|byte| *byte &= 0x0f);
            }
            if let Ok(batch) = Batch::decode(&bytes) {
                let records: Vec<_> = batch.records().collect();
                prop_assert!(records.len() <= bytes.len());
                let changes = records.iter().flatten().filter(|record| record.is_change()).count();
                if records.iter().all(Result::is_ok) {
                    prop_assert_eq!(changes, batch.count() as usize);
                }
            }
        }
    }
}
