//! Values of an engine in memory.

use std::fmt;

use cdc_core::Relation;
use cdc_core::row::RowWriter;

use crate::LogError;
use crate::kinds::Encoding;

/// The type of a value, which names its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataType {
    /// `string`
    String = 0,
    /// `hash`
    Hash = 1,
    /// `list`
    List = 2,
    /// `set`
    Set = 3,
    /// `zset`
    SortedSet = 4,
    /// `stream`
    Stream = 5,
}

impl DataType {
    /// Every type.
    pub const ALL: [Self; 6] = [
        Self::String,
        Self::Hash,
        Self::List,
        Self::Set,
        Self::SortedSet,
        Self::Stream,
    ];

    /// The name of its table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Hash => "hash",
            Self::List => "list",
            Self::Set => "set",
            Self::SortedSet => "zset",
            Self::Stream => "stream",
        }
    }
}

/// Names and values, in the engine's order.
type Pairs<'a> = &'a [(&'a [u8], &'a [u8])];

/// A whole value. Strings, fields and members are encoded as the database declares.
#[derive(Clone, Copy, PartialEq)]
pub enum Data<'a> {
    /// A string.
    String(&'a [u8]),
    /// Fields and their values: a map if they are text, else a list of pairs.
    Hash(Pairs<'a>),
    /// A list.
    List(&'a [&'a [u8]]),
    /// A set's members, in an order of the engine's that is always the same for the same set.
    Set(&'a [&'a [u8]]),
    /// A sorted set's members and scores, as a list of pairs in order.
    SortedSet(&'a [(&'a [u8], f64)]),
    /// A stream's entries: id and fields, as a list of pairs.
    Stream(&'a [(&'a str, Pairs<'a>)]),
}

/// Prints type and count only: values are row contents.
impl fmt::Debug for Data<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = match self {
            Self::String(bytes) => bytes.len(),
            Self::Hash(fields) => fields.len(),
            Self::List(items) | Self::Set(items) => items.len(),
            Self::SortedSet(members) => members.len(),
            Self::Stream(entries) => entries.len(),
        };
        write!(f, "{}({count})", self.data_type().name())
    }
}

/// A value, and when it expires.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry<'a> {
    /// The value.
    pub data: Data<'a>,
    /// When it expires, microseconds since 1970-01-01T00:00:00Z; `None` for never.
    pub expires_at: Option<i64>,
}

impl<'a> From<Data<'a>> for Entry<'a> {
    fn from(data: Data<'a>) -> Self {
        Self {
            data,
            expires_at: None,
        }
    }
}

fn pairs_len(pairs: Pairs<'_>) -> usize {
    pairs
        .iter()
        .map(|(name, value)| name.len() + value.len() + 24)
        .sum()
}

fn write_pairs(row: &mut RowWriter<'_>, pairs: Pairs<'_>, encoding: Encoding) {
    if encoding == Encoding::Bytes {
        return row.array(|items| {
            for (field, value) in pairs {
                items.array(|pair| {
                    pair.bytes(field);
                    pair.bytes(value);
                });
            }
        });
    }
    row.map_with(|map| {
        for (field, value) in pairs {
            // Fields were checked to be text.
            let field = std::str::from_utf8(field).unwrap_or_default();
            map.entry(field, |to| encoding.write(to, value));
        }
    });
}

fn write_members(row: &mut RowWriter<'_>, members: &[(&[u8], f64)], encoding: Encoding) {
    row.array(|items| {
        for (member, score) in members {
            items.array(|pair| {
                encoding.write(pair, member);
                pair.float64(*score);
            });
        }
    });
}

fn write_items(row: &mut RowWriter<'_>, all: &[&[u8]], encoding: Encoding) {
    row.array(|items| all.iter().for_each(|item| encoding.write(items, item)));
}

fn check_all<'a>(
    relation: &Relation,
    encoding: Encoding,
    all: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(), LogError> {
    let mut all = all.into_iter();
    all.try_for_each(|bytes| encoding.check(relation, bytes))
}

