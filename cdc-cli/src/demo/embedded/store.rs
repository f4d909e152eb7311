//! A small order store that embeds the log: what an engine author writes.

use std::sync::Arc;

use cdc_core::{Column, EngineKind, Image, Relation, RowImage, Value};
use cdc_wal::{Log, LogError};

/// Orders and their customers' cards, in memory, with the log as its durability.
pub(crate) struct Store {
    log: Log,
    orders: Arc<Relation>,
    audit: Arc<Relation>,
    rows: Vec<Order>,
    transactions: u64,
    /// Events committed to `orders`, and to all tables.
    pub(crate) order_events: u64,
    pub(crate) events: u64,
}

#[derive(Clone)]
struct Order {
    id: i64,
    total_cents: i64,
    status: &'static str,
    note: String,
}

impl Order {
    fn row(&self) -> RowImage {
        RowImage::from_values(&[
            Value::Int(self.id),
            Value::Text(format!("4929-0000-0000-{:04}", self.id % 10_000)),
            Value::Decimal(format!(
                "{}.{:02}",
                self.total_cents / 100,
                self.total_cents % 100
            )),
            Value::Text(self.status.to_owned()),
            Value::Text(self.note.clone()),
        ])
    }
}

impl Store {
    pub(crate) fn new(log: Log) -> Self {
        let columns = [
            ("id", "int8"),
            ("card", "text"),
            ("total", "numeric(12,2)"),
            ("status", "text"),
            ("note", "text"),
        ];
        let columns = columns.map(|(name, kind)| Column::new(name, kind)).to_vec();
        let orders = Relation::new(EngineKind::Relational, "shop", "orders", columns, vec![0]);
        let columns = vec![Column::new("order_id", "int8"), Column::new("what", "text")];
        let audit = Relation::new(EngineKind::Relational, "shop", "audit", columns, vec![]);
        Self {
            log,
            orders: Arc::new(orders),
            audit: Arc::new(audit),
            rows: Vec::new(),
            transactions: 0,
            order_events: 0,
            events: 0,
        }
    }

    fn begin(&mut self) -> cdc_wal::Transaction {
        self.transactions += 1;
        self.log.begin(self.transactions)
    }

    /// Places an order: two rows in one transaction, durable when this returns.
    pub(crate) fn place(&mut self, total_cents: i64, note: &str) -> Result<i64, LogError> {
        let id = i64::try_from(self.rows.len()).unwrap_or(i64::MAX) + 1;
        let order = Order {
            id,
            total_cents,
            status: "new",
            note: note.to_owned(),
        };
        let mut transaction = self.begin();
        transaction.insert(&self.orders, &order.row())?;
        transaction.insert(&self.audit, &audit_row(id, "placed"))?;
        transaction.commit()?;
        self.rows.push(order);
        self.order_events += 1;
        self.events += 2;
        Ok(id)
    }

    /// Changes an order's status.
    pub(crate) fn advance(&mut self, id: i64, status: &'static str) -> Result<(), LogError> {
        let Some(at) = usize::try_from(id - 1)
            .ok()
            .filter(|at| *at < self.rows.len())
        else {
            return Ok(());
        };
        let before = self.rows[at].clone();
        let after = Order {
            status,
            ..before.clone()
        };
        let mut transaction = self.begin();
        transaction.update(&self.orders, &Image::Full(before.row()), &after.row())?;
        transaction.insert(&self.audit, &audit_row(id, status))?;
        transaction.commit()?;
        self.rows[at] = after;
        self.order_events += 1;
        self.events += 2;
        Ok(())
    }

    /// Places an order and thinks better of it: an aborted transaction is never seen by anyone.
    pub(crate) fn change_of_mind(&mut self) -> Result<(), LogError> {
        let order = Order {
            id: -1,
            total_cents: 1,
            status: "never",
            note: String::new(),
        };
        let mut transaction = self.begin();
        transaction.insert(&self.orders, &order.row())?;
        transaction.abort()
    }
}

fn audit_row(order: i64, what: &str) -> RowImage {
    RowImage::from_values(&[Value::Int(order), Value::Text(what.to_owned())])
}
