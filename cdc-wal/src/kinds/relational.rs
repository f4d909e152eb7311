//! Engines of tables and rows: insert, update, delete, truncate, schema.
//!
//! Rows are written column by column, in the table's order, by the engine's own code; columns it
//! does not have at hand are [`RowWriter::unavailable`]. The key is the primary key; a table
//! without one is identified by its full old rows.

use std::sync::Arc;

use cdc_core::row::RowWriter;
use cdc_core::{Cause, Column, EngineKind, Op, Relation};

use super::encoding::invalid;
use super::{KindLog, KindTransaction, SchemaChange};
use crate::format::change::{Part, Parts};
use crate::{LogError, LogErrorKind};

/// The kind of engine whose data are tables and rows.
#[derive(Clone, Copy, Debug)]
pub enum Relational {}

/// The log of an engine of tables and rows.
pub type RelationalLog = KindLog<Relational>;

/// No row to write.
const NONE: Option<fn(&mut RowWriter<'_>)> = None;

/// A table, at one version of its shape.
#[derive(Clone, Debug)]
pub struct Table {
    relation: Arc<Relation>,
}

impl Table {
    /// A table with columns as (name, type name), and the names of its key's columns, none if it
    /// has no primary key.
    ///
    /// # Errors
    /// [`LogErrorKind::Invalid`] if a key column is no column, or there are too many columns.
    pub fn new(
        schema: &str,
        table: &str,
        columns: &[(&str, &str)],
        key: &[&str],
    ) -> Result<Self, LogError> {
        let refuse = |what: String| {
            LogError::new(
                LogErrorKind::Invalid,
                format!("define the table {schema}.{table}: {what}"),
            )
        };
        if columns.len() > Relation::COLUMNS_MAX {
            return Err(refuse(format!(
                "it has {} columns, at most {} fit",
                columns.len(),
                Relation::COLUMNS_MAX
            )));
        }
        let ordinal = |name: &&str| {
            columns
                .iter()
                .position(|(column, _)| column == name)
                .and_then(|ordinal| u16::try_from(ordinal).ok())
                .ok_or_else(|| refuse(format!("its key column `{name}` is not one of its columns")))
        };
        let mut ordinals: Vec<u16> = key.iter().map(ordinal).collect::<Result<_, _>>()?;
        ordinals.sort_unstable();
        ordinals.dedup();
        let columns = columns
            .iter()
            .map(|(name, kind)| Column::new(*name, *kind))
            .collect();
        Ok(Self {
            relation: Arc::new(Relation::new(
                EngineKind::Relational,
                schema,
                table,
                columns,
                ordinals,
            )),
        })
    }

    /// The same shape under another version number: the engine counts its schema changes.
    #[must_use]
    pub fn with_version(&self, version: u32) -> Self {
        let mut relation = Relation::clone(&self.relation);
        relation.version = version;
        Self {
            relation: Arc::new(relation),
        }
    }

    /// The table as events have it.
    pub const fn relation(&self) -> &Arc<Relation> {
        &self.relation
    }
}

impl KindTransaction<Relational> {
    /// A row appeared.
    ///
    /// # Errors
    /// [`LogErrorKind::Invalid`] if the row has not one value a column; as for
    /// [`Transaction::change`](crate::Transaction::change).
    pub fn insert(
        &mut self,
        table: &Table,
        row: impl FnOnce(&mut RowWriter<'_>),
    ) -> Result<&mut Self, LogError> {
        self.row(Op::Insert, Cause::Client, table, NONE, Some(row))
    }

    /// A row changed. A `before` of the key columns alone is a key image.
    ///
    /// # Errors
    /// As for [`insert`](Self::insert); also if the table has no key and `before` has gaps.
    pub fn update(
        &mut self,
        table: &Table,
        before: impl FnOnce(&mut RowWriter<'_>),
        after: impl FnOnce(&mut RowWriter<'_>),
    ) -> Result<&mut Self, LogError> {
        self.row(Op::Update, Cause::Client, table, Some(before), Some(after))
    }

    /// A row changed, its key did not, and the engine has not kept the old row.
    ///
    /// # Errors
    /// As for [`insert`](Self::insert); also if the table has no key.
    pub fn update_unseen(
        &mut self,
        table: &Table,
        after: impl FnOnce(&mut RowWriter<'_>),
    ) -> Result<&mut Self, LogError> {
        if table.relation.key.is_empty() {
            return Err(invalid(
                &table.relation,
                "an update needs the full old row, since the table has no key",
            ));
        }
        self.row(Op::Update, Cause::Client, table, NONE, Some(after))
    }

    /// A row changed because another one did (`ON UPDATE CASCADE`, `ON DELETE SET NULL`).
    ///
    /// # Errors
    /// As for [`update`](Self::update).
    pub fn update_cascade(
        &mut self,
        table: &Table,
        before: impl FnOnce(&mut RowWriter<'_>),
        after: impl FnOnce(&mut RowWriter<'_>),
    ) -> Result<&mut Self, LogError> {
        self.row(Op::Update, Cause::Cascade, table, Some(before), Some(after))
    }

    /// A row went away.
    ///
    /// # Errors
    /// As for [`update`](Self::update).
    pub fn delete(
        &mut self,
        table: &Table,
        before: impl FnOnce(&mut RowWriter<'_>),
    ) -> Result<&mut Self, LogError> {
        self.row(Op::Delete, Cause::Client, table, Some(before), NONE)
    }

    /// A row went away because another one did (`ON DELETE CASCADE`).
    ///
    /// # Errors
    /// As for [`update`](Self::update).
    pub fn delete_cascade(
        &mut self,
        table: &Table,
        before: impl FnOnce(&mut RowWriter<'_>),
    ) -> Result<&mut Self, LogError> {
        self.row(Op::Delete, Cause::Cascade, table, Some(before), NONE)
    }

    /// The table was emptied.
    ///
    /// # Errors
    /// As for [`Transaction::change`](crate::Transaction::change).
    pub fn truncate(&mut self, table: &Table) -> Result<&mut Self, LogError> {
        let nothing = Parts::default();
        self.record(
            (Op::Truncate, Cause::Client),
            &table.relation,
            nothing,
            |_, _| {},
        )
    }

    /// The table itself changed: `table` is its new shape, whose rows follow.
    ///
    /// # Errors
    /// As for [`Transaction::change`](crate::Transaction::change).
    pub fn schema_changed(
        &mut self,
        table: &Table,
        change: SchemaChange<'_>,
    ) -> Result<&mut Self, LogError> {
        self.schema_change(&table.relation, change, |_| {})
    }

    fn row<B, A>(
        &mut self,
        op: Op,
        cause: Cause,
        table: &Table,
        before: Option<B>,
        after: Option<A>,
    ) -> Result<&mut Self, LogError>
    where
        B: FnOnce(&mut RowWriter<'_>),
        A: FnOnce(&mut RowWriter<'_>),
    {
        let parts = Parts {
            before: before.is_some(),
            after: after.is_some(),
            meta: false,
        };
        let (mut before, mut after) = (before, after);
        self.record((op, cause), &table.relation, parts, |part, row| {
            match part {
                Part::Before => before.take().map(|write| write(row)),
                Part::After => after.take().map(|write| write(row)),
                Part::Meta => None,
            };
        })
    }
}
