//! Rows and keys as JSON objects.

use super::spelled::{Member, Spelled};
use super::value::{self, DEBEZIUM_UNAVAILABLE, Object, Spelling};
use super::{EncodeError, text};
use crate::row::{RowError, RowImage, ValueRef};
use crate::{ChangeEvent, Relation};

#[cold]
pub(super) fn row_error(relation: &Relation, cause: RowError) -> EncodeError {
    EncodeError::Row {
        relation: relation.qualified_name(),
        cause,
    }
}

/// The row's values, if there is one for every column.
fn columns<'a>(
    relation: &Relation,
    row: &'a RowImage,
) -> Result<crate::row::Columns<'a>, EncodeError> {
    let values = row.columns().map_err(|cause| row_error(relation, cause))?;
    if values.remaining() != relation.columns.len() {
        return Err(EncodeError::ColumnCount {
            relation: relation.qualified_name(),
            values: values.remaining(),
            columns: relation.columns.len(),
        });
    }
    Ok(values)
}

/// What becomes of values the source did not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// Left out.
    Omit,
    /// Debezium's placeholder.
    Placeholder,
}

/// One value of a row: where it ends there, and where its text is in the output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    row_end: usize,
    text: (usize, usize),
}

/// Appends a row as an object, one member a column; gives how many columns were unavailable. Notes in
/// `pieces`, if it is to, what [`row_like`] needs of it.
#[inline]
pub(super) fn row(
    out: &mut Vec<u8>,
    relation: &Relation,
    row: &RowImage,
    spelling: Spelling,
    missing: Missing,
    spelled: &Spelled,
    mut pieces: Option<&mut Vec<Piece>>,
) -> Result<usize, EncodeError> {
    let mut unavailable = 0;
    let mut values = columns(relation, row)?;
    let mut object = Object::open(out);
    for member in spelled.members() {
        // The count was compared above, so the walk ends early only behind an error.
        let Some(next) = values.next() else { break };
        let next = next.map_err(|cause| row_error(relation, cause))?;
        let text = member_of(&mut object, relation, member, next, spelling, missing)?;
        unavailable += usize::from(next == ValueRef::Unavailable);
        if let Some(pieces) = &mut pieces {
            pieces.push(Piece {
                row_end: values.at(),
                text,
            });
        }
    }
    object.close();
    Ok(unavailable)
}

/// As [`row`], of a row that has much in common with one that was written before, of which `pieces` were
/// noted: equal values are copied as they were spelled there.
pub(super) fn row_like(
    out: &mut Vec<u8>,
    relation: &Relation,
    [row, before]: [&RowImage; 2],
    spelling: Spelling,
    missing: Missing,
    spelled: &Spelled,
    pieces: &[Piece],
) -> Result<usize, EncodeError> {
    let mut unavailable = 0;
    let mut values = columns(relation, row)?;
    let mut begin = columns(relation, before)?.at();
    let mut object = Object::open(out);
    for (member, piece) in spelled.members().zip(pieces) {
        let mut whole = values.clone();
        let Some(raw) = values.skip_raw() else { break };
        let raw = raw.map_err(|cause| row_error(relation, cause))?;
        let known = before.as_bytes().get(begin..piece.row_end);
        begin = piece.row_end;
        let (from, to) = piece.text;
        if from < to && known == Some(raw) {
            object.spelled_member(member).extend_from_within(from..to);
            continue;
        }
        let Some(next) = whole.next() else { break };
        let next = next.map_err(|cause| row_error(relation, cause))?;
        member_of(&mut object, relation, member, next, spelling, missing)?;
        unavailable += usize::from(next == ValueRef::Unavailable);
    }
    object.close();
    Ok(unavailable)
}

/// Appends one member of a row's object; gives where its value's text is, which is nowhere if the
/// source did not send the value.
#[inline]
fn member_of(
    object: &mut Object<'_>,
    relation: &Relation,
    member: Member<'_>,
    next: ValueRef<'_>,
    spelling: Spelling,
    missing: Missing,
) -> Result<(usize, usize), EncodeError> {
    if next == ValueRef::Unavailable {
        if missing == Missing::Placeholder {
            let out = object.spelled_member(member);
            out.extend_from_slice(DEBEZIUM_UNAVAILABLE);
        }
        return Ok((0, 0));
    }
    let out = object.spelled_member(member);
    let from = out.len();
    value::value(out, next, spelling, 0).map_err(|cause| row_error(relation, cause))?;
    Ok((from, out.len()))
}

/// Appends the names of the columns the row does not hold, as a list.
pub(super) fn unavailable_names(
    out: &mut Vec<u8>,
    relation: &Relation,
    row: &RowImage,
) -> Result<(), EncodeError> {
    out.push(b'[');
    let mut first = true;
    for (column, value) in relation.columns.iter().zip(columns(relation, row)?) {
        if value.map_err(|cause| row_error(relation, cause))? == ValueRef::Unavailable {
            if !first {
                out.push(b',');
            }
            first = false;
            text::string(out, &column.name);
        }
    }
    out.push(b']');
    Ok(())
}

/// Calls `each` with name and value of every key column the event knows: from the newest image,
/// or from the other one where that did not send it.
pub(super) fn for_each_key(
    event: &ChangeEvent,
    rows: [Option<&RowImage>; 2],
    mut each: impl FnMut(&str, ValueRef<'_>) -> Result<(), RowError>,
) -> Result<(), EncodeError> {
    let relation = &*event.relation;
    for &ordinal in &relation.key {
        let Some(column) = relation.columns.get(usize::from(ordinal)) else {
            return Err(EncodeError::KeyOrdinal {
                relation: relation.qualified_name(),
                ordinal,
                columns: relation.columns.len(),
            });
        };
        for row in rows.into_iter().flatten() {
            let value = row
                .get(ordinal.into())
                .map_err(|cause| row_error(relation, cause))?;
            match value {
                None | Some(ValueRef::Unavailable) => {}
                Some(value) => {
                    each(&column.name, value).map_err(|cause| row_error(relation, cause))?;
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Appends the key as an object; `null` without a key or without a row.
pub(super) fn key(
    out: &mut Vec<u8>,
    event: &ChangeEvent,
    rows: [Option<&RowImage>; 2],
    spelling: Spelling,
) -> Result<(), EncodeError> {
    if event.relation.key.is_empty() || rows == [None, None] {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    let mut object = Object::open(out);
    for_each_key(event, rows, |name, value| {
        value::value(object.member(name), value, spelling, 0)
    })?;
    object.close();
    Ok(())
}
