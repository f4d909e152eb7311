//! Engines of data structures in memory: set, change, expire, evict, rename, flush.
//!
//! Expiry is recorded when the engine takes the key away, not at its deadline; moving the deadline
//! is an update of `expires_at` alone.

mod data;

use std::sync::Arc;

use cdc_core::row::RowWriter;
use cdc_core::{Cause, EngineKind, Op, Relation, RowImage};

pub use data::{Data, DataType, Entry, Patch};

use super::encoding::{bounded, image, relation, time_or_null};
use super::{Encoding, KindLog, KindTransaction, Old, same};
use crate::LogError;
use crate::format::change::{Part, Parts};

/// The kind of engine whose data are structures in memory.
#[derive(Clone, Copy, Debug)]
pub enum InMemory {}

/// The log of an engine of data structures in memory.
pub type InMemoryLog = KindLog<InMemory>;

/// Most prefixes a database may declare.
pub const PREFIXES_MAX: usize = 256;

/// A database (`db0`, ...), whose tables are the types of values, or prefixes of keys.
///
/// Columns: `key`, `type` (the name of its [`DataType`]), `value`, `expires_at` (null: never).
#[derive(Clone, Debug)]
pub struct Database {
    /// In the order of [`DataType::ALL`].
    types: [Arc<Relation>; 6],
    /// Longest first.
    prefixes: Vec<(Box<[u8]>, Arc<Relation>)>,
    encoding: Encoding,
}

impl Database {
    /// The database with this number, its keys and values any bytes.
    pub fn new(number: u32) -> Self {
        Self::with(number, Encoding::Bytes, &[])
    }

    /// A database with all its settings: what keys and strings are, and which prefixes of keys
    /// have a table of their own, as (prefix, table). The longest that fits counts; keys that none
    /// fits go by the type of their value. Prefixes beyond [`PREFIXES_MAX`] are passed over.
    pub fn with(number: u32, encoding: Encoding, prefixes: &[(&str, &str)]) -> Self {
        let schema = format!("db{number}");
        let table = |table: &str| {
            let columns = [
                ("key", encoding.type_name()),
                ("type", "text"),
                ("value", "any"),
                ("expires_at", "timestamptz"),
            ];
            relation(EngineKind::InMemory, &schema, table, &columns, &[0])
        };
        let mut prefixes: Vec<_> = prefixes
            .iter()
            .take(PREFIXES_MAX)
            .map(|(prefix, name)| (Box::from(prefix.as_bytes()), table(name)))
            .collect();
        prefixes.sort_by_key(|(prefix, _): &(Box<[u8]>, _)| std::cmp::Reverse(prefix.len()));
        Self {
            types: DataType::ALL.map(|kind| table(kind.name())),
            prefixes,
            encoding,
        }
    }

    /// The table of a key, as events have it.
    pub fn relation(&self, key: &[u8], kind: DataType) -> &Arc<Relation> {
        let fits = |(prefix, _): &&(Box<[u8]>, _)| key.starts_with(prefix);
        match self.prefixes.iter().find(fits) {
            Some((_, relation)) => relation,
            None => &self.types[kind as usize],
        }
    }

    /// An entry as the row that events have of it.
    pub fn row(&self, key: &[u8], entry: Entry<'_>) -> RowImage {
        image(|row| self.write(row, key, entry))
    }

    fn write(&self, row: &mut RowWriter<'_>, key: &[u8], entry: Entry<'_>) {
        self.encoding.write(row, key);
        row.text(entry.data.data_type().name());
        entry.data.write(row, self.encoding);
        time_or_null(row, entry.expires_at);
    }

    fn write_key(&self, row: &mut RowWriter<'_>, key: &[u8]) {
        self.encoding.write(row, key);
        row.unavailable();
        row.unavailable();
        row.unavailable();
    }

