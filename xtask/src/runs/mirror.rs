//! The consumer's copy: events applied in order to empty tables, every claim of an event checked
//! against what the copy holds.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::event::Event;
use crate::json::Json;
use crate::{Error, Result, ensure};

/// Columns and values.
pub(super) type Row = Vec<(String, Json)>;

/// One table's copy.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Rows of tables with a key, by the key's JSON.
    keyed: HashMap<String, Row>,
    /// Rows of tables without one, by their own JSON, with how often they are there.
    bag: HashMap<String, (Row, u64)>,
}

impl Table {
    /// Every row, those of a bag as often as they are there.
    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        let bag = self
            .bag
            .values()
            .flat_map(|(row, count)| (0..*count).map(move |_| row));
        self.keyed.values().chain(bag)
    }
}

/// The copy of a database.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    tables: BTreeMap<(String, String), Table>,
    /// Tables whose rows have no key; equal rows may be there more than once.
    keyless: HashSet<(String, String)>,
    sequence: Sequence,
    ops: BTreeMap<String, u64>,
    transactions: u64,
}

/// What must hold between neighbouring events.
#[derive(Debug, Default)]
struct Sequence {
    position: Option<(u64, u32)>,
    transaction: String,
    ts: String,
    last: bool,
}

impl Mirror {
    /// An empty copy; the tables named have no key.
    pub(super) fn new(keyless: &[(&str, &str)]) -> Self {
        let keyless = keyless
            .iter()
            .map(|(schema, table)| ((*schema).into(), (*table).into()));
        Self {
            keyless: keyless.collect(),
            ..Self::default()
        }
    }

    /// The tables, by schema and name.
    pub(super) fn tables(&self) -> &BTreeMap<(String, String), Table> {
        &self.tables
    }

    /// How many events of each operation were applied.
    pub(super) fn ops(&self) -> &BTreeMap<String, u64> {
        &self.ops
    }

    /// How many transactions were applied.
    pub(super) fn transactions(&self) -> u64 {
        self.transactions
    }

    /// Applies the next event.
    ///
    /// # Errors
    /// It does not follow from those before: out of order, an insert of a row that is there, an
    /// update or delete of one that is not, an image that differs from the copy.
    pub(super) fn apply(&mut self, event: Event) -> Result<()> {
        let place = format!(
            "{} of {}.{} at {:X}/{:X}:{}",
            event.op,
            event.table.0,
            event.table.1,
            event.position.0 >> 32,
            event.position.0 & 0xFFFF_FFFF,
            event.position.1
        );
        let fail = |error: Error| Error::new(format!("{place}: {error}"));
        if self.sequence.follow(&event).map_err(fail)? {
            self.transactions += 1;
        }
        *self.ops.entry(event.op.clone()).or_default() += 1;
        let keyless = self.keyless.contains(&event.table);
        let table = self.tables.entry(event.table.clone()).or_default();
        if keyless {
            table.apply_to_bag(event)
        } else {
            table.apply_by_key(event)
        }
        .map_err(fail)
    }

    /// The stream has ended: the last transaction must be whole.
    ///
    /// # Errors
    /// It is not.
    pub(super) fn end(&self) -> Result<()> {
        ensure!(
            self.sequence.last || self.sequence.position.is_none(),
            "the last transaction has no last event"
        );
        Ok(())
    }
}

impl Sequence {
    /// True if the event begins a transaction.
    fn follow(&mut self, event: &Event) -> Result<bool> {
        let begins = match self.position {
            None => true,
            Some((commit, ordinal)) => {
                ensure!(
                    event.position > (commit, ordinal),
                    "the position does not increase: after {:X}/{:X}:{ordinal}",
                    commit >> 32,
                    commit & 0xFFFF_FFFF
                );
                event.position.0 != commit
            }
        };
        if begins {
            ensure!(
                self.last || self.position.is_none(),
                "the transaction before has no last event"
            );
            ensure!(
                event.position.1 == 0,
                "the transaction's first event is missing"
            );
        } else {
            ensure!(
                !self.last,
                "an event behind the last one of its transaction"
            );
            ensure!(
                Some((event.position.0, event.position.1.wrapping_sub(1))) == self.position,
                "an event of the transaction is missing before this one"
            );
            ensure!(
                event.transaction == self.transaction && event.ts == self.ts,
                "one commit with two transaction ids or commit times"
            );
        }
        self.position = Some(event.position);
        self.transaction.clone_from(&event.transaction);
        self.ts.clone_from(&event.ts);
        self.last = event.last;
        Ok(begins)
    }
}

