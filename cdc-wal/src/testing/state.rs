//! The state of an engine as rows in tables: what it says it is, and what its events make of
//! nothing.

use std::collections::BTreeMap;
use std::fmt;

use cdc_core::row::{RowError, ValueRef};
use cdc_core::{ChangeEvent, EngineKind, Image, Meta, Op, Relation, RowImage, Value};

/// Schema and table.
type Name = (String, String);
/// The encoded key values; the whole row without a key.
type Key = Vec<u8>;

/// Rows in tables, compared by content. Tables without rows are not there.
///
/// Rows of a table without a key count: there may be several alike.
#[derive(Clone, Default, PartialEq)]
pub struct State {
    tables: BTreeMap<Name, BTreeMap<Key, (RowImage, usize)>>,
}

/// Prints counts only.
impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State")?;
        f.debug_map()
            .entries(self.tables.iter().map(|(name, rows)| (name, rows.len())))
            .finish()
    }
}

/// Applies a merge operand: gives the row after, from the row before and the key image of the
/// event.
pub type MergeFn = fn(operator: &str, before: Option<&RowImage>, event: &ChangeEvent) -> RowImage;

fn malformed(error: RowError) -> String {
    format!("a row cannot be read: {error}")
}

fn key_of(relation: &Relation, row: &RowImage) -> Result<Key, String> {
    if relation.key.is_empty() {
        return Ok(row.as_bytes().to_vec());
    }
    let mut key = Vec::new();
    let mut columns = row.columns().map_err(malformed)?;
    let mut ordinal = 0;
    while let Some(value) = columns.next_raw() {
        let value = value.map_err(malformed)?;
        if relation.key.contains(&ordinal) {
            if value == [1] {
                return Err("a key column is unavailable".into());
            }
            key.extend_from_slice(value);
        }
        ordinal += 1;
    }
    if usize::from(ordinal) != relation.columns.len() {
        return Err("a row has not one value a column".into());
    }
    Ok(key)
}

/// The entry of an event's meta.
pub(super) fn meta<'a>(event: &'a ChangeEvent, wanted: &str) -> Option<&'a Value> {
    let Meta(entries) = event.meta.as_deref()?;
    entries
        .iter()
        .find_map(|(name, value)| (**name == *wanted).then_some(value))
}

impl State {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a row, for an engine that tells its state.
    ///
    /// # Panics
    /// If the row has not one value a column, or its key is there already.
    pub fn insert(&mut self, relation: &Relation, row: RowImage) {
        let key = key_of(relation, &row).unwrap_or_else(|what| panic!("{what}"));
        let name = (relation.schema.to_string(), relation.table.to_string());
        let rows = self.tables.entry(name).or_default();
        let (_, count) = rows.entry(key).or_insert((row, 0));
        *count += 1;
        assert!(
            *count == 1 || relation.key.is_empty(),
            "two rows of {} have the same key",
            relation.qualified_name()
        );
    }

    /// Adds a row of owned values, as [`insert`](Self::insert).
    ///
    /// # Panics
    /// As [`insert`](Self::insert).
    pub fn insert_values(&mut self, relation: &Relation, values: &[Value]) {
        self.insert(relation, RowImage::from_values(values));
    }

