//! Log sequence numbers.

use std::fmt;
use std::str::FromStr;

/// A byte offset in one write-ahead log. It only grows within one [`Lineage`](crate::Lineage).
///
/// Printed as PostgreSQL prints it: two hexadecimal halves, `16/B3748A0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Below every LSN a log hands out.
    pub const ZERO: Self = Self(0);
    /// Above every LSN a log hands out.
    pub const MAX: Self = Self(u64::MAX);
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// The text is not `HIGH/LOW` in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read an LSN from {text:?}: expected two hexadecimal halves such as 16/B3748A0")]
pub struct ParseLsnError {
    text: String,
}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseLsnError {
            text: text.chars().take(64).collect(),
        };
        let (high, low) = text.split_once('/').ok_or_else(refuse)?;
        let half = |part: &str| {
            let plain = !part.is_empty() && part.len() <= 8;
            if !plain || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(refuse());
            }
            u32::from_str_radix(part, 16).map_err(|_| refuse())
        };
        Ok(Self((u64::from(half(high)?) << 32) | u64::from(half(low)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        for (lsn, text) in [
            (0, "0/0"),
            (0x16_0B37_48A0, "16/B3748A0"),
            (u64::MAX, "FFFFFFFF/FFFFFFFF"),
        ] {
            assert_eq!(Lsn(lsn).to_string(), text);
            assert_eq!(text.parse::<Lsn>().unwrap(), Lsn(lsn));
        }
        for bad in [
            "",
            "/",
            "1",
            "1/",
            "/1",
            "1/G",
            "123456789/1",
            "+1/1",
            "1/1/1",
        ] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }
}
