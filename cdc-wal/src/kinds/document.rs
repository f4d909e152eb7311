//! Engines of documents in collections: insert, update, replace, delete, schema.

use std::fmt;
use std::sync::Arc;

use cdc_core::row::RowWriter;
use cdc_core::{Cause, EngineKind, Op, Relation, RowImage};

use super::encoding::{bounded, image, relation, texts};
use super::{KindLog, KindTransaction, Old, SchemaChange};
use crate::LogError;
use crate::format::change::{Part, Parts};

/// The kind of engine whose data are documents in collections.
#[derive(Clone, Copy, Debug)]
pub enum Document {}

/// The log of an engine of documents.
pub type DocumentLog = KindLog<Document>;

/// A collection.
///
/// Columns: `_id`, of whatever type each document's is, and `document`, the whole document as JSON
/// text, kept as the engine writes it (Extended JSON for types that JSON has not).
#[derive(Clone, Debug)]
pub struct Collection {
    relation: Arc<Relation>,
}

impl Collection {
    /// A collection of a database.
    pub fn new(database: &str, collection: &str) -> Self {
        let columns = [("_id", "any"), ("document", "json")];
        Self {
            relation: relation(EngineKind::Document, database, collection, &columns, &[0]),
        }
    }

    /// The collection as events have it.
    pub const fn relation(&self) -> &Arc<Relation> {
        &self.relation
    }

    /// A document as the row that events have of it.
    pub fn row<'a>(&self, id: impl Into<Id<'a>>, document: &str) -> RowImage {
        let id = id.into();
        image(|row| write(row, id, Some(document)))
    }
}

fn write(row: &mut RowWriter<'_>, id: Id<'_>, document: Option<&str>) {
    id.write(row);
    match document {
        Some(document) => row.json(document),
        None => row.unavailable(),
    }
}

/// A document's `_id`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Id<'a> {
    /// An integer.
    Int(i64),
    /// Text; also the digits of an object id.
    Text(&'a str),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A UUID.
    Uuid([u8; 16]),
    /// Anything else, as JSON text.
    Json(&'a str),
}

impl Id<'_> {
    fn write(self, row: &mut RowWriter<'_>) {
        match self {
            Self::Int(id) => row.int(id),
            Self::Text(id) => row.text(id),
            Self::Bytes(id) => row.bytes(id),
            Self::Uuid(id) => row.uuid(id),
            Self::Json(id) => row.json(id),
        }
    }

    const fn len(&self) -> usize {
        match self {
            Self::Int(_) | Self::Uuid(_) => 16,
            Self::Text(id) | Self::Json(id) => id.len(),
            Self::Bytes(id) => id.len(),
        }
    }
}

/// Prints the type only: ids are row contents.
impl fmt::Debug for Id<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Int(_) => "Int",
            Self::Text(_) => "Text",
            Self::Bytes(_) => "Bytes",
            Self::Uuid(_) => "Uuid",
            Self::Json(_) => "Json",
        })
    }
}

impl From<i64> for Id<'_> {
    fn from(id: i64) -> Self {
        Self::Int(id)
    }
}

impl<'a> From<&'a str> for Id<'a> {
    fn from(id: &'a str) -> Self {
        Self::Text(id)
    }
}

/// Which members of a document an update touched, as dotted paths. Both empty: not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paths<'a> {
    /// Set or changed: `meta.changed`.
    pub changed: &'a [&'a str],
    /// Removed: `meta.removed`.
    pub removed: &'a [&'a str],
}

impl<'a> Paths<'a> {
    /// These were set or changed, none was removed.
    pub const fn changed(changed: &'a [&'a str]) -> Self {
        Self {
            changed,
            removed: &[],
        }
    }
}

