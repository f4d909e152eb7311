//! Which row is meant, as people write it.

use std::str::FromStr;

use cdc_core::envelope::{Encoder, Format};
use cdc_core::{ChangeEvent, SourceInfo};
use serde_json::{Map, Value};

use crate::import::read_json;

/// A row by its key: `7` for a key of one column, `id=7` or `tenant=a,id=7` by column, or the
/// event's own `key` member, `{"tenant":"a","id":7}`, which says every value exactly.
///
/// A column that is not named may hold anything. An update that changes the key is found by the
/// old key and by the new. Rows of a table without key are found by the columns of either image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFilter(Wanted);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    /// The value of a key of one column.
    Single(String),
    /// Columns and values.
    Columns(Vec<(String, String)>),
}

/// Text that names no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what}; write a value, column=value with commas between several, or the key as a JSON object"
)]
pub struct KeyFilterError {
    what: &'static str,
}

/// A JSON value as people write it.
fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

impl FromStr for KeyFilter {
    type Err = KeyFilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |what| Err(KeyFilterError { what });
        let text = text.trim();
        if text.is_empty() {
            return error("the key is empty");
        }
        if text.starts_with('{') {
            return match read_json(text.as_bytes()) {
                Some(Value::Object(columns)) if !columns.is_empty() => {
                    let columns = columns
                        .iter()
                        .map(|(name, value)| (name.clone(), plain(value)));
                    Ok(Self(Wanted::Columns(columns.collect())))
                }
                Some(Value::Object(_)) => error("the key names no column"),
                _ => error("the key is no JSON object"),
            };
        }
        if !text.contains('=') {
            return Ok(Self(Wanted::Single(text.to_owned())));
        }
        let columns = text.split(',').map(|pair| {
            let (name, value) = pair.split_once('=')?;
            (!name.trim().is_empty()).then(|| (name.trim().to_owned(), value.trim().to_owned()))
        });
        match columns.collect::<Option<Vec<_>>>() {
            Some(columns) => Ok(Self(Wanted::Columns(columns))),
            None => error("a part of the key is not column=value"),
        }
    }
}

impl KeyFilter {
    /// True if the event is of this row. One that JSON cannot say is of none.
    pub fn matches(&self, source: &SourceInfo, event: &ChangeEvent) -> bool {
        let mut text = Vec::new();
        if Encoder::new(Format::Json)
            .encode(source, event, &mut text)
            .is_err()
        {
            return false;
        }
        let Some(event) = read_json(&text) else {
            return false;
        };
        let members = if event["key"].is_object() {
            ["key", "old_key"]
        } else {
            ["before", "after"]
        };
        let objects = members.iter().filter_map(|name| event[*name].as_object());
        let keyed = event["key"].is_object();
        objects.into_iter().any(|object| self.is(object, keyed))
    }

    fn is(&self, object: &Map<String, Value>, keyed: bool) -> bool {
        match &self.0 {
            Wanted::Single(wanted) => {
                keyed && object.len() == 1 && object.values().all(|value| plain(value) == *wanted)
            }
            Wanted::Columns(columns) => columns
                .iter()
                .all(|(name, wanted)| object.get(name).is_some_and(|v| plain(v) == *wanted)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cdc_core::testing;
    use proptest::prelude::*;

    #[test]
    fn keys_are_read_or_refused_by_name() {
        let event = testing::insert(7, 0, 42);
        for (text, matches) in [
            ("42", Ok(true)),
            ("43", Ok(false)),
            ("id=42", Ok(true)),
            (" id = 42 ", Ok(true)),
            ("id=4", Ok(false)),
            ("name=42", Ok(false)),
            ("id=42,name=x", Ok(false)),
            ("{\"id\":42}", Ok(true)),
            ("{\"id\":\"42\"}", Ok(true)),
            ("{\"id\":42,\"x\":null}", Ok(false)),
            ("", Err("the key is empty")),
            ("{}", Err("the key names no column")),
            ("{\"id\"", Err("the key is no JSON object")),
            ("=1", Err("a part of the key is not column=value")),
            ("id=1,2", Err("a part of the key is not column=value")),
        ] {
            let matched = text
                .parse::<KeyFilter>()
                .map(|key| key.matches(&testing::source(), &event))
                .map_err(|error| error.what);
            assert_eq!(matched, matches, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_safe(text in "\\PC{0,40}") {
            let key = text.parse::<KeyFilter>();
            let _ = key.map(|key| key.matches(&testing::source(), &testing::insert(1, 0, 1)));
        }
    }
}
