//! A copy of the tables, kept up by changes only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cdc_core::row::RowWriter;
use cdc_core::{Op, Relation, RowImage, SourceError};
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::sqlite::sink::{Row, SchemaChange, Shape, Sink};

/// Rows by their encoded key, or by rowid if the table shows no key.
pub(super) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// A table as SQLite reads it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Dump {
    pub(super) columns: Vec<String>,
    pub(super) rows: Rows,
}

/// The tables of a database by name.
pub(super) fn dump(db: &Connection) -> BTreeMap<String, Dump> {
    let names: Vec<String> = column(
        db,
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite~_%' ESCAPE '~' \
         AND rootpage > 0 AND name NOT LIKE 'fts~_%' ESCAPE '~'",
    );
    names
        .into_iter()
        .map(|name| {
            let table = dump_table(db, &name);
            (name, table)
        })
        .collect()
}

fn column(db: &Connection, sql: &str) -> Vec<String> {
    let mut statement = db.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

fn encode(values: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut buffer = Vec::new();
    let mut row = RowWriter::new(&mut buffer);
    for value in values {
        row.raw(&value);
    }
    row.finish();
    buffer
}

fn value(value: ValueRef<'_>) -> Vec<u8> {
    let mut buffer = Vec::new();
    let mut row = RowWriter::new(&mut buffer);
    match value {
        ValueRef::Null => row.null(),
        ValueRef::Integer(n) => row.int(n),
        ValueRef::Real(n) => row.float64(n),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => row.text(text),
            Err(_) => row.bytes(bytes),
        },
        ValueRef::Blob(bytes) => row.bytes(bytes),
    }
    row.finish();
    buffer.split_off(2)
}

fn dump_table(db: &Connection, name: &str) -> Dump {
    let sql =
        format!("SELECT name FROM pragma_table_xinfo('{name}') WHERE hidden <> 2 ORDER BY cid");
    let columns = column(db, &sql);
    let key = column(
        db,
        &format!("SELECT name FROM pragma_table_xinfo('{name}') WHERE pk > 0 ORDER BY cid"),
    );
    let quoted: Vec<String> = columns.iter().map(|c| format!("\"{c}\"")).collect();
    let rowid = if key.is_empty() { "_rowid_, " } else { "" };
    let sql = format!("SELECT {rowid}{} FROM \"{name}\"", quoted.join(", "));
    let mut statement = db.prepare(&sql).unwrap();
    let mut found = statement.query([]).unwrap();
    let mut rows = Rows::new();
    let skip = usize::from(key.is_empty());
    while let Some(row) = found.next().unwrap() {
        let values: Vec<Vec<u8>> = (0..columns.len())
            .map(|n| value(row.get_ref(n + skip).unwrap()))
            .collect();
        let key = if key.is_empty() {
            let rowid: i64 = row.get(0).unwrap();
            rowid.to_be_bytes().to_vec()
        } else {
            let part = |n: &usize| key.contains(&columns[*n]);
            encode((0..columns.len()).filter(part).map(|n| values[n].clone()))
        };
        assert!(rows.insert(key, encode(values.into_iter())).is_none());
    }
    Dump { columns, rows }
}

#[derive(Debug, Clone)]
struct Table {
    relation: Arc<Relation>,
    rows: Rows,
    /// Its shape changed in this transaction: rows of both shapes are in `rows`.
    altered: bool,
    written: BTreeSet<Vec<u8>>,
}

/// Applies changes and refuses those that do not fit.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    tables: BTreeMap<String, Table>,
    pub(super) events: u64,
    pub(super) log: Vec<String>,
}

fn raw_columns(image: &[u8]) -> Vec<Vec<u8>> {
    let row = RowImage::from_bytes(image.to_vec().into());
    row.validate().unwrap();
    let mut columns = row.columns().unwrap();
    let mut values = Vec::new();
    while let Some(value) = columns.next_raw() {
        values.push(value.unwrap().to_vec());
    }
    values
}

fn key_of(relation: &Relation, image: &[u8], rowid: Option<i64>) -> Vec<u8> {
    if relation.key.is_empty() {
        return rowid.expect("a rowid").to_be_bytes().to_vec();
    }
    let values = raw_columns(image);
    encode(relation.key.iter().map(|n| values[usize::from(*n)].clone()))
}

impl Mirror {
    /// Whether the tables are these; of one whose shape changed, the rows that were written since, and how
    /// many there are. (A VACUUM in front of which and behind which a reader may stand gives rows of
    /// a table without key other numbers.)
    pub(super) fn may_be(&self, truth: &BTreeMap<String, Dump>) -> bool {
        self.tables.iter().all(|(name, table)| {
            let Some(dump) = truth.get(name) else {
                return false;
            };
            if !table.altered {
                return dump.rows == table.rows;
            }
            // A row that was deleted again, or whose shape is not known here, says nothing.
            let mut written = table.written.iter().filter_map(|key| {
                let row = table.rows.get(key)?;
                Some((key, row))
            });
            dump.rows.len() == table.rows.len()
                && (!table.relation.key.is_empty() || dump.rows.keys().eq(table.rows.keys()))
                && written.all(|(key, row)| dump.rows.get(key) == Some(row))
        })
    }