impl KindTransaction<Document> {
    /// A document appeared.
    ///
    /// # Errors
    /// As for [`Transaction::change`](crate::Transaction::change).
    pub fn insert<'a>(
        &mut self,
        collection: &Collection,
        id: impl Into<Id<'a>>,
        document: &str,
    ) -> Result<&mut Self, LogError> {
        let id = id.into();
        bounded(&collection.relation, [id.len(), document.len()])?;
        let parts = Parts {
            after: true,
            ..Parts::default()
        };
        let what = (Op::Insert, Cause::Client);
        self.record(what, &collection.relation, parts, |_, row| {
            write(row, id, Some(document));
        })
    }

    /// Members of a document changed. `after` is the whole document. With [`Old::Missing`] it is
    /// an insert (an upsert that found nothing).
    ///
    /// # Errors
    /// As for [`insert`](Self::insert).
    pub fn update<'a>(
        &mut self,
        collection: &Collection,
        id: impl Into<Id<'a>>,
        before: Old<&str>,
        after: &str,
        paths: Paths<'_>,
    ) -> Result<&mut Self, LogError> {
        self.changed(
            collection,
            id.into(),
            before,
            after,
            |meta| {
                for (name, list) in [("changed", paths.changed), ("removed", paths.removed)] {
                    if !list.is_empty() {
                        meta.text(name);
                        texts(meta, list.iter().copied());
                    }
                }
            },
            !paths.changed.is_empty() || !paths.removed.is_empty(),
        )
    }

    /// A document was replaced as a whole: an update with `meta.replace`.
    ///
    /// # Errors
    /// As for [`insert`](Self::insert).
    pub fn replace<'a>(
        &mut self,
        collection: &Collection,
        id: impl Into<Id<'a>>,
        before: Old<&str>,
        after: &str,
    ) -> Result<&mut Self, LogError> {
        self.changed(
            collection,
            id.into(),
            before,
            after,
            |meta| {
                meta.text("replace");
                meta.bool(true);
            },
            true,
        )
    }

    /// A document went away.
    ///
    /// # Errors
    /// As for [`insert`](Self::insert).
    pub fn delete<'a>(
        &mut self,
        collection: &Collection,
        id: impl Into<Id<'a>>,
        before: Old<&str>,
    ) -> Result<&mut Self, LogError> {
        self.take_away(collection, id.into(), before, Cause::Client)
    }

    /// A document's time ran out (TTL index).
    ///
    /// # Errors
    /// As for [`insert`](Self::insert).
    pub fn expire<'a>(
        &mut self,
        collection: &Collection,
        id: impl Into<Id<'a>>,
        before: Old<&str>,
    ) -> Result<&mut Self, LogError> {
        self.take_away(collection, id.into(), before, Cause::Ttl)
    }

    /// The collection itself changed.
    ///
    /// # Errors
    /// As for [`insert`](Self::insert).
    pub fn collection_changed(
        &mut self,
        collection: &Collection,
        change: SchemaChange<'_>,
    ) -> Result<&mut Self, LogError> {
        self.schema_change(&collection.relation, change, |_| {})
    }

    fn changed(
        &mut self,
        collection: &Collection,
        id: Id<'_>,
        before: Old<&str>,
        after: &str,
        mut more: impl FnMut(&mut RowWriter<'_>),
        meta: bool,
    ) -> Result<&mut Self, LogError> {
        let op = if before == Old::Missing {
            Op::Insert
        } else {
            Op::Update
        };
        let before = before.known();
        bounded(
            &collection.relation,
            [2 * id.len(), before.map_or(0, str::len), after.len()],
        )?;
        let parts = Parts {
            before: before.is_some(),
            after: true,
            meta: meta && op == Op::Update,
        };
        self.record(
            (op, Cause::Client),
            &collection.relation,
            parts,
            |part, row| match part {
                Part::Before => write(row, id, before),
                Part::After => write(row, id, Some(after)),
                Part::Meta => more(row),
            },
        )
    }

    fn take_away(
        &mut self,
        collection: &Collection,
        id: Id<'_>,
        before: Old<&str>,
        cause: Cause,
    ) -> Result<&mut Self, LogError> {
        if before == Old::Missing {
            return Ok(self);
        }
        let before = before.known();
        bounded(&collection.relation, [id.len(), before.map_or(0, str::len)])?;
        let parts = Parts {
            before: true,
            ..Parts::default()
        };
        self.record(
            (Op::Delete, cause),
            &collection.relation,
            parts,
            |_, row| {
                write(row, id, before);
            },
        )
    }
}
