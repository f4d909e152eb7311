//! Rewriting one row by its plan.

use bytes::Bytes;
use cdc_core::row::{RowError, RowImage, RowWriter, ValueRef};
use cdc_core::{Image, Relation, TransformError};

use super::plan::{Plan, Step};
use super::{Action, HashKey, Mask};

/// One column of the old row.
#[derive(Clone, Copy)]
struct Cell<'a> {
    raw: &'a [u8],
    value: ValueRef<'a>,
}

impl Plan {
    /// The image after the transform; `old` is the relation it was made for.
    pub(super) fn image(
        &self,
        action: &Action,
        old: &Relation,
        image: &Image,
    ) -> Result<Image, TransformError> {
        let Some(row) = image.row() else {
            return Ok(Image::Absent);
        };
        let cells = self.cells(row).map_err(|error| TransformError {
            message: format!(
                "apply the transform {} to {}: {error}",
                action.name(),
                old.qualified_name()
            ),
        })?;
        let Some(cells) = cells else {
            return Err(TransformError {
                message: format!(
                    "apply the transform {} to {}: a row does not have the {} columns of its table",
                    action.name(),
                    old.qualified_name(),
                    self.width,
                ),
            });
        };
        let mut buffer = Vec::with_capacity(row.len() + self.constant.len() + 64);
        let mut writer = RowWriter::new(&mut buffer);
        for step in &self.steps {
            match *step {
                Step::Copy(ordinal) => writer.raw(cells[ordinal].raw),
                Step::Edit(ordinal) => edit(action, cells[ordinal], &mut writer)
                    .map_err(|()| self.cannot(action, old, ordinal, cells[ordinal].value))?,
                Step::Replace(ordinal) if cells[ordinal].value == ValueRef::Unavailable => {
                    writer.unavailable();
                }
                // A key image holds the key columns and nothing else.
                Step::Add if matches!(image, Image::Key(_)) => writer.unavailable(),
                Step::Replace(_) | Step::Add => writer.raw(&self.constant),
            }
        }
        writer.finish();
        Ok(image.with_row(RowImage::from_bytes(Bytes::from(buffer))))
    }

    /// The columns of a row, or `None` if they are not as many as the table has.
    fn cells<'a>(&self, row: &'a RowImage) -> Result<Option<Vec<Cell<'a>>>, RowError> {
        let mut columns = row.columns()?;
        if columns.remaining() != self.width {
            return Ok(None);
        }
        let mut cells = Vec::with_capacity(self.width);
        loop {
            let mut ahead = columns.clone();
            let Some(raw) = columns.next_raw() else {
                return Ok((cells.len() == self.width).then_some(cells));
            };
            // Only values that are looked at are decoded, and these are few.
            let ordinal = cells.len();
            let looked_at = self
                .steps
                .iter()
                .any(|step| matches!(step, Step::Edit(n) | Step::Replace(n) if *n == ordinal));
            let value = match ahead.next() {
                Some(value) if looked_at => value?,
                _ => ValueRef::Null,
            };
            cells.push(Cell { raw: raw?, value });
        }
    }

    #[cold]
    fn cannot(
        &self,
        action: &Action,
        old: &Relation,
        ordinal: usize,
        value: ValueRef<'_>,
    ) -> TransformError {
        TransformError {
            message: format!(
                "{} column {:?} of {}: it holds a {} value, which has no last four characters; mask it with stars, null or a text",
                action.name(),
                old.columns[ordinal].name,
                old.qualified_name(),
                value.type_name(),
            ),
        }
    }
}

/// Writes the masked or hashed value; fails if the type does not allow it.
fn edit(action: &Action, cell: Cell<'_>, writer: &mut RowWriter<'_>) -> Result<(), ()> {
    if matches!(cell.value, ValueRef::Null | ValueRef::Unavailable) {
        writer.raw(cell.raw);
        return Ok(());
    }
    match action {
        Action::Mask { with, .. } => match with {
            Mask::Null => writer.null(),
            Mask::Stars => writer.text("****"),
            Mask::Text(text) => writer.text(text),
            Mask::Last4 => match cell.value {
                ValueRef::Text(text) | ValueRef::Decimal(text) => writer.text(&last4(text)),
                ValueRef::Int(number) => writer.text(&last4(&number.to_string())),
                ValueRef::UInt(number) => writer.text(&last4(&number.to_string())),
                _ => return Err(()),
            },
        },
        Action::Hash { key, .. } => hash(key, cell, writer),
        Action::Include { .. }
        | Action::Exclude { .. }
        | Action::RenameTable { .. }
        | Action::RenameColumns { .. }
        | Action::Set { .. } => writer.raw(cell.raw),
    }
    Ok(())
}

/// Stars for all characters but the last four; for all, if so few would be hidden that the rest
/// gives the value away.
fn last4(text: &str) -> String {
    let count = text.chars().count();
    let shown = if count < 8 { 0 } else { 4 };
    let mut masked = "*".repeat(count - shown);
    masked.extend(text.chars().skip(count - shown));
    masked
}

fn hash(key: &HashKey, cell: Cell<'_>, writer: &mut RowWriter<'_>) {
    let digest = match cell.value {
        ValueRef::Text(text) | ValueRef::Decimal(text) | ValueRef::Json(text) => {
            key.hash(text.as_bytes())
        }
        ValueRef::Bytes(bytes) => key.hash(bytes),
        ValueRef::Bool(value) => key.hash(if value { b"true" } else { b"false" }),
        ValueRef::Int(number) => key.hash(number.to_string().as_bytes()),
        ValueRef::UInt(number) => key.hash(number.to_string().as_bytes()),
        ValueRef::Uuid(uuid) => {
            let hex = hex(&uuid);
            let parts = [
                &hex[..8],
                &hex[8..12],
                &hex[12..16],
                &hex[16..20],
                &hex[20..],
            ];
            key.hash(parts.join("-").as_bytes())
        }
        ValueRef::Null
        | ValueRef::Unavailable
        | ValueRef::Float32(_)
        | ValueRef::Float64(_)
        | ValueRef::Date(_)
        | ValueRef::Time(_)
        | ValueRef::Timestamp(_)
        | ValueRef::TimestampTz(_)
        | ValueRef::Array(_)
        | ValueRef::Map(_)
        | ValueRef::Vector(_) => key.hash(cell.raw),
    };
    writer.text(&hex(&digest));
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}
