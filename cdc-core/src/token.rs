//! Resume tokens: a position a consumer may hold, as opaque text.
//!
//! Bytes, big-endian, then base32hex in lower case without padding behind `cdc1_`
//! (`docs/formats/resume-token.md`):
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 | source kind |
//! | 16 | source id |
//! | 4 | timeline |
//! | 8 | commit LSN |
//! | 4 | ordinal |
//! | 2 | flags, 0 |
//! | 2 | length of the extension |
//! | 0..=1024 | extension (opaque to this crate: a GTID set, ...) |
//! | 4 | CRC-32C of all bytes before it |
//!
//! Base32hex keeps byte order, so tokens of one source and timeline sort as text.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use crate::{Lineage, Lsn, Position, SourceKind};

const PREFIX: &str = "cdc1_";
const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
const FIXED_LEN: usize = 1 + 1 + 16 + 4 + 8 + 4 + 2 + 2;
const CRC_LEN: usize = 4;

/// "Everything up to and including this position of this lineage is done."
///
/// Resuming is strictly after it. A token finds its own damage (CRC), not forgery.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResumeToken {
    lineage: Lineage,
    position: Position,
    extension: Bytes,
}

/// Why text is not a token that can be read here. Each has its own kind; all are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Not the text of a token.
    #[error("read a resume token: {what}; copy the whole token, from cdc1_ to its last character")]
    Malformed {
        /// What was wrong.
        what: &'static str,
    },
    /// The checksum does not fit: a character is wrong or missing.
    #[error(
        "read a resume token: its checksum does not match; copy the token again, a character is wrong or missing"
    )]
    Damaged,
    /// Written by a newer version of this software.
    #[error(
        "read a resume token: it has version {version}, this build reads up to 1; upgrade to use it"
    )]
    NewerVersion {
        /// The token's version.
        version: u8,
    },
}

/// Why a well-formed token cannot be used with a source. Never a silent skip.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenRefusal {
    /// It belongs to another source.
    #[error(
        "resume {token}: the token belongs to source {token_lineage}, this is {source_lineage}; use a token of this source"
    )]
    OtherSource {
        /// The position in the token.
        token: Position,
        /// Lineage in the token.
        token_lineage: Lineage,
        /// Lineage of the source.
        source_lineage: Lineage,
    },
    /// Its timeline is not one this source descends from.
    #[error(
        "resume {token}: the token's timeline {timeline} is not in the history of the source (now on timeline {current}); its events may have been lost in a failover"
    )]
    OtherTimeline {
        /// The position in the token.
        token: Position,
        /// Timeline in the token.
        timeline: u32,
        /// Timeline of the source.
        current: u32,
    },
    /// It is ahead of everything the source has.
    #[error(
        "resume {token}: the token is ahead of the source, which ends at {end}; it may come from a copy or a later state of the source"
    )]
    Ahead {
        /// The position in the token.
        token: Position,
        /// The end of the source.
        end: Position,
    },
    /// What follows it is no longer retained.
    #[error(
        "resume {token}: events right after it are no longer retained; the oldest position to resume from is {oldest}"
    )]
    Expired {
        /// The position in the token.
        token: Position,
        /// The oldest position that can be resumed from.
        oldest: Position,
    },
}

impl TokenRefusal {
    /// The HTTP status that stands for this refusal: 409, or 410 if expired.
    pub const fn http_status(&self) -> u16 {
        match self {
            Self::Expired { .. } => 410,
            _ => 409,
        }
    }
}

impl ResumeToken {
    /// Longest extension in bytes.
    pub const EXTENSION_MAX: usize = 1024;

    /// A token without extension.
    pub const fn new(lineage: Lineage, position: Position) -> Self {
        Self {
            lineage,
            position,
            extension: Bytes::new(),
        }
    }

    /// The same token with an extension; `None` if it is longer than [`Self::EXTENSION_MAX`].
    pub fn with_extension(mut self, extension: Bytes) -> Option<Self> {
        (extension.len() <= Self::EXTENSION_MAX).then(|| {
            self.extension = extension;
            self
        })
    }

    /// True if whoever wrote this meant a token, also one that cannot be read: it begins like one,
    /// whatever the case of its letters and the blanks around it.
    pub fn is_meant(text: &str) -> bool {
        let start = text.trim().as_bytes().get(..PREFIX.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(PREFIX.as_bytes()))
    }

    /// The history the position belongs to.
    pub const fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// The position everything up to which is done.
    pub const fn position(&self) -> Position {
        self.position
    }

    /// What the source put beside the position.
    pub const fn extension(&self) -> &Bytes {
        &self.extension
    }