fn row(image: Option<Json>, what: &str) -> Result<Row> {
    match image {
        Some(Json::Object(members)) => Ok(members),
        _ => Err(Error::new(format!("no row {what}"))),
    }
}

fn column<'a>(row: &'a Row, name: &str) -> Option<&'a Json> {
    row.iter()
        .find(|(known, _)| known == name)
        .map(|(_, value)| value)
}

/// Every column of the image has the value the copy has. A column the copy does not know was
/// added to the table since.
fn agree(image: &Row, copy: &Row) -> Result<()> {
    for (name, value) in image {
        let same = column(copy, name).is_none_or(|known| known == value);
        ensure!(
            same,
            "`before` differs from the row as it was, in column `{name}`"
        );
    }
    Ok(())
}

impl Table {
    fn apply_by_key(&mut self, event: Event) -> Result<()> {
        let key = event.key.as_ref().map(Json::text);
        let needed = || Error::new("the event has no key");
        match event.op.as_str() {
            "insert" | "read" => {
                ensure!(event.before.is_none(), "an insert with a row before");
                let row = row(event.after, "after")?;
                let there = self.keyed.insert(key.ok_or_else(needed)?, row).is_some();
                ensure!(!there, "the row is there already");
            }
            "update" => {
                let key = key.ok_or_else(needed)?;
                let old_key = event
                    .old_key
                    .as_ref()
                    .map_or_else(|| key.clone(), Json::text);
                ensure!(
                    event.old_key.is_none() || old_key != key,
                    "`old_key` is given and equals the key"
                );
                let old = self.keyed.remove(&old_key);
                let old = old.ok_or_else(|| Error::new("the row is not there"))?;
                if let Some(Json::Object(before)) = &event.before {
                    agree(before, &old)?;
                }
                let mut new = row(event.after, "after")?;
                for name in event.unavailable {
                    ensure!(
                        column(&new, &name).is_none(),
                        "column `{name}` is unavailable and has a value"
                    );
                    let known = column(&old, &name).cloned();
                    let known = known.ok_or_else(|| {
                        Error::new(format!("column `{name}` is unavailable and was never sent"))
                    })?;
                    new.push((name, known));
                }
                let there = self.keyed.insert(key, new).is_some();
                ensure!(!there, "the key changes to that of another row");
            }
            "delete" => {
                ensure!(event.after.is_none(), "a delete with a row after");
                let old = self.keyed.remove(&key.ok_or_else(needed)?);
                let old = old.ok_or_else(|| Error::new("the row is not there"))?;
                let before = row(event.before, "before")?;
                agree(&before, &old)?;
                ensure!(
                    event.before_image != "full" || before.len() >= old.len(),
                    "a full `before` that lacks columns"
                );
            }
            _ => self.apply_other(&event)?,
        }
        Ok(())
    }

    fn apply_to_bag(&mut self, event: Event) -> Result<()> {
        match event.op.as_str() {
            "insert" | "read" => self.put(row(event.after, "after")?),
            "update" => {
                ensure!(
                    event.unavailable.is_empty(),
                    "a full old row, yet columns are unavailable"
                );
                self.take(&row(event.before, "before")?)?;
                self.put(row(event.after, "after")?);
            }
            "delete" => self.take(&row(event.before, "before")?)?,
            _ => self.apply_other(&event)?,
        }
        Ok(())
    }

