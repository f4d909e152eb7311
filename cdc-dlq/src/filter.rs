//! Which letters are meant.

use cdc_core::{DeadLetter, LetterState};

use crate::key::KeyFilter;

/// Picks letters; every set field must match. The default picks all open letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LetterFilter {
    /// Of this emitter.
    pub emitter: Option<String>,
    /// Of this table: `table`, or `schema.table`. Exact, no patterns.
    pub table: Option<String>,
    /// Of this row.
    pub key: Option<KeyFilter>,
    /// Whose last failure had this class.
    pub class: Option<String>,
    /// In this state.
    pub state: Option<LetterState>,
    /// Whose last failure was at or after this time, microseconds since 1970.
    pub since_micros: Option<i64>,
    /// Whose last failure was before this time, microseconds since 1970.
    pub until_micros: Option<i64>,
    /// Whose event id starts so.
    pub id_prefix: Option<String>,
}

impl LetterFilter {
    /// All letters of one emitter.
    pub fn emitter(name: impl Into<String>) -> Self {
        Self {
            emitter: Some(name.into()),
            ..Self::default()
        }
    }

    /// What can be said without reading the letter.
    pub(crate) fn matches_entry(
        &self,
        emitter: &str,
        class: &str,
        state: LetterState,
        last_failed_micros: i64,
        id: impl FnOnce() -> [u8; cdc_core::EventId::LEN],
    ) -> bool {
        self.emitter
            .as_deref()
            .is_none_or(|wanted| wanted == emitter)
            && self.class.as_deref().is_none_or(|wanted| wanted == class)
            && self.state.is_none_or(|wanted| wanted == state)
            && self.since_micros.is_none_or(|t| last_failed_micros >= t)
            && self.until_micros.is_none_or(|t| last_failed_micros < t)
            && self
                .id_prefix
                .as_deref()
                .is_none_or(|prefix| id().starts_with(prefix.as_bytes()))
    }

    /// True if letters must be read to know.
    pub(crate) const fn needs_letter(&self) -> bool {
        self.table.is_some() || self.key.is_some()
    }

    /// What only the letter says.
    pub(crate) fn matches_letter(&self, letter: &DeadLetter) -> bool {
        self.matches_table(letter)
            && self
                .key
                .as_ref()
                .is_none_or(|key| key.matches(&letter.source, &letter.event))
    }

    fn matches_table(&self, letter: &DeadLetter) -> bool {
        let Some(wanted) = self.table.as_deref() else {
            return true;
        };
        let relation = &letter.event.relation;
        let qualified = wanted
            .strip_suffix(&*relation.table)
            .and_then(|rest| rest.strip_suffix('.'));
        wanted == &*relation.table || qualified.is_some_and(|schema| schema == &*relation.schema)
    }
}
