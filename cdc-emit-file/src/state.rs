//! The emitter's state in the checkpoint: where in which file the stream stands.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 | 1 if a file is open, else 0 |
//! | 8 | number of closed files |
//! | 8 | length of the manifest |
//! | 32 | chain hash of the manifest's last line |
//! | 8 + 4 | position of the last event written |
//! | only with an open file: 2 + n | length of its name, name without `.part` |
//! | 8 + 8 + 8 + 4 + 8 | its length, events, lines, crc32c, wall time of opening in microseconds |
//! | 4 | crc32c of all before |
//!
//! Little-endian.

use bytes::Bytes;
use cdc_core::{Checkpoint, Lsn, Position};

const VERSION: u8 = 1;

/// A chain hash or file hash.
pub(crate) type Hash = [u8; 32];

/// Where the stream stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileState {
    pub(crate) sequence: u64,
    pub(crate) manifest_len: u64,
    pub(crate) chain: Hash,
    pub(crate) last: Position,
    pub(crate) open: Option<OpenState>,
}

/// Where the open file stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenState {
    pub(crate) name: String,
    pub(crate) length: u64,
    pub(crate) events: u64,
    pub(crate) lines: u64,
    pub(crate) crc: u32,
    pub(crate) opened_micros: i64,
}

impl FileState {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(256);
        out.push(VERSION);
        out.push(u8::from(self.open.is_some()));
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.manifest_len.to_le_bytes());
        out.extend_from_slice(&self.chain);
        out.extend_from_slice(&self.last.commit.0.to_le_bytes());
        out.extend_from_slice(&self.last.ordinal.to_le_bytes());
        if let Some(open) = &self.open {
            // A name is at most 64 bytes of stream and 60 of ours.
            let length = u16::try_from(open.name.len()).unwrap_or(u16::MAX);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&open.name.as_bytes()[..length.into()]);
            out.extend_from_slice(&open.length.to_le_bytes());
            out.extend_from_slice(&open.events.to_le_bytes());
            out.extend_from_slice(&open.lines.to_le_bytes());
            out.extend_from_slice(&open.crc.to_le_bytes());
            out.extend_from_slice(&open.opened_micros.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        debug_assert!(out.len() <= Checkpoint::STATE_MAX);
        out.into()
    }

    /// Reads a state; says what is wrong with it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.first().is_some_and(|version| *version > VERSION) {
            return Err("a newer release stored it");
        }
        let damaged = "the checkpoint's emitter state is damaged, or another emitter's";
        let (body, crc) = bytes.split_last_chunk().ok_or(damaged)?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return Err(damaged);
        }
        Self::read(body).ok_or(damaged)
    }

    fn read(mut rest: &[u8]) -> Option<Self> {
        let rest = &mut rest;
        let [version, is_open] = take(rest)?;
        if version != VERSION {
            return None;
        }
        let mut state = Self {
            sequence: u64::from_le_bytes(take(rest)?),
            manifest_len: u64::from_le_bytes(take(rest)?),
            chain: take(rest)?,
            last: Position::new(
                Lsn(u64::from_le_bytes(take(rest)?)),
                u32::from_le_bytes(take(rest)?),
            ),
            open: None,
        };
        if is_open == 1 {
            let length = u16::from_le_bytes(take(rest)?);
            let (name, after) = rest.split_at_checked(length.into())?;
            *rest = after;
            state.open = Some(OpenState {
                name: std::str::from_utf8(name).ok()?.to_owned(),
                length: u64::from_le_bytes(take(rest)?),
                events: u64::from_le_bytes(take(rest)?),
                lines: u64::from_le_bytes(take(rest)?),
                crc: u32::from_le_bytes(take(rest)?),
                opened_micros: i64::from_le_bytes(take(rest)?),
            });
        }
        (rest.is_empty() && is_open <= 1).then_some(state)
    }
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = from.split_first_chunk::<N>()?;
    *from = rest;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn state(name: Option<&str>) -> FileState {
        FileState {
            sequence: 3,
            manifest_len: 900,
            chain: [7; 32],
            last: Position::new(Lsn(9), 2),
            open: name.map(|name| OpenState {
                name: name.into(),
                length: 1 << 40,
                events: 5,
                lines: 6,
                crc: 0xdead_beef,
                opened_micros: -1,
            }),
        }
    }

    proptest! {
        #[test]
        fn round_trips_and_notices_every_changed_byte(
            name in proptest::option::of("[a-z0-9.-]{1,120}"), at in any::<prop::sample::Index>(), flip in 1u8..,
        ) {
            let state = state(name.as_deref());
            let encoded = state.encode();
            prop_assert!(encoded.len() < 400);
            prop_assert_eq!(FileState::decode(&encoded), Ok(state));
            let mut damaged = encoded.to_vec();
            let at = at.index(damaged.len());
            damaged[at] ^= flip;
            prop_assert!(FileState::decode(&damaged).is_err());
        }

        #[test]
        fn any_bytes_are_refused_or_read(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = FileState::decode(&bytes);
            let crc = crc32c::crc32c(&bytes);
            bytes.extend_from_slice(&crc.to_le_bytes());
            let _ = FileState::decode(&bytes);
        }
    }

    #[test]
    fn version_one_stays_readable() {
        // Frozen: a state the first release stored must be read by every later one.
        let hex: String = (state(None).encode().iter().map(|b| format!("{b:02x}"))).collect();
        let frozen = concat!(
            "01000300000000000000840300000000000007070707070707070707070707070707070707",
            "07070707070707070707070707090000000000000002000000"
        );
        assert_eq!(&hex[..hex.len() - 8], frozen);
    }
}
