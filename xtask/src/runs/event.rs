//! Events as a consumer reads them: the JSON envelope, version 1, checked member by member.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::error::Context;
use crate::json::Json;
use crate::{Error, Result, ensure};

/// One delivered event.
#[derive(Clone, Debug)]
pub(super) struct Event {
    /// Stable id.
    pub(super) id: String,
    /// Where it stands: commit, then ordinal in its transaction.
    pub(super) position: (u64, u32),
    /// What happened.
    pub(super) op: String,
    /// Schema and table.
    pub(super) table: (String, String),
    /// The source's transaction id.
    pub(super) transaction: String,
    /// Commit time.
    pub(super) ts: String,
    /// Whether its transaction ends with it.
    pub(super) last: bool,
    /// The key as an object; `None` if the table has none.
    pub(super) key: Option<Json>,
    /// The key before, if it changed.
    pub(super) old_key: Option<Json>,
    /// The row before; `None` if it is not known.
    pub(super) before: Option<Json>,
    /// `full`, `key` or `partial`.
    pub(super) before_image: String,
    /// The row after; `None` if there is none.
    pub(super) after: Option<Json>,
    /// Columns whose value the source did not send.
    pub(super) unavailable: Vec<String>,
}

impl Event {
    /// Reads one event; every member that must be there is asked for.
    ///
    /// # Errors
    /// It is no event of the envelope. The message holds no values.
    pub(super) fn parse(text: &str) -> Result<Self> {
        Self::from_json(&Json::parse(text)?)
    }

    /// As [`Event::parse`], from JSON that is read already.
    ///
    /// # Errors
    /// As [`Event::parse`].
    pub(super) fn from_json(json: &Json) -> Result<Self> {
        let text = |from: &Json, name: &str| {
            from.get(name)
                .and_then(Json::as_str)
                .map(str::to_owned)
                .ok_or_else(|| Error::new(format!("read an event: no text member `{name}`")))
        };
        let member = |name: &str| {
            json.get(name)
                .ok_or_else(|| Error::new(format!("read an event: no member `{name}`")))
        };
        let object = |name: &str| match json.get(name) {
            Some(object @ Json::Object(members)) if !members.is_empty() => Some(object.clone()),
            _ => None,
        };
        let shown = text(json, "position")?;
        let position = position(&shown)?;
        let tx = member("tx")?;
        let ordinal = tx.get("ordinal").and_then(Json::as_u64);
        ensure!(
            ordinal == Some(u64::from(position.1)),
            "read the event at {shown}: `tx.ordinal` is not that of the position"
        );
        let source = member("source")?;
        ensure!(
            !text(source, "kind")?.is_empty() && !text(source, "name")?.is_empty(),
            "read the event at {shown}: `source` does not say where it is from"
        );
        ensure!(
            text(json, "engine")? == "relational",
            "read the event at {shown}: `engine` is not relational"
        );
        for name in ["key", "before", "after"] {
            member(name)?;
        }
        for part in [
            Some(json),
            json.get("before"),
            json.get("after"),
            json.get("key"),
        ] {
            let repeated = part.and_then(Json::repeated_member);
            ensure!(
                repeated.is_none(),
                "read the event at {shown}: member `{}` stands twice",
                repeated.unwrap_or_default()
            );
        }
        let event = Self {
            id: text(json, "id")?,
            position,
            op: text(json, "op")?,
            table: (text(json, "schema")?, text(json, "table")?),
            transaction: text(tx, "id")?,
            ts: text(json, "ts")?,
            last: tx
                .get("last")
                .and_then(Json::as_bool)
                .ok_or_else(|| Error::new("read an event: no member `tx.last`"))?,
            key: object("key"),
            old_key: object("old_key"),
            before: object("before"),
            before_image: text(json, "before_image").unwrap_or_else(|_| "full".to_owned()),
            after: object("after"),
            unavailable: json
                .get("unavailable")
                .map(Json::items)
                .unwrap_or_default()
                .iter()
                .filter_map(|name| name.as_str().map(str::to_owned))
                .collect(),
        };
        ensure!(
            !event.id.is_empty() && !event.transaction.is_empty() && event.transaction != "0",
            "read the event at {shown}: id or transaction id is empty"
        );
        // 2026-11-22T13:05:07.123456Z
        ensure!(
            event.ts.len() == 27 && event.ts.starts_with("20") && event.ts.ends_with('Z'),
            "read the event at {shown}: `ts` is not a commit time of this century"
        );
        Ok(event)
    }
}

