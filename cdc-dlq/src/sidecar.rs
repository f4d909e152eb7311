//! The index of an ended segment, in a file beside it (`docs/formats/dlq.md`): what opening needs
//! to know of its records, without their events. Pure functions; a file that is not whole or fits
//! another segment is no index, and the segment is read instead.

use std::collections::HashMap;

use cdc_core::{LetterState, Lsn, Position};

use crate::record::{Identity, LetterRecord};

const MAGIC: &[u8; 8] = b"WKCDCDX1";
/// Magic, sequence, length of the segment, offset and header checksum of its last frame, names,
/// operations.
#[cfg(test)]
const HEADER_LEN: usize = 40;
#[cfg(test)]
const LETTER_LEN: usize = 42;
#[cfg(test)]
const STATE_LEN: usize = 24;
const CRC_LEN: usize = 4;
const KIND_LETTER: u8 = 1;
const KIND_STATE: u8 = 2;

/// The file name of a segment's index.
pub(crate) fn sidecar_name(sequence: u64) -> String {
    format!("letters-{sequence:016x}.idx")
}

/// Longest index of a segment of this length: each operation is shorter than its record, and names
/// stand in records too.
pub(crate) const fn len_max(segment: u64) -> u64 {
    segment.saturating_add(1024)
}

/// Which content of a segment an index belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    /// The segment.
    pub(crate) sequence: u64,
    /// Its length.
    pub(crate) length: u64,
    /// Offset of its last frame; 0 without frames.
    pub(crate) last_at: u32,
    /// Checksum in the header of its last frame; 0 without frames.
    pub(crate) last_crc: u32,
}

/// What a record says to the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation<'a> {
    /// A letter record.
    Letter {
        identity: Identity<'a>,
        class: &'a str,
        state: LetterState,
        last_failed_micros: i64,
        /// Offset of the frame.
        offset: u32,
        /// Length of the frame with its header.
        length: u32,
    },
    /// A state record.
    State(Identity<'a>, LetterState),
}

/// Collects a segment's records.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    names: Vec<u8>,
    numbers: HashMap<String, Option<u16>>,
    operations: Vec<u8>,
    count: u32,
    overflow: bool,
}

impl Builder {
    fn name(&mut self, name: &str) -> u16 {
        if let Some(&number) = self.numbers.get(name) {
            return number.unwrap_or_default();
        }
        let number = u16::try_from(self.numbers.len()).ok();
        let length = u16::try_from(name.len()).ok();
        // A segment with more names than that is read in full.
        self.overflow |= number.is_none() || length.is_none();
        if let (Some(_), Some(length)) = (number, length) {
            self.names.extend_from_slice(&length.to_le_bytes());
            self.names.extend_from_slice(name.as_bytes());
        }
        if !self.overflow {
            self.numbers.insert(name.to_owned(), number);
        }
        number.unwrap_or_default()
    }

    fn identity(&mut self, identity: &Identity<'_>) {
        let out = &mut self.operations;
        out.extend_from_slice(&identity.source.to_le_bytes());
        out.extend_from_slice(&identity.position.commit.0.to_le_bytes());
        out.extend_from_slice(&identity.position.ordinal.to_le_bytes());
    }

    fn head(&mut self, kind: u8, state: LetterState, emitter: u16) {
        self.count = self.count.saturating_add(1);
        self.operations.extend_from_slice(&[kind, state as u8]);
        self.operations.extend_from_slice(&emitter.to_le_bytes());
    }

    /// Adds a letter record whose frame stands there.
    pub(crate) fn letter(&mut self, record: &LetterRecord<'_>, offset: u32, length: u32) {
        let emitter = self.name(record.identity.emitter);
        let class = self.name(record.class);
        self.head(KIND_LETTER, record.state, emitter);
        self.identity(&record.identity);
        let out = &mut self.operations;
        out.extend_from_slice(&class.to_le_bytes());
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&record.last_failed_micros.to_le_bytes());
    }

    /// Adds a state record.
    pub(crate) fn state(&mut self, identity: &Identity<'_>, state: LetterState) {
        let emitter = self.name(identity.emitter);
        self.head(KIND_STATE, state, emitter);
        self.identity(identity);
    }

    /// The file's bytes; `None` if the segment cannot be put into one.
    pub(crate) fn finish(self, seal: Seal) -> Option<Vec<u8>> {
        if self.overflow || self.count == u32::MAX {
            return None;
        }
        let names = u32::try_from(self.numbers.len()).ok()?;
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&seal.sequence.to_le_bytes());
        out.extend_from_slice(&seal.length.to_le_bytes());
        out.extend_from_slice(&seal.last_at.to_le_bytes());
        out.extend_from_slice(&seal.last_crc.to_le_bytes());
        out.extend_from_slice(&names.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.names);
        out.extend_from_slice(&self.operations);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        Some(out)
    }
}

/// Bytes that are taken from the front.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

