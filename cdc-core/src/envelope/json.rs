//! Our JSON, version 1 (`docs/formats/envelope.md`).

use super::image::{self, Missing, Piece};
use super::spelled::{self, Spelled};
use super::value::{self, Object, Spelling};
use super::{EncodeError, text};
use crate::row::RowImage;
use crate::{Cause, ChangeEvent, EventId, Image, Lsn, Position, SourceInfo};

/// Room reserved for the members around the images; a longer event only grows the buffer.
const MEMBERS_LEN: usize = 512;

/// Appends one event as one JSON object.
pub(super) fn event(
    out: &mut Vec<u8>,
    source: &SourceInfo,
    event: &ChangeEvent,
    spelling: Spelling,
) -> Result<(), EncodeError> {
    spelled::with(source, &event.relation, |spelled| {
        members(out, source, event, spelling, spelled)
    })
}

fn members(
    out: &mut Vec<u8>,
    source: &SourceInfo,
    event: &ChangeEvent,
    spelling: Spelling,
    spelled: &Spelled,
) -> Result<(), EncodeError> {
    out.reserve(MEMBERS_LEN + 2 * event.encoded_len());
    let relation = &*event.relation;
    let id = EventId::new(&source.lineage, event.position);
    let commit = spelled.commit(id);
    out.extend_from_slice(b"{\"id\":\"");
    out.extend_from_slice(commit.id());
    out.extend_from_slice(&id.ordinal_bytes());
    out.extend_from_slice(b"\",\"position\":\"");
    out.extend_from_slice(commit.position());
    ordinal(out, event.position);
    out.extend_from_slice(b"\",\"op\":\"");
    out.extend_from_slice(event.op.name().as_bytes());
    if event.cause != Cause::Client {
        out.extend_from_slice(b"\",\"cause\":\"");
        out.extend_from_slice(event.cause.name().as_bytes());
    }
    out.extend_from_slice(spelled.middle());
    text::integer(out, event.transaction.id);
    out.extend_from_slice(b"\",\"ordinal\":");
    text::integer(out, event.position.ordinal);
    out.extend_from_slice(b",\"last\":");
    out.extend_from_slice(if event.last { b"true" } else { b"false" });
    out.extend_from_slice(b"},\"ts\":\"");
    spelled.commit_time(out, event.transaction.commit_micros);
    out.extend_from_slice(b"\",\"key\":");
    let (before, after) = (event.before.row(), event.after.row());
    image::key(out, event, [after, before], spelling)?;
    let changed = event.key_changed();
    if changed.map_err(|cause| image::row_error(relation, cause))? {
        out.extend_from_slice(b",\"old_key\":");
        image::key(out, event, [before, None], spelling)?;
    }
    images(out, event, spelling, spelled)?;
    if let Some(meta) = &event.meta
        && !meta.0.is_empty()
    {
        out.extend_from_slice(b",\"meta\":");
        let mut object = Object::open(out);
        for (name, entry) in &meta.0 {
            if *entry != crate::Value::Unavailable {
                value::owned(object.member(name), entry, spelling, 0)
                    .map_err(|cause| image::row_error(relation, cause))?;
            }
        }
        object.close();
    }
    out.push(b'}');
    Ok(())
}

/// `before`, `after`, and what is to be said about their gaps.
fn images(
    out: &mut Vec<u8>,
    event: &ChangeEvent,
    spelling: Spelling,
    spelled: &Spelled,
) -> Result<(), EncodeError> {
    let relation = &*event.relation;
    let (before, after) = (event.before.row(), event.after.row());
    let write =
        |out: &mut Vec<u8>, row: Option<&RowImage>, pieces: Option<&mut Vec<Piece>>| match row {
            Some(row) => image::row(out, relation, row, spelling, Missing::Omit, spelled, pieces),
            None => {
                out.extend_from_slice(b"null");
                Ok(0)
            }
        };
    out.extend_from_slice(b",\"before\":");
    // The form of the image before is said between the two.
    let between = |out: &mut Vec<u8>, missing: usize| {
        match event.before {
            Image::Key(_) => out.extend_from_slice(b",\"before_image\":\"key\""),
            // A row that calls itself full is still partial if a value is missing.
            Image::Partial(_) | Image::Full(_) if missing > 0 => {
                out.extend_from_slice(b",\"before_image\":\"partial\"");
            }
            _ => {}
        }
        out.extend_from_slice(b",\"after\":");
    };
    let (before_missing, after_missing) = if let (Some(old), Some(new)) = (before, after) {
        spelled.with_pieces(|pieces| {
            let before_missing = write(out, Some(old), Some(pieces))?;
            between(out, before_missing);
            let rows = [new, old];
            let after_missing = image::row_like(
                out,
                relation,
                rows,
                spelling,
                Missing::Omit,
                spelled,
                pieces,
            )?;
            Ok::<_, EncodeError>((before_missing, after_missing))
        })?
    } else {
        let before_missing = write(out, before, None)?;
        between(out, before_missing);
        (before_missing, write(out, after, None)?)
    };
    let listed = match (&event.after, &event.before) {
        (Image::Absent, Image::Full(row) | Image::Partial(row)) if before_missing > 0 => Some(row),
        (after, _) if after_missing > 0 => after.row(),
        _ => None,
    };
    if let Some(row) = listed {
        out.extend_from_slice(b",\"unavailable\":");
        image::unavailable_names(out, relation, row)?;
    }
    Ok(())
}

/// Appends what a position begins with as it prints itself, the colon included.
pub(super) fn commit(out: &mut Vec<u8>, commit: Lsn) {
    let lsn = commit.0;
    let [high, low] = [lsn >> 32, lsn & 0xffff_ffff].map(|n| u32::try_from(n).unwrap_or_default());
    text::hex_upper(out, high);
    out.push(b'/');
    text::hex_upper(out, low);
    out.push(b':');
}

/// Appends what a position ends with.
fn ordinal(out: &mut Vec<u8>, position: Position) {
    if position.is_transaction_end() {
        out.extend_from_slice(b"end");
    } else {
        text::integer(out, position.ordinal);
    }
}
