//! Which events go on.

use std::sync::Arc;

use cdc_core::testing::insert;
use cdc_core::{ChangeEvent, EngineKind, Filter, Meta, Op, Relation, Value};
use cdc_filter::{EventFilter, FilterConfig, FilterError, TableFilter};
use proptest::prelude::*;

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn event(schema: &str, table: &str, op: Op) -> ChangeEvent {
    let mut event = insert(1, 0, 7);
    let mut relation = Relation::clone(&event.relation);
    relation.schema = schema.into();
    relation.table = table.into();
    event.relation = Arc::new(relation);
    event.op = op;
    event
}

#[test]
fn schemas_and_tables() {
    for (schemas, tables, kept, dropped) in [
        (
            &[][..],
            &[][..],
            &["public.orders", "a.b", ".t"][..],
            &[][..],
        ),
        (
            &["public"],
            &[],
            &["public.orders"],
            &["private.orders", ".orders", "Public.orders"],
        ),
        (
            &["pub*", "!public"],
            &[],
            &["pub.t", "publik.t"],
            &["public.t", "x.t"],
        ),
        (
            &["!public", "pub*"],
            &[],
            &["pub.t", "publik.t"],
            &["public.t", "x.t"],
        ),
        (&["!tmp_*"], &[], &["public.t", ".t"], &["tmp_1.t"]),
        (
            &[],
            &["orders"],
            &["public.orders", "b.orders", ".orders"],
            &["public.order", "public.orders2"],
        ),
        (
            &[],
            &["public.orders"],
            &["public.orders"],
            &["b.orders", ".orders"],
        ),
        (
            &[],
            &["public.*", "!*.tmp_?"],
            &["public.t", "public.tmp_10"],
            &["public.tmp_1", "b.t"],
        ),
        (
            &[],
            &["!line_*"],
            &["public.orders"],
            &["public.line_1", "b.line_"],
        ),
        (
            &["public"],
            &["orders", "b.lines"],
            &["public.orders"],
            &["b.lines", "b.orders"],
        ),
        (&["?"], &["é*"], &["a.été"], &["ab.été", "a.ete"]),
    ] {
        let filter = TableFilter::new(&texts(schemas), &texts(tables)).unwrap();
        // Twice: the second answer comes from memory.
        for _ in 0..2 {
            for (names, want) in [(kept, true), (dropped, false)] {
                for name in names {
                    let (schema, table) = name.split_once('.').unwrap();
                    assert_eq!(
                        filter.keep(&event(schema, table, Op::Insert)),
                        want,
                        "{schemas:?} {tables:?}: {name}"
                    );
                }
            }
        }
    }
}

#[test]
fn quoted_names_hold_dots_and_wildcards() {
    let filter = TableFilter::new(&[], &texts(&["\"my.db\".\"what?\"", "\"a\"\"b\""])).unwrap();
    assert!(filter.keep(&event("my.db", "what?", Op::Insert)));
    assert!(!filter.keep(&event("my.db", "whats", Op::Insert)));
    assert!(filter.keep(&event("x", "a\"b", Op::Insert)));
}

/// Who chose a part of the stream did not choose not to know that some of it is missing.
#[test]
fn what_the_stream_says_is_missing_passes_every_filter() {
    let gap = event("", cdc_core::GAP_PREFIX, Op::Message);
    let config = FilterConfig {
        schemas: texts(&["public"]),
        tables: texts(&["orders"]),
        operations: vec![Op::Insert],
        predicate: Some("after.id == 7".into()),
    };
    assert!(EventFilter::new(&config).unwrap().keep(&gap));
    assert!(
        TableFilter::new(&[], &texts(&["orders"]))
            .unwrap()
            .keep(&gap)
    );
    assert!(
        !EventFilter::new(&config)
            .unwrap()
            .keep(&event("", "weftkit.cdc.other", Op::Message))
    );
}

#[test]
fn operations_and_messages() {
    let config = FilterConfig {
        schemas: texts(&["public"]),
        operations: vec![Op::Insert, Op::Message],
        ..FilterConfig::default()
    };
    let filter = EventFilter::new(&config).unwrap();
    assert!(filter.keep(&event("public", "t", Op::Insert)));
    assert!(!filter.keep(&event("public", "t", Op::Delete)));
    assert!(!filter.keep(&event("other", "t", Op::Insert)));
    assert!(
        filter.keep(&event("", "prefix", Op::Message)),
        "messages have no schema"
    );

    let filter = TableFilter::new(&[], &texts(&["pre*"])).unwrap();
    assert!(filter.keep(&event("", "prefix", Op::Message)));
    assert!(!filter.keep(&event("", "other", Op::Message)));
}

#[test]
fn the_predicate_is_asked_last_and_unknown_is_kept() {
    let config = FilterConfig {
        predicate: Some("after.id > 5".into()),
        ..FilterConfig::default()
    };
    let filter = EventFilter::new(&config).unwrap();
    assert!(filter.keep(&insert(1, 0, 6)));
    assert!(!filter.keep(&insert(1, 0, 5)));
    let mut delete = insert(1, 0, 5);
    delete.op = Op::Delete;
    std::mem::swap(&mut delete.before, &mut delete.after);
    assert!(filter.keep(&delete), "a delete has no row after: unknown");
}

