//! Structures in memory: strings, hashes, lists, sets, sorted sets and streams, as bytes in one
//! half of the databases and as text in the other, where one prefix has a table of its own.

use std::collections::BTreeMap;

use cdc_core::{Cause, Op, Value};

use super::{Dice, Model, Seen, State, client, seen, with_old};
use crate::LogError;
use crate::kinds::in_memory::{Data, DataType, Database, Entry, InMemory, Patch, Removed};
use crate::kinds::{Encoding, KindTransaction, Old};

type Bytes = Vec<u8>;
type Fields = BTreeMap<Bytes, Bytes>;

#[derive(Clone, Debug, PartialEq)]
enum Structure {
    String(Bytes),
    Hash(Fields),
    List(Vec<Bytes>),
    Set(Vec<Bytes>),
    SortedSet(BTreeMap<Bytes, u64>),
    Stream(Vec<(String, Fields)>),
}

type Stored = (Structure, Option<i64>);

/// The data of a domain.
#[derive(Clone, Debug)]
pub struct Structures {
    database: Database,
    encoding: Encoding,
    keys: BTreeMap<Bytes, Stored>,
}

fn pairs(fields: &Fields) -> Vec<(&[u8], &[u8])> {
    fields
        .iter()
        .map(|(f, v)| (f.as_slice(), v.as_slice()))
        .collect()
}

fn slices(items: &[Bytes]) -> Vec<&[u8]> {
    items.iter().map(Vec::as_slice).collect()
}

