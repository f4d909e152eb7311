//! Debezium's JSON: the value of its change records (`docs/formats/envelope.md`).

use super::image::{self, Missing};
use super::spelled::{self, Spelled};
use super::value::{Object, Spelling};
use super::{DebeziumOptions, EncodeError, Format, text};
use crate::{ChangeEvent, Image, Op, SourceInfo, SourceKind, Value, ValueRef};

const SPELLING: Spelling = Spelling::DEBEZIUM;

/// One of the documents an event becomes.
struct Document<'a> {
    source: &'a SourceInfo,
    event: &'a ChangeEvent,
    op: u8,
    before: &'a Image,
    after: &'a Image,
}

/// Appends the event's documents.
///
/// A changed key is a deletion of the old row and a creation of the new one, as Debezium has it.
pub(super) fn event(
    out: &mut Vec<u8>,
    source: &SourceInfo,
    event: &ChangeEvent,
    options: DebeziumOptions,
    starts: &mut dyn FnMut(&mut Vec<u8>),
    ended: &mut dyn FnMut(&mut Vec<u8>),
) -> Result<(), EncodeError> {
    let relation = &*event.relation;
    let unsupported = || EncodeError::Unsupported {
        relation: relation.qualified_name(),
        format: Format::Debezium,
        op: event.op,
    };
    let document = |op| Document {
        source,
        event,
        op,
        before: &event.before,
        after: &event.after,
    };
    let op = match event.op {
        Op::Insert => b'c',
        Op::Update => b'u',
        // A range of keys names no row.
        Op::Delete if event.before.is_absent() && event.meta.is_some() => {
            return Err(unsupported());
        }
        Op::Delete => b'd',
        Op::Truncate => b't',
        Op::Read => b'r',
        Op::Message => b'm',
        // A materialised merge is an update whose old row nobody knows.
        Op::Merge if matches!(event.after, Image::Full(_) | Image::Partial(_)) => b'u',
        Op::Merge => return Err(unsupported()),
        Op::Schema => {
            starts(out);
            wrapped(out, options, |out| schema_change(out, source, event))?;
            ended(out);
            return Ok(());
        }
    };
    let changed = event.op == Op::Update
        && event
            .key_changed()
            .map_err(|cause| image::row_error(relation, cause))?;
    if !changed {
        starts(out);
        wrapped(out, options, |out| change(out, &document(op)))?;
        ended(out);
        return Ok(());
    }
    let deleted = Document {
        op: b'd',
        after: &Image::Absent,
        ..document(op)
    };
    let created = Document {
        op: b'c',
        before: &Image::Absent,
        ..document(op)
    };
    // The caller gets both or none, so the second is tried before the first is handed over.
    let start = out.len();
    change(out, &created)?;
    out.truncate(start);
    for part in [&deleted, &created] {
        starts(out);
        wrapped(out, options, |out| change(out, part))?;
        ended(out);
    }
    Ok(())
}

fn wrapped(
    out: &mut Vec<u8>,
    options: DebeziumOptions,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    if !options.payload_wrapper {
        return write(out);
    }
    out.extend_from_slice(b"{\"schema\":null,\"payload\":");
    write(out)?;
    out.push(b'}');
    Ok(())
}

fn change(out: &mut Vec<u8>, document: &Document<'_>) -> Result<(), EncodeError> {
    let Document { source, event, .. } = *document;
    out.reserve(768 + 2 * event.encoded_len());
    out.push(b'{');
    if event.op == Op::Message {
        message(out, event)?;
    } else {
        out.extend_from_slice(b"\"before\":");
        spelled::with(source, &event.relation, |spelled| {
            row(out, event, document.before, spelled)?;
            out.extend_from_slice(b",\"after\":");
            row(out, event, document.after, spelled)
        })?;
    }
    out.extend_from_slice(b",\"source\":");
    source_block(out, source, event);
    out.extend_from_slice(b",\"op\":\"");
    out.push(document.op);
    out.push(b'"');
    // The processing time of the original would differ between attempts; commit time does not.
    times(out, event.transaction.commit_micros);
    out.extend_from_slice(b",\"transaction\":{\"id\":\"");
    transaction_id(out, event);
    out.extend_from_slice(b"\",\"total_order\":");
    text::integer(out, u64::from(event.position.ordinal) + 1);
    out.extend_from_slice(b"}}");
    Ok(())
}

/// A row; of a key image the key columns only, since typed consumers take a missing member for
/// unset but choke on a placeholder in a number's place.
fn row(
    out: &mut Vec<u8>,
    event: &ChangeEvent,
    image: &Image,
    spelled: &Spelled,
) -> Result<(), EncodeError> {
    let missing = match image {
        Image::Key(_) => Missing::Omit,
        _ => Missing::Placeholder,
    };
    match image.row() {
        Some(row) => {
            image::row(out, &event.relation, row, SPELLING, missing, spelled, None).map(|_| ())
        }
        None => {
            out.extend_from_slice(b"null");
            Ok(())
        }
    }
}

