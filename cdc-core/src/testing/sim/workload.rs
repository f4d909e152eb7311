//! What the simulated database is asked to do.

use std::sync::Arc;

use super::SimRandom;
use crate::{
    ChangeEvent, Column, EngineKind, Image, Lsn, Op, Position, Relation, RowImage, Transaction,
    Value,
};

/// One transaction, small enough to be listed and dropped by a minimiser; its rows follow from its
/// seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionSpec {
    /// Decides tables, keys and operations.
    pub seed: u64,
    /// Number of events.
    pub events: u32,
    /// Bytes of text in each row.
    pub body: u32,
    /// It is rolled back: none of it may ever be seen.
    pub aborts: bool,
}

/// Tables and the rows in them.
#[derive(Debug)]
pub struct Workload {
    orders: Arc<Relation>,
    items: Arc<Relation>,
    notes: Arc<Relation>,
    keys: u64,
    serial: i64,
}

impl Workload {
    /// Schema of the tables that emitters may filter out by it.
    pub const OTHER_SCHEMA: &'static str = "audit";

    /// Three tables: `public.orders` and `public.items` with `keys` different keys each, and
    /// `audit.notes` without a key.
    pub fn new(keys: u64) -> Self {
        let relation = |schema: &str, table: &str, names: &[(&str, &str)], key| {
            let columns = names.iter().map(|(name, kind)| Column::new(*name, *kind));
            let columns = columns.collect();
            Arc::new(Relation::new(
                EngineKind::Relational,
                schema,
                table,
                columns,
                key,
            ))
        };
        let keyed = [("id", "int8"), ("serial", "int8"), ("body", "text")];
        Self {
            orders: relation("public", "orders", &keyed, vec![0]),
            items: relation("public", "items", &keyed, vec![0]),
            notes: relation(
                Self::OTHER_SCHEMA,
                "notes",
                &[("id", "int8"), ("note", "text")],
                Vec::new(),
            ),
            keys: keys.max(1),
            serial: 0,
        }
    }

    /// `public.items` gets one more column.
    pub fn change_schema(&mut self) {
        let mut items = Relation::clone(&self.items);
        items.version += 1;
        let name = format!("extra_{}", items.version);
        items.columns.push(Column::new(name, "int8"));
        self.items = Arc::new(items);
    }

    /// The events of a transaction that commits at `commit`.
    pub fn events(
        &mut self,
        spec: &TransactionSpec,
        commit: Lsn,
        transaction: Transaction,
    ) -> Vec<ChangeEvent> {
        let mut random = SimRandom::new(spec.seed);
        let mut events: Vec<_> = (0..spec.events)
            .map(|ordinal| {
                let position = Position::new(commit, ordinal);
                self.event(&mut random, position, transaction, spec.body)
            })
            .collect();
        if let Some(last) = events.last_mut() {
            last.last = true;
        }
        events
    }

    fn event(
        &mut self,
        random: &mut SimRandom,
        position: Position,
        transaction: Transaction,
        body: u32,
    ) -> ChangeEvent {
        let id = i64::try_from(random.below(self.keys)).unwrap_or(0);
        self.serial += 1;
        let table = random.below(100);
        if table < 15 {
            // Without a key the whole row is the identity.
            let note = Value::Text(format!("note {id}"));
            let row = RowImage::from_values(&[Value::Int(id), note]);
            let (op, before, after) = if random.chance(300) {
                (Op::Delete, Image::Full(row), Image::Absent)
            } else {
                (Op::Insert, Image::Absent, Image::Full(row))
            };
            return with(position, &self.notes, transaction, op, before, after);
        }
        let relation = if table < 60 {
            &self.orders
        } else {
            &self.items
        };
        let extra = relation.columns.len() - 3;
        let row = |id: i64| {
            let text = "x".repeat(body as usize);
            let mut values = vec![Value::Int(id), Value::Int(self.serial), Value::Text(text)];
            values.extend((0..extra).map(|n| Value::Int(n as i64)));
            Image::Full(RowImage::from_values(&values))
        };
        let key = |id: i64| {
            let mut values = vec![Value::Int(id)];
            values.resize(relation.columns.len(), Value::Unavailable);
            Image::Key(RowImage::from_values(&values))
        };
        let (op, before, after) = match random.below(100) {
            0..40 => (Op::Insert, Image::Absent, row(id)),
            40..60 => (Op::Update, Image::Absent, row(id)),
            60..75 => (Op::Update, key(id), row(id)),
            75..83 => {
                let new = i64::try_from(random.below(self.keys)).unwrap_or(0);
                (Op::Update, key(id), row(new))
            }
            83..99 => (Op::Delete, key(id), Image::Absent),
            _ => (Op::Truncate, Image::Absent, Image::Absent),
        };
        with(position, relation, transaction, op, before, after)
    }
}

fn with(
    position: Position,
    relation: &Arc<Relation>,
    transaction: Transaction,
    op: Op,
    before: Image,
    after: Image,
) -> ChangeEvent {
    let mut event = ChangeEvent::new(position, relation.clone(), transaction, op);
    event.before = before;
    event.after = after;
    event
}