/// `16/B374D848:3` as numbers.
fn position(text: &str) -> Result<(u64, u32)> {
    let parsed = || {
        let (lsn, ordinal) = text.split_once(':')?;
        let (high, low) = lsn.split_once('/')?;
        let high = u64::from(u32::from_str_radix(high, 16).ok()?);
        let low = u64::from(u32::from_str_radix(low, 16).ok()?);
        Some((high << 32 | low, ordinal.parse().ok()?))
    };
    parsed().ok_or_else(|| Error::new(format!("read an event: `{text}` is no position")))
}

/// The files of a file emitter, in the order of their names, which is that of their events.
///
/// # Errors
/// The folder cannot be listed.
pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).context(|| format!("list {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry
            .context(|| format!("list {}", folder.display()))?
            .path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        let events = name.ends_with(".ndjson") || name.ends_with(".ndjson.part");
        if path.is_file() && events && !name.contains("manifest") {
            files.push((name.trim_end_matches(".part").to_owned(), path));
        }
    }
    files.sort();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

/// Reads every event of a file emitter's folder in order.
///
/// With `torn`, a last line without its end is left out: what a kill in the middle of a write
/// leaves, and what a restart would cut off.
///
/// # Errors
/// A line is no event, or `each` fails; the message says where.
pub(super) fn each_event(
    folder: &Path,
    torn: bool,
    mut each: impl FnMut(Event) -> Result<()>,
) -> Result<u64> {
    let mut count = 0;
    for path in files(folder)? {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let file = std::fs::File::open(&path).context(|| format!("open {}", path.display()))?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let mut number = 0_u64;
        let mut line = Vec::new();
        loop {
            line.clear();
            let length =
                read_line(&mut reader, &mut line).context(|| format!("read {}", path.display()))?;
            if length == 0 {
                break;
            }
            number += 1;
            let ended = line.pop_if(|byte| *byte == b'\n').is_some();
            if !ended && torn {
                break;
            }
            ensure!(ended, "{name} line {number}: the line has no end");
            let text = std::str::from_utf8(&line).context(|| format!("{name} line {number}"))?;
            // Every row that a transaction takes back carries this mark.
            ensure!(
                !text.contains(super::workload::ROLLED_BACK),
                "{name} line {number}: holds work that was rolled back"
            );
            let event = Event::parse(text).context(|| format!("{name} line {number}"))?;
            each(event).context(|| format!("{name} line {number}"))?;
            count += 1;
        }
    }
    Ok(count)
}

fn read_line(reader: &mut BufReader<impl Read>, line: &mut Vec<u8>) -> std::io::Result<usize> {
    reader.read_until(b'\n', line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"id":"a","position":"1/B3:1","op":"insert","engine":"relational","source":{"name":"s","kind":"postgres","database":"d"},"schema":"public","table":"t","tx":{"id":"742","ordinal":1,"last":true},"ts":"2026-11-22T13:05:07.123456Z","key":{"id":7},"before":null,"after":{"id":7}}"#;

    #[test]
    fn an_event_is_read() {
        let event = Event::parse(LINE).unwrap();
        assert_eq!(event.position, (0x1_0000_00B3, 1));
        assert_eq!((event.transaction.as_str(), event.last), ("742", true));
        assert_eq!(event.before, None);
        assert_eq!(event.key.unwrap().text(), "{\"id\":7}");
    }

    #[test]
    fn what_is_missing_is_named() {
        for (from, to, expected) in [
            ("\"id\":\"a\",", "", "no text member `id`"),
            (
                "\"ordinal\":1",
                "\"ordinal\":2",
                "`tx.ordinal` is not that of the position",
            ),
            (",\"before\":null", "", "no member `before`"),
            ("\"742\"", "\"0\"", "transaction id is empty"),
            ("13:05:07.123456Z", "13:05", "`ts` is not a commit time"),
            ("1/B3:1", "1-B3", "is no position"),
            (
                "\"after\":{\"id\":7}",
                "\"after\":{\"id\":7,\"id\":8}",
                "stands twice",
            ),
        ] {
            assert!(LINE.contains(from), "{from}");
            let error = Event::parse(&LINE.replacen(from, to, 1))
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
