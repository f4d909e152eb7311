//! Events for people: one line each, grouped by transaction, changed columns marked.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use cdc_core::envelope::{EncodeError, Encoder, Format, readable};
use cdc_core::{ChangeEvent, DeadLetter, Op, SourceInfo, SourceKind};
use cdc_dlq::letter_json;
use serde_json::{Map, Value, json};

/// Longest value shown in characters; the rest is counted.
const VALUE_CHARS_MAX: usize = 80;

/// Writes events as text; remembers the transaction it is in.
#[derive(Debug)]
pub(crate) struct Pretty {
    encoder: Encoder,
    colour: bool,
    transaction: Option<Open>,
    buffer: Vec<u8>,
}

/// The transaction whose events are being written, and how many of each operation there were.
#[derive(Debug)]
struct Open {
    commit: u64,
    id: u64,
    counts: BTreeMap<&'static str, u64>,
}

/// Terminal colours, or nothing.
#[derive(Clone, Copy)]
struct Paint {
    dim: &'static str,
    bold: &'static str,
    mark: &'static str,
    op: &'static str,
    off: &'static str,
}

const fn sign(op: Op) -> &'static str {
    match op {
        Op::Insert => "+",
        Op::Update => "~",
        Op::Delete => "-",
        Op::Truncate => "∅",
        Op::Read => "·",
        Op::Merge => "&",
        Op::Schema => "#",
        Op::Message => "»",
    }
}

/// A document of ours as values. A row's own JSON may hold numbers that do not fit in 64-bit floats: they
/// are text then. What cannot be read even so is shown as it is, not as nothing.
pub(crate) fn parsed(document: &[u8]) -> Value {
    let read = serde_json::from_slice(document);
    read.or_else(|_| serde_json::from_slice(&readable(document)))
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(document).into_owned()))
}

/// A dead letter as values: with its event, or in a list, which only names it.
pub(crate) fn letter(letter: &DeadLetter, rows: bool) -> Value {
    let mut text = Vec::new();
    letter_json(letter, &mut text);
    let mut row = match parsed(&text) {
        row @ Value::Object(_) => row,
        text => json!({
            "emitter": &*letter.emitter,
            "event_id": letter.event_id().to_string(),
            "state": letter.state.name(),
            "event": text,
        }),
    };
    if !rows && let Some(object) = row.as_object_mut() {
        object.remove("event");
        let event = &letter.event;
        for (name, value) in [
            ("position", event.position.to_string()),
            ("op", event.op.to_string()),
            ("schema", event.relation.schema.to_string()),
            ("table", event.relation.table.to_string()),
        ] {
            object.insert(name.to_owned(), value.into());
        }
    }
    row
}

impl Pretty {
    pub(crate) fn new(colour: bool) -> Self {
        Self {
            encoder: Encoder::new(Format::Json),
            colour,
            transaction: None,
            buffer: Vec::new(),
        }
    }

    /// Appends one event, its transaction's headline if it is the first of it, and its sum if it is
    /// the last of several.
    ///
    /// # Errors
    /// [`EncodeError`] if a row image is damaged.
    pub(crate) fn event(
        &mut self,
        source: &SourceInfo,
        event: &ChangeEvent,
        out: &mut String,
    ) -> Result<(), EncodeError> {
        self.buffer.clear();
        self.encoder.encode(source, event, &mut self.buffer)?;
        let json = parsed(&self.buffer);
        let paint = self.paint(event.op);
        let (commit, id) = (event.position.commit.0, event.transaction.id);
        let known = |open: &Open| (open.commit, open.id) == (commit, id);
        if !self.transaction.as_ref().is_some_and(known) {
            headline(source, event, &json, paint, out);
            self.transaction = Some(Open {
                commit,
                id,
                counts: BTreeMap::new(),
            });
        }
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            "  {}{} {:<8}{} ",
            paint.op,
            sign(event.op),
            event.op.name(),
            paint.off
        );
        let _ = write!(
            out,
            "{}{}{}",
            paint.bold,
            event.relation.qualified_name(),
            paint.off
        );
        columns(&json, event.op, paint, out);
        about(&json, event.op, paint, out);
        out.push('\n');
        if let Some(open) = &mut self.transaction {
            *open.counts.entry(sign(event.op)).or_default() += 1;
            let sum: u64 = open.counts.values().sum();
            if event.last && sum > 1 {
                let counts = open.counts.iter().map(|(sign, n)| format!("{sign}{n}"));
                let counts: Vec<String> = counts.collect();
                let _ = writeln!(
                    out,
                    "  {}{sum} changes  {}{}",
                    paint.dim,
                    counts.join(" "),
                    paint.off
                );
            }
        }
        Ok(())
    }

    fn paint(&self, op: Op) -> Paint {
        if !self.colour {
            return Paint {
                dim: "",
                bold: "",
                mark: "",
                op: "",
                off: "",
            };
        }
        let op = match op {
            Op::Insert | Op::Read => "\x1b[32m",
            Op::Update | Op::Merge => "\x1b[33m",
            Op::Delete | Op::Truncate => "\x1b[31m",
            Op::Schema | Op::Message => "\x1b[36m",
        };
        Paint {
            dim: "\x1b[2m",
            bold: "\x1b[1m",
            mark: "\x1b[35m",
            op,
            off: "\x1b[0m",
        }
    }
}