    fn check(&self, key: &[u8], entries: &[Option<Entry<'_>>]) -> Result<(), LogError> {
        let relation = &self.types[0];
        let lengths = entries.iter().flatten().map(|entry| entry.data.len());
        bounded(relation, lengths.chain([2 * key.len()]))?;
        self.encoding.check(relation, key)?;
        let mut entries = entries.iter().flatten();
        entries.try_for_each(|entry| entry.data.check(relation, self.encoding))
    }
}

impl KindTransaction<InMemory> {
    /// A key got a value: an insert if there was none, else an update. If it had a value of a
    /// type with another table, that one is deleted first; so [`Old::Unknown`] is for engines that
    /// know at least that the type is still the same.
    ///
    /// # Errors
    /// [`LogErrorKind::Invalid`](crate::LogErrorKind::Invalid) if a key or value is not as the
    /// database was declared; as for [`Transaction::change`](crate::Transaction::change).
    pub fn set(
        &mut self,
        database: &Database,
        key: &[u8],
        before: Old<Entry<'_>>,
        after: Entry<'_>,
    ) -> Result<&mut Self, LogError> {
        let known = before.known();
        database.check(key, &[known, Some(after)])?;
        self.set_checked(database, key, before, after, None)
    }

    /// A part of a large value changed: an update whose value is unavailable; what changed is in
    /// `meta.changed` and `meta.removed`.
    ///
    /// # Errors
    /// As for [`set`](Self::set).
    pub fn patch(
        &mut self,
        database: &Database,
        key: &[u8],
        patch: Patch<'_>,
        expires_at: Option<i64>,
    ) -> Result<&mut Self, LogError> {
        let relation = database.relation(key, patch.data_type());
        let encoding = database.encoding;
        bounded(relation, [key.len(), patch.len()])?;
        encoding.check(relation, key)?;
        patch.check(relation, encoding)?;
        let parts = Parts {
            before: false,
            after: true,
            meta: true,
        };
        let what = (Op::Update, Cause::Client);
        self.record(what, relation, parts, |part, row| match part {
            Part::Meta => patch.write(row, encoding),
            Part::Before | Part::After => {
                encoding.write(row, key);
                row.text(patch.data_type().name());
                row.unavailable();
                time_or_null(row, expires_at);
            }
        })
    }

    /// The time at which a key expires changed (EXPIRE, PERSIST), its value did not.
    ///
    /// # Errors
    /// As for [`set`](Self::set).
    pub fn set_expiry(
        &mut self,
        database: &Database,
        key: &[u8],
        kind: DataType,
        expires_at: Option<i64>,
    ) -> Result<&mut Self, LogError> {
        let relation = database.relation(key, kind);
        database.check(key, &[])?;
        let parts = Parts {
            after: true,
            ..Parts::default()
        };
        self.record((Op::Update, Cause::Client), relation, parts, |_, row| {
            database.encoding.write(row, key);
            row.text(kind.name());
            row.unavailable();
            time_or_null(row, expires_at);
        })
    }

    /// A key was deleted by a client. Of a value that is not kept its type must be known.
    ///
    /// # Errors
    /// As for [`set`](Self::set).
    pub fn delete(
        &mut self,
        database: &Database,
        key: &[u8],
        before: Removed<'_>,
    ) -> Result<&mut Self, LogError> {
        self.take_away(database, key, before, Cause::Client, None)
    }

    /// A key's time ran out, and the engine took it away.
    ///
    /// # Errors
    /// As for [`set`](Self::set).
    pub fn expire(
        &mut self,
        database: &Database,
        key: &[u8],
        before: Removed<'_>,
    ) -> Result<&mut Self, LogError> {
        self.take_away(database, key, before, Cause::Ttl, None)
    }

    /// A key was evicted to make room.
    ///
    /// # Errors
    /// As for [`set`](Self::set).
    pub fn evict(
        &mut self,
        database: &Database,
        key: &[u8],
        before: Removed<'_>,
    ) -> Result<&mut Self, LogError> {
        self.take_away(database, key, before, Cause::Evict, None)
    }

