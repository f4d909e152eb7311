//! What transforms make of events.

use std::sync::Arc;

use cdc_core::testing::{insert, relation};
use cdc_core::{
    ChangeEvent, Column, EngineKind, Image, Meta, Op, Relation, RowImage, Transform, Value,
};
use cdc_filter::{
    Action, HashKey, Mask, SetTo, TransformChain, TransformConfig, TransformConfigError,
    Transformer,
};
use proptest::prelude::*;

fn all(action: Action) -> TransformConfig {
    TransformConfig {
        tables: vec![],
        operations: vec![],
        action,
    }
}

fn limited(table: &str, action: Action) -> TransformConfig {
    TransformConfig {
        tables: vec![table.into()],
        operations: vec![],
        action,
    }
}

fn names(columns: &[&str]) -> Vec<String> {
    columns.iter().map(ToString::to_string).collect()
}

fn mask(column: &str, with: Mask) -> Action {
    Action::Mask {
        columns: names(&[column]),
        with,
    }
}

fn hash(column: &str) -> Action {
    Action::Hash {
        columns: names(&[column]),
        key: HashKey::new(b"0123456789abcdef").unwrap(),
    }
}

fn set(column: &str, to: SetTo) -> Action {
    Action::Set {
        column: column.into(),
        to,
    }
}

fn apply(config: TransformConfig, event: ChangeEvent) -> Result<ChangeEvent, String> {
    match Transformer::new(config).unwrap().apply(event) {
        Ok(event) => Ok(event.expect("no transform here drops events")),
        Err(error) => Err(error.message),
    }
}

/// An update of `public.orders (id key, name, total)` with both images.
fn update(before: &[Value], after: &[Value]) -> ChangeEvent {
    let mut event = insert(9, 3, 7);
    event.op = Op::Update;
    event.before = Image::Full(RowImage::from_values(before));
    event.after = Image::Full(RowImage::from_values(after));
    event
}

fn sample() -> ChangeEvent {
    let row = |name: &str, total: &str| [Value::Int(7), name.into(), Value::Decimal(total.into())];
    update(
        &row("4111111111111111", "1.50"),
        &row("4222222222222222", "2.50"),
    )
}

fn after(event: &ChangeEvent) -> Vec<Value> {
    event.after.row().unwrap().to_values().unwrap()
}

fn before(event: &ChangeEvent) -> Vec<Value> {
    event.before.row().unwrap().to_values().unwrap()
}

fn columns(event: &ChangeEvent) -> Vec<&str> {
    event
        .relation
        .columns
        .iter()
        .map(|column| &*column.name)
        .collect()
}

#[test]
fn include_keeps_the_key_and_the_order() {
    let event = apply(
        all(Action::Include {
            columns: names(&["total"]),
        }),
        sample(),
    )
    .unwrap();
    assert_eq!(columns(&event), ["id", "total"]);
    assert_eq!(event.relation.key, [0]);
    assert_eq!(
        after(&event),
        [Value::Int(7), Value::Decimal("2.50".into())]
    );
    assert_eq!(
        before(&event),
        [Value::Int(7), Value::Decimal("1.50".into())]
    );
}

#[test]
fn exclude_moves_the_key_along() {
    let mut event = sample();
    let mut relation = Relation::clone(&event.relation);
    relation.key = vec![2];
    event.relation = Arc::new(relation);
    let event = apply(
        all(Action::Exclude {
            columns: names(&["name", "elsewhere"]),
        }),
        event,
    )
    .unwrap();
    assert_eq!(columns(&event), ["id", "total"]);
    assert_eq!(event.relation.key, [1]);
}

#[test]
fn key_columns_are_protected() {
    for action in [
        Action::Exclude {
            columns: names(&["id"]),
        },
        mask("id", Mask::Stars),
        set("id", SetTo::Constant(Value::Int(1))),
    ] {
        let error = apply(all(action), sample()).unwrap_err();
        assert!(
            error.contains("\"id\" of public.orders: it is a key column"),
            "{error}"
        );
    }
    let event = apply(all(hash("id")), sample()).unwrap();
    assert_eq!(event.relation.key, [0]);
    assert_eq!(&*event.relation.columns[0].type_name, "text");
}