    /// Checks the token against a source that retains events after `oldest` and ends at `end`.
    ///
    /// A source with timeline history maps an ancestor's token itself before calling this.
    pub fn check(
        &self,
        source: &Lineage,
        oldest: Position,
        end: Position,
    ) -> Result<Position, TokenRefusal> {
        let token = self.position;
        if !self.lineage.same_source(source) {
            return Err(TokenRefusal::OtherSource {
                token,
                token_lineage: self.lineage,
                source_lineage: *source,
            });
        }
        if self.lineage.timeline != source.timeline {
            return Err(TokenRefusal::OtherTimeline {
                token,
                timeline: self.lineage.timeline,
                current: source.timeline,
            });
        }
        if token > end {
            return Err(TokenRefusal::Ahead { token, end });
        }
        if token < oldest {
            return Err(TokenRefusal::Expired { token, oldest });
        }
        Ok(token)
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIXED_LEN + self.extension.len() + CRC_LEN);
        bytes.push(1);
        bytes.push(self.lineage.kind as u8);
        bytes.extend_from_slice(&self.lineage.source_id);
        bytes.extend_from_slice(&self.lineage.timeline.to_be_bytes());
        bytes.extend_from_slice(&self.position.commit.0.to_be_bytes());
        bytes.extend_from_slice(&self.position.ordinal.to_be_bytes());
        bytes.extend_from_slice(&0u16.to_be_bytes());
        let length = u16::try_from(self.extension.len()).expect("extension is at most 1024 bytes");
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&self.extension);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_be_bytes());
        bytes
    }
}

impl fmt::Display for ResumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        f.write_str(&base32_encode(&self.encode()))
    }
}

impl FromStr for ResumeToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = |what| TokenError::Malformed { what };
        let text = text.trim();
        if Self::is_meant(text) && text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(malformed("it holds capital letters, and a token has none"));
        }
        let body = text
            .strip_prefix(PREFIX)
            .ok_or_else(|| malformed("it does not start with cdc1_"))?;
        let longest = (FIXED_LEN + Self::EXTENSION_MAX + CRC_LEN) * 8 / 5 + 1;
        if body.len() > longest {
            return Err(malformed("it is too long"));
        }
        if !body.bytes().all(|byte| ALPHABET.contains(&byte)) {
            return Err(malformed("it holds a character no token has"));
        }
        let bytes = base32_decode(body).ok_or_else(|| malformed("it is cut off"))?;
        let Some((&version, _)) = bytes.split_first() else {
            return Err(malformed("it is empty"));
        };
        let Some((body, crc)) = bytes.split_last_chunk::<CRC_LEN>() else {
            return Err(malformed("it is cut off"));
        };
        // Every version ends with its checksum, so noise is not mistaken for a newer version.
        if crc32c::crc32c(body) != u32::from_be_bytes(*crc) {
            return Err(TokenError::Damaged);
        }
        if version > 1 {
            return Err(TokenError::NewerVersion { version });
        }
        let mut rest = body;
        let kind = take::<2>(&mut rest).ok_or_else(|| malformed("it is cut off"))?[1];
        let parts = (|| {
            let source_id = take::<16>(&mut rest)?;
            let timeline = u32::from_be_bytes(take(&mut rest)?);
            let commit = u64::from_be_bytes(take(&mut rest)?);
            let ordinal = u32::from_be_bytes(take(&mut rest)?);
            let flags = u16::from_be_bytes(take(&mut rest)?);
            let length = u16::from_be_bytes(take(&mut rest)?);
            Some((
                source_id,
                timeline,
                Position::new(Lsn(commit), ordinal),
                flags,
                length,
            ))
        })();
        let (source_id, timeline, position, flags, length) =
            parts.ok_or_else(|| malformed("it is cut off"))?;
        let kind =
            SourceKind::from_u8(kind).ok_or_else(|| malformed("its source kind is unknown"))?;
        if flags != 0 || usize::from(length) != rest.len() || rest.len() > Self::EXTENSION_MAX {
            return Err(malformed("its fields do not fit together"));
        }
        Ok(Self {
            lineage: Lineage::new(kind, source_id, timeline),
            position,
            extension: Bytes::copy_from_slice(rest),
        })
    }
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = from.split_first_chunk::<N>()?;
    *from = rest;
    Some(*head)
}

/// Base32hex (RFC 4648 §7), lower case, no padding.
fn base32_encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 8 / 5 + 1);
    let (mut bits, mut held) = (0u32, 0u32);
    for &byte in bytes {
        bits = (bits << 8) | u32::from(byte);
        held += 8;
        while held >= 5 {
            held -= 5;
            text.push(char::from(ALPHABET[(bits >> held & 31) as usize]));
        }
        bits &= (1 << held) - 1;
    }
    if held > 0 {
        text.push(char::from(ALPHABET[(bits << (5 - held) & 31) as usize]));
    }
    text
}