#[test]
fn bad_configuration_names_the_pattern() {
    let error = EventFilter::new(&FilterConfig {
        tables: texts(&["fine", "a.b.c"]),
        ..FilterConfig::default()
    });
    assert_eq!(
        error.unwrap_err().to_string(),
        "read the pattern \"a.b.c\" in `tables`: it has more than one dot; put a name that holds a dot in double quotes"
    );
    let error = TableFilter::new(&texts(&["public.orders"]), &[]).unwrap_err();
    assert!(
        matches!(&error, FilterError::Pattern { key: "schemas", pattern, .. } if pattern == "public.orders")
    );
    assert!(
        error
            .to_string()
            .contains("move `schema.table` to `tables`"),
        "{error}"
    );
    let error = TableFilter::new(&vec!["a".into(); 5000], &[]).unwrap_err();
    assert_eq!(
        error,
        FilterError::TooMany {
            key: "schemas",
            count: 5000
        }
    );
}

#[test]
fn patterns_that_fit_nothing_are_listed() {
    let relation = |schema: &str, table: &str| {
        Relation::new(EngineKind::Relational, schema, table, vec![], vec![])
    };
    let source = [relation("public", "orders"), relation("audit", "log")];
    let filter = TableFilter::new(
        &texts(&["public", "pubic", "!nothing"]),
        &texts(&["orders", "audit.l*", "order", "!gone"]),
    )
    .unwrap();
    assert_eq!(filter.unmatched(&source), ["pubic", "order"]);
    assert_eq!(
        filter.unmatched([]),
        ["public", "pubic", "orders", "audit.l*", "order"]
    );
}

proptest! {
    /// The verdict from memory is the verdict.
    #[test]
    fn remembered_verdicts_are_right(
        patterns in proptest::collection::vec("(!?[ab*]{1,3}(\\.[ab*]{1,3})?)", 0..5),
        names in proptest::collection::vec(("[ab]{0,3}", "[ab]{1,3}"), 1..12),
    ) {
        let long_lived = TableFilter::new(&[], &patterns).unwrap();
        for (schema, table) in &names {
            let event = event(schema, table, Op::Insert);
            let fresh = TableFilter::new(&[], &patterns).unwrap();
            prop_assert_eq!(long_lived.keep(&event), fresh.keep(&event));
        }
    }

    #[test]
    fn any_configuration_is_read_or_refused(schemas in proptest::collection::vec("\\PC{0,20}", 0..4), predicate in "\\PC{0,60}") {
        let config = FilterConfig { schemas: schemas.clone(), tables: schemas, operations: vec![], predicate: Some(predicate) };
        if let Ok(filter) = EventFilter::new(&config) {
            let _ = filter.keep(&insert(1, 0, 1));
        }
    }
}

/// An event of a kind, in the table given, with meta entries.
fn with_meta(engine: EngineKind, table: &str, meta: &[(&str, Value)]) -> ChangeEvent {
    let mut event = event("g", table, Op::Update);
    let mut relation = Relation::clone(&event.relation);
    relation.engine = engine;
    event.relation = Arc::new(relation);
    let pairs = meta
        .iter()
        .map(|(name, value)| ((*name).into(), value.clone()));
    event.meta = Some(Arc::new(Meta(pairs.collect())));
    event
}

#[test]
fn a_node_is_matched_by_any_of_its_labels() {
    let labels = |labels: &[&str]| Value::Array(labels.iter().map(|l| Value::from(*l)).collect());
    let node = with_meta(
        EngineKind::Graph,
        "Person",
        &[
            ("labels", labels(&["Person", "Admin"])),
            ("old_table", "Guest".into()),
        ],
    );
    for (patterns, kept) in [
        (&["Person"][..], true),
        (&["Admin"], true),
        (&["g.Adm*"], true),
        (&["h.Admin"], false),
        // The first label before the change.
        (&["Guest"], true),
        (&["City"], false),
        (&["!Admin"], false),
        (&["Person", "!Admin"], false),
        (&["!City"], true),
        (&[], true),
    ] {
        let filter = TableFilter::new(&[], &texts(patterns)).unwrap();
        assert_eq!(filter.keep(&node), kept, "{patterns:?}");
    }
    let filter = TableFilter::new(&texts(&["other"]), &texts(&["Admin"])).unwrap();
    assert!(!filter.keep(&node), "the schema counts too");
    // The same meta says nothing about another kind of engine.
    let row = with_meta(
        EngineKind::Relational,
        "Person",
        &[("labels", labels(&["Admin"]))],
    );
    assert!(
        !TableFilter::new(&[], &texts(&["Admin"]))
            .unwrap()
            .keep(&row)
    );
}

#[test]
fn a_move_is_matched_by_either_folder() {
    let moved = with_meta(
        EngineKind::Markdown,
        "drafts",
        &[("old_table", "public".into())],
    );
    let edited = with_meta(
        EngineKind::Markdown,
        "drafts",
        &[("sections", Value::Map(vec![]))],
    );
    for (patterns, kept_move, kept_edit) in [
        (&["drafts"][..], true, true),
        (&["public"], true, false),
        // It left the folder that is wanted: its readers must hear of it.
        (&["!drafts"], true, false),
        (&["!public"], true, true),
        (&["other"], false, false),
    ] {
        let filter = TableFilter::new(&[], &texts(patterns)).unwrap();
        assert_eq!(filter.keep(&moved), kept_move, "{patterns:?}");
        assert_eq!(filter.keep(&edited), kept_edit, "{patterns:?}");
    }
}
