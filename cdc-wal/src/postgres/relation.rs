//! Tables as the stream describes them, made ready for decoding rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cdc_core::row::RowWriter;
use cdc_core::{Column, EngineKind, Relation};

use super::decode::{Cell, ColumnDef, Old, RelationDef, Tuple};
use super::key::KeySince;
use super::types::{Kind, Scalar, Types, display_name};
use super::value::{self, Scratch};

/// A relation message, kept while the catalog is asked about it.
#[derive(Clone, Debug)]
pub(crate) struct OwnedDef {
    pub(crate) oid: u32,
    pub(crate) schema: String,
    pub(crate) table: String,
    pub(crate) replica_identity: u8,
    /// Key flag, name, type oid, type modifier.
    pub(crate) columns: Vec<(bool, String, u32, i32)>,
}

impl From<&RelationDef<'_>> for OwnedDef {
    fn from(def: &RelationDef<'_>) -> Self {
        let column = |c: &ColumnDef<'_>| (c.key, c.name.to_owned(), c.type_oid, c.type_modifier);
        Self {
            oid: def.oid,
            schema: def.schema.to_owned(),
            table: def.table.to_owned(),
            replica_identity: def.replica_identity,
            columns: def.columns.iter().map(column).collect(),
        }
    }
}

impl OwnedDef {
    /// Oids of types nobody has looked up yet.
    pub(crate) fn unknown_types(&self, types: &Types) -> Vec<u32> {
        let mut oids: Vec<u32> = self.columns.iter().map(|c| c.2).collect();
        oids.retain(|oid| types.get(*oid).is_none());
        oids.sort_unstable();
        oids.dedup();
        oids
    }

    /// True if the key is not in the message: with replica identity full it flags every column.
    pub(crate) const fn needs_primary_key(&self) -> bool {
        self.replica_identity == b'f'
    }
}

/// What an old row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OldForm {
    /// The key.
    Key,
    /// Every column.
    Full,
    /// Some columns.
    Partial,
}

/// A table with what decoding its rows needs.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) relation: Arc<Relation>,
    pub(super) kinds: Vec<Kind>,
    /// The key's columns: what an old key row holds.
    pub(super) in_key: Vec<bool>,
    /// What changes come with that may be older than the key.
    pub(super) unkeyed: Option<Unkeyed>,
    /// Old rows are sent as whole and need not be: what is null in one may not be in the log. So it is
    /// if the server sends whole ones of a table that it did not describe so: of a partitioned table
    /// published as its root, it looks up the identity at each change and does not describe it anew.
    pub(crate) lacking: bool,
}

/// A table as it is told while its primary key may have been another: without one.
#[derive(Debug)]
pub(super) struct Unkeyed {
    since: KeySince,
    pub(super) relation: Arc<Relation>,
    warned: AtomicBool,
}

impl Table {
    /// Makes a table from its message, the types it uses, and (replica identity full) its primary key's
    /// columns and since when they are it.
    pub(crate) fn new(
        def: &OwnedDef,
        types: &Types,
        primary_key: &[usize],
        since: Option<KeySince>,
    ) -> Self {
        let mut columns = Vec::with_capacity(def.columns.len());
        let mut kinds = Vec::with_capacity(def.columns.len());
        for (_, name, oid, modifier) in &def.columns {
            let (type_name, kind) = match types.get(*oid) {
                Some(info) => (display_name(&info.name, *modifier), info.kind),
                // The type is gone from the catalog by now.
                None => (format!("oid {oid}"), Kind::Scalar(Scalar::Text)),
            };
            columns.push(Column::new(name.as_str(), type_name));
            kinds.push(kind);
        }
        let key = if def.needs_primary_key() {
            primary_key.to_vec()
        } else {
            let flagged = |&n: &usize| def.columns.get(n).is_some_and(|column| column.0);
            (0..def.columns.len()).filter(flagged).collect()
        };
        let in_key = (0..def.columns.len()).map(|n| key.contains(&n)).collect();
        // PostgreSQL allows 1600 columns, the message 65535.
        let mut key: Vec<u16> = key.into_iter().filter_map(|n| n.try_into().ok()).collect();
        key.sort_unstable();
        let mut relation = Relation::new(
            EngineKind::Relational,
            def.schema.as_str(),
            def.table.as_str(),
            columns,
            key,
        );
        relation.version = fingerprint(def, &relation);
        let unkeyed = since.filter(|_| def.needs_primary_key() && !relation.key.is_empty());
        let unkeyed = unkeyed.map(|since| {
            let mut relation = relation.clone();
            relation.key.clear();
            relation.version = fingerprint(def, &relation);
            Unkeyed {
                since,
                relation: Arc::new(relation),
                warned: AtomicBool::new(false),
            }
        });
        Self {
            relation: Arc::new(relation),
            kinds,
            in_key,
            unkeyed,
            lacking: !def.needs_primary_key(),
        }
    }