/// Hands over a value as the log wants it.
fn with<R>((structure, expires_at): &Stored, then: impl FnOnce(Entry<'_>) -> R) -> R {
    let entry = |data| Entry {
        data,
        expires_at: *expires_at,
    };
    match structure {
        Structure::String(bytes) => then(entry(Data::String(bytes))),
        Structure::Hash(fields) => then(entry(Data::Hash(&pairs(fields)))),
        Structure::List(items) => then(entry(Data::List(&slices(items)))),
        Structure::Set(items) => then(entry(Data::Set(&slices(items)))),
        Structure::SortedSet(members) => {
            let members: Vec<_> = members
                .iter()
                .map(|(member, score)| (member.as_slice(), f64::from_bits(*score)))
                .collect();
            then(entry(Data::SortedSet(&members)))
        }
        Structure::Stream(entries) => {
            let all: Vec<_> = entries
                .iter()
                .map(|(id, fields)| (id, pairs(fields)))
                .collect();
            let all: Vec<_> = all
                .iter()
                .map(|(id, fields)| (id.as_str(), fields.as_slice()))
                .collect();
            then(entry(Data::Stream(&all)))
        }
    }
}

fn kind(structure: &Structure) -> DataType {
    match structure {
        Structure::String(_) => DataType::String,
        Structure::Hash(_) => DataType::Hash,
        Structure::List(_) => DataType::List,
        Structure::Set(_) => DataType::Set,
        Structure::SortedSet(_) => DataType::SortedSet,
        Structure::Stream(_) => DataType::Stream,
    }
}

impl Structures {
    /// A value: bytes of every kind, or text.
    fn bytes(&self, dice: &mut Dice) -> Bytes {
        match self.encoding {
            Encoding::Bytes => dice.bytes(),
            Encoding::Text | Encoding::Json => dice.text().into_bytes(),
        }
    }

    fn key(&self, dice: &mut Dice) -> Bytes {
        let n = dice.below(6);
        match n % 3 {
            0 => format!("session:{n}").into_bytes(),
            1 if self.encoding == Encoding::Bytes => vec![0xff, 0, u8::try_from(n).unwrap_or(0)],
            _ => format!("key{n}").into_bytes(),
        }
    }

    fn fields(&self, dice: &mut Dice) -> Fields {
        let field = |dice: &mut Dice| format!("field{}", dice.below(4)).into_bytes();
        (0..1 + dice.below(3))
            .map(|_| (field(dice), self.bytes(dice)))
            .collect()
    }

    fn members(&self, dice: &mut Dice) -> Vec<Bytes> {
        let mut all: Vec<_> = (0..1 + dice.below(4)).map(|_| self.bytes(dice)).collect();
        all.sort();
        all.dedup();
        all
    }

    fn structure(&self, dice: &mut Dice) -> Structure {
        match dice.below(8) {
            0..3 => Structure::String(self.bytes(dice)),
            3 => Structure::Hash(self.fields(dice)),
            4 => Structure::List((0..dice.below(4)).map(|_| self.bytes(dice)).collect()),
            5 => Structure::Set(self.members(dice)),
            6 => {
                let members = self.members(dice);
                let score = |dice: &mut Dice| (dice.below(1000) as f64 / 7.0).to_bits();
                Structure::SortedSet(members.into_iter().map(|m| (m, score(dice))).collect())
            }
            _ => {
                let all = 0..1 + dice.below(2);
                Structure::Stream(all.map(|n| (format!("{n}-0"), self.fields(dice))).collect())
            }
        }
    }

    fn set(
        &mut self,
        tx: &mut KindTransaction<InMemory>,
        dice: &mut Dice,
        key: Bytes,
    ) -> Result<Seen, LogError> {
        let new = (
            self.structure(dice),
            dice.chance(30).then(|| i64::from(dice.chance(50))),
        );
        let database = &self.database;
        let seen = match self.keys.get(&key) {
            None => {
                with(&new, |entry| {
                    tx.set(database, &key, Old::Missing, entry).map(drop)
                })?;
                client(Op::Insert)
            }
            // Written without a look at the old value, which was of the same type.
            Some((old, _)) if kind(old) == kind(&new.0) && dice.chance(30) => {
                with(&new, |entry| {
                    tx.set(database, &key, Old::Unknown, entry).map(drop)
                })?;
                client(Op::Update)
            }
            Some(old) => {
                with(&new, |entry| {
                    with(old, |before| {
                        tx.set(database, &key, Old::Known(before), entry).map(drop)
                    })
                })?;
                let [from, to] = [&old.0, &new.0].map(|s| database.relation(&key, kind(s)));
                if from.table == to.table {
                    with_old(Op::Update, Cause::Client)
                } else {
                    [with_old(Op::Delete, Cause::Client), client(Op::Insert)].concat()
                }
            }
        };
        self.keys.insert(key, new);
        Ok(seen)
    }

    fn patch(
        &mut self,
        tx: &mut KindTransaction<InMemory>,
        dice: &mut Dice,
        key: &[u8],
    ) -> Result<Seen, LogError> {
        let (fields, members) = (self.fields(dice), self.members(dice));
        let database = &self.database;
        let Some((structure, expires_at)) = self.keys.get_mut(key) else {
            return Ok(Vec::new());
        };
        let at = *expires_at;
        match structure {
            Structure::Hash(all) => {
                let gone: Vec<Bytes> = all.keys().take(dice.below(2)).cloned().collect();
                let gone: Vec<Bytes> = gone
                    .into_iter()
                    .filter(|f| !fields.contains_key(f))
                    .collect();
                let (changed, removed) = (pairs(&fields), slices(&gone));
                let patch = Patch::Hash {
                    changed: &changed,
                    removed: &removed,
                };
                tx.patch(database, key, patch, at)?;
                all.retain(|field, _| !gone.contains(field));
                all.extend(fields.clone());
            }
            Structure::Set(all) => {
                let gone: Vec<Bytes> = all.iter().take(dice.below(3)).cloned().collect();
                let (added, removed) = (slices(&members), slices(&gone));
                let patch = Patch::Set {
                    added: &added,
                    removed: &removed,
                };
                tx.patch(database, key, patch, at)?;
                all.retain(|member| !gone.contains(member));
                all.extend(members.clone());
                all.sort();
                all.dedup();
            }
            Structure::SortedSet(all) => {
                let gone: Vec<Bytes> = all.keys().take(dice.below(3)).cloned().collect();
                let removed = slices(&gone);
                let changed: Vec<_> = members.iter().map(|m| (m.as_slice(), -0.0)).collect();
                let patch = Patch::SortedSet {
                    changed: &changed,
                    removed: &removed,
                };
                tx.patch(database, key, patch, at)?;
                all.retain(|member, _| !gone.contains(member));
                all.extend(members.iter().map(|m| (m.clone(), (-0.0f64).to_bits())));
            }
            Structure::String(_) | Structure::List(_) | Structure::Stream(_) => {
                // Its expiry alone.
                let at = dice.chance(50).then_some(77);
                let kind = kind(structure);
                tx.set_expiry(database, key, kind, at)?;
                *expires_at = at;
            }
        }
        Ok(client(Op::Update))
    }

    fn rename(
        &mut self,
        tx: &mut KindTransaction<InMemory>,
        dice: &mut Dice,
        from: &[u8],
    ) -> Result<Seen, LogError> {
        let to = self.key(dice);
        let Some(entry) = self.keys.get(from).filter(|_| to != *from) else {
            return Ok(Vec::new());
        };
        let replaced = self.keys.get(&to);
        let database = &self.database;
        with(entry, |entry| match replaced {
            None => tx.rename(database, from, &to, entry, None).map(drop),
            Some(replaced) => with(replaced, |old| {
                tx.rename(database, from, &to, entry, Some(old)).map(drop)
            }),
        })?;
        let mut all = with_old(Op::Delete, Cause::Client);
        match replaced {
            None => all.extend(client(Op::Insert)),
            Some((old, _)) => {
                let [from, to] = [old, &entry.0].map(|s| &database.relation(&to, kind(s)).table);
                if from == to {
                    all.extend(with_old(Op::Update, Cause::Client));
                } else {
                    all.extend(with_old(Op::Delete, Cause::Client));
                    all.extend(client(Op::Insert));
                }
            }
        }
        if let Some(entry) = self.keys.remove(from) {
            self.keys.insert(to, entry);
        }
        Ok(all)
    }

    fn value(&self, structure: &Structure) -> Value {
        let one = |bytes: &Bytes| match self.encoding {
            Encoding::Bytes => Value::Bytes(bytes.clone()),
            Encoding::Text | Encoding::Json => {
                Value::Text(String::from_utf8_lossy(bytes).into_owned())
            }
        };
        let list = |items: &[Bytes]| Value::Array(items.iter().map(one).collect());
        let fields = |fields: &Fields| match self.encoding {
            Encoding::Bytes => Value::Array(
                fields
                    .iter()
                    .map(|(f, v)| Value::Array(vec![one(f), one(v)]))
                    .collect(),
            ),
            Encoding::Text | Encoding::Json => Value::Map(
                fields
                    .iter()
                    .map(|(f, v)| (String::from_utf8_lossy(f).into_owned(), one(v)))
                    .collect(),
            ),
        };
        match structure {
            Structure::String(bytes) => one(bytes),
            Structure::Hash(all) => fields(all),
            Structure::List(items) | Structure::Set(items) => list(items),
            Structure::SortedSet(members) => Value::Array(
                members
                    .iter()
                    .map(|(m, s)| Value::Array(vec![one(m), Value::Float64(f64::from_bits(*s))]))
                    .collect(),
            ),
            Structure::Stream(entries) => Value::Array(
                entries
                    .iter()
                    .map(|(id, all)| Value::Array(vec![Value::Text(id.clone()), fields(all)]))
                    .collect(),
            ),
        }
    }
}

impl Model for Structures {
    type Kind = InMemory;

    fn empty(domain: usize) -> Self {
        let number = u32::try_from(domain).unwrap_or(0);
        let encoding = if domain % 2 == 1 {
            Encoding::Text
        } else {
            Encoding::Bytes
        };
        let prefixes: &[(&str, &str)] = match encoding {
            Encoding::Bytes => &[],
            Encoding::Text | Encoding::Json => &[("ses", "other"), ("session:", "sessions")],
        };
        Self {
            database: Database::with(number, encoding, prefixes),
            encoding,
            keys: BTreeMap::new(),
        }
    }

    fn mutate(
        &mut self,
        tx: &mut KindTransaction<InMemory>,
        dice: &mut Dice,
    ) -> Result<Seen, LogError> {
        let key = self.key(dice);
        match dice.below(20) {
            0..8 => self.set(tx, dice, key),
            8..12 => self.patch(tx, dice, &key),
            12..14 => self.rename(tx, dice, &key),
            14 => {
                tx.flush(&self.database)?;
                self.keys.clear();
                let tables = if self.encoding == Encoding::Bytes {
                    6
                } else {
                    8
                };
                Ok(client(Op::Truncate).repeat(tables))
            }
            _ => {
                let Some(old) = self.keys.remove(&key) else {
                    return Ok(Vec::new());
                };
                let cause = *dice.pick(&[Cause::Client, Cause::Ttl, Cause::Evict]);
                let unseen = dice.chance(40);
                let database = &self.database;
                with(&old, |entry| {
                    let before = if unseen {
                        Removed::Type(kind(&old.0))
                    } else {
                        Removed::Entry(entry)
                    };
                    match cause {
                        Cause::Ttl => tx.expire(database, &key, before).map(drop),
                        Cause::Evict => tx.evict(database, &key, before).map(drop),
                        _ => tx.delete(database, &key, before).map(drop),
                    }
                })?;
                Ok(if unseen {
                    seen(Op::Delete, cause)
                } else {
                    with_old(Op::Delete, cause)
                })
            }
        }
    }

    fn dump(&self, state: &mut State) {
        for (key, (structure, expires_at)) in &self.keys {
            let relation = self.database.relation(key, kind(structure));
            let key = self.value(&Structure::String(key.clone()));
            let name = Value::from(kind(structure).name());
            let at = expires_at.map_or(Value::Null, Value::TimestampTz);
            state.insert_values(relation, &[key, name, self.value(structure), at]);
        }
    }

    fn load(&mut self, _table: &str, row: &[Value]) {
        let [key, Value::Text(kind), value, at] = row else {
            return;
        };
        let at = match at {
            Value::TimestampTz(at) => Some(*at),
            _ => None,
        };
        if let (Some(key), Some(structure)) = (bytes(key), load(kind, value)) {
            self.keys.insert(key, (structure, at));
        }
    }
}

fn bytes(value: &Value) -> Option<Bytes> {
    match value {
        Value::Bytes(bytes) => Some(bytes.clone()),
        Value::Text(text) => Some(text.clone().into_bytes()),
        _ => None,
    }
}

/// The two values of a pair.
fn pair(value: &Value) -> Option<(&Value, &Value)> {
    match value {
        Value::Array(items) => Some((items.first()?, items.get(1)?)),
        _ => None,
    }
}

fn fields(value: &Value) -> Option<Fields> {
    match value {
        Value::Map(all) => all
            .iter()
            .map(|(field, value)| Some((field.clone().into_bytes(), bytes(value)?)))
            .collect(),
        Value::Array(all) => all
            .iter()
            .map(|item| pair(item).and_then(|(f, v)| Some((bytes(f)?, bytes(v)?))))
            .collect(),
        _ => None,
    }
}

/// A value of this type.
fn load(kind: &str, value: &Value) -> Option<Structure> {
    let items = match value {
        Value::Array(items) => items.as_slice(),
        _ => &[],
    };
    let list = || items.iter().map(bytes).collect::<Option<Vec<_>>>();
    let scored = |item: &Value| match pair(item) {
        Some((member, Value::Float64(score))) => Some((bytes(member)?, score.to_bits())),
        _ => None,
    };
    let entry = |item: &Value| match pair(item) {
        Some((Value::Text(id), all)) => Some((id.clone(), fields(all)?)),
        _ => None,
    };
    let all = items.iter();
    match kind {
        "string" => bytes(value).map(Structure::String),
        "hash" => fields(value).map(Structure::Hash),
        "list" => list().map(Structure::List),
        "set" => list().map(Structure::Set),
        "zset" => all
            .map(scored)
            .collect::<Option<_>>()
            .map(Structure::SortedSet),
        "stream" => all.map(entry).collect::<Option<_>>().map(Structure::Stream),
        _ => None,
    }
}