    /// The transaction is over: the copy must be what SQLite reads.
    pub(super) fn check(&mut self, truth: &BTreeMap<String, Dump>) {
        let mine: Vec<&String> = self.tables.keys().collect();
        assert_eq!(mine, truth.keys().collect::<Vec<_>>(), "tables");
        for (name, table) in &mut self.tables {
            let dump = &truth[name];
            let columns: Vec<&str> = table.relation.columns.iter().map(|c| &*c.name).collect();
            assert_eq!(columns, dump.columns, "columns of {name}");
            if table.altered {
                let old = std::mem::take(&mut table.rows);
                for (key, row) in &dump.rows {
                    if table.written.contains(key) {
                        assert_eq!(old.get(key), Some(row), "{name}: a written row");
                    }
                }
                assert_eq!(old.len(), dump.rows.len(), "{name}: number of rows");
                if table.relation.key.is_empty() {
                    assert!(old.keys().eq(dump.rows.keys()), "{name}: numbers of rows");
                }
                table.rows.clone_from(&dump.rows);
                table.altered = false;
            } else if table.rows != dump.rows {
                for (key, row) in &table.rows {
                    assert_eq!(
                        dump.rows.get(key),
                        Some(row),
                        "{name}: a row of the copy {key:?}"
                    );
                }
                panic!(
                    "{name}: {} rows in the copy, {} in the table",
                    table.rows.len(),
                    dump.rows.len()
                );
            }
            table.written.clear();
        }
        self.log.clear();
    }
}

impl Sink for Mirror {
    fn schema(&mut self, shape: Shape<'_>) -> Result<(), SourceError> {
        let Shape {
            relation,
            change,
            was,
            ..
        } = shape;
        let name = relation.table.to_string();
        self.log.push(format!("{} {name}", change.name()));
        let fresh = |rows: Rows, altered| Table {
            relation: relation.clone(),
            rows,
            altered,
            written: BTreeSet::new(),
        };
        match change {
            SchemaChange::Created => {
                let before = self.tables.insert(name, fresh(Rows::new(), false));
                assert!(before.is_none(), "created twice");
            }
            SchemaChange::Dropped => {
                assert!(
                    self.tables.remove(&name).is_some(),
                    "dropped what is not there"
                );
            }
            SchemaChange::Altered => {
                let was = was.unwrap_or(&name);
                let before = self.tables.remove(was).expect("a table that was altered");
                self.tables.insert(name, fresh(before.rows, true));
            }
            SchemaChange::Renumbered => {
                let table = self.tables.get_mut(&name).unwrap();
                let mut numbered: Vec<(i64, Vec<u8>)> = std::mem::take(&mut table.rows)
                    .into_iter()
                    .map(|(key, row)| (i64::from_be_bytes(key.try_into().unwrap()), row))
                    .collect();
                numbered.sort();
                table.rows = (1i64..)
                    .zip(numbered)
                    .map(|(n, (_, row))| (n.to_be_bytes().to_vec(), row))
                    .collect();
            }
        }
        Ok(())
    }

    fn row(&mut self, row: Row<'_>) -> Result<(), SourceError> {
        self.events += 1;
        let name = row.relation.table.to_string();
        if row.op == Op::Read && !self.tables.contains_key(&name) {
            let table = Table {
                relation: row.relation.clone(),
                rows: Rows::new(),
                altered: false,
                written: BTreeSet::new(),
            };
            self.tables.insert(name.clone(), table);
        }
        let table = self.tables.get_mut(&name).expect("a known table");
        assert_eq!(table.relation, *row.relation, "the shape was told before");
        let key = |image: Option<&[u8]>| key_of(row.relation, image.expect("an image"), row.rowid);
        match row.op {
            Op::Insert | Op::Read => {
                let key = key(row.after);
                let old = table.rows.insert(key.clone(), row.after.unwrap().to_vec());
                assert!(old.is_none(), "{name}: {} of a row that is there", row.op);
                table.written.insert(key);
            }
            Op::Delete => {
                let key = key(row.before);
                let old = table.rows.remove(&key);
                if !table.altered || table.written.contains(&key) {
                    assert_eq!(
                        old.as_deref(),
                        row.before,
                        "{name}: before image of a delete"
                    );
                }
                assert!(old.is_some(), "{name}: delete of a row that is not there");
            }
            Op::Update => {
                assert_ne!(
                    row.before, row.after,
                    "{name}: an update that changes nothing"
                );
                let (key, now) = (key(row.before), key(row.after));
                if row.relation.key.is_empty() || !table.relation.key.is_empty() {
                    // Collations may find keys equal whose text differs, by its case in these tables.
                    assert!(
                        table.altered || key.eq_ignore_ascii_case(&now),
                        "{name}: an update of a key"
                    );
                    let old = table.rows.remove(&key);
                    assert!(old.is_some(), "{name}: update of a row that is not there");
                    if !table.altered {
                        assert_eq!(old.as_deref(), row.before, "{name}: before image");
                    }
                    table.rows.insert(now.clone(), row.after.unwrap().to_vec());
                    table.written.insert(now);
                }
            }
            other => panic!("{name}: {other}"),
        }
        Ok(())
    }
}

/// Empty tables are told by no row: they are put in from the first dump.
pub(super) fn seed(mirror: &mut Mirror, names: impl Iterator<Item = (String, Arc<Relation>)>) {
    for (name, relation) in names {
        mirror.tables.entry(name).or_insert_with(|| Table {
            relation,
            rows: Rows::new(),
            altered: false,
            written: BTreeSet::new(),
        });
    }
}
