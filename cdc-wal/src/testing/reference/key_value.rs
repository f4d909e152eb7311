//! Keys and values: two families, one of them with keys of two parts.

use std::collections::BTreeMap;

use cdc_core::{Cause, ChangeEvent, Op, RowImage, Value};

use super::{Dice, Model, Seen, State, client, domain_name, looked, with_old};
use crate::LogError;
use crate::kinds::key_value::{Family, KeyValue, Stored};
use crate::kinds::{Encoding, KindTransaction, Old};
use crate::testing::state::meta;

type Entry = (Vec<u8>, Option<i64>);

/// The data of a domain.
#[derive(Clone, Debug)]
pub struct Pairs {
    plain: Family,
    sorted: Family,
    entries: BTreeMap<Vec<u8>, Entry>,
    items: BTreeMap<(String, String), String>,
}

fn stored((value, expires_at): &Entry) -> Stored<'_> {
    Stored {
        value,
        expires_at: *expires_at,
    }
}

fn expiry(expires_at: Option<i64>) -> Value {
    expires_at.map_or(Value::Null, Value::TimestampTz)
}

/// Appends the operand.
fn append(before: Option<&[u8]>, operand: &[u8]) -> Vec<u8> {
    [before.unwrap_or_default(), operand].concat()
}

impl Pairs {
    fn key(dice: &mut Dice) -> Vec<u8> {
        format!("k{}", dice.below(8)).into_bytes()
    }

    /// The old entry as an engine that looks, or one that does not, knows it.
    fn looked<'a>(dice: &mut Dice, old: Option<&'a Entry>) -> Old<Stored<'a>> {
        if dice.chance(25) {
            return Old::Unknown;
        }
        old.map(stored).into()
    }

    fn item(
        &mut self,
        tx: &mut KindTransaction<KeyValue>,
        dice: &mut Dice,
    ) -> Result<Seen, LogError> {
        let key = (format!("p{}", dice.below(3)), format!("s{}", dice.below(3)));
        let parts = (key.0.as_str(), key.1.as_str());
        if dice.chance(15) {
            let (start, end) = (("p0", "s1"), ("p1", "s2"));
            tx.delete_range(&self.sorted, start, end)?;
            let inside = |(p, s): &(String, String)| {
                let key = (p.as_str(), s.as_str());
                key >= start && key < end
            };
            self.items.retain(|key, _| !inside(key));
            return Ok(client(Op::Delete));
        }
        let old = self.items.get(&key).map(|old| Stored::from(old.as_str()));
        if old.is_some() && dice.chance(40) {
            tx.delete(&self.sorted, parts, old.into())?;
            self.items.remove(&key);
            return Ok(with_old(Op::Delete, Cause::Client));
        }
        let op = if old.is_some() {
            Op::Update
        } else {
            Op::Insert
        };
        let value = format!("{{\"text\":\"{}\"}}", dice.text());
        tx.put(&self.sorted, parts, old.into(), value.as_str())?;
        self.items.insert(key, value);
        Ok(looked(op, false))
    }
}

impl Model for Pairs {
    type Kind = KeyValue;

    fn empty(domain: usize) -> Self {
        let instance = domain_name("instance", domain);
        Self {
            plain: Family::new(&instance, "default"),
            sorted: Family::with(&instance, "items", true, Encoding::Text, Encoding::Json),
            entries: BTreeMap::new(),
            items: BTreeMap::new(),
        }
    }

