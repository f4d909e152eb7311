//! Change events: one committed mutation of one row, document, key, edge or object.

use std::fmt;
use std::sync::Arc;

use crate::row::{RowError, RowImage, Value, tag};
use crate::{Position, Relation};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Op {
    /// A row appeared.
    Insert = 0,
    /// A row changed.
    Update = 1,
    /// A row went away.
    Delete = 2,
    /// A table was emptied.
    Truncate = 3,
    /// A row that was there when capture began (snapshot).
    Read = 4,
    /// A merge operand was applied (engines with merge operators).
    Merge = 5,
    /// A table's shape changed.
    Schema = 6,
    /// A logical message.
    Message = 7,
}

impl Op {
    /// Every operation, in format order.
    pub const ALL: [Self; 8] = [
        Self::Insert,
        Self::Update,
        Self::Delete,
        Self::Truncate,
        Self::Read,
        Self::Merge,
        Self::Schema,
        Self::Message,
    ];

    /// The name in events and configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Truncate => "truncate",
            Self::Read => "read",
            Self::Merge => "merge",
            Self::Schema => "schema",
            Self::Message => "message",
        }
    }

    /// The operation with this format number.
    #[inline]
    pub const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Insert,
            1 => Self::Update,
            2 => Self::Delete,
            3 => Self::Truncate,
            4 => Self::Read,
            5 => Self::Merge,
            6 => Self::Schema,
            7 => Self::Message,
            _ => return None,
        })
    }

    /// The operation with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.name() == name)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why it happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cause {
    /// A client asked for it.
    #[default]
    Client = 0,
    /// Its time to live ran out.
    Ttl = 1,
    /// It was evicted to make room.
    Evict = 2,
    /// It followed from another change (foreign key, detach-delete).
    Cascade = 3,
    /// A lifecycle rule of the store.
    Lifecycle = 4,
}

impl Cause {
    /// Every cause, in format order.
    pub const ALL: [Self; 5] = [
        Self::Client,
        Self::Ttl,
        Self::Evict,
        Self::Cascade,
        Self::Lifecycle,
    ];

    /// The name in events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Ttl => "ttl",
            Self::Evict => "evict",
            Self::Cascade => "cascade",
            Self::Lifecycle => "lifecycle",
        }
    }

    /// The cause with this format number.
    #[inline]
    pub const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Client,
            1 => Self::Ttl,
            2 => Self::Evict,
            3 => Self::Cascade,
            4 => Self::Lifecycle,
            _ => return None,
        })
    }
}

/// A row before or after a change. Four different things, never confused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Image {
    /// There was no row, or the source says nothing about it (see [`ChangeEvent`]).
    #[default]
    Absent,
    /// Every column.
    Full(RowImage),
    /// The key columns only; all others are [`ValueRef::Unavailable`].
    Key(RowImage),
    /// Some columns are [`ValueRef::Unavailable`] (unchanged TOAST).
    Partial(RowImage),
}

impl Image {
    /// The row, if there is one. All forms hold one value a column of the relation.
    pub const fn row(&self) -> Option<&RowImage> {
        match self {
            Self::Absent => None,
            Self::Full(row) | Self::Key(row) | Self::Partial(row) => Some(row),
        }
    }

    /// Encoded length in bytes; 0 if absent.
    pub fn len(&self) -> usize {
        self.row().map_or(0, RowImage::len)
    }

    /// True if there is no row.
    pub const fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Same as [`Image::is_absent`].
    pub const fn is_empty(&self) -> bool {
        self.is_absent()
    }

    /// The name of the form.
    pub const fn kind_name(&self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Full(_) => "full",
            Self::Key(_) => "key",
            Self::Partial(_) => "partial",
        }
    }

    /// The same form with another row; `Absent` stays absent.
    #[must_use]
    pub fn with_row(&self, row: RowImage) -> Self {
        match self {
            Self::Absent => Self::Absent,
            Self::Full(_) => Self::Full(row),
            Self::Key(_) => Self::Key(row),
            Self::Partial(_) => Self::Partial(row),
        }
    }
}

/// The transaction an event belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Transaction {
    /// The source's own id (PostgreSQL: xid).
    pub id: u64,
    /// Commit time, microseconds since 1970-01-01T00:00:00Z, by the source's clock. Not an
    /// ordering key.
    pub commit_micros: i64,
}

/// What only one kind of engine has: name and value pairs a consumer may ignore.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta(pub Vec<(Arc<str>, Value)>);

/// One committed mutation.
///
/// | op | before | after |
/// |---|---|---|
/// | insert, read | absent | full |
/// | update | full, key or partial if the source keeps it; else absent | full or partial |
/// | delete | full, key or partial; absent for a range of keys, which is in `meta` | absent |
/// | truncate, schema | absent | absent |
/// | merge | absent | key, or full if materialised; the operand is in `meta` |
/// | message | absent | full: one column `content`; the relation's table is the message's prefix |
///
/// An absent `before` of an update means the source does not keep it (its key did not change).
/// Cheap to clone: names are shared, rows are slices of shared buffers.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangeEvent {
    /// Where it stands in commit order.
    pub position: Position,
    /// The table, as of this position.
    pub relation: Arc<Relation>,
    /// Its transaction.
    pub transaction: Transaction,
    /// True for the last event of the transaction, before any filter.
    pub last: bool,
    /// What happened.
    pub op: Op,
    /// Why.
    pub cause: Cause,
    /// The row before.
    pub before: Image,
    /// The row after.
    pub after: Image,
    /// Engine extras.
    pub meta: Option<Arc<Meta>>,
}

impl ChangeEvent {
    /// An event without images.
    pub const fn new(
        position: Position,
        relation: Arc<Relation>,
        transaction: Transaction,
        op: Op,
    ) -> Self {
        Self {
            position,
            relation,
            transaction,
            last: false,
            op,
            cause: Cause::Client,
            before: Image::Absent,
            after: Image::Absent,
            meta: None,
        }
    }

    /// The row that names the event's identity: the new one, or the old one of a delete.
    pub const fn identity_row(&self) -> Option<&RowImage> {
        match self.after.row() {
            Some(row) => Some(row),
            None => self.before.row(),
        }
    }

    /// Ordinals of the columns that identify the row: the key, or all columns without one.
    pub fn identity_ordinals(&self) -> impl Iterator<Item = usize> + '_ {
        let all = if self.relation.key.is_empty() {
            self.relation.columns.len()
        } else {
            0
        };
        self.relation
            .key
            .iter()
            .map(|&k| usize::from(k))
            .chain(0..all)
    }

    /// True if both images hold the key and it changed, bit by bit: a key that is not a number is
    /// equal to itself, and `-0.0` is another one than `0.0`, as for
    /// [`key_hashes`](Self::key_hashes).
    pub fn key_changed(&self) -> Result<bool, RowError> {
        let (Some(before), Some(after)) = (self.before.row(), self.after.row()) else {
            return Ok(false);
        };
        for &ordinal in &self.relation.key {
            let (old, new) = (raw(before, ordinal)?, raw(after, ordinal)?);
            let both_known = ![old, new].contains(&Some(&[tag::UNAVAILABLE]));
            if both_known && old != new {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Bytes of both images, for limits; names are shared and not counted.
    pub fn encoded_len(&self) -> usize {
        self.before.len() + self.after.len()
    }
}

/// The encoded value of one column; `None` past the last one.
fn raw(row: &RowImage, ordinal: u16) -> Result<Option<&[u8]>, RowError> {
    let mut columns = row.columns()?;
    for _ in 0..ordinal {
        columns.skip_raw().transpose()?;
    }
    columns.skip_raw().transpose()
}
