//! Where decoded changes go.

use std::sync::Arc;

use cdc_core::{Op, Relation, SourceError};

/// One row change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'a> {
    pub(crate) relation: &'a Arc<Relation>,
    pub(crate) op: Op,
    /// Encoded images.
    pub(crate) before: Option<&'a [u8]>,
    pub(crate) after: Option<&'a [u8]>,
    /// The row's number, if nothing else tells it from an equal row.
    pub(crate) rowid: Option<i64>,
}

/// What happened to a table's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SchemaChange {
    Created,
    Altered,
    Dropped,
    /// `VACUUM` gave the rows new numbers.
    Renumbered,
}

impl SchemaChange {
    /// The name in events.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Created => "create",
            Self::Altered => "alter",
            Self::Dropped => "drop",
            Self::Renumbered => "rekey",
        }
    }
}

/// A change of a table's shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape<'a> {
    /// The table afterwards; of a dropped one, before.
    pub(crate) relation: &'a Arc<Relation>,
    pub(crate) change: SchemaChange,
    /// The table's definition, as in `sqlite_schema`.
    pub(crate) sql: &'a str,
    /// The name it had, if it has another one now.
    pub(crate) was: Option<&'a str>,
}

/// Takes the changes of one transaction in order. An error stops decoding.
pub(crate) trait Sink {
    /// A table's shape changed.
    fn schema(&mut self, shape: Shape<'_>) -> Result<(), SourceError>;

    /// A row changed.
    fn row(&mut self, row: Row<'_>) -> Result<(), SourceError>;
}

/// Takes everything and keeps nothing.
#[derive(Debug)]
pub(crate) struct Nowhere;

impl Sink for Nowhere {
    fn schema(&mut self, _: Shape<'_>) -> Result<(), SourceError> {
        Ok(())
    }

    fn row(&mut self, _: Row<'_>) -> Result<(), SourceError> {
        Ok(())
    }
}
