//! Engines of ordered keys and values: put, delete, merge, range delete; a batch is one
//! transaction.
//!
//! Time to live: what an engine drops at compaction is in no log unless the engine records it
//! with [`expire`](KindTransaction::expire) when it drops it.

use std::sync::Arc;

use cdc_core::row::RowWriter;
use cdc_core::{Cause, EngineKind, Op, Relation, RowImage};

use super::encoding::{bounded, image, invalid, relation, time_or_null};
use super::{Encoding, KindLog, KindTransaction, Old};
use crate::LogError;
use crate::format::change::{Part, Parts};

/// The kind of engine whose data are keys and values in families.
#[derive(Clone, Copy, Debug)]
pub enum KeyValue {}

/// The log of an engine of keys and values.
pub type KeyValueLog = KindLog<KeyValue>;

/// A column family (keyspace, table of items).
///
/// Columns: `key`, or `partition_key` and `sort_key`; `value`; `expires_at` (null: never).
#[derive(Clone, Debug)]
pub struct Family {
    relation: Arc<Relation>,
    keys: Encoding,
    values: Encoding,
}

impl Family {
    /// A family of an instance; keys are one byte string, keys and values are bytes.
    pub fn new(instance: &str, family: &str) -> Self {
        Self::with(instance, family, false, Encoding::Bytes, Encoding::Bytes)
    }

    /// A family with all its settings: `sorted` if keys have a partition and a sort part.
    pub fn with(
        instance: &str,
        family: &str,
        sorted: bool,
        keys: Encoding,
        values: Encoding,
    ) -> Self {
        let (key, value) = (keys.type_name(), values.type_name());
        let all = [
            ("key", key),
            ("partition_key", key),
            ("sort_key", key),
            ("value", value),
            ("expires_at", "timestamptz"),
        ];
        let relation = |columns: &[(&str, &str)], key: &[u16]| {
            relation(EngineKind::KeyValue, instance, family, columns, key)
        };
        Self {
            relation: if sorted {
                relation(&all[1..], &[0, 1])
            } else {
                relation(&[all[0], all[3], all[4]], &[0])
            },
            keys,
            values,
        }
    }

    /// The family as events have it.
    pub const fn relation(&self) -> &Arc<Relation> {
        &self.relation
    }

    /// An entry as the row that events have of it.
    pub fn row<'a>(&self, key: impl Into<Key<'a>>, stored: impl Into<Stored<'a>>) -> RowImage {
        let (key, stored) = (key.into(), stored.into());
        image(|row| self.write(row, key, Some(stored)))
    }

    fn is_sorted(&self) -> bool {
        self.relation.key.len() == 2
    }

    fn write(&self, row: &mut RowWriter<'_>, key: Key<'_>, stored: Option<Stored<'_>>) {
        self.write_key(row, key);
        match stored {
            Some(stored) => {
                self.values.write(row, stored.value);
                time_or_null(row, stored.expires_at);
            }
            None => {
                row.unavailable();
                row.unavailable();
            }
        }
    }

    fn write_key(&self, row: &mut RowWriter<'_>, key: Key<'_>) {
        self.keys.write(row, key.partition);
        if let Some(sort) = key.sort {
            self.keys.write(row, sort);
        }
    }

    fn check_key(&self, key: Key<'_>) -> Result<(), LogError> {
        if key.sort.is_some() != self.is_sorted() {
            return Err(invalid(
                &self.relation,
                "its keys have a partition and a sort part, or neither; give the key as the family was declared",
            ));
        }
        self.keys.check(&self.relation, key.partition)?;
        self.keys
            .check(&self.relation, key.sort.unwrap_or_default())
    }

    fn check<'a>(
        &self,
        key: Key<'_>,
        values: impl IntoIterator<Item = &'a Stored<'a>> + Clone,
    ) -> Result<(), LogError> {
        let lengths = values.clone().into_iter().map(|stored| stored.value.len());
        bounded(&self.relation, lengths.chain([2 * key.len()]))?;
        self.check_key(key)?;
        values
            .into_iter()
            .try_for_each(|stored| self.values.check(&self.relation, stored.value))
    }
}

/// A key: bytes, or a partition and a sort part.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key<'a> {
    partition: &'a [u8],
    sort: Option<&'a [u8]>,
}

impl Key<'_> {
    fn len(&self) -> usize {
        self.partition.len() + self.sort.map_or(0, <[u8]>::len)
    }
}

impl<'a> From<&'a [u8]> for Key<'a> {
    fn from(key: &'a [u8]) -> Self {
        Self {
            partition: key,
            sort: None,
        }
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Key<'a> {
    fn from(key: &'a [u8; N]) -> Self {
        key.as_slice().into()
    }
}

impl<'a> From<&'a str> for Key<'a> {
    fn from(key: &'a str) -> Self {
        key.as_bytes().into()
    }
}

impl<'a> From<(&'a [u8], &'a [u8])> for Key<'a> {
    fn from((partition, sort): (&'a [u8], &'a [u8])) -> Self {
        Self {
            partition,
            sort: Some(sort),
        }
    }
}

impl<'a> From<(&'a str, &'a str)> for Key<'a> {
    fn from((partition, sort): (&'a str, &'a str)) -> Self {
        (partition.as_bytes(), sort.as_bytes()).into()
    }
}

/// Prints its length: keys are row contents.
impl std::fmt::Debug for Key<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({} bytes)", self.len())
    }
}

/// A value, and when it expires.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Stored<'a> {
    /// The value.
    pub value: &'a [u8],
    /// When it expires, microseconds since 1970-01-01T00:00:00Z; `None` for never.
    pub expires_at: Option<i64>,
}