/// Reads the index of the segment that `fits` says yes to, and calls `each` with its operations in
/// the segment's order; `None` if these bytes are none, or a part of one.
pub(crate) fn read<'a>(
    bytes: &'a [u8],
    fits: impl FnOnce(&Seal) -> bool,
    mut each: impl FnMut(Operation<'a>),
) -> Option<()> {
    let (body, crc) = bytes.split_last_chunk::<CRC_LEN>()?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut cursor = Cursor(body);
    if cursor.take(MAGIC.len())? != MAGIC {
        return None;
    }
    let seal = Seal {
        sequence: cursor.u64()?,
        length: cursor.u64()?,
        last_at: cursor.u32()?,
        last_crc: cursor.u32()?,
    };
    if !fits(&seal) {
        return None;
    }
    let (names_count, count) = (cursor.u32()? as usize, cursor.u32()? as usize);
    let mut names = Vec::with_capacity(names_count.min(body.len() / 2));
    for _ in 0..names_count {
        let length = cursor.u16()?;
        names.push(std::str::from_utf8(cursor.take(length.into())?).ok()?);
    }
    for _ in 0..count {
        each(operation(&mut cursor, &names)?);
    }
    cursor.0.is_empty().then_some(())
}

fn operation<'a>(cursor: &mut Cursor<'a>, names: &[&'a str]) -> Option<Operation<'a>> {
    let [kind, state] = cursor.array()?;
    let state = LetterState::from_u8(state)?;
    let emitter = names.get(usize::from(cursor.u16()?))?;
    let source = cursor.u64()?;
    let position = Position::new(Lsn(cursor.u64()?), cursor.u32()?);
    let identity = Identity {
        emitter,
        source,
        position,
    };
    match kind {
        KIND_LETTER => Some(Operation::Letter {
            identity,
            class: names.get(usize::from(cursor.u16()?))?,
            state,
            offset: cursor.u32()?,
            length: cursor.u32()?,
            last_failed_micros: cursor.array().map(i64::from_le_bytes)?,
        }),
        KIND_STATE => Some(Operation::State(identity, state)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cdc_core::Stage;
    use proptest::prelude::*;

    const SEAL: Seal = Seal {
        sequence: 7,
        length: 4000,
        last_at: 3900,
        last_crc: 0x1234_5678,
    };

    fn all(bytes: &[u8]) -> Option<(Seal, Vec<Operation<'_>>)> {
        let (mut seal, mut operations) = (None, Vec::new());
        let note = |found: &Seal| {
            seal = Some(*found);
            true
        };
        read(bytes, note, |operation| operations.push(operation))?;
        Some((seal?, operations))
    }

    fn identity(emitter: &str, commit: u64) -> Identity<'_> {
        Identity {
            emitter,
            source: 0x5a,
            position: Position::new(Lsn(commit), 3),
        }
    }

    fn built() -> Vec<u8> {
        let mut builder = Builder::default();
        let record = LetterRecord {
            identity: identity("hooks", 9),
            state: LetterState::Pending,
            stage: Stage::Deliver,
            class: "event",
            message: "",
            status: None,
            response: None,
            attempts: 1,
            first_failed_micros: 1,
            last_failed_micros: -2,
            event_at: 0,
        };
        builder.letter(&record, 24, 100);
        builder.state(&identity("hooks", 9), LetterState::Delivered);
        builder.finish(SEAL).unwrap()
    }

    #[test]
    fn an_index_reads_back() {
        let bytes = built();
        assert_eq!(
            bytes.len(),
            HEADER_LEN + 2 + 5 + 2 + 5 + LETTER_LEN + STATE_LEN + CRC_LEN
        );
        let (seal, operations) = all(&bytes).unwrap();
        assert_eq!(seal, SEAL);
        let letter = Operation::Letter {
            identity: identity("hooks", 9),
            class: "event",
            state: LetterState::Pending,
            last_failed_micros: -2,
            offset: 24,
            length: 100,
        };
        let state = Operation::State(identity("hooks", 9), LetterState::Delivered);
        assert_eq!(operations, [letter, state]);
        assert_eq!(read(&bytes, |_| false, |_| unreachable!()), None);
    }

    #[test]
    fn version_one_stays_readable() {
        // Frozen: bytes of the first release.
        let hex: String = built().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, V1);
    }

    const V1: &str = "574b4344434458310700000000000000a00f0000000000003c0f00007856341202000000020000000500686f6f6b7305006576656e74010000005a0000000000000009000000000000000300000001001800000064000000feffffffffffffff020300005a00000000000000090000000000000003000000d76e6947";

    #[test]
    fn more_names_than_there_are_numbers_make_no_index() {
        let mut builder = Builder::default();
        for at in 0..70_000 {
            builder.state(&identity(&at.to_string(), 1), LetterState::Discarded);
        }
        assert_eq!(builder.finish(SEAL), None);
    }

    proptest! {
        #[test]
        fn every_changed_bit_and_every_cut_is_noticed(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = built();
            let at = at.index(bytes.len());
            prop_assert_eq!(all(&bytes[..at]), None);
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(all(&bytes), None);
        }

        #[test]
        fn any_bytes_are_safe(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = all(&bytes);
            let with_magic = [&MAGIC[..], &bytes].concat();
            let crc = crc32c::crc32c(&with_magic).to_le_bytes();
            bytes = [&with_magic[..], &crc].concat();
            let _ = all(&bytes);
        }
    }
}