    /// A key was renamed: a delete of the old one (`meta.renamed_to`) and an insert of the new one
    /// (`meta.renamed_from`). A value that was at the new key is replaced: then it is an update.
    ///
    /// # Errors
    /// As for [`set`](Self::set).
    pub fn rename(
        &mut self,
        database: &Database,
        from: &[u8],
        to: &[u8],
        entry: Entry<'_>,
        replaced: Option<Entry<'_>>,
    ) -> Result<&mut Self, LogError> {
        database.check(from, &[Some(entry)])?;
        database.check(to, &[replaced])?;
        let other = Some(("renamed_to", to));
        self.take_away(database, from, Removed::Entry(entry), Cause::Client, other)?;
        let other = Some(("renamed_from", from));
        self.set_checked(database, to, replaced.into(), entry, other)
    }

    /// The database was emptied: a truncate for each of its tables.
    ///
    /// # Errors
    /// As for [`set`](Self::set).
    pub fn flush(&mut self, database: &Database) -> Result<&mut Self, LogError> {
        let prefixes = database.prefixes.iter().map(|(_, relation)| relation);
        let mut done: Vec<&Arc<Relation>> = Vec::with_capacity(database.types.len());
        for relation in database.types.iter().chain(prefixes) {
            if !done.iter().any(|known| same(known, relation)) {
                let what = (Op::Truncate, Cause::Client);
                self.record(what, relation, Parts::default(), |_, _| {})?;
                done.push(relation);
            }
        }
        Ok(self)
    }

    fn set_checked(
        &mut self,
        database: &Database,
        key: &[u8],
        mut before: Old<Entry<'_>>,
        after: Entry<'_>,
        other: Option<(&str, &[u8])>,
    ) -> Result<&mut Self, LogError> {
        let relation = database.relation(key, after.data.data_type());
        if let Old::Known(old) = before
            && !same(database.relation(key, old.data.data_type()), relation)
        {
            self.take_away(database, key, Removed::Entry(old), Cause::Client, None)?;
            before = Old::Missing;
        }
        let op = if matches!(before, Old::Missing) {
            Op::Insert
        } else {
            Op::Update
        };
        let before = before.known();
        let parts = Parts {
            before: before.is_some(),
            after: true,
            meta: other.is_some(),
        };
        self.record(
            (op, Cause::Client),
            relation,
            parts,
            |part, row| match part {
                Part::Before => database.write(row, key, before.unwrap_or(after)),
                Part::After => database.write(row, key, after),
                Part::Meta => database.write_other(row, other),
            },
        )
    }

    fn take_away(
        &mut self,
        database: &Database,
        key: &[u8],
        before: Removed<'_>,
        cause: Cause,
        other: Option<(&str, &[u8])>,
    ) -> Result<&mut Self, LogError> {
        let (kind, entry) = match before {
            Removed::Entry(entry) => (entry.data.data_type(), Some(entry)),
            Removed::Type(kind) => (kind, None),
        };
        database.check(key, &[entry])?;
        let relation = database.relation(key, kind);
        let parts = Parts {
            before: true,
            after: false,
            meta: other.is_some(),
        };
        self.record((Op::Delete, cause), relation, parts, |part, row| {
            match (part, entry) {
                (Part::Meta, _) => database.write_other(row, other),
                (_, Some(entry)) => database.write(row, key, entry),
                (_, None) => database.write_key(row, key),
            }
        })
    }
}

impl Database {
    fn write_other(&self, row: &mut RowWriter<'_>, other: Option<(&str, &[u8])>) {
        if let Some((name, key)) = other {
            row.text(name);
            self.encoding.write(row, key);
        }
    }
}

/// What the engine knows of a key that went away.
#[derive(Clone, Copy, Debug)]
pub enum Removed<'a> {
    /// Its value.
    Entry(Entry<'a>),
    /// Its value's type only.
    Type(DataType),
}
