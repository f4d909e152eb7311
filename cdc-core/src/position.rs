//! Positions: the total order of change events.

use std::fmt;
use std::str::FromStr;

use crate::Lsn;

/// Where an event stands in the commit order of its source.
///
/// `commit` is the source's own coordinate of the transaction's commit, `ordinal` the place of the
/// event in that transaction, counted from 0 before any filter. The same change has the same
/// position when it is captured again, after a crash or on another host. Positions compare only
/// within one [`Lineage`](crate::Lineage).
///
/// A position also names a *prefix* of the stream: everything up to and including it. Resuming at
/// a position delivers what is strictly greater.
///
/// ```
/// use cdc_core::{Lsn, Position};
/// let event = Position::new(Lsn(0x16B3748), 1);
/// assert_eq!(event.to_string(), "0/16B3748:1");
/// assert!(event < Position::end_of(Lsn(0x16B3748)));
/// assert_eq!("0/16B3748:1".parse::<Position>().unwrap(), event);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The commit's LSN at the source.
    pub commit: Lsn,
    /// 0-based place in the transaction; `u32::MAX` means the whole transaction.
    pub ordinal: u32,
}

impl Position {
    /// Before everything.
    pub const ZERO: Self = Self {
        commit: Lsn::ZERO,
        ordinal: 0,
    };
    /// After everything.
    pub const MAX: Self = Self {
        commit: Lsn::MAX,
        ordinal: u32::MAX,
    };
    /// The ordinal that stands for the end of a transaction; no event has it.
    pub const END: u32 = u32::MAX;

    /// The position of one event.
    pub const fn new(commit: Lsn, ordinal: u32) -> Self {
        Self { commit, ordinal }
    }

    /// The end of the transaction that committed at `commit`.
    pub const fn end_of(commit: Lsn) -> Self {
        Self {
            commit,
            ordinal: Self::END,
        }
    }

    /// Everything whose commit is below `lsn`: what a heartbeat at `lsn` says is done.
    ///
    /// A commit record may start exactly at a heartbeat's LSN, so `lsn` itself is not covered.
    pub const fn before(lsn: Lsn) -> Self {
        match lsn.0 {
            0 => Self::ZERO,
            n => Self::end_of(Lsn(n - 1)),
        }
    }

    /// True if this covers whole transactions only.
    pub const fn is_transaction_end(self) -> bool {
        self.ordinal == Self::END
    }

    /// The largest LSN `n` such that every commit below `n` is covered: what may be confirmed to a
    /// source that replays commits at or above the confirmed LSN.
    pub const fn confirmable(self) -> Lsn {
        match self.ordinal {
            Self::END => Lsn(self.commit.0.saturating_add(1)),
            _ => self.commit,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ordinal {
            Self::END => write!(f, "{}:end", self.commit),
            ordinal => write!(f, "{}:{ordinal}", self.commit),
        }
    }
}

/// The text is not `HIGH/LOW:ORDINAL`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read a position from {text:?}: expected LSN:ordinal such as 0/16B3748:1 or 0/16B3748:end")]
pub struct ParsePositionError {
    text: String,
}

impl FromStr for Position {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParsePositionError {
            text: text.chars().take(64).collect(),
        };
        let (lsn, ordinal) = text.split_once(':').unwrap_or((text, "end"));
        let commit = lsn.parse().map_err(|_| refuse())?;
        match ordinal {
            "end" => Ok(Self::end_of(commit)),
            digits if digits.bytes().all(|b| b.is_ascii_digit()) => {
                Ok(Self::new(commit, digits.parse().map_err(|_| refuse())?))
            }
            _ => Err(refuse()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_commit_then_ordinal() {
        let at = |c, o| Position::new(Lsn(c), o);
        assert!(at(1, 9) < at(2, 0));
        assert!(at(2, 0) < at(2, 1));
        assert!(at(2, 1) < Position::end_of(Lsn(2)));
        assert!(Position::end_of(Lsn(2)) < at(3, 0));
    }

    #[test]
    fn heartbeat_does_not_cover_a_commit_at_its_own_lsn() {
        assert!(Position::before(Lsn(10)) < Position::new(Lsn(10), 0));
        assert!(Position::before(Lsn(10)) >= Position::end_of(Lsn(9)));
        assert_eq!(Position::before(Lsn(10)).confirmable(), Lsn(10));
        assert_eq!(Position::new(Lsn(10), 3).confirmable(), Lsn(10));
        assert_eq!(Position::before(Lsn(0)), Position::ZERO);
    }

    #[test]
    fn text_form_round_trips() {
        for p in [Position::ZERO, Position::MAX, Position::new(Lsn(77), 4)] {
            assert_eq!(p.to_string().parse::<Position>().unwrap(), p);
        }
        assert_eq!(
            "0/4D".parse::<Position>().unwrap(),
            Position::end_of(Lsn(77))
        );
        for bad in ["", ":", "0/1:x", "0/1:-1", "0/1:99999999999", "1:1"] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
    }
}