#[test]
fn renames() {
    let table = Action::RenameTable {
        schema: Some("shop".into()),
        table: Some("sales".into()),
    };
    let event = apply(all(table), sample()).unwrap();
    assert_eq!(event.relation.qualified_name(), "shop.sales");
    assert_eq!(event.after, sample().after);
    let swap = Action::RenameColumns {
        columns: vec![
            ("name".into(), "total".into()),
            ("total".into(), "name".into()),
        ],
    };
    let event = apply(all(swap), sample()).unwrap();
    assert_eq!(columns(&event), ["id", "total", "name"]);
    assert_eq!(event.after, sample().after);
    let clash = Action::RenameColumns {
        columns: vec![("name".into(), "total".into())],
    };
    let error = apply(all(clash), sample()).unwrap_err();
    assert!(
        error.contains("two columns would be named \"total\""),
        "{error}"
    );
}

#[test]
fn masks() {
    for (with, value, want) in [
        (
            Mask::Last4,
            Value::from("4111111111111234"),
            Value::from("************1234"),
        ),
        (Mask::Last4, "ünïcødé9".into(), "****ødé9".into()),
        (Mask::Last4, "1234567".into(), "*******".into()),
        (Mask::Last4, "".into(), "".into()),
        (
            Mask::Last4,
            Value::Int(-1_234_567_890),
            "*******7890".into(),
        ),
        (Mask::Last4, Value::UInt(12_345_678), "****5678".into()),
        (
            Mask::Last4,
            Value::Decimal("12345678.90".into()),
            "*******8.90".into(),
        ),
        (Mask::Stars, Value::Bytes(vec![1, 2]), "****".into()),
        (
            Mask::Stars,
            Value::Array(vec![Value::Int(1)]),
            "****".into(),
        ),
        (Mask::Null, "secret".into(), Value::Null),
        (
            Mask::Text("[gone]".into()),
            Value::Bool(true),
            "[gone]".into(),
        ),
        (Mask::Last4, Value::Null, Value::Null),
        (Mask::Stars, Value::Null, Value::Null),
        (Mask::Null, Value::Unavailable, Value::Unavailable),
        (
            Mask::Text("x".into()),
            Value::Unavailable,
            Value::Unavailable,
        ),
    ] {
        let row = [Value::Int(7), value.clone(), Value::Null];
        let event = apply(all(mask("name", with.clone())), update(&row, &row)).unwrap();
        for image in [before(&event), after(&event)] {
            assert!(
                image == [Value::Int(7), want.clone(), Value::Null],
                "{with:?} of {value:?}"
            );
        }
    }
}

#[test]
fn a_mask_that_does_not_fit_names_column_and_type_only() {
    let row = [
        Value::Int(7),
        Value::Bytes(b"hunter2-hunter2".to_vec()),
        Value::Null,
    ];
    let error = apply(all(mask("name", Mask::Last4)), update(&row, &row)).unwrap_err();
    assert_eq!(
        error,
        "mask column \"name\" of public.orders: it holds a bytes value, which has no last four characters; mask it with stars, null or a text"
    );
}

#[test]
fn hashes_are_keyed_and_stable() {
    // HMAC-SHA256 by another implementation (Python's hmac module).
    for (value, want) in [
        (Value::from("ann@example.com"), "9f70eb4f1d9f0194"),
        (Value::Int(7), "f69cf4852626eee1"),
        (Value::Uuid([0xab; 16]), "16c62f82fa6734bc"),
    ] {
        let row = [Value::Int(7), value.clone(), Value::Null];
        let event = apply(all(hash("name")), update(&row, &row)).unwrap();
        let Value::Text(hex) = &after(&event)[1] else {
            panic!("a hash is text")
        };
        assert_eq!(hex.len(), 64);
        assert!(hex.starts_with(want), "{value:?}: {hex}");
        assert_eq!(before(&event)[1], after(&event)[1]);
    }
    let row = [Value::Int(7), Value::Null, Value::Unavailable];
    let event = apply(all(hash("name")), update(&row, &row)).unwrap();
    assert_eq!(after(&event), row);
    assert_eq!(
        format!("{:?}", hash("name")),
        "Hash { columns: [\"name\"], key: HashKey }"
    );
}