    /// Every row: schema, table, row. Rows that are there several times come as often.
    pub fn rows(&self) -> impl Iterator<Item = (&str, &str, &RowImage)> {
        self.tables.iter().flat_map(|((schema, table), rows)| {
            let rows = rows.values();
            rows.flat_map(move |(row, count)| {
                std::iter::repeat_n((schema.as_str(), table.as_str(), row), *count)
            })
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        let rows = self.tables.values().flat_map(BTreeMap::values);
        rows.map(|(_, count)| count).sum()
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Says where two states differ, without a word of what is in the rows; `None` if they do not.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let names = self.tables.keys().chain(other.tables.keys());
        for name in names {
            let [a, b] = [self, other].map(|state| state.tables.get(name));
            if a == b {
                continue;
            }
            let none = BTreeMap::new();
            let (a, b) = (a.unwrap_or(&none), b.unwrap_or(&none));
            let missing = a.keys().filter(|key| !b.contains_key(*key)).count();
            let more = b.keys().filter(|key| !a.contains_key(*key)).count();
            let both = a
                .iter()
                .filter(|(key, row)| b.get(*key).is_some_and(|r| r != *row));
            return Some(format!(
                "{}.{}: {missing} rows missing, {more} too many, {} different",
                name.0,
                name.1,
                both.count()
            ));
        }
        None
    }

    /// Applies an event as a consumer would, and checks what its images say of the row before.
    ///
    /// # Errors
    /// What is wrong with the event; the state is then undefined.
    pub fn apply(&mut self, event: &ChangeEvent, merge: MergeFn) -> Result<(), String> {
        let relation = &*event.relation;
        let name = (relation.schema.to_string(), relation.table.to_string());
        match event.op {
            Op::Insert | Op::Read => {
                let Image::Full(row) = &event.after else {
                    return Err("an insert whose new row is not full".into());
                };
                if !event.before.is_absent() {
                    return Err("an insert with an old row".into());
                }
                self.add(name, relation, row.clone())?;
            }
            Op::Update => self.update(name, event)?,
            Op::Delete => match event.before.row() {
                Some(_) => {
                    self.take_old(&name, event)?;
                }
                None => self.delete_range(&name, event)?,
            },
            Op::Truncate => {
                self.tables.remove(&name);
            }
            Op::Merge => {
                let Some(key_row) = event.after.row() else {
                    return Err("a merge without a key".into());
                };
                let key = key_of(relation, key_row)?;
                let row = match (&event.after, meta(event, "merge")) {
                    (_, None) => return Err("a merge without `meta.merge`".into()),
                    (Image::Full(row), _) => row.clone(),
                    (_, Some(Value::Map(entries))) => {
                        let operator = entries.iter().find(|(name, _)| name == "operator");
                        let Some((_, Value::Text(operator))) = operator else {
                            return Err("a merge without an operator".into());
                        };
                        let rows = self.tables.get(&name);
                        let before = rows.and_then(|rows| rows.get(&key)).map(|(row, _)| row);
                        merge(operator, before, event)
                    }
                    (_, Some(_)) => return Err("`meta.merge` is not a map".into()),
                };
                self.tables.entry(name).or_default().insert(key, (row, 1));
            }
            Op::Schema => self.schema(name, event),
            Op::Message => {}
        }
        Ok(())
    }

    fn add(&mut self, name: Name, relation: &Relation, row: RowImage) -> Result<(), String> {
        let key = key_of(relation, &row)?;
        let (_, count) = self
            .tables
            .entry(name)
            .or_default()
            .entry(key)
            .or_insert((row, 0));
        *count += 1;
        if *count > 1 && !relation.key.is_empty() {
            return Err("an insert of a key that is there".into());
        }
        Ok(())
    }

    /// Takes the row away that the old image names, checked against it; gives it.
    fn take_old(&mut self, name: &Name, event: &ChangeEvent) -> Result<Option<RowImage>, String> {
        let Some(before) = event.before.row() else {
            return Ok(None);
        };
        let mut name = name.clone();
        if event.op == Op::Update
            && let Some(Value::Text(left)) = meta(event, "old_table")
        {
            name.1.clone_from(left);
        }
        let key = key_of(&event.relation, before)?;
        let rows = self.tables.entry(name.clone()).or_default();
        let found = rows.get_mut(&key).map(|(row, count)| {
            *count -= 1;
            (row.clone(), *count)
        });
        if let Some((_, 0)) = found {
            rows.remove(&key);
        }
        if rows.is_empty() {
            self.tables.remove(&name);
        }
        let found = found.map(|(row, _)| row);
        match (&event.before, &found) {
            (Image::Full(row), Some(found)) if row != found => {
                Err("the old row is not the one that was there".into())
            }
            (Image::Partial(row), Some(found)) if !fits(row, found)? => {
                Err("the old row contradicts the one that was there".into())
            }
            (Image::Full(_) | Image::Partial(_), None) => {
                Err("an old row of a key that is not there".into())
            }
            (Image::Key(_), None) if event.op == Op::Update => {
                Err("an update of a key that is not there".into())
            }
            // An engine may delete without looking.
            _ => Ok(found),
        }
    }

    fn update(&mut self, name: Name, event: &ChangeEvent) -> Result<(), String> {
        let relation = &*event.relation;
        let Some(after) = event.after.row() else {
            return Err("an update without a new row".into());
        };
        let key = key_of(relation, after)?;
        let old = match event.before.row() {
            Some(_) => self.take_old(&name, event)?,
            None => {
                let rows = self.tables.get_mut(&name);
                rows.and_then(|rows| rows.remove(&key)).map(|(row, _)| row)
            }
        };
        let row = match (&event.after, old) {
            (Image::Full(row), _) => row.clone(),
            (_, None) => return Err("a partial update of a key that is not there".into()),
            (_, Some(old)) => overlay(event, &old, after)?,
        };
        if relation.key.is_empty() {
            return self.add(name, relation, row);
        }
        let rows = self.tables.entry(name).or_default();
        if rows.insert(key, (row, 1)).is_some() {
            return Err("an update onto another row".into());
        }
        Ok(())
    }

    fn delete_range(&mut self, name: &Name, event: &ChangeEvent) -> Result<(), String> {
        let Some(Value::Map(range)) = meta(event, "range") else {
            return Err("a delete without an old row and without a range".into());
        };
        let bound = |wanted: &str| match range.iter().find(|(name, _)| name == wanted) {
            Some((_, Value::Array(parts))) => Ok(parts.clone()),
            Some((_, part)) => Ok(vec![part.clone()]),
            None => Err("a range without start or end".to_owned()),
        };
        let bytes = |parts: &[Value]| -> Vec<Vec<u8>> {
            let bytes = |part: &Value| match part {
                Value::Bytes(bytes) => bytes.clone(),
                Value::Text(text) | Value::Json(text) => text.clone().into_bytes(),
                _ => Vec::new(),
            };
            parts.iter().map(bytes).collect()
        };
        let (start, end) = (bytes(&bound("start")?), bytes(&bound("end")?));
        let key = &event.relation.key;
        let Some(rows) = self.tables.get_mut(name) else {
            return Ok(());
        };
        rows.retain(|_, (row, _)| {
            let parts = key
                .iter()
                .map(|&ordinal| row.get(ordinal.into()).ok().flatten());
            let parts: Vec<Value> = parts
                .map(|value| value.and_then(|v| v.to_value().ok()).unwrap_or(Value::Null))
                .collect();
            let parts = bytes(&parts);
            parts < start || parts >= end
        });
        if rows.is_empty() {
            self.tables.remove(name);
        }
        Ok(())
    }

    fn schema(&mut self, name: Name, event: &ChangeEvent) {
        match (meta(event, "change"), meta(event, "to")) {
            (Some(Value::Text(change)), _) if change == "drop" => {
                self.tables.remove(&name);
            }
            (Some(Value::Text(change)), Some(Value::Text(to))) if change == "rename" => {
                if let Some(rows) = self.tables.remove(&name) {
                    self.tables.insert((name.0, to.clone()), rows);
                }
            }
            _ => {}
        }
    }
}

/// True if what a partial row holds is what the whole one has.
fn fits(partial: &RowImage, whole: &RowImage) -> Result<bool, String> {
    let (partial, whole) = (
        partial.columns().map_err(malformed)?,
        whole.columns().map_err(malformed)?,
    );
    for (part, whole) in partial.zip(whole) {
        let (part, whole) = (part.map_err(malformed)?, whole.map_err(malformed)?);
        if part != ValueRef::Unavailable && part != whole {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The old row with what the partial new one brings; a collection in memory with its patch.
fn overlay(event: &ChangeEvent, old: &RowImage, new: &RowImage) -> Result<RowImage, String> {
    let old = old.to_values().map_err(malformed)?;
    let new = new.to_values().map_err(malformed)?;
    let mut values: Vec<Value> = old
        .into_iter()
        .zip(new)
        .map(|(old, new)| if new == Value::Unavailable { old } else { new })
        .collect();
    if event.relation.engine == EngineKind::InMemory
        && let (Some(changed), Some(Value::Array(removed))) =
            (meta(event, "changed"), meta(event, "removed"))
        && let Some(value) = values.get_mut(2)
    {
        patch(value, changed, removed)?;
    }
    Ok(RowImage::from_values(&values))
}

/// Applies a patch of a hash, set or sorted set; members stay sorted.
fn patch(value: &mut Value, changed: &Value, removed: &[Value]) -> Result<(), String> {
    let name_of = |item: &Value| match item {
        Value::Array(pair) => pair.first().cloned().unwrap_or(Value::Null),
        other => other.clone(),
    };
    let bytes = |name: &Value| match name {
        Value::Bytes(bytes) => bytes.clone(),
        Value::Text(text) | Value::Json(text) => text.clone().into_bytes(),
        _ => Vec::new(),
    };
    match (value, changed) {
        (Value::Array(items), Value::Array(changed)) => {
            let gone: Vec<Value> = changed
                .iter()
                .map(name_of)
                .chain(removed.iter().cloned())
                .collect();
            items.retain(|item| !gone.contains(&name_of(item)));
            items.extend(changed.iter().cloned());
            items.sort_by_key(|item| bytes(&name_of(item)));
        }
        (Value::Map(entries), Value::Map(changed)) => {
            let gone: Vec<Vec<u8>> = removed.iter().map(bytes).collect();
            entries.retain(|(name, _)| {
                !changed.iter().any(|(c, _)| c == name)
                    && !gone.iter().any(|g| g == name.as_bytes())
            });
            entries.extend(changed.iter().cloned());
            entries.sort_by(|a, b| a.0.cmp(&b.0));
        }
        _ => return Err("a patch of a value of another type".into()),
    }
    Ok(())
}
