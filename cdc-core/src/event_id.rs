//! Event ids: the key consumers deduplicate on.

use std::fmt;
use std::str::FromStr;

use crate::{Lineage, Lsn, Position};

/// The id of an event: the same on every redelivery, restart, replay, redrive and host.
///
/// Text of 42 characters: 16 hexadecimal digits of the source id, 16 of the commit LSN, 8 of the
/// ordinal, joined by `-`. Ids of one source sort by position. The timeline is left out, so that
/// a change delivered again after a failover keeps its id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    source: u64,
    position: Position,
}

impl EventId {
    /// Length of the text form in bytes.
    pub const LEN: usize = 42;

    /// The id of the event of this lineage at this position.
    pub fn new(lineage: &Lineage, position: Position) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = lineage.source_id;
        Self {
            source: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            position,
        }
    }

    /// An id from its parts, as [`source`](Self::source) and [`position`](Self::position) give
    /// them.
    pub const fn from_parts(source: u64, position: Position) -> Self {
        Self { source, position }
    }

    /// First half of the source id.
    pub const fn source(self) -> u64 {
        self.source
    }

    /// The event's position.
    pub const fn position(self) -> Position {
        self.position
    }

    /// The text form.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut text = [b'-'; Self::LEN];
        text[..Self::COMMIT_LEN].copy_from_slice(&self.commit_bytes());
        text[Self::COMMIT_LEN..].copy_from_slice(&self.ordinal_bytes());
        text
    }

    /// Length of the part that all events of a commit share.
    pub(crate) const COMMIT_LEN: usize = 34;

    /// The part of the text form that all events of a commit share.
    pub(crate) fn commit_bytes(self) -> [u8; Self::COMMIT_LEN] {
        let mut text = [b'-'; Self::COMMIT_LEN];
        hex(self.source.to_be_bytes(), &mut text[..16]);
        hex(self.position.commit.0.to_be_bytes(), &mut text[17..33]);
        text
    }

    /// The rest of the text form.
    pub(crate) fn ordinal_bytes(self) -> [u8; Self::LEN - Self::COMMIT_LEN] {
        let mut text = [0; Self::LEN - Self::COMMIT_LEN];
        hex(self.position.ordinal.to_be_bytes(), &mut text);
        text
    }
}

fn hex<const N: usize>(bytes: [u8; N], into: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.into_iter().zip(into.as_chunks_mut::<2>().0) {
        *pair = [
            DIGITS[usize::from(byte >> 4)],
            DIGITS[usize::from(byte & 15)],
        ];
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:016x}-{:016x}-{:08x}",
            self.source, self.position.commit.0, self.position.ordinal
        )
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventId({self})")
    }
}

/// The text is not an event id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "read an event id from {text:?}: expected 42 characters such as 00d4f6a1c2b3e495-00000000016b3748-00000001"
)]
pub struct ParseEventIdError {
    text: String,
}

impl FromStr for EventId {
    type Err = ParseEventIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut parts = text.split('-');
            let mut part = |digits: usize| {
                let part = parts.next().filter(|part| part.len() == digits)?;
                let plain = part
                    .bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
                plain.then(|| u64::from_str_radix(part, 16).ok()).flatten()
            };
            let (source, commit, ordinal) = (part(16)?, part(16)?, part(8)?);
            let position = Position::new(Lsn(commit), u32::try_from(ordinal).ok()?);
            parts.next().is_none().then_some(Self { source, position })
        };
        parse().ok_or_else(|| ParseEventIdError {
            text: text.chars().take(64).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SourceKind;

    #[test]
    fn text_forms_agree_and_ignore_the_timeline() {
        let mut lineage = Lineage::new(SourceKind::Postgres, [0xab; 16], 1);
        let id = EventId::new(&lineage, Position::new(Lsn(0x16B_3748), 300));
        assert_eq!(id.to_string().as_bytes(), id.to_bytes());
        assert_eq!(id.to_string(), "abababababababab-00000000016b3748-0000012c");
        assert_eq!(id.to_string().parse::<EventId>(), Ok(id));
        for bad in [
            "",
            "ab",
            "abababababababab-00000000016b3748-0000012c-",
            "ABABABABABABABAB-00000000016b3748-0000012c",
        ] {
            assert!(bad.parse::<EventId>().is_err(), "{bad}");
        }
        lineage.timeline = 9;
        assert_eq!(
            EventId::new(&lineage, Position::new(Lsn(0x16B_3748), 300)),
            id
        );
    }
}
