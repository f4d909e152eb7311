//! What an event costs in memory, for the byte bound.

use cdc_core::{ChangeEvent, Value};

/// Bytes an event holds on to: itself, its images and its engine extras. Names and relations are
/// shared by many events and not counted.
pub(crate) fn event_bytes(event: &ChangeEvent) -> usize {
    let meta = event.meta.as_deref().map_or(0, |meta| {
        meta.0
            .iter()
            .map(|(_, value)| value_bytes(value))
            .fold(0, usize::saturating_add)
    });
    size_of::<ChangeEvent>()
        .saturating_add(event.encoded_len())
        .saturating_add(meta)
}

fn value_bytes(value: &Value) -> usize {
    let held = match value {
        Value::Decimal(text) | Value::Text(text) | Value::Json(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::Vector(elements) => elements.len().saturating_mul(size_of::<f32>()),
        Value::Array(items) => items.iter().map(value_bytes).fold(0, usize::saturating_add),
        Value::Map(entries) => entries
            .iter()
            .map(|(key, value)| key.len().saturating_add(value_bytes(value)))
            .fold(0, usize::saturating_add),
        Value::Null
        | Value::Unavailable
        | Value::Bool(_)
        | Value::Int(_)
        | Value::UInt(_)
        | Value::Float32(_)
        | Value::Float64(_)
        | Value::Uuid(_)
        | Value::Date(_)
        | Value::Time(_)
        | Value::Timestamp(_)
        | Value::TimestampTz(_) => 0,
    };
    size_of::<Value>().saturating_add(held)
}
