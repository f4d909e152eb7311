//! Rows: a table with a key, one that refers to it, and one without a key.

use std::collections::BTreeMap;

use cdc_core::row::RowWriter;
use cdc_core::{Cause, Op, Value};

use super::{Dice, Model, Seen, State, client, domain_name, with_old};
use crate::LogError;
use crate::kinds::relational::{Relational, Table};
use crate::kinds::{KindTransaction, SchemaChange};

/// Name and note, which is large and not always sent.
type Customer = (String, String);

/// The data of a domain.
#[derive(Clone, Debug)]
pub struct Rows {
    customers: Table,
    orders: Table,
    visits: Table,
    version: u32,
    people: BTreeMap<i64, Customer>,
    /// By (number, line): the customer, and the total.
    lines: BTreeMap<(i64, i64), (i64, String)>,
    /// Rows alike may be there several times.
    log: Vec<String>,
}

fn customer(row: &mut RowWriter<'_>, id: i64, (name, note): &Customer) {
    row.int(id);
    row.text(name);
    row.text(note);
}

fn line(row: &mut RowWriter<'_>, (number, line): (i64, i64), (of, total): &(i64, String)) {
    row.int(number);
    row.int(line);
    row.int(*of);
    row.decimal(total);
}

impl Rows {
    fn person(
        &mut self,
        tx: &mut KindTransaction<Relational>,
        dice: &mut Dice,
    ) -> Result<Seen, LogError> {
        let id = dice.below(5) as i64;
        let table = &self.customers;
        let Some(old) = self.people.get(&id).cloned() else {
            let new = (dice.text(), dice.text());
            tx.insert(table, |row| customer(row, id, &new))?;
            self.people.insert(id, new);
            return Ok(client(Op::Insert));
        };
        match dice.below(5) {
            // The note did not change and is not sent, in neither image.
            0 => {
                let new = (dice.text(), old.1.clone());
                let sent = |row: &mut RowWriter<'_>, name: &str| {
                    row.int(id);
                    row.text(name);
                    row.unavailable();
                };
                tx.update(table, |row| sent(row, &old.0), |row| sent(row, &new.0))?;
                self.people.insert(id, new);
                Ok(client(Op::Update))
            }
            1 => {
                let new = (dice.text(), dice.text());
                tx.update_unseen(table, |row| customer(row, id, &new))?;
                self.people.insert(id, new);
                Ok(client(Op::Update))
            }
            // The key changes, and the lines follow.
            2 => {
                let to = id + 100 + dice.below(1000) as i64;
                if self.people.contains_key(&to) {
                    return Ok(Vec::new());
                }
                let key = |row: &mut RowWriter<'_>| {
                    row.int(id);
                    row.unavailable();
                    row.unavailable();
                };
                tx.update(table, key, |row| customer(row, to, &old))?;
                self.people.remove(&id);
                self.people.insert(to, old);
                let mut all = client(Op::Update);
                for (key, value) in &mut self.lines {
                    if value.0 == id {
                        let before = value.clone();
                        value.0 = to;
                        tx.update_cascade(
                            &self.orders,
                            |row| line(row, *key, &before),
                            |row| line(row, *key, value),
                        )?;
                        all.extend(with_old(Op::Update, Cause::Cascade));
                    }
                }
                Ok(all)
            }
            3 => {
                let gone: Vec<_> = self
                    .lines
                    .extract_if(.., |_, value| value.0 == id)
                    .collect();
                let mut all = Seen::new();
                for (key, value) in gone {
                    tx.delete_cascade(&self.orders, |row| line(row, key, &value))?;
                    all.extend(with_old(Op::Delete, Cause::Cascade));
                }
                tx.delete(table, |row| customer(row, id, &old))?;
                self.people.remove(&id);
                all.extend(with_old(Op::Delete, Cause::Client));
                Ok(all)
            }
            _ => {
                let new = (dice.text(), dice.text());
                tx.update(
                    table,
                    |row| customer(row, id, &old),
                    |row| customer(row, id, &new),
                )?;
                self.people.insert(id, new);
                Ok(with_old(Op::Update, Cause::Client))
            }
        }
    }

    fn order(
        &mut self,
        tx: &mut KindTransaction<Relational>,
        dice: &mut Dice,
    ) -> Result<Seen, LogError> {
        if dice.chance(6) {
            tx.truncate(&self.orders)?;
            self.lines.clear();
            return Ok(client(Op::Truncate));
        }
        let key = (dice.below(3) as i64, dice.below(3) as i64);
        if let Some(old) = self.lines.remove(&key) {
            tx.delete(&self.orders, |row| line(row, key, &old))?;
            return Ok(with_old(Op::Delete, Cause::Client));
        }
        let people: Vec<i64> = self.people.keys().copied().collect();
        let of = people.get(dice.below(people.len())).copied().unwrap_or(1);
        let new = (of, format!("{}.{:02}", dice.below(1000), dice.below(100)));
        tx.insert(&self.orders, |row| line(row, key, &new))?;
        self.lines.insert(key, new);
        Ok(client(Op::Insert))
    }

    fn visit(
        &mut self,
        tx: &mut KindTransaction<Relational>,
        dice: &mut Dice,
    ) -> Result<Seen, LogError> {
        let table = &self.visits;
        let new = if dice.chance(50) {
            "canary again".to_owned()
        } else {
            dice.text()
        };
        if self.log.is_empty() || dice.chance(50) {
            tx.insert(table, |row| row.text(&new))?;
            self.log.push(new);
            return Ok(client(Op::Insert));
        }
        let at = dice.below(self.log.len());
        let old = self.log.swap_remove(at);
        if dice.chance(50) {
            tx.delete(table, |row| row.text(&old))?;
            return Ok(with_old(Op::Delete, Cause::Client));
        }
        tx.update(table, |row| row.text(&old), |row| row.text(&new))?;
        self.log.push(new);
        Ok(with_old(Op::Update, Cause::Client))
    }
}