impl<'a> Stored<'a> {
    /// A value that expires.
    pub const fn until(value: &'a [u8], expires_at: i64) -> Self {
        Self {
            value,
            expires_at: Some(expires_at),
        }
    }
}

impl<'a> From<&'a [u8]> for Stored<'a> {
    fn from(value: &'a [u8]) -> Self {
        Self {
            value,
            expires_at: None,
        }
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Stored<'a> {
    fn from(value: &'a [u8; N]) -> Self {
        value.as_slice().into()
    }
}

impl<'a> From<&'a str> for Stored<'a> {
    fn from(value: &'a str) -> Self {
        value.as_bytes().into()
    }
}

/// Prints its length.
impl std::fmt::Debug for Stored<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stored({} bytes)", self.value.len())
    }
}

impl KindTransaction<KeyValue> {
    /// A key got a value: an insert if there was none, else an update, without the old value if
    /// the engine did not read it.
    ///
    /// # Errors
    /// [`LogErrorKind::Invalid`](crate::LogErrorKind::Invalid) if a key or value is not as the
    /// family was declared; as for [`Transaction::change`](crate::Transaction::change).
    pub fn put<'a>(
        &mut self,
        family: &Family,
        key: impl Into<Key<'a>>,
        before: Old<Stored<'a>>,
        after: impl Into<Stored<'a>>,
    ) -> Result<&mut Self, LogError> {
        let (key, after) = (key.into(), after.into());
        let op = match before {
            Old::Missing => Op::Insert,
            Old::Unknown | Old::Known(_) => Op::Update,
        };
        let before = before.known();
        family.check(key, before.iter().chain([&after]))?;
        let parts = Parts {
            before: before.is_some(),
            after: true,
            meta: false,
        };
        self.record((op, Cause::Client), &family.relation, parts, |part, row| {
            let stored = if part == Part::Before {
                before
            } else {
                Some(after)
            };
            family.write(row, key, stored);
        })
    }

    /// A key was deleted, whether or not it was there. With [`Old::Missing`] nothing happened, and
    /// nothing is recorded.
    ///
    /// # Errors
    /// As for [`put`](Self::put).
    pub fn delete<'a>(
        &mut self,
        family: &Family,
        key: impl Into<Key<'a>>,
        before: Old<Stored<'a>>,
    ) -> Result<&mut Self, LogError> {
        self.take_away(family, key.into(), before, Cause::Client)
    }

    /// A key's time ran out: the tombstone of what a compaction or a read found expired.
    ///
    /// # Errors
    /// As for [`put`](Self::put).
    pub fn expire<'a>(
        &mut self,
        family: &Family,
        key: impl Into<Key<'a>>,
        before: Old<Stored<'a>>,
    ) -> Result<&mut Self, LogError> {
        self.take_away(family, key.into(), before, Cause::Ttl)
    }

    /// A merge operand was applied to a key. `meta.merge` holds `operator`, by which a consumer
    /// knows what to do, and `operand`; `result` is the value it led to, if the engine computed it.
    ///
    /// # Errors
    /// As for [`put`](Self::put).
    pub fn merge<'a>(
        &mut self,
        family: &Family,
        key: impl Into<Key<'a>>,
        operator: &str,
        operand: &[u8],
        result: Option<Stored<'a>>,
    ) -> Result<&mut Self, LogError> {
        let key = key.into();
        family.check(key, result.iter())?;
        bounded(&family.relation, [operator.len(), operand.len()])?;
        let parts = Parts {
            before: false,
            after: true,
            meta: true,
        };
        let what = (Op::Merge, Cause::Client);
        self.record(what, &family.relation, parts, |part, row| match part {
            Part::Meta => {
                row.text("merge");
                row.map_with(|merge| {
                    merge.entry("operator", |value| value.text(operator));
                    merge.entry("operand", |value| value.bytes(operand));
                });
            }
            Part::Before | Part::After => family.write(row, key, result),
        })
    }

    /// Every key from `start` up to but without `end` was deleted, as one event without images:
    /// `meta.range` holds both. Keys compare as bytes, partition before sort part. An empty range
    /// is not recorded.
    ///
    /// # Errors
    /// As for [`put`](Self::put).
    pub fn delete_range<'a>(
        &mut self,
        family: &Family,
        start: impl Into<Key<'a>>,
        end: impl Into<Key<'a>>,
    ) -> Result<&mut Self, LogError> {
        let (start, end) = (start.into(), end.into());
        family.check(start, [])?;
        family.check(end, [])?;
        if start >= end {
            return Ok(self);
        }
        let parts = Parts {
            meta: true,
            ..Parts::default()
        };
        let what = (Op::Delete, Cause::Client);
        self.record(what, &family.relation, parts, |_, meta| {
            meta.text("range");
            meta.map_with(|range| {
                for (name, key) in [("start", start), ("end", end)] {
                    range.entry(name, |value| match key.sort {
                        None => family.write_key(value, key),
                        Some(_) => value.array(|parts| family.write_key(parts, key)),
                    });
                }
            });
        })
    }

    fn take_away(
        &mut self,
        family: &Family,
        key: Key<'_>,
        before: Old<Stored<'_>>,
        cause: Cause,
    ) -> Result<&mut Self, LogError> {
        if before == Old::Missing {
            return Ok(self);
        }
        let before = before.known();
        family.check(key, before.iter())?;
        let parts = Parts {
            before: true,
            ..Parts::default()
        };
        self.record((Op::Delete, cause), &family.relation, parts, |_, row| {
            family.write(row, key, before);
        })
    }
}
