//! Keys that wait behind a dead letter.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::row::RowError;
use crate::{ChangeEvent, Op, RowImage};

/// Hash of (table, key values). A collision parks one key too many, which keeps order and loses
/// nothing.
pub(super) type KeyHash = u64;

/// Both identities of an event: where it was and where it is. Equal unless the key changed.
/// `None` for events without a key of a row (truncate, message, ...).
pub(super) fn key_hashes(event: &ChangeEvent) -> Result<Option<(KeyHash, KeyHash)>, RowError> {
    if matches!(event.op, Op::Truncate | Op::Schema | Op::Message) {
        return Ok(None);
    }
    let hash_row = |row: &RowImage| {
        let mut hasher = DefaultHasher::new();
        event.relation.schema.hash(&mut hasher);
        event.relation.table.hash(&mut hasher);
        if event.relation.key.is_empty() {
            row.as_bytes().hash(&mut hasher);
        } else {
            let mut columns = row.columns()?;
            let mut at = 0;
            for &ordinal in &event.relation.key {
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
    let Some(new) = event.identity_row() else {
        return Ok(None);
    };
    let new = hash_row(new)?;
    let old = match event.before.row() {
        Some(row) if event.key_changed()? || event.relation.key.is_empty() => hash_row(row)?,
        _ => new,
    };
    Ok(Some((old, new)))
}

/// How many open letters each key has.
#[derive(Debug, Default)]
pub(super) struct ParkedKeys(HashMap<KeyHash, u64>);

impl ParkedKeys {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keys that wait.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn add(&mut self, (old, new): (KeyHash, KeyHash)) {
        *self.0.entry(old).or_default() += 1;
        if new != old {
            *self.0.entry(new).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, (old, new): (KeyHash, KeyHash)) {
        for key in if new == old {
            vec![old]
        } else {
            vec![old, new]
        } {
            if let Some(count) = self.0.get_mut(&key) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.0.remove(&key);
                }
            }
        }
    }

    pub(super) fn holds(&self, (old, new): (KeyHash, KeyHash)) -> bool {
        self.0.contains_key(&old) || self.0.contains_key(&new)
    }
}
