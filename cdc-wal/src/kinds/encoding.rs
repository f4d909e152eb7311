//! How an engine's bytes stand in events.

use std::sync::Arc;

use bytes::Bytes;
use cdc_core::row::RowWriter;
use cdc_core::{Relation, RowImage};

use crate::format::RECORD_BYTES_MAX;
use crate::{LogError, LogErrorKind};

/// What an engine's byte strings are. Decided once for a table, so that a consumer need not guess
/// value by value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Any bytes; base64 in JSON.
    #[default]
    Bytes,
    /// UTF-8 text. Anything else is refused.
    Text,
    /// JSON text, embedded in JSON events as it is. Text that is not UTF-8 is refused; text that
    /// is not JSON becomes a string.
    Json,
}

impl Encoding {
    /// The column type's name.
    pub const fn type_name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Text => "text",
            Self::Json => "json",
        }
    }

    /// Refuses bytes that are not of this encoding.
    pub(super) fn check(self, relation: &Relation, bytes: &[u8]) -> Result<(), LogError> {
        if self == Self::Bytes || std::str::from_utf8(bytes).is_ok() {
            return Ok(());
        }
        Err(invalid(
            relation,
            "a key or value is not UTF-8, and the table is declared as text; declare it as bytes",
        ))
    }

    /// Writes bytes that were checked.
    pub(super) fn write(self, row: &mut RowWriter<'_>, bytes: &[u8]) {
        match (self, std::str::from_utf8(bytes)) {
            (Self::Text, Ok(text)) => row.text(text),
            (Self::Json, Ok(text)) => row.json(text),
            _ => row.bytes(bytes),
        }
    }
}

#[cold]
pub(super) fn invalid(relation: &Relation, what: &str) -> LogError {
    LogError::new(
        LogErrorKind::Invalid,
        format!("append a change of {}: {what}", relation.qualified_name()),
    )
}

/// Refuses what could not be one record, before anything is copied.
pub(super) fn bounded(
    relation: &Relation,
    lengths: impl IntoIterator<Item = usize>,
) -> Result<(), LogError> {
    let sum = lengths.into_iter().try_fold(0usize, usize::checked_add);
    if sum.is_some_and(|sum| sum <= RECORD_BYTES_MAX) {
        return Ok(());
    }
    Err(LogError::new(
        LogErrorKind::TooLarge,
        format!(
            "append a change of {}: its values have more than {RECORD_BYTES_MAX} bytes",
            relation.qualified_name()
        ),
    ))
}

/// Writes the text, or null.
pub(super) fn text_or_null(row: &mut RowWriter<'_>, text: Option<&str>) {
    match text {
        Some(text) => row.text(text),
        None => row.null(),
    }
}

/// Writes the JSON text, or null.
pub(super) fn json_or_null(row: &mut RowWriter<'_>, json: Option<&str>) {
    match json {
        Some(json) => row.json(json),
        None => row.null(),
    }
}

/// Writes the time in microseconds, or null.
pub(super) fn time_or_null(row: &mut RowWriter<'_>, micros: Option<i64>) {
    match micros {
        Some(micros) => row.timestamp_tz(micros),
        None => row.null(),
    }
}

/// Writes texts as a list.
pub(super) fn texts<'a>(row: &mut RowWriter<'_>, texts: impl IntoIterator<Item = &'a str>) {
    row.array(|items| texts.into_iter().for_each(|text| items.text(text)));
}

/// A row of its own, for engines that keep or compare whole rows.
pub(super) fn image(write: impl FnOnce(&mut RowWriter<'_>)) -> RowImage {
    let mut buffer = Vec::new();
    let mut row = RowWriter::new(&mut buffer);
    write(&mut row);
    row.finish();
    RowImage::from_bytes(Bytes::from(buffer))
}

/// A relation of one of the kinds whose columns are the same for every table.
pub(super) fn relation(
    engine: cdc_core::EngineKind,
    schema: &str,
    table: &str,
    columns: &[(&str, &str)],
    key: &[u16],
) -> Arc<Relation> {
    let columns = columns
        .iter()
        .map(|(name, kind)| cdc_core::Column::new(*name, *kind))
        .collect();
    Arc::new(Relation::new(engine, schema, table, columns, key.to_vec()))
}