    /// The relation of a transaction's changes.
    #[inline]
    pub(crate) fn relation_in(&self, transaction: u64) -> &Arc<Relation> {
        let Some(unkeyed) = &self.unkeyed else {
            return &self.relation;
        };
        match u32::try_from(transaction) {
            Ok(transaction) if unkeyed.since.may_be_after(transaction) => unkeyed.told(),
            _ => &self.relation,
        }
    }

    /// Number of columns.
    pub(crate) fn width(&self) -> usize {
        self.kinds.len()
    }

    /// Writes a new row; cells that were not sent are taken from the old row if it has them.
    /// True if every column has a value.
    #[inline]
    pub(crate) fn write_new(
        &self,
        buffer: &mut Vec<u8>,
        scratch: &mut Scratch,
        new: &Tuple<'_>,
        old: Option<&Old<'_>>,
    ) -> bool {
        if let Some(Old::Full(old)) = old {
            return self.write_new_like(buffer, scratch, new, old);
        }
        let mut row = RowWriter::new(buffer);
        let mut full = true;
        for (n, (cell, &kind)) in new.cells().zip(&self.kinds).enumerate() {
            let cell = match cell {
                Cell::Unchanged => self.old_cell(old, n),
                sent => sent,
            };
            full &= write_cell(&mut row, scratch, kind, cell);
        }
        row.finish();
        full
    }

    /// As [`write_new`](Self::write_new), behind the whole old row, which
    /// [`write_old`](Self::write_old) wrote last: what did not change is copied as it is encoded
    /// there, not read again.
    fn write_new_like(
        &self,
        buffer: &mut Vec<u8>,
        scratch: &mut Scratch,
        new: &Tuple<'_>,
        old: &Tuple<'_>,
    ) -> bool {
        let mut row = RowWriter::new(buffer);
        let mut full = true;
        let ends = std::mem::take(&mut scratch.ends);
        let places = ends.iter().zip(ends.iter().skip(1));
        let cells = new.cells().zip(old.cells()).zip(places);
        for (((new, old), (&from, &to)), &kind) in cells.zip(&self.kinds) {
            match (new, old) {
                (Cell::Text(new), Cell::Text(old)) if new == old => row.repeat(from, to),
                (Cell::Unchanged, known) => {
                    full &= write_cell(&mut row, scratch, kind, large(known));
                }
                (sent, _) => full &= write_cell(&mut row, scratch, kind, sent),
            }
        }
        row.finish();
        scratch.ends = ends;
        full
    }

