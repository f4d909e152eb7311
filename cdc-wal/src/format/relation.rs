//! Relation definitions.

use cdc_core::{Column, EngineKind, Relation};

use super::{FormatError, put_text, take, take_text, take_u16, take_u32};

/// The definition's bytes, without its id.
///
/// # Errors
/// If a name is 64 KiB or longer, or there are more columns than [`Relation::COLUMNS_MAX`].
pub fn encode(relation: &Relation) -> Result<Vec<u8>, FormatError> {
    let mut to = Vec::with_capacity(64 + relation.columns.len() * 24);
    to.push(relation.engine as u8);
    to.extend_from_slice(&relation.version.to_le_bytes());
    let fits = relation.columns.len() <= Relation::COLUMNS_MAX
        && relation.key.len() <= Relation::COLUMNS_MAX;
    (|| {
        put_text(&mut to, &relation.schema)?;
        put_text(&mut to, &relation.table)?;
        to.extend_from_slice(&u16::try_from(relation.columns.len()).ok()?.to_le_bytes());
        for column in &relation.columns {
            put_text(&mut to, &column.name)?;
            put_text(&mut to, &column.type_name)?;
        }
        to.extend_from_slice(&u16::try_from(relation.key.len()).ok()?.to_le_bytes());
        for key in &relation.key {
            to.extend_from_slice(&key.to_le_bytes());
        }
        fits.then_some(())
    })()
    .ok_or(FormatError(
        "a relation with too many columns or too long a name",
    ))?;
    Ok(to)
}

/// Reads a relation frame's payload: id and definition.
///
/// # Errors
/// If the payload is no definition.
pub fn decode(payload: &[u8]) -> Result<(u32, Relation), FormatError> {
    let mut rest = payload;
    fields(&mut rest)
        .filter(|_| rest.is_empty())
        .ok_or(FormatError("a malformed relation definition"))
}

fn fields(rest: &mut &[u8]) -> Option<(u32, Relation)> {
    let id = take_u32(rest)?;
    let engine = EngineKind::from_u8(take::<1>(rest)?[0])?;
    let version = take_u32(rest)?;
    let schema = take_text(rest)?;
    let table = take_text(rest)?;
    let count = usize::from(take_u16(rest)?);
    if count > Relation::COLUMNS_MAX {
        return None;
    }
    // Each column takes at least four bytes, so the count cannot ask for more memory than the
    // payload is worth.
    let mut columns = Vec::with_capacity(count.min(rest.len() / 4));
    for _ in 0..count {
        columns.push(Column::new(take_text(rest)?, take_text(rest)?));
    }
    let keys = usize::from(take_u16(rest)?);
    let mut key = Vec::with_capacity(keys.min(rest.len() / 2));
    for _ in 0..keys {
        let ordinal = take_u16(rest)?;
        if usize::from(ordinal) >= count {
            return None;
        }
        key.push(ordinal);
    }
    let mut relation = Relation::new(engine, schema, table, columns, key);
    relation.version = version;
    Some((id, relation))
}
