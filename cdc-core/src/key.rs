//! Which row an event is of, as a hash.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::row::RowError;
use crate::{ChangeEvent, EngineKind, Op, Relation, RowImage, Value};

impl Relation {
    /// The part of the key that says which row it is wherever it is: a node keeps its element id,
    /// and a document its path within the space, when the label or folder that is their table
    /// becomes another one. Two rows in one place are only kept in order more than they must be.
    fn key_wherever(&self) -> (Option<&str>, &[u16]) {
        let one = |ordinal: Option<_>| ordinal.map_or(&[][..], std::slice::from_ref);
        match self.engine {
            // `id`, then key properties, which each label has its own of.
            EngineKind::Graph => (None, one(self.key.first())),
            // `path`, with or without `id` before it.
            EngineKind::Markdown => (None, one(self.key.last())),
            _ => (Some(&self.table), &self.key),
        }
    }
}

impl ChangeEvent {
    /// Hashes of table and key values, for keeping the events of one row in order: of the row before
    /// and of the row after, equal unless the key changed. A row that moves to another table (a
    /// node, a document) keeps its hash. Of a table without key the whole row counts. `None` for
    /// events that are of no row or whose row is not known (truncate, schema, message, a merge
    /// operand alone). The same within one process and build; not to be stored.
    ///
    /// # Errors
    /// [`RowError`] if the row's bytes are damaged.
    pub fn key_hashes(&self) -> Result<Option<(u64, u64)>, RowError> {
        if matches!(self.op, Op::Truncate | Op::Schema | Op::Message) {
            return Ok(None);
        }
        let (table, key) = self.relation.key_wherever();
        let hash_row = |row: &RowImage| {
            let mut hasher = DefaultHasher::new();
            self.relation.schema.hash(&mut hasher);
            if let Some(table) = table {
                table.hash(&mut hasher);
            }
            if key.is_empty() {
                row.as_bytes().hash(&mut hasher);
            } else {
                let mut columns = row.columns()?;
                let mut at = 0;
                for &ordinal in key {
                    let ordinal = usize::from(ordinal);
                    while at < ordinal {
                        columns.next_raw().transpose()?;
                        at += 1;
                    }
                    columns.next_raw().transpose()?.hash(&mut hasher);
                    at += 1;
                }
            }
            Ok(hasher.finish())
        };
        let Some(new) = self.identity_row() else {
            return Ok(None);
        };
        let new = hash_row(new)?;
        let old = match self.before.row() {
            Some(row) if key.is_empty() || self.key_changed()? => hash_row(row)?,
            _ => new,
        };
        Ok(Some((old, new)))
    }

    /// The other table an event concerns besides its relation's: where the row was before, or what
    /// the table is called from now on.
    pub(crate) fn other_table(&self) -> Option<&str> {
        let meta = self.meta.as_deref()?;
        let text = |wanted: &str| {
            let mut entries = meta.0.iter();
            entries.find_map(|(name, value)| match value {
                Value::Text(text) if **name == *wanted => Some(text.as_str()),
                _ => None,
            })
        };
        match (self.op, self.relation.engine) {
            (Op::Schema, _) => text("change")
                .filter(|&change| change == "rename")
                .and_then(|_| text("to")),
            (_, EngineKind::Graph | EngineKind::Markdown) => text("old_table"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::envelope::{Encoder, Format};
    use crate::{ChangeEvent, Column, Image, Op, Relation, RowImage, Value, testing};

    /// An update of a table with two key columns, `a` and `c`.
    fn update([before, after]: [[Value; 3]; 2]) -> ChangeEvent {
        let columns = ["a", "b", "c"].map(|name| Column::new(name, "any"));
        let mut event = testing::insert(1, 0, 1);
        event.op = Op::Update;
        event.relation = Arc::new(Relation::new(
            event.relation.engine,
            "public",
            "t",
            columns.to_vec(),
            vec![0, 2],
        ));
        event.before = Image::Full(RowImage::from_values(&before));
        event.after = Image::Full(RowImage::from_values(&after));
        event
    }

    /// A key changed if its bits did, for the hashes and for what consumers read alike.
    #[test]
    fn keys_are_compared_bit_by_bit() {
        let one = || Value::Int(1);
        for (before, after, changed) in [
            (Value::Float64(f64::NAN), Value::Float64(f64::NAN), false),
            (Value::Float32(f32::NAN), Value::Float32(f32::NAN), false),
            (Value::Float64(-0.0), Value::Float64(0.0), true),
            (Value::Float64(1.5), Value::Float64(1.5), false),
            (Value::Float64(1.5), Value::Float64(f64::NAN), true),
            (
                Value::Array(vec![Value::Float64(f64::NAN)]),
                Value::Array(vec![Value::Float64(f64::NAN)]),
                false,
            ),
            (Value::Text("a".into()), Value::Text("b".into()), true),
            (Value::Null, Value::Null, false),
            (Value::Null, Value::Int(0), true),
            (Value::Unavailable, Value::Int(0), false),
            (Value::Int(0), Value::Unavailable, false),
        ] {
            // In either column, and never in the one that is no key.
            let rows = |place: usize| {
                [&before, &after].map(|value| {
                    let mut row = [one(), one(), one()];
                    row[place] = value.clone();
                    row
                })
            };
            for (place, changed) in [(0, changed), (2, changed), (1, false)] {
                let event = update(rows(place));
                let what = (&before, &after);
                assert_eq!(event.key_changed(), Ok(changed), "{what:?}");
                let (old, new) = event.key_hashes().unwrap().unwrap();
                assert_eq!(old != new, changed, "{what:?}");
                let mut json = Vec::new();
                Encoder::new(Format::Json)
                    .encode(&testing::source(), &event, &mut json)
                    .unwrap();
                let json = String::from_utf8(json).unwrap();
                assert_eq!(json.contains("\"old_key\""), changed, "{what:?}");
            }
        }
    }
}
