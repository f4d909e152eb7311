//! Events for people: one line each, grouped by transaction, changed columns marked.

use std::fmt::Write as _;

use cdc_core::envelope::{EncodeError, Encoder, Format};
use cdc_core::{ChangeEvent, Op, SourceInfo};
use serde_json::{Map, Value};

/// Longest value shown in characters; the rest is counted.
const VALUE_CHARS_MAX: usize = 80;

/// Writes events as text; remembers the transaction it is in.
#[derive(Debug)]
pub(crate) struct Pretty {
    encoder: Encoder,
    colour: bool,
    transaction: Option<(u64, u64)>,
    buffer: Vec<u8>,
}

/// Terminal colours, or nothing.
#[derive(Clone, Copy)]
struct Paint {
    dim: &'static str,
    bold: &'static str,
    op: &'static str,
    off: &'static str,
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

    /// Appends one event, and its transaction's headline if it is the first of it.
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
        let json: Value = serde_json::from_slice(&self.buffer).unwrap_or_default();
        let paint = self.paint(event.op);
        let transaction = (event.position.commit.0, event.transaction.id);
        if self.transaction != Some(transaction) {
            self.transaction = Some(transaction);
            let time = json["ts"].as_str().unwrap_or_default();
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "{}── tx {} · {} · {}{}",
                paint.dim,
                event.transaction.id,
                time.replace('T', " ").trim_end_matches('Z'),
                event.position.commit,
                paint.off
            );
        }
        let sign = match event.op {
            Op::Insert => "+",
            Op::Update => "~",
            Op::Delete => "-",
            Op::Truncate => "∅",
            Op::Read => "·",
            Op::Merge => "&",
            Op::Schema => "#",
            Op::Message => "»",
        };
        let _ = write!(
            out,
            "  {}{sign} {:<8}{} ",
            paint.op,
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
        out.push('\n');
        Ok(())
    }

    fn paint(&self, op: Op) -> Paint {
        if !self.colour {
            return Paint {
                dim: "",
                bold: "",
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
            op,
            off: "\x1b[0m",
        }
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
        let _ = write!(out, "  {}{name}={}", paint.dim, paint.off);
        match old {
            Some(old) if changed => {
                let _ = write!(
                    out,
                    "{} {}→ {}{}",
                    text(old),
                    paint.op,
                    text(value),
                    paint.off
                );
            }
            _ => out.push_str(&text(value)),
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
mod tests {
    use super::*;
    use cdc_core::Image;
    use cdc_core::testing::{insert, row, source};

    #[test]
    fn updates_show_the_key_and_what_changed() {
        let mut update = insert(7, 1, 42);
        update.op = Op::Update;
        update.before = Image::Full(row(42, "old name", "1.50"));
        update.after = Image::Full(row(42, "new\u{1b}[31m", "1.50"));
        let mut out = String::new();
        let mut pretty = Pretty::new(false);
        pretty
            .event(&source(), &insert(7, 0, 42), &mut out)
            .unwrap();
        pretty.event(&source(), &update, &mut out).unwrap();
        let lines: Vec<_> = out.lines().collect();
        assert!(lines[0].starts_with("── tx 7 · 2026-"), "{out}");
        assert_eq!(
            lines[1],
            "  + insert   public.orders  id=42  name=name  total=1.50"
        );
        assert_eq!(
            lines[2],
            "  ~ update   public.orders  id=42  name=\"old name\" → \"new\\u001b[31m\""
        );
        assert_eq!(lines.len(), 3, "one headline for one transaction: {out}");
    }

    #[test]
    fn long_values_are_cut() {
        let shown = text(&Value::String("x".repeat(500)));
        assert!(shown.ends_with("… (500 characters)"), "{shown}");
        assert!(shown.chars().count() < 110);
    }
}