fn base32_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut bits, mut held) = (0u32, 0u32);
    for character in text.bytes() {
        let digit = match character {
            b'0'..=b'9' => character - b'0',
            b'a'..=b'v' => character - b'a' + 10,
            _ => return None,
        };
        bits = (bits << 5) | u32::from(digit);
        held += 5;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
            bits &= (1 << held) - 1;
        }
    }
    // Left-over bits are padding: fewer than a digit, and zero, or the text has two spellings.
    (held < 5 && bits == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_not_whole_is_said_to_be_that() {
        let token = ResumeToken::new(
            Lineage::new(SourceKind::Wal, [0x5a; 16], 1),
            Position::new(Lsn(77), 3),
        );
        let text = token.to_string();
        for end in PREFIX.len() + 1..text.len() {
            let error = text[..end].parse::<ResumeToken>().unwrap_err().to_string();
            let said = error.contains("cut off") || error.contains("wrong or missing");
            assert!(said, "{end}: {error}");
        }
        for (text, what) in [
            (text.to_uppercase(), "capital letters"),
            (
                format!("  {}", text.replacen('c', "C", 1)),
                "capital letters",
            ),
            (format!("{text}!"), "a character no token has"),
        ] {
            assert!(ResumeToken::is_meant(&text));
            let error = text.parse::<ResumeToken>().unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        assert_eq!(format!(" {text}\n").parse::<ResumeToken>(), Ok(token));
        assert!(!ResumeToken::is_meant("cdc") && !ResumeToken::is_meant("0/16B3748:1"));
    }

    use proptest::prelude::*;

    fn lineage(timeline: u32) -> Lineage {
        Lineage::new(SourceKind::Postgres, *b"0123456789abcdef", timeline)
    }

    proptest! {
        #[test]
        fn round_trips(
            id in any::<[u8; 16]>(), timeline in any::<u32>(), commit in any::<u64>(), ordinal in any::<u32>(),
            extension in proptest::collection::vec(any::<u8>(), 0..=1024),
        ) {
            let lineage = Lineage::new(SourceKind::Wal, id, timeline);
            let token = ResumeToken::new(lineage, Position::new(Lsn(commit), ordinal))
                .with_extension(extension.into()).unwrap();
            let text = token.to_string();
            prop_assert!(!text.contains('.'));
            prop_assert_eq!(text.parse::<ResumeToken>().unwrap(), token);
        }

        #[test]
        fn any_text_is_refused_or_read(text in "\\PC{0,200}") {
            let _ = text.parse::<ResumeToken>();
            let _ = format!("cdc1_{text}").parse::<ResumeToken>();
        }

        #[test]
        fn every_changed_character_is_noticed(commit in any::<u64>(), at in any::<prop::sample::Index>(), to in 0usize..32) {
            let text = ResumeToken::new(lineage(1), Position::new(Lsn(commit), 1)).to_string();
            let mut bytes = text.clone().into_bytes();
            let at = PREFIX.len() + at.index(bytes.len() - PREFIX.len());
            bytes[at] = ALPHABET[to];
            let changed = String::from_utf8(bytes).unwrap();
            prop_assert_eq!(changed.parse::<ResumeToken>().is_ok(), changed == text);
        }

        #[test]
        fn tokens_sort_as_positions(a in any::<(u64, u32)>(), b in any::<(u64, u32)>()) {
            let [a, b] = [a, b].map(|(c, o)| Position::new(Lsn(c), o));
            let text = |p| ResumeToken::new(lineage(3), p).to_string();
            prop_assert_eq!(text(a).cmp(&text(b)), a.cmp(&b));
        }
    }

    #[test]
    fn version_one_stays_readable() {
        // Frozen: a token written by the first release must be read by every later one.
        let text = ResumeToken::new(lineage(7), Position::new(Lsn(0x16B_3748), 2)).to_string();
        assert_eq!(
            text,
            "cdc1_04130c9i6cq3adhn70sm2oj3chimc000003g0000000mmdq8000000g000001arh8sgg"
        );
    }

    #[test]
    fn refusals_are_told_apart() {
        let token = |l, p| ResumeToken::new(l, p);
        let at = |c| Position::end_of(Lsn(c));
        let source = lineage(2);
        let check = |t: ResumeToken| t.check(&source, at(10), at(20));
        assert_eq!(check(token(source, at(15))), Ok(at(15)));
        assert_eq!(check(token(source, at(10))), Ok(at(10)));
        let other = Lineage::new(SourceKind::Postgres, [0; 16], 2);
        assert!(matches!(
            check(token(other, at(15))),
            Err(TokenRefusal::OtherSource { .. })
        ));
        assert!(matches!(
            check(token(lineage(1), at(15))),
            Err(TokenRefusal::OtherTimeline { .. })
        ));
        assert!(matches!(
            check(token(source, at(21))),
            Err(TokenRefusal::Ahead { .. })
        ));
        assert!(matches!(
            check(token(source, at(9))),
            Err(TokenRefusal::Expired { .. })
        ));
        assert_eq!(check(token(source, at(9))).unwrap_err().http_status(), 410);
        let mut newer = vec![2, 2, 0, 0, 0, 0];
        let noise = format!("cdc1_{}", base32_encode(&newer));
        assert_eq!(noise.parse::<ResumeToken>(), Err(TokenError::Damaged));
        newer.extend_from_slice(&crc32c::crc32c(&newer).to_be_bytes());
        let newer = format!("cdc1_{}", base32_encode(&newer));
        assert_eq!(
            newer.parse::<ResumeToken>(),
            Err(TokenError::NewerVersion { version: 2 })
        );
        assert!(matches!(
            "cdc2_00".parse::<ResumeToken>(),
            Err(TokenError::Malformed { .. })
        ));
    }
}
