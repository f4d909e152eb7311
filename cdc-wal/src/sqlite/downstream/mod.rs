//! What is durable downstream although the state directory knows nothing of it, and how it is taken back.
//!
//! The archive is not synced, so after a loss of power it may end before what was delivered. The events
//! that were delivered since are then all that tells which rows they changed: a difference between two
//! states of the database says nothing of a row that was changed and is as it was before. The journal has
//! these events. Turned around, the last image first, they bring whoever applied them back to where the
//! state directory stands; from there the difference to the database as it is now leads on.

use std::collections::HashMap;
use std::sync::Arc;

use cdc_core::{
    ChangeEvent, Image, Lineage, Lsn, Meta, Op, Position, Relation, RowImage, SourceError,
    SourceErrorKind, Transaction, Value, ValueRef,
};

/// Bytes of rows and keys that are kept to be turned around.
const BYTES_MAX: usize = 64 << 20;

/// Where events are recorded before they count as delivered: a journal.
pub trait Downstream: Send {
    /// Up to where events were recorded, if any were.
    fn end(&self) -> Option<Position>;

    /// The furthest position anybody downstream knows of. Positions up to it are not given to other
    /// events.
    fn furthest(&self) -> Option<Position>;

    /// Records the transaction `commit` that turns around everything recorded behind `behind`
    /// ([`TakeBack`] makes its events), durably. False if the record is of another source than
    /// `lineage`, does not reach back so far, or cannot be turned around; nothing is recorded then.
    ///
    /// # Errors
    /// From the record.
    fn take_back(
        &mut self,
        lineage: Lineage,
        behind: Position,
        commit: Lsn,
    ) -> Result<bool, SourceError>;
}

/// A consumer that knows how far it has come, and nothing else.
impl Downstream for Option<Position> {
    fn end(&self) -> Option<Position> {
        *self
    }

    fn furthest(&self) -> Option<Position> {
        *self
    }

    fn take_back(
        &mut self,
        _lineage: Lineage,
        _behind: Position,
        _commit: Lsn,
    ) -> Result<bool, SourceError> {
        Ok(false)
    }
}

/// One row, before the first and after the last of the events.
#[derive(Debug)]
struct Row {
    relation: Arc<Relation>,
    rowid: Option<i64>,
    first: Option<RowImage>,
    last: Option<RowImage>,
}

/// Which row: its table, its key as encoded, and its number where there is no key.
type Key = (Arc<str>, Option<i64>, Vec<u8>);

/// Turns events around: takes them in order, gives those that lead back.
#[derive(Debug, Default)]
pub struct TakeBack {
    rows: HashMap<Key, Row>,
    /// In the order in which they came.
    keys: Vec<Key>,
    bytes: usize,
}

fn refused(why: &str) -> SourceError {
    SourceError::new(
        SourceErrorKind::Gap,
        format!("take back what was delivered: {why}"),
    )
}

impl TakeBack {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next event.
    ///
    /// # Errors
    /// [`SourceErrorKind::Gap`] if it cannot be turned around: the shape of a table changed, the
    /// event is of a snapshot, its row cannot be told from others, or these are too many.
    pub fn push(&mut self, event: &ChangeEvent) -> Result<(), SourceError> {
        let (before, after) = match event.op {
            Op::Insert => (None, Some(full(&event.after)?)),
            Op::Update => (Some(full(&event.before)?), Some(full(&event.after)?)),
            Op::Delete => (Some(full(&event.before)?), None),
            // What is said in between changes no row.
            Op::Message => return Ok(()),
            Op::Schema => return Err(refused("the shape of a table changed")),
            _ => return Err(refused("it is no change of a row")),
        };
        let rowid = rowid(event);
        let Some(row) = after.or(before) else {
            return Ok(());
        };
        let key = (
            event.relation.table.clone(),
            rowid,
            key(&event.relation, rowid, row)?,
        );
        self.bytes += before.map_or(0, RowImage::len) + after.map_or(0, RowImage::len);
        self.bytes += key.2.len();
        if self.bytes > BYTES_MAX {
            return Err(refused("it is too much for memory"));
        }
        if let Some(known) = self.rows.get_mut(&key) {
            known.last = after.cloned();
            known.relation = event.relation.clone();
            return Ok(());
        }
        self.keys.push(key.clone());
        let row = Row {
            relation: event.relation.clone(),
            rowid,
            first: before.cloned(),
            last: after.cloned(),
        };
        self.rows.insert(key, row);
        Ok(())
    }

    /// The events of the transaction that takes all of it back; none if it left nothing. Deletes come
    /// first: what they leave free, others may need.
    pub fn events(mut self, commit: Lsn, micros: i64) -> Vec<ChangeEvent> {
        let transaction = Transaction {
            id: commit.0,
            commit_micros: micros,
        };
        let (merged, number): (Arc<str>, Arc<str>) = (Arc::from("merged"), Arc::from("rowid"));
        let mut rows: Vec<Row> = self
            .keys
            .iter()
            .filter_map(|key| self.rows.remove(key))
            .filter(|row| row.first != row.last)
            .collect();
        rows.sort_by_key(|row| row.first.is_some());
        let mut events: Vec<ChangeEvent> = rows
            .into_iter()
            .zip(0..)
            .map(|(row, ordinal)| {
                let op = match (&row.last, &row.first) {
                    (Some(_), Some(_)) => Op::Update,
                    (_, None) => Op::Delete,
                    (None, _) => Op::Insert,
                };
                let position = Position::new(commit, ordinal);
                let mut event = ChangeEvent::new(position, row.relation, transaction, op);
                event.before = row.last.map_or(Image::Absent, Image::Full);
                event.after = row.first.map_or(Image::Absent, Image::Full);
                let mut meta = vec![(merged.clone(), Value::Bool(true))];
                meta.extend(row.rowid.map(|rowid| (number.clone(), Value::Int(rowid))));
                event.meta = Some(Arc::new(Meta(meta)));
                event
            })
            .collect();
        if let Some(last) = events.last_mut() {
            last.last = true;
        }
        events
    }
}

fn full(image: &Image) -> Result<&RowImage, SourceError> {
    match image {
        Image::Full(row) => Ok(row),
        _ => Err(refused("an event has no whole row")),
    }
}

fn rowid(event: &ChangeEvent) -> Option<i64> {
    let entries = &event.meta.as_ref()?.0;
    match entries.iter().find(|(name, _)| &**name == "rowid") {
        Some((_, Value::Int(rowid))) => Some(*rowid),
        _ => None,
    }
}

/// The encoded values of a row's key.
fn key(relation: &Relation, rowid: Option<i64>, row: &RowImage) -> Result<Vec<u8>, SourceError> {
    let unreadable = |_| refused("an event's row cannot be read");
    let mut bytes = Vec::new();
    let mut columns = row.columns().map_err(unreadable)?;
    let mut at = 0u16;
    while let Some(value) = columns.next_raw() {
        let value = value.map_err(unreadable)?;
        if relation.key.contains(&at) {
            if row.get(at.into()).map_err(unreadable)? == Some(ValueRef::Null) {
                return Err(refused("a row has no value in its key"));
            }
            bytes.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend_from_slice(value);
        }
        at = at.saturating_add(1);
    }
    if bytes.is_empty() && rowid.is_none() {
        return Err(refused("a row has neither key nor number"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
