//! Events turned around: what they lead back to, and what is refused.

use std::collections::BTreeMap;

use cdc_core::{Column, EngineKind};
use proptest::prelude::*;

use super::*;

fn relation(table: &str, key: Vec<u16>) -> Arc<Relation> {
    let columns = vec![Column::new("id", "INTEGER"), Column::new("x", "")];
    Arc::new(Relation::new(
        EngineKind::Relational,
        "main",
        table,
        columns,
        key,
    ))
}

fn row(id: Option<i64>, x: i64) -> RowImage {
    let id = id.map_or(Value::Null, Value::Int);
    RowImage::from_values(&[id, Value::Int(x)])
}

fn event(
    relation: &Arc<Relation>,
    rowid: Option<i64>,
    before: Option<RowImage>,
    after: Option<RowImage>,
) -> ChangeEvent {
    let op = match (&before, &after) {
        (None, _) => Op::Insert,
        (_, None) => Op::Delete,
        _ => Op::Update,
    };
    let mut event = ChangeEvent::new(Position::ZERO, relation.clone(), Transaction::default(), op);
    event.before = before.map_or(Image::Absent, Image::Full);
    event.after = after.map_or(Image::Absent, Image::Full);
    event.meta = rowid.map(|rowid| Arc::new(Meta(vec![("rowid".into(), Value::Int(rowid))])));
    event
}

fn refusal(event: &ChangeEvent) -> String {
    let error = TakeBack::new().push(event).unwrap_err();
    assert_eq!(error.kind, SourceErrorKind::Gap);
    error.to_string()
}

#[test]
fn what_cannot_be_turned_around_is_refused() {
    let keyed = relation("t", vec![0]);
    let bare = relation("u", Vec::new());
    let mut shape = event(&keyed, None, None, Some(row(Some(1), 1)));
    shape.op = Op::Schema;
    assert!(refusal(&shape).contains("shape"));
    shape.op = Op::Read;
    assert!(refusal(&shape).contains("no change"));
    let mut partial = event(&keyed, None, Some(row(Some(1), 1)), Some(row(Some(1), 2)));
    partial.before = Image::Absent;
    assert!(refusal(&partial).contains("no whole row"));
    let no_key = event(&keyed, None, None, Some(row(None, 1)));
    assert!(refusal(&no_key).contains("no value in its key"));
    let nameless = event(&bare, None, None, Some(row(Some(1), 1)));
    assert!(refusal(&nameless).contains("neither key nor number"));
    let text = Value::Text("x".repeat(BYTES_MAX));
    let large = RowImage::from_values(&[Value::Int(1), text]);
    assert!(refusal(&event(&keyed, None, None, Some(large))).contains("memory"));
}

type Rows = BTreeMap<(bool, i64), i64>;

fn apply(rows: &mut Rows, keyed: bool, event: &ChangeEvent) {
    let identity = |image: &Image| {
        let values = image.row().unwrap().to_values().unwrap();
        let (Value::Int(id), Value::Int(x)) = (&values[0], &values[1]) else {
            panic!("integers");
        };
        let id = if keyed { *id } else { rowid(event).unwrap() };
        ((keyed, id), *x)
    };
    if !event.before.is_absent() {
        let (key, x) = identity(&event.before);
        assert_eq!(rows.remove(&key), Some(x), "the row is there as it was");
    }
    if !event.after.is_absent() {
        let (key, x) = identity(&event.after);
        assert_eq!(rows.insert(key, x), None, "nothing is there");
    }
}

proptest! {
    /// Whatever came, each image as it then was: turned around it leads back, and turned around with
    /// that, nowhere.
    #[test]
    fn what_came_is_taken_back(
        first in proptest::collection::btree_map((any::<bool>(), 0i64..6), 0i64..3, 0..8),
        steps in proptest::collection::vec((any::<bool>(), 0i64..6, proptest::option::of(0i64..3)), 0..40),
    ) {
        let relations = [relation("bare", Vec::new()), relation("keyed", vec![0])];
        let mut rows: Rows = first.clone();
        let mut back = TakeBack::new();
        let mut all = Vec::new();
        for (keyed, id, x) in steps {
            let image = |x: i64| row(Some(if keyed { id } else { 0 }), x);
            let before = rows.get(&(keyed, id)).copied();
            if before == x {
                continue;
            }
            let number = (!keyed).then_some(id);
            let relation = &relations[usize::from(keyed)];
            let event = event(relation, number, before.map(image), x.map(image));
            apply(&mut rows, keyed, &event);
            back.push(&event).unwrap();
            all.push(event);
        }
        let commit = Lsn(7 << 32);
        let events = back.events(commit, 5);
        for (event, ordinal) in events.iter().zip(0..) {
            prop_assert_eq!(event.position, Position::new(commit, ordinal));
            prop_assert_eq!(event.last, ordinal as usize + 1 == events.len());
            apply(&mut rows, &*event.relation.table == "keyed", event);
        }
        prop_assert_eq!(rows, first);
        let mut both = TakeBack::new();
        for event in all.iter().chain(&events) {
            both.push(event).unwrap();
        }
        prop_assert!(both.events(Lsn(8 << 32), 5).is_empty());
    }
}
