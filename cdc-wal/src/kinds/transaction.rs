//! The transaction of a typed log: what all kinds share.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use cdc_core::row::RowWriter;
use cdc_core::{Cause, Op, Position, Relation};

use super::SchemaChange;
use crate::format::change::{Part, Parts};
use crate::{LogError, Savepoint, Transaction};

/// An open transaction of a typed log. Dropping it aborts it.
///
/// The methods that record changes are those of its kind; each gives the transaction back, so that
/// they chain. A change that is refused ([`LogErrorKind::Invalid`](crate::LogErrorKind::Invalid),
/// [`LogErrorKind::TooLarge`](crate::LogErrorKind::TooLarge)) leaves it as it was; any other error
/// leaves only aborting.
pub struct KindTransaction<K> {
    inner: Transaction,
    actor: Option<Box<str>>,
    kind: PhantomData<fn() -> K>,
}

/// Prints counts only: row contents belong to destinations, not to logs.
impl<K> fmt::Debug for KindTransaction<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl<K> KindTransaction<K> {
    pub(super) const fn new(inner: Transaction) -> Self {
        Self {
            inner,
            actor: None,
            kind: PhantomData,
        }
    }

    /// Who makes the changes that follow, as the engine knows them: `meta.actor` of each event.
    pub fn set_actor(&mut self, actor: &str) -> &mut Self {
        self.actor = Some(actor.into());
        self
    }

    /// Events so far.
    pub const fn event_count(&self) -> u32 {
        self.inner.event_count()
    }

    /// The transaction underneath, for what has no word in this kind.
    pub const fn inner(&mut self) -> &mut Transaction {
        &mut self.inner
    }

    /// A place to roll back to; see [`Transaction::savepoint`].
    ///
    /// # Errors
    /// As for [`Transaction::savepoint`].
    pub fn savepoint(&mut self) -> Result<Savepoint, LogError> {
        self.inner.savepoint()
    }

    /// Takes back what was recorded since; see [`Transaction::rollback_to`].
    ///
    /// # Errors
    /// As for [`Transaction::rollback_to`].
    pub fn rollback_to(&mut self, savepoint: &Savepoint) -> Result<&mut Self, LogError> {
        self.inner.rollback_to(savepoint)?;
        Ok(self)
    }

    /// Forgets a savepoint and keeps its changes; see [`Transaction::release`].
    ///
    /// # Errors
    /// As for [`Transaction::release`].
    pub fn release(&mut self, savepoint: &Savepoint) -> Result<&mut Self, LogError> {
        self.inner.release(savepoint)?;
        Ok(self)
    }

    /// Commits, and waits as the [`SyncPolicy`](crate::SyncPolicy) says; see
    /// [`Transaction::commit`].
    ///
    /// # Errors
    /// As for [`Transaction::commit`].
    pub fn commit(self) -> Result<Position, LogError> {
        self.inner.commit()
    }

    /// Commits without waiting for a sync; see [`Transaction::commit_unsynced`].
    ///
    /// # Errors
    /// As for [`Transaction::commit`].
    pub fn commit_unsynced(self) -> Result<Position, LogError> {
        self.inner.commit_unsynced()
    }

    /// Aborts.
    ///
    /// # Errors
    /// As for [`Transaction::abort`].
    pub fn abort(self) -> Result<(), LogError> {
        self.inner.abort()
    }

    /// Records one change: `write` is asked for the parts that are there. The kind's own meta is
    /// there if `parts.meta` says so; the actor is added to it.
    pub(super) fn record(
        &mut self,
        what: (Op, Cause),
        relation: &Arc<Relation>,
        parts: Parts,
        mut write: impl FnMut(Part, &mut RowWriter<'_>),
    ) -> Result<&mut Self, LogError> {
        let (own_meta, actor) = (parts.meta, self.actor.as_deref());
        let parts = Parts {
            meta: own_meta || actor.is_some(),
            ..parts
        };
        self.inner.record(what, relation, parts, |part, row| {
            if part != Part::Meta || own_meta {
                write(part, row);
            }
            if part == Part::Meta
                && let Some(actor) = actor
            {
                row.text("actor");
                row.text(actor);
            }
        })?;
        Ok(self)
    }

    /// Records a change of the table itself.
    pub(super) fn schema_change(
        &mut self,
        relation: &Arc<Relation>,
        change: SchemaChange<'_>,
        mut more: impl FnMut(&mut RowWriter<'_>),
    ) -> Result<&mut Self, LogError> {
        let parts = Parts {
            meta: true,
            ..Parts::default()
        };
        self.record((Op::Schema, Cause::Client), relation, parts, |_, meta| {
            meta.text("change");
            meta.text(change.name());
            if let SchemaChange::Rename { to } = change {
                meta.text("to");
                meta.text(to);
            }
            more(meta);
        })
    }
}