    fn mutate(
        &mut self,
        tx: &mut KindTransaction<KeyValue>,
        dice: &mut Dice,
    ) -> Result<Seen, LogError> {
        let key = Self::key(dice);
        let old = self.entries.get(&key);
        match dice.below(10) {
            0..4 => {
                let entry = (
                    dice.bytes(),
                    dice.chance(30).then(|| i64::from(dice.chance(50))),
                );
                let before = Self::looked(dice, old);
                let unseen = before == Old::Unknown;
                let op = if before == Old::Missing {
                    Op::Insert
                } else {
                    Op::Update
                };
                tx.put(&self.plain, key.as_slice(), before, stored(&entry))?;
                self.entries.insert(key, entry);
                Ok(looked(op, unseen))
            }
            4 => {
                let before = Self::looked(dice, old);
                tx.delete(&self.plain, key.as_slice(), before)?;
                let (nothing, unseen) = (before == Old::Missing, before == Old::Unknown);
                self.entries.remove(&key);
                Ok(if nothing {
                    Vec::new()
                } else {
                    looked(Op::Delete, unseen)
                })
            }
            5 => {
                let before = old.map(stored).into();
                tx.expire(&self.plain, key.as_slice(), before)?;
                let seen = self
                    .entries
                    .remove(&key)
                    .map(|_| with_old(Op::Delete, Cause::Ttl));
                Ok(seen.unwrap_or_default())
            }
            6 => {
                let operand = dice.bytes();
                let expires_at = old.and_then(|(_, at)| *at);
                let value = append(old.map(|(value, _)| value.as_slice()), &operand);
                let entry = (value, expires_at);
                let result = dice.chance(30).then(|| stored(&entry));
                tx.merge(&self.plain, key.as_slice(), "append", &operand, result)?;
                self.entries.insert(key, entry);
                Ok(client(Op::Merge))
            }
            7 => {
                let end = Self::key(dice);
                tx.delete_range(&self.plain, key.as_slice(), end.as_slice())?;
                let there = key < end;
                self.entries.retain(|k, _| *k < key || *k >= end);
                Ok(if there {
                    client(Op::Delete)
                } else {
                    Vec::new()
                })
            }
            _ => self.item(tx, dice),
        }
    }

    fn dump(&self, state: &mut State) {
        for (key, (value, expires_at)) in &self.entries {
            let row = [
                Value::Bytes(key.clone()),
                Value::Bytes(value.clone()),
                expiry(*expires_at),
            ];
            state.insert_values(self.plain.relation(), &row);
        }
        for ((partition, sort), item) in &self.items {
            let row = [
                Value::Text(partition.clone()),
                Value::Text(sort.clone()),
                Value::Json(item.clone()),
                Value::Null,
            ];
            state.insert_values(self.sorted.relation(), &row);
        }
    }

    fn load(&mut self, _table: &str, row: &[Value]) {
        match row {
            [Value::Bytes(key), Value::Bytes(value), expires_at] => {
                let at = match expires_at {
                    Value::TimestampTz(at) => Some(*at),
                    _ => None,
                };
                self.entries.insert(key.clone(), (value.clone(), at));
            }
            [
                Value::Text(partition),
                Value::Text(sort),
                Value::Json(item),
                _,
            ] => {
                self.items
                    .insert((partition.clone(), sort.clone()), item.clone());
            }
            _ => {}
        }
    }

    fn merge(operator: &str, before: Option<&RowImage>, event: &ChangeEvent) -> RowImage {
        let before = before
            .and_then(|row| row.to_values().ok())
            .unwrap_or_default();
        let operand = match meta(event, "merge") {
            Some(Value::Map(entries)) => entries.iter().find(|(name, _)| name == "operand"),
            _ => None,
        };
        let key = event
            .after
            .row()
            .and_then(|row| row.to_values().ok())
            .unwrap_or_default();
        let (Some((_, Value::Bytes(operand))), Some(key), "append") =
            (operand, key.first(), operator)
        else {
            return RowImage::default();
        };
        let value = match before.get(1) {
            Some(Value::Bytes(value)) => append(Some(value), operand),
            _ => append(None, operand),
        };
        let expires_at = before.get(2).cloned().unwrap_or(Value::Null);
        RowImage::from_values(&[key.clone(), Value::Bytes(value), expires_at])
    }
}
