//! What the stream does not say: types that are not built in, and primary keys.

use std::sync::Arc;

use cdc_core::SourceError;
use tokio::sync::Mutex;

use super::config::PostgresConfig;
use super::connection::{Connection, Purpose, Row};
use super::key::{Attribute, KeySince};
use super::relation::OwnedDef;
use super::types::{Kind, Scalar, TypeInfo};

/// Deepest chain of domains and arrays that is followed.
const TYPE_DEPTH_MAX: usize = 16;

/// The answer to one question about a relation.
#[derive(Debug, Default)]
pub(crate) struct Lookup {
    pub(crate) types: Vec<(u32, TypeInfo)>,
    /// The table's columns, if the key is among them only the catalog knows; dropped ones too.
    pub(crate) attributes: Vec<Attribute>,
    /// When that key came to be, if the catalog can tell.
    pub(crate) key_since: Option<KeySince>,
    /// One of its partitions has another replica identity than full: it logs a part of old rows.
    pub(crate) lacking: bool,
}

/// Asks the catalog over a connection of its own, opened when first needed.
#[derive(Clone, Debug)]
pub(crate) struct Catalog {
    config: Arc<PostgresConfig>,
    connection: Arc<Mutex<Option<Connection>>>,
}

impl Catalog {
    pub(crate) fn new(config: Arc<PostgresConfig>) -> Self {
        Self {
            config,
            connection: Arc::new(Mutex::new(None)),
        }
    }

    /// Looks up what is missing to decode a relation's rows. The catalog is of now: what has been
    /// dropped since is not found, and that is no error.
    pub(crate) async fn look_up(
        &self,
        def: &OwnedDef,
        types: &[u32],
    ) -> Result<Lookup, SourceError> {
        let mut slot = self.connection.lock().await;
        // A connection kept since the last question may have been closed by the server: once anew.
        if let Some(mut kept) = slot.take()
            && let Ok(lookup) = ask(&mut kept, def, types).await
        {
            *slot = Some(kept);
            return Ok(lookup);
        }
        let mut fresh = Connection::open(&self.config, Purpose::Sql).await?;
        let lookup = ask(&mut fresh, def, types).await?;
        *slot = Some(fresh);
        Ok(lookup)
    }

    /// Closes the connection if nobody is asking.
    pub(crate) async fn close(&self) {
        if let Some(connection) = self.connection.lock().await.take() {
            connection.close().await;
        }
    }
}

async fn ask(
    connection: &mut Connection,
    def: &OwnedDef,
    types: &[u32],
) -> Result<Lookup, SourceError> {
    let mut lookup = Lookup::default();
    if !types.is_empty() {
        lookup.types = look_up_types(connection, types).await?;
    }
    if def.needs_primary_key() {
        // One question, so that nobody alters the table between two.
        let sql = format!(
            "SELECT a.attname, a.atttypid, a.attisdropped, a.attgenerated <> '', EXISTS ( \
                SELECT 1 FROM pg_index i \
                CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n) \
                WHERE i.indrelid = a.attrelid AND i.indisprimary AND k.n <= i.indnkeyatts AND k.attnum = a.attnum), \
                (SELECT d.xmin FROM pg_constraint c \
                    JOIN pg_depend d ON d.classid = 'pg_constraint'::regclass AND d.objid = c.oid \
                        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.conrelid AND d.refobjsubid = a.attnum \
                    WHERE c.conrelid = a.attrelid AND c.contype = 'p' AND {XID_COMPARES} LIMIT 1), \
                (SELECT d.xmin FROM pg_depend d \
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = a.attrelid AND d.objsubid = 0 \
                        AND d.refclassid = 'pg_namespace'::regclass AND {XID_COMPARES} LIMIT 1) \
             FROM pg_attribute a WHERE a.attrelid = {} AND a.attnum > 0 ORDER BY a.attnum",
            def.oid
        );
        let rows = connection.query(&sql, "look up a primary key").await?;
        for row in rows {
            let Some((attribute, key, table)) = attribute(row) else {
                continue;
            };
            if let Some(key) = key
                && attribute.key
            {
                lookup.key_since = Some(KeySince { table, key });
            }
            lookup.attributes.push(attribute);
        }
        let sql = format!(
            "{} SELECT 1 FROM partition p JOIN pg_class c ON c.oid = p.relid \
             WHERE c.relkind = 'r' AND c.relreplident <> 'f' LIMIT 1",
            partitions(&format!("c.oid = {}", def.oid))
        );
        let rows = connection.query(&sql, "look at partitions").await?;
        lookup.lacking = !rows.is_empty();
    }
    Ok(lookup)
}

/// The beginning of a question about `partition (root, relid)`: what is below the partitioned tables
/// `c` of a condition. Takes no locks on them.
pub(super) fn partitions(condition: &str) -> String {
    format!(
        "WITH RECURSIVE partition (root, relid) AS ( \
            SELECT c.oid, i.inhrelid FROM pg_class c JOIN pg_inherits i ON i.inhparent = c.oid \
            WHERE c.relkind = 'p' AND {condition} \
            UNION ALL SELECT p.root, i.inhrelid FROM partition p JOIN pg_inherits i ON i.inhparent = p.relid)"
    )
}