/// What a transaction begins with.
fn headline(
    source: &SourceInfo,
    event: &ChangeEvent,
    json: &Value,
    paint: Paint,
    out: &mut String,
) {
    let _ = write!(out, "{}── ", paint.dim);
    // SQLite numbers no transactions: the number is the position once more.
    if source.lineage.kind != SourceKind::Sqlite {
        let _ = write!(out, "tx {} · ", event.transaction.id);
    }
    let time = json["ts"].as_str().unwrap_or_default();
    let _ = write!(
        out,
        "{} · {}{}",
        time.replace('T', " ").trim_end_matches('Z'),
        event.position.commit,
        paint.off
    );
    if json["meta"]["merged"] == true {
        let _ = write!(
            out,
            " {}merged: the net change of several transactions{}",
            paint.mark, paint.off
        );
    }
    out.push('\n');
}

/// What an event says besides rows: a change of shape, the number of a row without key.
fn about(json: &Value, op: Op, paint: Paint, out: &mut String) {
    let meta = &json["meta"];
    if let Some(rowid) = meta["rowid"].as_i64() {
        let _ = write!(out, "  {}rowid={rowid}{}", paint.dim, paint.off);
    }
    if op != Op::Schema {
        return;
    }
    if let Some(change) = meta["change"].as_str() {
        let _ = write!(out, "  {}{change}{}", paint.op, paint.off);
    }
    if let Some(was) = meta["was"].as_str() {
        let _ = write!(out, "  {}was {}{}", paint.dim, text(&was.into()), paint.off);
    }
    if let Some(sql) = meta["sql"].as_str() {
        let words: Vec<&str> = sql.split_whitespace().collect();
        let sql = cut(words
            .join(" ")
            .chars()
            .filter(|c| !c.is_control())
            .collect());
        let _ = write!(out, "  {}{sql}{}", paint.dim, paint.off);
    }
}

fn columns(json: &Value, op: Op, paint: Paint, out: &mut String) {
    let empty = Map::new();
    let image = |name: &str| json[name].as_object().unwrap_or(&empty);
    let (before, after, key) = (image("before"), image("after"), image("key"));
    let old_key = json["old_key"].as_object();
    let shown = match op {
        Op::Delete if before.is_empty() => key,
        Op::Delete => before,
        _ => after,
    };
    for (name, value) in shown {
        let old = before
            .get(name)
            .or_else(|| old_key.and_then(|k| k.get(name)));
        let changed = op == Op::Update && old.is_some_and(|old| old != value);
        // An update shows its key and what changed; without a row before, everything.
        if op == Op::Update && !before.is_empty() && !changed && !key.contains_key(name) {
            continue;
        }
        match old {
            Some(old) if changed => {
                let _ = write!(
                    out,
                    "  {}{name}{}={} {}→ {}{}",
                    paint.bold,
                    paint.off,
                    text(old),
                    paint.op,
                    text(value),
                    paint.off
                );
            }
            _ => {
                let _ = write!(out, "  {}{name}={}{}", paint.dim, paint.off, text(value));
            }
        }
    }
    if let Some(missing) = json["unavailable"].as_array() {
        let names: Vec<_> = missing.iter().filter_map(Value::as_str).collect();
        let _ = write!(
            out,
            "  {}(not sent: {}){}",
            paint.dim,
            names.join(", "),
            paint.off
        );
    }
    if let Some(cause) = json["cause"].as_str() {
        let _ = write!(out, "  {}({cause}){}", paint.dim, paint.off);
    }
}

/// A value on one line; long ones are cut, control characters shown as escapes.
fn text(value: &Value) -> String {
    let text = match value {
        Value::String(text)
            if text.chars().any(char::is_control) || text.contains(' ') || text.is_empty() =>
        {
            value.to_string()
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    cut(text)
}

/// A long text is cut, and what is missing counted.
fn cut(text: String) -> String {
    let count = text.chars().count();
    if count <= VALUE_CHARS_MAX {
        return text;
    }
    let head: String = text.chars().take(VALUE_CHARS_MAX).collect();
    format!("{head}… ({count} characters)")
}

/// A value of a row on one line.
pub(crate) fn value(value: &cdc_core::ValueRef<'_>) -> String {
    use cdc_core::ValueRef as V;
    match value {
        V::Null => "null".to_owned(),
        V::Unavailable => "(not sent)".to_owned(),
        V::Bool(v) => v.to_string(),
        V::Int(v) | V::Time(v) | V::Timestamp(v) | V::TimestampTz(v) => v.to_string(),
        V::UInt(v) => v.to_string(),
        V::Float32(v) => v.to_string(),
        V::Float64(v) => v.to_string(),
        V::Decimal(v) => (*v).to_owned(),
        V::Text(v) | V::Json(v) => text(&Value::String((*v).to_owned())),
        V::Bytes(v) => format!("{} bytes", v.len()),
        V::Uuid(v) => v.iter().map(|byte| format!("{byte:02x}")).collect(),
        V::Date(v) => v.to_string(),
        V::Array(v) => format!("[{} items]", v.len()),
        V::Map(v) => format!("{{{} entries}}", v.len()),
        V::Vector(v) => format!("[{} floats]", v.len()),
    }
}

#[cfg(test)]
mod tests;
