//! CloudEvents 1.0 in structured JSON; the data is the event as our JSON.

use std::io::Write as _;

use super::value::Spelling;
use super::{EncodeError, image, json, text, time, value};
use crate::row::{RowError, ValueRef};
use crate::{ChangeEvent, EventId, Op, ResumeToken, SourceInfo};

/// The `type` attribute.
const fn type_name(op: Op) -> &'static str {
    match op {
        Op::Insert => "com.weftkit.cdc.row.inserted",
        Op::Update => "com.weftkit.cdc.row.updated",
        Op::Delete => "com.weftkit.cdc.row.deleted",
        Op::Truncate => "com.weftkit.cdc.table.truncated",
        Op::Read => "com.weftkit.cdc.row.read",
        Op::Merge => "com.weftkit.cdc.row.merged",
        Op::Schema => "com.weftkit.cdc.table.schema",
        Op::Message => "com.weftkit.cdc.message",
    }
}

/// Appends one event.
pub(super) fn event(
    out: &mut Vec<u8>,
    source: &SourceInfo,
    event: &ChangeEvent,
    spelling: Spelling,
) -> Result<(), EncodeError> {
    out.reserve(512);
    out.extend_from_slice(b"{\"specversion\":\"1.0\",\"id\":\"");
    out.extend_from_slice(&EventId::new(&source.lineage, event.position).to_bytes());
    out.extend_from_slice(b"\",\"source\":\"/cdc/");
    text::path_segment(out, &source.name, true);
    out.push(b'/');
    text::path_segment(out, &source.database, true);
    out.extend_from_slice(b"\",\"type\":\"");
    out.extend_from_slice(type_name(event.op).as_bytes());
    out.extend_from_slice(b"\",\"subject\":\"");
    let subject_at = out.len();
    subject(out, event)?;
    let subject_end = out.len();
    out.extend_from_slice(b"\",\"time\":\"");
    time::commit_time(out, event.transaction.commit_micros);
    out.extend_from_slice(b"\",\"datacontenttype\":\"application/json\",\"sequence\":\"");
    let token = ResumeToken::new(source.lineage, event.position);
    // Writing into a vector cannot fail.
    let _infallible = write!(out, "{token}");
    out.extend_from_slice(b"\",\"partitionkey\":\"");
    out.extend_from_within(subject_at..subject_end);
    out.extend_from_slice(b"\",\"data\":");
    json::event(out, source, event, spelling)?;
    out.push(b'}');
    Ok(())
}

/// `schema.table`, and one path segment a key column.
fn subject(out: &mut Vec<u8>, event: &ChangeEvent) -> Result<(), EncodeError> {
    let relation = &*event.relation;
    if !relation.schema.is_empty() {
        text::path_segment(out, &relation.schema, false);
        out.push(b'.');
    }
    text::path_segment(out, &relation.table, false);
    let rows = [event.after.row(), event.before.row()];
    image::for_each_key(event, rows, |_, key| {
        out.push(b'/');
        key_segment(out, key)
    })
}

fn key_segment(out: &mut Vec<u8>, key: ValueRef<'_>) -> Result<(), RowError> {
    match key {
        ValueRef::Text(value) | ValueRef::Decimal(value) | ValueRef::Json(value) => {
            text::path_segment(out, value, false);
        }
        // Standard base64 has slashes, so bytes are hexadecimal here.
        ValueRef::Bytes(bytes) => bytes.iter().for_each(|&b| text::hex_byte(out, b)),
        other => {
            let start = out.len();
            value::value(out, other, Spelling::PLAIN, 0)?;
            let written = out.split_off(start);
            let written = String::from_utf8_lossy(&written);
            text::path_segment(out, written.trim_matches('"'), false);
        }
    }
    Ok(())
}
