//! Vectors: a collection with one vector a point, and one with named ones; bits of every pattern.

use std::collections::BTreeMap;

use cdc_core::{Op, Value};

use super::{Dice, Model, Seen, State, client, domain_name, looked};
use crate::LogError;
use crate::kinds::vector::{Collection, Point, PointId, Shape, Vector, Vectors};
use crate::kinds::{KindTransaction, Old, SchemaChange};

/// Bits of the vectors, and the payload.
type Stored = (Vec<Vec<u32>>, Option<String>);

/// The data of a domain.
#[derive(Clone, Debug)]
pub struct Points {
    one: Collection,
    named: Collection,
    points: [BTreeMap<PointId, Stored>; 2],
}

const NAMES: [&str; 2] = ["title", "body"];

/// Any bits: not-a-numbers with payloads, infinities, minus zero, subnormal numbers.
fn bits(dice: &mut Dice) -> u32 {
    const ODD: [u32; 7] = [
        0x7fc0_0001,
        0xffc1_2345,
        0x7f80_0000,
        0xff80_0000,
        0x8000_0000,
        1,
        0x7fa0_0000,
    ];
    if dice.chance(40) {
        return *dice.pick(&ODD);
    }
    let [a, b, c, d, ..] = dice.roll().to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn id(dice: &mut Dice) -> PointId {
    let n = dice.below(5) as u64;
    match dice.below(2) {
        0 => PointId::Number(u64::MAX - n),
        _ => PointId::Uuid(u128::from(n).to_be_bytes()),
    }
}

fn floats(bits: &[u32]) -> Vec<f32> {
    bits.iter().map(|bits| f32::from_bits(*bits)).collect()
}

/// Hands over a point in the form its collection has.
fn with<R>((vectors, payload): &Stored, named: bool, then: impl FnOnce(Point<'_>) -> R) -> R {
    let all: Vec<Vec<f32>> = vectors.iter().map(|bits| floats(bits)).collect();
    let by_name: Vec<_> = NAMES
        .into_iter()
        .zip(all.iter().map(Vec::as_slice))
        .collect();
    let vectors = match all.first() {
        Some(first) if !named => Vectors::One(first),
        _ => Vectors::Named(&by_name),
    };
    then(Point {
        vectors,
        payload: payload.as_deref(),
    })
}

fn stored(values: &[Value]) -> Option<Stored> {
    let bits = |value: &Value| match value {
        Value::Vector(elements) => elements.iter().map(|element| element.to_bits()).collect(),
        _ => Vec::new(),
    };
    let vectors = match values.first()? {
        Value::Map(entries) => entries.iter().map(|(_, vector)| bits(vector)).collect(),
        vector => vec![bits(vector)],
    };
    let payload = match values.get(1)? {
        Value::Json(payload) => Some(payload.clone()),
        _ => None,
    };
    Some((vectors, payload))
}

impl Model for Points {
    type Kind = Vector;

    fn empty(domain: usize) -> Self {
        let database = domain_name("vectors", domain);
        Self {
            one: Collection::new(&database, "images"),
            named: Collection::new(&database, "articles"),
            points: Default::default(),
        }
    }

    fn mutate(
        &mut self,
        tx: &mut KindTransaction<Vector>,
        dice: &mut Dice,
    ) -> Result<Seen, LogError> {
        let which = dice.below(2);
        let (table, named) = [(&self.one, false), (&self.named, true)][which];
        let points = &mut self.points[which];
        let id = id(dice);
        let old = points.get(&id).cloned();
        let unseen = dice.chance(30);
        match dice.below(10) {
            0..6 => {
                let dim = 1 + dice.below(6);
                let vector = |dice: &mut Dice| (0..dim).map(|_| bits(dice)).collect();
                let vectors: Vec<Vec<u32>> =
                    (0..=usize::from(named)).map(|_| vector(dice)).collect();
                let payload = dice
                    .chance(80)
                    .then(|| format!("{{\"text\":\"{}\"}}", dice.text()));
                let mut new = (vectors, payload);
                if dice.chance(30)
                    && let Some((vectors, _)) = &old
                {
                    // The payload alone changed.
                    new.0.clone_from(vectors);
                }
                let op = if unseen || old.is_some() {
                    Op::Update
                } else {
                    Op::Insert
                };
                with(&new, named, |point| match &old {
                    _ if unseen => tx.upsert(table, id, Old::Unknown, point).map(drop),
                    None => tx.upsert(table, id, Old::Missing, point).map(drop),
                    Some(old) => with(old, named, |before| {
                        tx.upsert(table, id, Old::Known(before), point).map(drop)
                    }),
                })?;
                points.insert(id, new);
                Ok(looked(op, unseen))
            }
            6..9 => {
                let seen = if unseen || old.is_some() {
                    looked(Op::Delete, unseen)
                } else {
                    Vec::new()
                };
                match &old {
                    _ if unseen => tx.delete(table, id, Old::Unknown).map(drop)?,
                    None => tx.delete(table, id, Old::Missing).map(drop)?,
                    Some(old) => with(old, named, |before| {
                        tx.delete(table, id, Old::Known(before)).map(drop)
                    })?,
                }
                points.remove(&id);
                Ok(seen)
            }
            _ => {
                tx.collection_changed(table, SchemaChange::Drop, None)?;
                let shape = Shape {
                    dim: 4,
                    metric: "cosine",
                };
                tx.collection_changed(table, SchemaChange::Create, Some(shape))?;
                points.clear();
                Ok([client(Op::Schema), client(Op::Schema)].concat())
            }
        }
    }

    fn dump(&self, state: &mut State) {
        for (table, points, named) in [
            (&self.one, &self.points[0], false),
            (&self.named, &self.points[1], true),
        ] {
            for (id, (vectors, payload)) in points {
                let id = match id {
                    PointId::Number(id) => Value::UInt(*id),
                    PointId::Uuid(id) => Value::Uuid(*id),
                };
                let mut all = vectors.iter().map(|bits| Value::Vector(floats(bits)));
                let vector = if named {
                    let names = NAMES.into_iter().map(str::to_owned);
                    Value::Map(names.zip(all).collect())
                } else {
                    all.next().unwrap_or(Value::Null)
                };
                let payload = payload.clone().map_or(Value::Null, Value::Json);
                state.insert_values(table.relation(), &[id, vector, payload]);
            }
        }
    }

    fn load(&mut self, table: &str, row: &[Value]) {
        let id = match row.first() {
            Some(Value::UInt(id)) => PointId::Number(*id),
            Some(Value::Uuid(id)) => PointId::Uuid(*id),
            _ => return,
        };
        if let Some(stored) = row.get(1..).and_then(stored) {
            self.points[usize::from(table == "articles")].insert(id, stored);
        }
    }
}