impl Data<'_> {
    /// Its type.
    pub const fn data_type(&self) -> DataType {
        match self {
            Self::String(_) => DataType::String,
            Self::Hash(_) => DataType::Hash,
            Self::List(_) => DataType::List,
            Self::Set(_) => DataType::Set,
            Self::SortedSet(_) => DataType::SortedSet,
            Self::Stream(_) => DataType::Stream,
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::String(bytes) => bytes.len(),
            Self::Hash(pairs) => pairs_len(pairs),
            Self::List(items) | Self::Set(items) => items.iter().map(|item| item.len() + 5).sum(),
            Self::SortedSet(members) => members.iter().map(|(member, _)| member.len() + 32).sum(),
            Self::Stream(entries) => entries
                .iter()
                .map(|(id, pairs)| id.len() + 32 + pairs_len(pairs))
                .sum(),
        }
    }

    pub(super) fn check(&self, relation: &Relation, encoding: Encoding) -> Result<(), LogError> {
        match self {
            Self::String(bytes) => encoding.check(relation, bytes),
            Self::Hash(pairs) => {
                check_all(relation, encoding, pairs.iter().flat_map(|(f, v)| [*f, *v]))
            }
            Self::List(items) | Self::Set(items) => {
                check_all(relation, encoding, items.iter().copied())
            }
            Self::SortedSet(members) => {
                check_all(relation, encoding, members.iter().map(|(m, _)| *m))
            }
            Self::Stream(entries) => {
                let pairs = entries.iter().flat_map(|(_, pairs)| pairs.iter());
                check_all(relation, encoding, pairs.flat_map(|(f, v)| [*f, *v]))
            }
        }
    }

    pub(super) fn write(&self, row: &mut RowWriter<'_>, encoding: Encoding) {
        match self {
            Self::String(bytes) => encoding.write(row, bytes),
            Self::Hash(pairs) => write_pairs(row, pairs, encoding),
            Self::List(items) | Self::Set(items) => write_items(row, items, encoding),
            Self::SortedSet(members) => write_members(row, members, encoding),
            Self::Stream(entries) => row.array(|items| {
                for (id, pairs) in *entries {
                    items.array(|entry| {
                        entry.text(id);
                        write_pairs(entry, pairs, encoding);
                    });
                }
            }),
        }
    }
}

/// What changed of a large value, where writing all of it would cost too much.
#[derive(Clone, Copy, PartialEq)]
pub enum Patch<'a> {
    /// Fields of a hash that were set, with their values, and fields that are gone.
    Hash {
        /// Fields and their new values.
        changed: Pairs<'a>,
        /// Fields that are gone.
        removed: &'a [&'a [u8]],
    },
    /// Members of a set that are new, and that are gone.
    Set {
        /// New members.
        added: &'a [&'a [u8]],
        /// Members that are gone.
        removed: &'a [&'a [u8]],
    },
    /// Members of a sorted set that are new or have another score, and that are gone.
    SortedSet {
        /// Members and their scores.
        changed: &'a [(&'a [u8], f64)],
        /// Members that are gone.
        removed: &'a [&'a [u8]],
    },
}

/// Prints the type only.
impl fmt::Debug for Patch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Patch({})", self.data_type().name())
    }
}

impl Patch<'_> {
    pub(super) const fn data_type(&self) -> DataType {
        match self {
            Self::Hash { .. } => DataType::Hash,
            Self::Set { .. } => DataType::Set,
            Self::SortedSet { .. } => DataType::SortedSet,
        }
    }

    /// What changed as a value of its own, and what is gone.
    const fn parts(&self) -> (Data<'_>, &[&[u8]]) {
        match self {
            Self::Hash { changed, removed } => (Data::Hash(changed), removed),
            Self::Set { added, removed } => (Data::Set(added), removed),
            Self::SortedSet { changed, removed } => (Data::SortedSet(changed), removed),
        }
    }

    pub(super) fn len(&self) -> usize {
        let (changed, removed) = self.parts();
        changed.len() + Data::List(removed).len()
    }

    pub(super) fn check(&self, relation: &Relation, encoding: Encoding) -> Result<(), LogError> {
        let (changed, removed) = self.parts();
        changed.check(relation, encoding)?;
        check_all(relation, encoding, removed.iter().copied())
    }

    pub(super) fn write(&self, row: &mut RowWriter<'_>, encoding: Encoding) {
        let (changed, removed) = self.parts();
        row.text("changed");
        changed.write(row, encoding);
        row.text("removed");
        write_items(row, removed, encoding);
    }
}