    fn apply_other(&mut self, event: &Event) -> Result<()> {
        match event.op.as_str() {
            "truncate" => {
                self.keyed.clear();
                self.bag.clear();
            }
            "schema" | "message" => {}
            other => return Err(Error::new(format!("unknown operation `{other}`"))),
        }
        Ok(())
    }

    fn put(&mut self, row: Row) {
        let key = bag_key(&row);
        self.bag.entry(key).or_insert((row, 0)).1 += 1;
    }

    fn take(&mut self, row: &Row) -> Result<()> {
        let key = bag_key(row);
        let there = self.bag.get_mut(&key).filter(|(_, count)| *count > 0);
        let (_, count) = there.ok_or_else(|| Error::new("the row is not there"))?;
        *count -= 1;
        if *count == 0 {
            self.bag.remove(&key);
        }
        Ok(())
    }
}

fn bag_key(row: &Row) -> String {
    Json::Object(row.clone()).text()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(position: (u64, u32), last: bool, op: &str, rest: &str) -> Event {
        let (commit, ordinal) = position;
        let text = format!(
            r#"{{"id":"i{commit}-{ordinal}","position":"0/{commit:X}:{ordinal}","op":"{op}","engine":"relational","source":{{"name":"s","kind":"postgres","database":"d"}},"schema":"public","table":"t","tx":{{"id":"{commit}","ordinal":{ordinal},"last":{last}}},"ts":"2026-11-22T13:05:07.123456Z",{rest}}}"#
        );
        Event::parse(&text).unwrap()
    }

    const ONE: &str = r#""key":{"id":1},"before":null,"after":{"id":1,"v":"a","big":"x"}"#;

    fn after(events: &[Event]) -> Result<Vec<String>> {
        let mut mirror = Mirror::new(&[]);
        for event in events {
            mirror.apply(event.clone())?;
        }
        mirror.end()?;
        let rows = mirror.tables.values().flat_map(Table::rows);
        Ok(rows.map(bag_key).collect())
    }

    fn refused(events: &[Event], expected: &str) {
        let error = after(events).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn an_unavailable_column_keeps_its_value_and_a_key_may_change() {
        let rows = after(&[
            event((1, 0), true, "insert", ONE),
            event(
                (2, 0),
                true,
                "update",
                r#""key":{"id":2},"old_key":{"id":1},"before":{"id":1},"before_image":"key","after":{"id":2,"v":"b"},"unavailable":["big"]"#,
            ),
        ]);
        assert_eq!(rows.unwrap(), [r#"{"id":2,"v":"b","big":"x"}"#]);
    }

    #[test]
    fn a_stream_with_a_hole_or_a_repeat_is_refused() {
        let insert = |position, last| event(position, last, "insert", ONE);
        refused(&[insert((1, 1), true)], "first event is missing");
        refused(
            &[insert((1, 0), true), insert((1, 0), true)],
            "does not increase",
        );
        refused(
            &[insert((1, 0), true), insert((2, 0), true)],
            "there already",
        );
        refused(&[insert((1, 0), false)], "no last event");
        refused(
            &[insert((1, 0), false), insert((2, 0), true)],
            "no last event",
        );
        let delete = r#""key":{"id":1},"before":{"id":1},"before_image":"key","after":null"#;
        refused(&[event((1, 0), true, "delete", delete)], "not there");
        refused(
            &[insert((1, 0), false), event((1, 2), true, "delete", delete)],
            "missing before this one",
        );
        refused(
            &[insert((1, 0), true), event((1, 1), true, "delete", delete)],
            "behind the last one",
        );
    }

    #[test]
    fn images_must_agree_with_the_copy() {
        let wrong = r#""key":{"id":1},"before":{"id":1,"v":"z"},"after":null"#;
        refused(
            &[
                event((1, 0), true, "insert", ONE),
                event((2, 0), true, "delete", wrong),
            ],
            "in column `v`",
        );
        let short = r#""key":{"id":1},"before":{"id":1,"v":"a"},"after":null"#;
        refused(
            &[
                event((1, 0), true, "insert", ONE),
                event((2, 0), true, "delete", short),
            ],
            "lacks columns",
        );
    }
}