    /// The cell of the old row's key, if it has one there.
    #[cold]
    fn old_cell<'a>(&self, old: Option<&Old<'a>>, n: usize) -> Cell<'a> {
        let known = match old {
            Some(Old::Key(tuple)) => tuple.cells().nth(n),
            _ => None,
        };
        known.map_or(Cell::Unchanged, large)
    }

    /// Writes an old row; what it does not hold is unavailable.
    #[inline]
    pub(crate) fn write_old(
        &self,
        buffer: &mut Vec<u8>,
        scratch: &mut Scratch,
        old: &Old<'_>,
    ) -> OldForm {
        let old = match old {
            Old::Key(key) => return self.write_key(buffer, scratch, key),
            Old::Full(old) => old,
        };
        let mut row = RowWriter::new(buffer);
        let mut full = true;
        scratch.ends.clear();
        scratch.ends.push(row.at());
        for (cell, &kind) in old.cells().zip(&self.kinds) {
            let cell = match cell {
                Cell::Null if self.lacking => Cell::Unchanged,
                sent => sent,
            };
            full &= write_cell(&mut row, scratch, kind, cell);
            scratch.ends.push(row.at());
        }
        row.finish();
        if full {
            OldForm::Full
        } else {
            OldForm::Partial
        }
    }

    /// Writes the key of an old row. It is that of the table whose row was logged: where that is a
    /// partition and the table its root, the root's may be another, or none. Then all there is is shown.
    fn write_key(&self, buffer: &mut Vec<u8>, scratch: &mut Scratch, key: &Tuple<'_>) -> OldForm {
        let start = buffer.len();
        let mut row = RowWriter::new(buffer);
        let mut whole = !self.relation.key.is_empty();
        for ((cell, &kind), &in_key) in key.cells().zip(&self.kinds).zip(&self.in_key) {
            let cell = if in_key { large(cell) } else { Cell::Unchanged };
            whole &= write_cell(&mut row, scratch, kind, cell) || !in_key;
        }
        row.finish();
        if whole {
            return OldForm::Key;
        }
        buffer.truncate(start);
        let mut row = RowWriter::new(buffer);
        for (cell, &kind) in key.cells().zip(&self.kinds) {
            write_cell(&mut row, scratch, kind, large(cell));
        }
        row.finish();
        OldForm::Partial
    }
}

impl Unkeyed {
    #[cold]
    fn told(&self) -> &Arc<Relation> {
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                table = %self.relation.qualified_name(),
                "the primary key of this table may be younger than these changes of it: they come without a key, and their rows are told apart by all columns"
            );
        }
        &self.relation
    }
}

/// The old cell of a key, or of a value that is too large to be sent again: neither is null, so what is
/// null there was not logged.
const fn large(old: Cell<'_>) -> Cell<'_> {
    match old {
        Cell::Null => Cell::Unchanged,
        known => known,
    }
}

#[inline]
fn write_cell(row: &mut RowWriter<'_>, scratch: &mut Scratch, kind: Kind, cell: Cell<'_>) -> bool {
    match cell {
        Cell::Text(text) => value::write(row, scratch, kind, text),
        Cell::Null => row.null(),
        Cell::Unchanged => {
            row.unavailable();
            return false;
        }
    }
    true
}

/// A number that changes with the shape and is the same on every capture of it.
fn fingerprint(def: &OwnedDef, relation: &Relation) -> u32 {
    let mut bytes = Vec::with_capacity(64 * relation.columns.len());
    let mut text = |text: &str| {
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
    };
    text(&relation.schema);
    text(&relation.table);
    for (column, def) in relation.columns.iter().zip(&def.columns) {
        text(&column.name);
        text(&column.type_name);
        text(&def.2.to_string());
        text(&def.3.to_string());
    }
    for ordinal in &relation.key {
        bytes.extend_from_slice(&ordinal.to_le_bytes());
    }
    crc32c::crc32c(&bytes)
}

/// The relation of logical messages with one prefix.
pub(crate) fn message_relation(prefix: &str) -> Arc<Relation> {
    let columns = vec![Column::new("content", "bytea")];
    Arc::new(Relation::new(
        EngineKind::Relational,
        "",
        prefix,
        columns,
        Vec::new(),
    ))
}
