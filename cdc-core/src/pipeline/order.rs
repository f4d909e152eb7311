//! Which order a lane keeps, and which worker an event belongs to.

use super::parked::{KeyHash, other_table_hash, table_hash};
use crate::{ChangeEvent, Op};

/// What a lane with several workers keeps in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OrderScope {
    /// Everything: one request in flight, however many are allowed.
    Global,
    /// Events of one table.
    Table,
    /// Events of one key, also over a change of the key.
    #[default]
    Key,
    /// Nothing.
    None,
}

impl OrderScope {
    /// The name in configuration and status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Table => "table",
            Self::Key => "key",
            Self::None => "none",
        }
    }
}

/// Which workers an event must pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// This one's.
    One(usize),
    /// This one's, when `other` has come as far, and `other` waits for it.
    Both { owner: usize, other: usize },
    /// This one's, when all have come as far, and all wait for it.
    All { owner: usize },
    /// Anyone's.
    Any,
}

/// The place of an event, as it was captured, among `workers` (at least 1); `hashes` are asked for those of
/// its key.
///
/// By table, a row that moves to another one, and a table that is renamed, are in order in both.
///
/// By key, a `truncate` or `schema` event concerns every key of its table, and those are at every
/// worker: all of them wait for it. A `message` has no row; it is in order among those of its
/// prefix. An event whose key is not to be found (a merge operand without a row) may be of any key.
pub(super) fn place(
    scope: OrderScope,
    event: &ChangeEvent,
    hashes: impl FnOnce() -> Option<(KeyHash, KeyHash)>,
    workers: usize,
) -> Place {
    let of = |hash: u64| usize::try_from(hash % workers as u64).unwrap_or(0);
    let table = || of(table_hash(&event.relation));
    if workers == 1 {
        return Place::One(0);
    }
    match scope {
        OrderScope::Global => Place::One(0),
        OrderScope::Table => match other_table_hash(event).map(of) {
            Some(other) if other != table() => Place::Both {
                owner: table(),
                other,
            },
            _ => Place::One(table()),
        },
        OrderScope::None => Place::Any,
        OrderScope::Key => match event.op {
            Op::Truncate | Op::Schema => Place::All { owner: table() },
            Op::Message => Place::One(table()),
            Op::Insert | Op::Update | Op::Delete | Op::Read | Op::Merge => match hashes() {
                Some((old, new)) if of(old) != of(new) => Place::Both {
                    owner: of(new),
                    other: of(old),
                },
                Some((_, new)) => Place::One(of(new)),
                None => Place::All { owner: table() },
            },
        },
    }
}
