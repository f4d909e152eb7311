//! Which row an event is of, as a hash.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::row::RowError;
use crate::{ChangeEvent, Op, RowImage};

impl ChangeEvent {
    /// Hashes of table and key values, for keeping the events of one row in order: of the row before
    /// and of the row after, equal unless the key changed. Of a table without key the whole row
    /// counts. `None` for events that are of no row or whose row is not known (truncate, schema,
    /// message, a merge operand alone). The same within one process and build; not to be stored.
    ///
    /// # Errors
    /// [`RowError`] if the row's bytes are damaged.
    pub fn key_hashes(&self) -> Result<Option<(u64, u64)>, RowError> {
        if matches!(self.op, Op::Truncate | Op::Schema | Op::Message) {
            return Ok(None);
        }
        let hash_row = |row: &RowImage| {
            let mut hasher = DefaultHasher::new();
            self.relation.schema.hash(&mut hasher);
            self.relation.table.hash(&mut hasher);
            if self.relation.key.is_empty() {
                row.as_bytes().hash(&mut hasher);
            } else {
                let mut columns = row.columns()?;
                let mut at = 0;
                for &ordinal in &self.relation.key {
                    let ordinal = usize::from(ordinal);
                    while at < ordinal {
                        columns.next_raw().transpose()?;
                        at += 1;
                    }
                    columns.next_raw().transpose()?.hash(&mut hasher);
                    at += 1;
                }
            }
            Ok(hasher.finish())
        };
        let Some(new) = self.identity_row() else {
            return Ok(None);
        };
        let new = hash_row(new)?;
        let old = match self.before.row() {
            Some(row) if self.key_changed()? || self.relation.key.is_empty() => hash_row(row)?,
            _ => new,
        };
        Ok(Some((old, new)))
    }
}