/// True of an xmin that is neither frozen by an old server nor more than half the circle ago.
const XID_COMPARES: &str = "age(d.xmin) >= 0 AND d.xmin::text::bigint > 2";

/// A column, and the transactions that made its key and its table.
fn attribute(row: Row) -> Option<(Attribute, Option<u32>, Option<u32>)> {
    let [name, type_oid, dropped, generated, key, key_by, table_by] =
        <[Option<String>; 7]>::try_from(row).ok()?;
    let attribute = Attribute {
        name: name?,
        type_oid: type_oid?.parse().ok()?,
        dropped: dropped? == "t",
        generated: generated? == "t",
        key: key? == "t",
    };
    let xid = |text: Option<String>| text.and_then(|text| text.parse().ok());
    Some((attribute, xid(key_by), xid(table_by)))
}

/// A row of pg_type.
struct TypeRow {
    oid: u32,
    name: String,
    /// `d`omain, `e`num, `b`ase, ...
    class: String,
    base: u32,
    element: u32,
    array: bool,
    delimiter: u8,
}

fn type_row(row: Row) -> Option<TypeRow> {
    let [oid, name, class, base, element, array, delimiter] =
        <[Option<String>; 7]>::try_from(row).ok()?;
    Some(TypeRow {
        oid: oid?.parse().ok()?,
        name: name?,
        class: class?,
        base: base?.parse().ok()?,
        element: element?.parse().ok()?,
        array: array? == "t",
        delimiter: delimiter?.bytes().next()?,
    })
}

async fn look_up_types(
    connection: &mut Connection,
    wanted: &[u32],
) -> Result<Vec<(u32, TypeInfo)>, SourceError> {
    let mut rows: Vec<TypeRow> = Vec::new();
    let mut missing: Vec<u32> = wanted.to_vec();
    for _ in 0..TYPE_DEPTH_MAX {
        if missing.is_empty() {
            break;
        }
        let oids: Vec<String> = missing.iter().map(u32::to_string).collect();
        let sql = format!(
            "SELECT t.oid, CASE WHEN n.nspname = 'pg_catalog' THEN t.typname::text \
                ELSE n.nspname || '.' || t.typname END, \
                t.typtype, t.typbasetype, t.typelem, t.typcategory = 'A' AND t.typelem <> 0, t.typdelim \
             FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.oid IN ({})",
            oids.join(",")
        );
        let answer = connection.query(&sql, "look up types").await?;
        let found: Vec<TypeRow> = answer.into_iter().filter_map(type_row).collect();
        let next = |t: &TypeRow| match (t.class.as_str(), t.array) {
            ("d", _) => Some(t.base),
            (_, true) => Some(t.element),
            _ => None,
        };
        missing = found.iter().filter_map(next).collect();
        rows.extend(found);
        missing.retain(|oid| !rows.iter().any(|row| row.oid == *oid));
    }
    let builtin = super::types::Types::new();
    let resolve = |oid: u32| -> Option<TypeInfo> {
        Some(TypeInfo {
            name: name_of(oid, &rows, &builtin, TYPE_DEPTH_MAX)?.into(),
            kind: kind_of(oid, &rows, &builtin, TYPE_DEPTH_MAX),
        })
    };
    Ok(wanted
        .iter()
        .filter_map(|&oid| Some((oid, resolve(oid)?)))
        .collect())
}

fn name_of(
    oid: u32,
    rows: &[TypeRow],
    builtin: &super::types::Types,
    depth: usize,
) -> Option<String> {
    if let Some(info) = builtin.get(oid) {
        return Some(info.name.to_string());
    }
    let row = rows.iter().find(|row| row.oid == oid)?;
    if row.array && depth > 0 {
        let element = name_of(row.element, rows, builtin, depth - 1)?;
        return Some(format!("{element}[]"));
    }
    Some(row.name.clone())
}

/// Domains are read as what they are over; everything else that is not built in is text.
fn kind_of(oid: u32, rows: &[TypeRow], builtin: &super::types::Types, depth: usize) -> Kind {
    const TEXT: Kind = Kind::Scalar(Scalar::Text);
    if let Some(info) = builtin.get(oid) {
        return info.kind;
    }
    let Some(row) = rows.iter().find(|row| row.oid == oid) else {
        return TEXT;
    };
    if depth == 0 {
        return TEXT;
    }
    if row.class == "d" {
        return kind_of(row.base, rows, builtin, depth - 1);
    }
    if row.array {
        let delimiter = rows
            .iter()
            .find(|element| element.oid == row.element)
            .map_or(b',', |element| element.delimiter);
        return match kind_of(row.element, rows, builtin, depth - 1) {
            Kind::Scalar(scalar) => Kind::Array(scalar, delimiter),
            // An array of a domain over an array: two literals in one another.
            Kind::Array(..) => TEXT,
        };
    }
    match row.name.rsplit('.').next() {
        Some("vector") => Kind::Scalar(Scalar::Vector),
        _ => TEXT,
    }
}