/// `"message":{"prefix":...,"content":base64}`.
fn message(out: &mut Vec<u8>, event: &ChangeEvent) -> Result<(), EncodeError> {
    out.extend_from_slice(b"\"message\":{\"prefix\":");
    text::string(out, &event.relation.table);
    out.extend_from_slice(b",\"content\":");
    let content = match event.after.row() {
        Some(row) => row
            .get(0)
            .map_err(|cause| image::row_error(&event.relation, cause))?,
        None => None,
    };
    let bytes = match content {
        Some(ValueRef::Bytes(bytes)) => Some(bytes),
        Some(ValueRef::Text(text) | ValueRef::Json(text) | ValueRef::Decimal(text)) => {
            Some(text.as_bytes())
        }
        None | Some(ValueRef::Null) => None,
        Some(_) => {
            return Err(EncodeError::Unsupported {
                relation: event.relation.qualified_name(),
                format: Format::Debezium,
                op: event.op,
            });
        }
    };
    match bytes {
        Some(bytes) => {
            out.push(b'"');
            text::base64(out, bytes);
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
    Ok(())
}

fn transaction_id(out: &mut Vec<u8>, event: &ChangeEvent) {
    text::integer(out, event.transaction.id);
    out.push(b':');
    text::integer(out, event.position.commit.0);
}

fn times(out: &mut Vec<u8>, micros: i64) {
    out.extend_from_slice(b",\"ts_ms\":");
    text::integer(out, micros.div_euclid(1000));
    out.extend_from_slice(b",\"ts_us\":");
    text::integer(out, micros);
    out.extend_from_slice(b",\"ts_ns\":");
    text::integer(out, micros.saturating_mul(1000));
}

/// Debezium's name of the connector for a source, where it has one.
const fn connector(kind: SourceKind) -> &'static str {
    match kind {
        SourceKind::Postgres => "postgresql",
        other => other.name(),
    }
}

fn source_block(out: &mut Vec<u8>, source: &SourceInfo, event: &ChangeEvent) {
    out.extend_from_slice(b"{\"version\":\"");
    out.extend_from_slice(env!("CARGO_PKG_VERSION").as_bytes());
    out.extend_from_slice(b"\",\"connector\":\"");
    out.extend_from_slice(connector(source.lineage.kind).as_bytes());
    out.extend_from_slice(b"\",\"name\":");
    text::string(out, &source.name);
    times(out, event.transaction.commit_micros);
    out.extend_from_slice(b",\"snapshot\":\"");
    out.extend_from_slice(if event.op == Op::Read {
        b"true"
    } else {
        b"false"
    });
    out.extend_from_slice(b"\",\"db\":");
    text::string(out, &source.database);
    // Two numbers as text, compared one after the other by consumers that order records.
    out.extend_from_slice(b",\"sequence\":\"[\\\"");
    text::integer(out, event.position.commit.0);
    out.extend_from_slice(b"\\\",\\\"");
    text::integer(out, event.position.ordinal);
    out.extend_from_slice(b"\\\"]\",\"schema\":");
    text::string(out, &event.relation.schema);
    out.extend_from_slice(b",\"table\":");
    text::string(out, &event.relation.table);
    out.extend_from_slice(b",\"txId\":");
    text::integer(out, event.transaction.id);
    out.extend_from_slice(b",\"lsn\":");
    text::integer(out, event.position.commit.0);
    out.push(b'}');
}

/// Debezium's schema change record: the table's new shape, and the statement if the engine said it
/// (`ddl` in the engine extras).
fn schema_change(
    out: &mut Vec<u8>,
    source: &SourceInfo,
    event: &ChangeEvent,
) -> Result<(), EncodeError> {
    let relation = &*event.relation;
    out.extend_from_slice(b"{\"source\":");
    source_block(out, source, event);
    times(out, event.transaction.commit_micros);
    out.extend_from_slice(b",\"databaseName\":");
    text::string(out, &source.database);
    out.extend_from_slice(b",\"schemaName\":");
    text::string(out, &relation.schema);
    out.extend_from_slice(b",\"ddl\":");
    let extras = event.meta.iter().flat_map(|meta| &meta.0);
    let ddl = extras
        .filter(|(name, _)| &**name == "ddl")
        .find_map(|(_, value)| match value {
            Value::Text(ddl) => Some(ddl),
            _ => None,
        });
    match ddl {
        Some(ddl) => text::string(out, ddl),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"tableChanges\":[{\"type\":\"ALTER\",\"id\":\"");
    for (index, part) in [&*source.database, &*relation.schema, &*relation.table]
        .into_iter()
        .enumerate()
    {
        if index > 0 {
            out.push(b'.');
        }
        out.extend_from_slice(b"\\\"");
        text::escaped(out, part);
        out.extend_from_slice(b"\\\"");
    }
    out.extend_from_slice(b"\",\"table\":{\"primaryKeyColumnNames\":[");
    for (index, &ordinal) in relation.key.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let Some(column) = relation.columns.get(usize::from(ordinal)) else {
            return Err(EncodeError::KeyOrdinal {
                relation: relation.qualified_name(),
                ordinal,
                columns: relation.columns.len(),
            });
        };
        text::string(out, &column.name);
    }
    out.extend_from_slice(b"],\"columns\":[");
    for (index, column) in relation.columns.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let mut object = Object::open(out);
        text::string(object.member("name"), &column.name);
        text::string(object.member("typeName"), &column.type_name);
        text::integer(object.member("position"), index + 1);
        object.close();
    }
    out.extend_from_slice(b"]}}]}");
    Ok(())
}
