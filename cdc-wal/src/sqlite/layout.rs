//! From a table's definition to how its stored rows become rows of a relation.

use std::sync::Arc;

use cdc_core::row::RowWriter;
use cdc_core::{Column, EngineKind, Relation};

use super::format::Encoding;
use super::record::{self, Collation, Field, KeyPart};
use super::schema::{ColumnDef, DefaultValue, TableDef};

/// The schema's name in events: SQLite's name of the database a connection has opened.
const SCHEMA: &str = "main";

/// Where a column's value stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Rowid,
    /// Place in the record.
    Field(usize),
}

#[derive(Clone, Debug, PartialEq)]
struct Stored {
    place: Place,
    real: bool,
    /// The encoded value of rows that were written before the column was added.
    default: Vec<u8>,
}

/// How the rows of a table are stored, and the relation they become.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) relation: Arc<Relation>,
    pub(crate) without_rowid: bool,
    /// How the b-tree of a table without rowid is ordered.
    pub(crate) key: Vec<KeyPart>,
    /// The columns of that key, in its order.
    key_ordinals: Vec<usize>,
    /// The key in events is not what the b-tree is ordered by: a new key may take a row's place
    /// while that row still stands under another one.
    pub(crate) key_moves: bool,
    columns: Vec<Stored>,
    encoding: Encoding,
}

/// For each column of a new layout the column of the old one that it was.
pub(crate) type Projection = Vec<Option<usize>>;

/// The error says why the table cannot be captured.
fn encoded(
    default: &DefaultValue,
    real: bool,
    encoding: Encoding,
) -> Result<Vec<u8>, &'static str> {
    let mut buffer = Vec::new();
    let mut row = RowWriter::new(&mut buffer);
    match default {
        // No row can be without a value that is computed. SQLite would read one as this.
        DefaultValue::Null | DefaultValue::Computed => row.null(),
        #[expect(clippy::cast_precision_loss, reason = "SQLite converts the same way")]
        DefaultValue::Int(n) if real => row.float64(*n as f64),
        DefaultValue::Int(n) => row.int(*n),
        DefaultValue::Real(n) => row.float64(*n),
        DefaultValue::Text(text) => row.text(text),
        DefaultValue::Blob(bytes) => row.bytes(bytes),
        DefaultValue::TextBytes(text) => row.bytes(&record::stored_text(text, encoding)),
        DefaultValue::Unclear => {
            return Err("what a column's default gives depends on the version of SQLite");
        }
    }
    row.finish();
    // Without the count of columns in front.
    buffer.drain(..2);
    Ok(buffer)
}

