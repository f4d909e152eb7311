//! Engines of vectors with payloads: insert, update, delete, schema. Vectors are kept bit by bit.

use std::fmt;
use std::sync::Arc;

use cdc_core::row::RowWriter;
use cdc_core::{Cause, EngineKind, Op, Relation, RowImage};

use super::encoding::{bounded, image, json_or_null, relation};
use super::{KindLog, KindTransaction, Old, SchemaChange};
use crate::LogError;
use crate::format::change::{Part, Parts};

/// The kind of engine whose data are vectors.
#[derive(Clone, Copy, Debug)]
pub enum Vector {}

/// The log of an engine of vectors.
pub type VectorLog = KindLog<Vector>;

/// A collection of points.
///
/// Columns: `id` (integer or UUID), `vector` (one vector, or a map from name to vector), `payload`
/// (JSON text; null without one).
#[derive(Clone, Debug)]
pub struct Collection {
    relation: Arc<Relation>,
}

impl Collection {
    /// A collection of a database.
    pub fn new(database: &str, collection: &str) -> Self {
        let columns = [("id", "id"), ("vector", "float32[]"), ("payload", "json")];
        Self {
            relation: relation(EngineKind::Vector, database, collection, &columns, &[0]),
        }
    }

    /// The collection as events have it.
    pub const fn relation(&self) -> &Arc<Relation> {
        &self.relation
    }

    /// A point as the row that events have of it.
    pub fn row(&self, id: PointId, point: Point<'_>) -> RowImage {
        image(|row| write(row, id, Some(point)))
    }
}

fn write(row: &mut RowWriter<'_>, id: PointId, point: Option<Point<'_>>) {
    match id {
        PointId::Number(id) => row.uint(id),
        PointId::Uuid(id) => row.uuid(id),
    }
    let Some(point) = point else {
        row.unavailable();
        row.unavailable();
        return;
    };
    match point.vectors {
        Vectors::One(vector) => row.vector(vector),
        Vectors::Named(vectors) => row.map_with(|entries| {
            for (name, vector) in vectors {
                entries.entry(name, |value| value.vector(vector));
            }
        }),
    }
    json_or_null(row, point.payload);
}

/// A point's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PointId {
    /// A number.
    Number(u64),
    /// A UUID, in printed order.
    Uuid([u8; 16]),
}

/// The vectors of a point.
#[derive(Clone, Copy, PartialEq)]
pub enum Vectors<'a> {
    /// One without a name.
    One(&'a [f32]),
    /// Several by name.
    Named(&'a [(&'a str, &'a [f32])]),
}

/// A point: its vectors and its payload.
#[derive(Clone, Copy, PartialEq)]
pub struct Point<'a> {
    /// Its vectors.
    pub vectors: Vectors<'a>,
    /// Its payload as JSON text.
    pub payload: Option<&'a str>,
}

impl Point<'_> {
    fn len(&self) -> usize {
        let floats = match self.vectors {
            Vectors::One(vector) => vector.len(),
            Vectors::Named(vectors) => vectors.iter().map(|(name, v)| name.len() + v.len()).sum(),
        };
        floats.saturating_mul(4) + self.payload.map_or(0, str::len)
    }
}

/// Prints sizes only: vectors are row contents.
impl fmt::Debug for Vectors<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(vector) => write!(f, "One({} elements)", vector.len()),
            Self::Named(vectors) => write!(f, "Named({} vectors)", vectors.len()),
        }
    }
}

/// As for [`Vectors`].
impl fmt::Debug for Point<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.vectors.fmt(f)
    }
}

/// How the vectors of a collection are: in the event of its creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape<'a> {
    /// Elements of a vector: `meta.dim`.
    pub dim: u32,
    /// Distance, as the engine names it: `meta.metric`.
    pub metric: &'a str,
}

impl<'a> Shape<'a> {
    /// Vectors of so many elements, compared by this distance.
    pub const fn new(dim: u32, metric: &'a str) -> Self {
        Self { dim, metric }
    }
}

impl KindTransaction<Vector> {
    /// A point was put in place, its vectors or its payload changed: an insert with
    /// [`Old::Missing`], else an update.
    ///
    /// # Errors
    /// As for [`Transaction::change`](crate::Transaction::change).
    pub fn upsert(
        &mut self,
        collection: &Collection,
        id: PointId,
        before: Old<Point<'_>>,
        after: Point<'_>,
    ) -> Result<&mut Self, LogError> {
        let op = if before == Old::Missing {
            Op::Insert
        } else {
            Op::Update
        };
        let before = before.known();
        bounded(
            &collection.relation,
            [before.map_or(0, |p| p.len()), after.len()],
        )?;
        let parts = Parts {
            before: before.is_some(),
            after: true,
            meta: false,
        };
        self.record(
            (op, Cause::Client),
            &collection.relation,
            parts,
            |part, row| {
                write(
                    row,
                    id,
                    if part == Part::Before {
                        before
                    } else {
                        Some(after)
                    },
                );
            },
        )
    }

    /// A point went away. A delete by filter is one event a point, in one transaction.
    ///
    /// # Errors
    /// As for [`upsert`](Self::upsert).
    pub fn delete(
        &mut self,
        collection: &Collection,
        id: PointId,
        before: Old<Point<'_>>,
    ) -> Result<&mut Self, LogError> {
        if before == Old::Missing {
            return Ok(self);
        }
        let before = before.known();
        bounded(&collection.relation, [before.map_or(0, |p| p.len())])?;
        let parts = Parts {
            before: true,
            ..Parts::default()
        };
        let what = (Op::Delete, Cause::Client);
        self.record(what, &collection.relation, parts, |_, row| {
            write(row, id, before);
        })
    }

    /// The collection itself changed; `shape` is how its vectors are now.
    ///
    /// # Errors
    /// As for [`upsert`](Self::upsert).
    pub fn collection_changed(
        &mut self,
        collection: &Collection,
        change: SchemaChange<'_>,
        shape: Option<Shape<'_>>,
    ) -> Result<&mut Self, LogError> {
        self.schema_change(&collection.relation, change, |meta| {
            if let Some(shape) = shape {
                meta.text("dim");
                meta.uint(shape.dim.into());
                meta.text("metric");
                meta.text(shape.metric);
            }
        })
    }
}