impl Model for Rows {
    type Kind = Relational;

    fn empty(domain: usize) -> Self {
        let schema = domain_name("schema", domain);
        let table = |name, columns: &[(&str, &str)], key: &[&str]| {
            Table::new(&schema, name, columns, key).unwrap_or_else(|error| panic!("{error}"))
        };
        Self {
            customers: table(
                "customers",
                &[("id", "int8"), ("name", "text"), ("note", "text")],
                &["id"],
            ),
            orders: table(
                "orders",
                &[
                    ("number", "int8"),
                    ("line", "int8"),
                    ("customer", "int8"),
                    ("total", "numeric"),
                ],
                &["number", "line"],
            ),
            visits: table("visits", &[("page", "text")], &[]),
            version: 0,
            people: BTreeMap::new(),
            lines: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    fn mutate(
        &mut self,
        tx: &mut KindTransaction<Relational>,
        dice: &mut Dice,
    ) -> Result<Seen, LogError> {
        match dice.below(12) {
            0..6 => self.person(tx, dice),
            6..9 => self.order(tx, dice),
            9..11 => self.visit(tx, dice),
            _ => {
                self.version += 1;
                self.customers = self.customers.with_version(self.version);
                tx.schema_changed(&self.customers, SchemaChange::Alter)?;
                Ok(client(Op::Schema))
            }
        }
    }

    fn dump(&self, state: &mut State) {
        for (id, (name, note)) in &self.people {
            let row = [
                Value::Int(*id),
                Value::Text(name.clone()),
                Value::Text(note.clone()),
            ];
            state.insert_values(self.customers.relation(), &row);
        }
        for ((number, line), (of, total)) in &self.lines {
            let row = [
                Value::Int(*number),
                Value::Int(*line),
                Value::Int(*of),
                Value::Decimal(total.clone()),
            ];
            state.insert_values(self.orders.relation(), &row);
        }
        for page in &self.log {
            state.insert_values(self.visits.relation(), &[Value::Text(page.clone())]);
        }
    }

    fn load(&mut self, _table: &str, row: &[Value]) {
        match row {
            [Value::Int(id), Value::Text(name), Value::Text(note)] => {
                self.people.insert(*id, (name.clone(), note.clone()));
            }
            [
                Value::Int(number),
                Value::Int(line),
                Value::Int(of),
                Value::Decimal(total),
            ] => {
                self.lines.insert((*number, *line), (*of, total.clone()));
            }
            [Value::Text(page)] => self.log.push(page.clone()),
            _ => {}
        }
    }
}