impl Layout {
    /// The error says why the table cannot be captured. `descending` is false in databases of an
    /// old schema format, which order every key upwards.
    pub(crate) fn new(
        name: &str,
        def: &TableDef,
        encoding: Encoding,
        descending: bool,
    ) -> Result<Self, &'static str> {
        let stored: Vec<usize> = (0..def.columns.len())
            .filter(|n| !def.columns[*n].virtual_)
            .collect();
        if stored.len() > Relation::COLUMNS_MAX {
            return Err("it has more columns than an event can hold");
        }
        let (record, key) = if def.without_rowid {
            ordered(def, &stored, descending)?
        } else {
            (stored.clone(), Vec::new())
        };
        let mut columns = Vec::with_capacity(stored.len());
        let mut shown = Vec::with_capacity(stored.len());
        for &n in &stored {
            let ColumnDef {
                name,
                type_name,
                default,
                real,
                ..
            } = &def.columns[n];
            let place = if def.alias == Some(n) {
                Place::Rowid
            } else {
                let field = record.iter().position(|column| *column == n);
                Place::Field(field.ok_or("a column is not in its rows")?)
            };
            columns.push(Stored {
                place,
                real: *real,
                default: encoded(default, *real, encoding)?,
            });
            shown.push(Column::new(name.as_str(), type_name.as_str()));
        }
        let mut ordinals = Vec::new();
        for part in &def.key {
            let ordinal = stored.iter().position(|column| *column == part.column);
            let ordinal = ordinal.and_then(|n| u16::try_from(n).ok());
            ordinals.push(ordinal.ok_or("a column of its key is not stored")?);
        }
        ordinals.sort_unstable();
        ordinals.dedup();
        let key_moves = !def.without_rowid && def.alias.is_none() && !ordinals.is_empty();
        let mut relation = Relation::new(EngineKind::Relational, SCHEMA, name, shown, ordinals);
        relation.version = fingerprint(&relation);
        Ok(Self {
            relation: Arc::new(relation),
            without_rowid: def.without_rowid,
            key_ordinals: record
                .iter()
                .take(key.len())
                .filter_map(|n| stored.iter().position(|column| column == n))
                .collect(),
            key,
            key_moves,
            columns,
            encoding,
        })
    }

    /// True if the table shows no key: a row is told from an equal one by its rowid only.
    pub(crate) fn is_keyless(&self) -> bool {
        self.relation.key.is_empty()
    }

    /// True if some column is the rowid.
    pub(crate) fn shows_rowid(&self) -> bool {
        self.columns.iter().any(|c| c.place == Place::Rowid)
    }

    /// True if rows are stored and shown alike.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.columns == other.columns
            && self.key == other.key
            && self.relation.columns == other.relation.columns
            && self.relation.key == other.relation.key
            && self.without_rowid == other.without_rowid
    }

    /// True if the b-trees of both are ordered by the same key, so that rows can be matched, and
    /// events show the same key, so that consumers can match them too.
    pub(crate) fn matches(&self, old: &Self, projection: &Projection) -> bool {
        let origin = |n: &usize| projection.get(*n).copied().flatten();
        self.without_rowid == old.without_rowid
            && self.key == old.key
            && self.relation.key.len() == old.relation.key.len()
            && self.relation.key.iter().all(|n| {
                origin(&usize::from(*n))
                    .and_then(|n| u16::try_from(n).ok())
                    .is_some_and(|n| old.relation.key.contains(&n))
            })
            && self.key_ordinals.len() == old.key_ordinals.len()
            && self
                .key_ordinals
                .iter()
                .zip(&old.key_ordinals)
                .all(|(new, old)| origin(new) == Some(*old))
    }

    /// Which columns of `old` the columns of this layout were: those of the same name; with equal
    /// numbers of columns, one of a new name was the column at its place that has no other heir and is
    /// declared alike: a renaming leaves all but the name. One that was dropped and one that was added
    /// in the same transaction, at the end of the table and declared alike, are taken for a renaming.
    pub(crate) fn projection(&self, old: &Self) -> Projection {
        let (before, after) = (&old.relation.columns, &self.relation.columns);
        let named = |name: &str| {
            before
                .iter()
                .position(|column| column.name.eq_ignore_ascii_case(name))
        };
        let mut projection: Projection = after.iter().map(|column| named(&column.name)).collect();
        if before.len() == after.len() {
            for n in 0..after.len() {
                if projection[n].is_none()
                    && !projection.contains(&Some(n))
                    && before[n].type_name == after[n].type_name
                    && old.columns.get(n) == self.columns.get(n)
                {
                    projection[n] = Some(n);
                }
            }
        }
        projection
    }

    /// Writes one row.
    #[inline]
    pub(crate) fn write(&self, out: &mut Vec<u8>, payload: &[u8], fields: &[Field], rowid: i64) {
        let mut row = RowWriter::new(out);
        for column in &self.columns {
            self.value(&mut row, column, payload, fields, rowid);
        }
        row.finish();
    }

    #[inline]
    fn value(
        &self,
        row: &mut RowWriter<'_>,
        column: &Stored,
        payload: &[u8],
        fields: &[Field],
        rowid: i64,
    ) {
        match column.place {
            Place::Rowid => row.int(rowid),
            Place::Field(n) => match fields.get(n) {
                Some(field) => {
                    record::write(row, field.value(payload), column.real, self.encoding);
                }
                None => row.raw(&column.default),
            },
        }
    }

    /// Writes a row of this layout as the newer layout would show it.
    pub(crate) fn write_as(
        &self,
        newer: &Self,
        projection: &Projection,
        out: &mut Vec<u8>,
        payload: &[u8],
        fields: &[Field],
        rowid: i64,
    ) {
        let mut row = RowWriter::new(out);
        for (column, origin) in newer.columns.iter().zip(projection) {
            match origin.and_then(|n| self.columns.get(n)) {
                Some(old) => self.value(&mut row, old, payload, fields, rowid),
                None => row.raw(&column.default),
            }
        }
        row.finish();
    }
}

/// The columns of a record of a table without rowid, key first, and how the key is ordered.
fn ordered(
    def: &TableDef,
    stored: &[usize],
    descending: bool,
) -> Result<(Vec<usize>, Vec<KeyPart>), &'static str> {
    let (mut record, mut key) = (Vec::new(), Vec::new());
    for part in &def.key {
        let column = def
            .columns
            .get(part.column)
            .ok_or("its key is not stored")?;
        let name = part.collation.as_ref().or(column.collation.as_ref());
        let collation = match name {
            None => Collation::Binary,
            Some(name) => Collation::from_name(name).ok_or(
                "the key of a table without rowid uses a collation of the application's own",
            )?,
        };
        // SQLite leaves out a column that is there already under the same collation.
        let again = record
            .iter()
            .zip(&key)
            .any(|(n, k): (&usize, &KeyPart)| *n == part.column && k.collation == collation);
        if !again {
            record.push(part.column);
            key.push(KeyPart {
                collation,
                descending: part.descending && descending,
            });
        }
    }
    if key.is_empty() {
        return Err("it has neither a rowid nor a key");
    }
    let rest: Vec<usize> = stored
        .iter()
        .copied()
        .filter(|n| !record.contains(n))
        .collect();
    record.extend(rest);
    Ok((record, key))
}

/// A number that changes with the shape and is the same on every capture of it.
fn fingerprint(relation: &Relation) -> u32 {
    let mut bytes = Vec::with_capacity(32 * relation.columns.len());
    let mut text = |text: &str| {
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
    };
    text(&relation.table);
    for column in &relation.columns {
        text(&column.name);
        text(&column.type_name);
    }
    for ordinal in &relation.key {
        bytes.extend_from_slice(&ordinal.to_le_bytes());
    }
    crc32c::crc32c(&bytes)
}