#[test]
fn set_replaces_adds_and_copies() {
    let event = apply(all(set("name", SetTo::Constant("x".into()))), sample()).unwrap();
    assert_eq!(after(&event)[1], "x".into());
    let event = apply(all(set("region", SetTo::Constant("eu".into()))), sample()).unwrap();
    assert_eq!(columns(&event), ["id", "name", "total", "region"]);
    assert_eq!(after(&event)[3], "eu".into());
    let event = apply(all(set("copy", SetTo::Column("id".into()))), sample()).unwrap();
    assert_eq!(
        (columns(&event)[3], &after(&event)[3]),
        ("copy", &Value::Int(7))
    );
    assert_eq!(event.relation.key, [0]);
    assert_eq!(&*event.relation.columns[3].type_name, "int8");

    let mut key_only = sample();
    key_only.before = Image::Key(RowImage::from_values(&[
        Value::Int(7),
        Value::Unavailable,
        Value::Unavailable,
    ]));
    let event = apply(
        all(set("region", SetTo::Constant("eu".into()))),
        key_only.clone(),
    )
    .unwrap();
    assert!(matches!(event.before, Image::Key(_)));
    assert_eq!(
        before(&event)[3],
        Value::Unavailable,
        "a key image holds the key alone"
    );
    let event = apply(all(set("name", SetTo::Constant("x".into()))), key_only).unwrap();
    assert_eq!(before(&event)[1], Value::Unavailable);
}

#[test]
fn limits_by_table_and_operation() {
    let untouched = apply(limited("lines", mask("name", Mask::Null)), sample()).unwrap();
    assert_eq!(untouched, sample());
    let mut config = all(mask("name", Mask::Null));
    config.operations = vec![Op::Delete];
    assert_eq!(apply(config, sample()).unwrap(), sample());
    let mut message = sample();
    message.op = Op::Message;
    assert_eq!(
        apply(all(mask("name", Mask::Null)), message.clone()).unwrap(),
        message
    );
}

#[test]
fn a_missing_column_is_an_error_only_where_the_table_was_named() {
    assert_eq!(
        apply(all(mask("card", Mask::Null)), sample()).unwrap(),
        sample()
    );
    let error = apply(limited("public.ord*", mask("card", Mask::Null)), sample()).unwrap_err();
    assert_eq!(
        error,
        "apply the transform mask to public.orders: the table has no column \"card\"; correct `columns` or `tables` of the transform"
    );
}

#[test]
fn a_damaged_row_is_an_error() {
    for bytes in [vec![], vec![9, 0], vec![3, 0, 4], vec![2, 0, 0, 0]] {
        let mut event = sample();
        event.after = Image::Full(RowImage::from_bytes(bytes.into()));
        let error = apply(all(mask("name", Mask::Null)), event).unwrap_err();
        assert!(
            error.starts_with("apply the transform mask to public.orders: "),
            "{error}"
        );
    }
}

#[test]
fn chains_run_in_order_and_check_without_events() {
    let chain = TransformChain::new([
        all(Action::RenameColumns {
            columns: vec![("name".into(), "card".into())],
        }),
        all(mask("card", Mask::Last4)),
        all(Action::RenameTable {
            schema: None,
            table: Some("sales".into()),
        }),
        limited("sales", set("copy", SetTo::Column("card".into()))),
    ])
    .unwrap();
    let event = chain.apply(sample()).unwrap().unwrap();
    assert_eq!(columns(&event), ["id", "card", "total", "copy"]);
    assert_eq!(after(&event)[3], "************2222".into());
    let checked = chain.check(&relation()).unwrap();
    assert_eq!(checked, event.relation);
    assert_ne!(
        checked.version,
        relation().version,
        "another shape is another version"
    );
    let again = chain.apply(sample()).unwrap().unwrap();
    let third = chain.apply(ChangeEvent {
        relation: event.relation.clone(),
        ..sample()
    });
    assert!(
        third.is_err(),
        "the renamed relation has four columns, the row three"
    );
    assert_eq!(again, event);

    let bad = TransformChain::new([
        all(Action::Include {
            columns: names(&["a"]),
        }),
        all(Action::Exclude { columns: vec![] }),
    ]);
    assert_eq!(
        bad.unwrap_err(),
        (1, TransformConfigError::Nothing { action: "exclude" })
    );
}

