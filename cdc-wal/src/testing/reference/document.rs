//! Documents: two collections, one of which is dropped and renamed now and then.

use std::collections::BTreeMap;

use cdc_core::{Cause, Op, Value};

use super::{Dice, Model, Seen, State, client, domain_name, looked, with_old};
use crate::LogError;
use crate::kinds::document::{Collection, Document, Id, Paths};
use crate::kinds::{KindTransaction, Old, SchemaChange};

/// The data of a domain.
#[derive(Clone, Debug)]
pub struct Documents {
    database: String,
    users: Collection,
    events: Collection,
    /// By number: users have integers for ids, events text.
    all: [BTreeMap<i64, String>; 2],
    /// A renamed collection, which nobody writes any more.
    archive: BTreeMap<i64, String>,
}

fn document(dice: &mut Dice) -> String {
    format!("{{\"text\":\"{}\",\"n\":{}}}", dice.text(), dice.below(100))
}

impl Documents {
    fn rows(&self, table: &Collection, all: &BTreeMap<i64, String>, text: bool, state: &mut State) {
        for (id, document) in all {
            let id = if text {
                Value::Text(id.to_string())
            } else {
                Value::Int(*id)
            };
            state.insert_values(table.relation(), &[id, Value::Json(document.clone())]);
        }
    }
}

impl Model for Documents {
    type Kind = Document;

    fn empty(domain: usize) -> Self {
        let database = domain_name("database", domain);
        Self {
            users: Collection::new(&database, "users"),
            events: Collection::new(&database, "events"),
            all: Default::default(),
            archive: BTreeMap::new(),
            database,
        }
    }

    fn mutate(
        &mut self,
        tx: &mut KindTransaction<Document>,
        dice: &mut Dice,
    ) -> Result<Seen, LogError> {
        let which = dice.below(2);
        let number = dice.below(8) as i64;
        let text = number.to_string();
        let (table, id) = match which {
            0 => (&self.users, Id::Int(number)),
            _ => (&self.events, Id::Text(&text)),
        };
        let all = &mut self.all[which];
        let old = all.get(&number).map(String::as_str);
        match dice.below(12) {
            0..3 => {
                let new = document(dice);
                let op = if old.is_some() {
                    Op::Update
                } else {
                    Op::Insert
                };
                match old {
                    None => tx.insert(table, id, &new)?,
                    Some(_) => {
                        let paths = Paths {
                            changed: &["text", "n"],
                            removed: &["nested.gone"],
                        };
                        tx.update(table, id, old.into(), &new, paths)?
                    }
                };
                all.insert(number, new);
                Ok(looked(op, false))
            }
            3..5 => {
                // Upserts, with and without a look at the old document.
                let new = document(dice);
                let before = if dice.chance(40) {
                    Old::Unknown
                } else {
                    old.into()
                };
                let op = if before == Old::Missing {
                    Op::Insert
                } else {
                    Op::Update
                };
                let unseen = before == Old::Unknown;
                tx.replace(table, id, before, &new)?;
                all.insert(number, new);
                Ok(looked(op, unseen))
            }
            5..8 => {
                let before = if dice.chance(40) {
                    Old::Unknown
                } else {
                    old.into()
                };
                let seen = if before == Old::Missing {
                    Vec::new()
                } else {
                    looked(Op::Delete, before == Old::Unknown)
                };
                tx.delete(table, id, before)?;
                all.remove(&number);
                Ok(seen)
            }
            8..10 => {
                tx.expire(table, id, old.into())?;
                let gone = all
                    .remove(&number)
                    .map(|_| with_old(Op::Delete, Cause::Ttl));
                Ok(gone.unwrap_or_default())
            }
            10 => {
                tx.collection_changed(table, SchemaChange::Drop)?;
                tx.collection_changed(table, SchemaChange::Create)?;
                all.clear();
                Ok([client(Op::Schema), client(Op::Schema)].concat())
            }
            _ if self.archive.is_empty() && !self.all[0].is_empty() => {
                tx.collection_changed(&self.users, SchemaChange::Rename { to: "archive" })?;
                self.archive = std::mem::take(&mut self.all[0]);
                Ok(client(Op::Schema))
            }
            _ => Ok(Vec::new()),
        }
    }

    fn dump(&self, state: &mut State) {
        self.rows(&self.users, &self.all[0], false, state);
        self.rows(&self.events, &self.all[1], true, state);
        let archive = Collection::new(&self.database, "archive");
        self.rows(&archive, &self.archive, false, state);
    }

    fn load(&mut self, table: &str, row: &[Value]) {
        match (table, row) {
            ("archive", [Value::Int(id), Value::Json(document)]) => {
                self.archive.insert(*id, document.clone());
            }
            (_, [Value::Int(id), Value::Json(document)]) => {
                self.all[0].insert(*id, document.clone());
            }
            (_, [Value::Text(id), Value::Json(document)]) => {
                if let Ok(id) = id.parse() {
                    self.all[1].insert(id, document.clone());
                }
            }
            _ => {}
        }
    }
}