#[test]
fn configuration_is_checked() {
    let error = |action| Transformer::new(all(action)).unwrap_err().to_string();
    assert!(
        error(Action::Include {
            columns: names(&["a", "a"])
        })
        .contains("\"a\" is named twice")
    );
    assert!(
        error(Action::Include {
            columns: names(&[""])
        })
        .contains("is empty")
    );
    assert!(
        error(Action::RenameTable {
            schema: None,
            table: None
        })
        .contains("nothing to work on")
    );
    assert!(error(set("a", SetTo::Constant(Value::Unavailable))).contains("unavailable"));
    assert_eq!(
        HashKey::new(&[1; 15]).unwrap_err(),
        TransformConfigError::ShortKey { len: 15 }
    );
    let error = Transformer::new(limited("a.b.c", mask("x", Mask::Null))).unwrap_err();
    assert!(error.to_string().contains("\"a.b.c\""), "{error}");
}

#[test]
fn many_relations_do_not_confuse_plans() {
    let transform = Transformer::new(all(mask("name", Mask::Stars))).unwrap();
    for n in 0..3000u32 {
        // A new relation each time, some with the column elsewhere; addresses are used again.
        let mut event = sample();
        let mut relation = Relation::clone(&event.relation);
        if n % 3 == 0 {
            relation.columns.swap(1, 2);
        }
        event.relation = Arc::new(relation);
        let event = transform.apply(event).unwrap().unwrap();
        let masked = if n % 3 == 0 { 2 } else { 1 };
        assert_eq!(after(&event)[masked], "****".into(), "{n}");
    }
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(Value::Unavailable),
        any::<i64>().prop_map(Value::Int),
        any::<f64>().prop_map(Value::Float64),
        "\\PC{0,20}".prop_map(Value::Text),
        "-?[0-9]{1,12}\\.[0-9]{2}".prop_map(Value::Decimal),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Value::Bytes),
        prop::collection::vec(any::<i64>().prop_map(Value::Int), 0..4).prop_map(Value::Array),
    ]
}

proptest! {
    /// Whatever a transform does to `b`, the rest of the event is as it was, byte for byte.
    #[test]
    fn everything_else_stays(
        old in prop::collection::vec(value(), 4),
        new in prop::collection::vec(value(), 4),
        choice in 0usize..6,
    ) {
        let mut event = sample();
        let columns = ["k", "a", "b", "c"].map(|name| Column::new(name, "any")).to_vec();
        event.relation = Arc::new(Relation { columns, ..Relation::clone(&event.relation) });
        event.before = Image::Partial(RowImage::from_values(&old));
        event.after = Image::Full(RowImage::from_values(&new));
        let action = match choice {
            0 => Action::Exclude { columns: names(&["b"]) },
            1 => mask("b", Mask::Stars),
            2 => mask("b", Mask::Null),
            3 => hash("b"),
            4 => set("b", SetTo::Constant(Value::Int(1))),
            _ => Action::RenameColumns { columns: vec![("b".into(), "z".into())] },
        };
        let changed = apply(all(action), event.clone()).unwrap();
        prop_assert_eq!(changed.position, event.position);
        prop_assert_eq!(changed.op, event.op);
        prop_assert_eq!(changed.transaction, event.transaction);
        prop_assert_eq!((changed.last, changed.cause), (event.last, event.cause));
        prop_assert_eq!(&changed.relation.key, &event.relation.key);
        prop_assert!(matches!(changed.before, Image::Partial(_)));
        for (image, was) in [(&changed.before, &old), (&changed.after, &new)] {
            let row = image.row().unwrap();
            prop_assert_eq!(row.column_count().unwrap(), changed.relation.columns.len());
            for (ordinal, name) in ["k", "a", "b", "c"].iter().enumerate().filter(|(_, name)| **name != "b") {
                let at = changed.relation.ordinal(name).unwrap();
                let alone = |value: cdc_core::ValueRef<'_>| RowImage::from_values(&[value.to_value().unwrap()]).into_bytes();
                let kept = alone(row.get(at).unwrap().unwrap());
                prop_assert_eq!(kept, RowImage::from_values(&was[ordinal..=ordinal]).into_bytes());
            }
        }
    }

    #[test]
    fn any_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), width in 0usize..4) {
        let mut event = sample();
        let mut relation = Relation::clone(&event.relation);
        relation.columns.truncate(width);
        relation.key.clear();
        event.relation = Arc::new(relation);
        event.before = Image::Full(RowImage::from_bytes(bytes.clone().into()));
        event.after = Image::Key(RowImage::from_bytes(bytes.into()));
        for action in [mask("name", Mask::Last4), hash("id"), set("new", SetTo::Constant(Value::Null))] {
            let _ = apply(all(action), event.clone());
        }
    }
}

/// As a filter's: a node that is a person in the second place is masked as one.
#[test]
fn a_node_is_transformed_by_any_of_its_labels_and_a_moved_document_by_either_folder() {
    let event = |engine, table: &str, meta: Vec<(&str, Value)>| {
        let mut event = insert(1, 0, 5);
        let mut relation = Relation::clone(&event.relation);
        relation.engine = engine;
        relation.table = table.into();
        event.relation = Arc::new(relation);
        let meta = meta.into_iter().map(|(name, value)| (name.into(), value));
        event.meta = Some(Arc::new(Meta(meta.collect())));
        event
    };
    let labels = |labels: &[&str]| {
        let labels = labels.iter().map(|label| Value::from(*label)).collect();
        vec![("labels", Value::Array(labels))]
    };
    let secret = |patterns: &[&str]| TransformConfig {
        tables: names(patterns),
        operations: vec![],
        action: mask("name", Mask::Null),
    };
    let is_masked = |transform: &Transformer, event: &ChangeEvent| {
        let out = transform.apply(event.clone()).unwrap().unwrap();
        out.after.row().unwrap().get(1).unwrap() == Some(cdc_core::ValueRef::Null)
    };
    let node = event(EngineKind::Graph, "Admin", labels(&["Admin", "Person"]));
    let mut relabelled = event(EngineKind::Graph, "Admin", labels(&["Admin"]));
    let other = ChangeEvent {
        relation: node.relation.clone(),
        ..relabelled.clone()
    };
    let meta = Arc::make_mut(relabelled.meta.as_mut().unwrap());
    meta.0.push(("old_table".into(), "Person".into()));
    for (patterns, masked) in [
        (&["Person"][..], [true, true, false]),
        (&["Admin"], [true, true, true]),
        (&["!Person"], [false, false, true]),
        (&["Admin", "!Person"], [false, false, true]),
        (&["City"], [false, false, false]),
        (&[], [true, true, true]),
    ] {
        // One transform for all, in turn: what is worked out for one must not hold for another.
        let transform = Transformer::new(secret(patterns)).unwrap();
        for _ in 0..2 {
            let found = [&node, &relabelled, &other].map(|event| is_masked(&transform, event));
            assert_eq!(found, masked, "{patterns:?}");
        }
    }
    let meta = vec![("old_table", "secret".into())];
    let moved = event(EngineKind::Markdown, "public", meta);
    let transform = Transformer::new(secret(&["secret"])).unwrap();
    assert!(is_masked(&transform, &moved));
    // Another kind's meta says nothing about tables.
    let row = event(EngineKind::Relational, "Admin", labels(&["Person"]));
    let transform = Transformer::new(secret(&["Person"])).unwrap();
    assert!(!is_masked(&transform, &row));
}
