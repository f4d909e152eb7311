//! What predicates say.

use std::sync::Arc;

use cdc_core::{
    ChangeEvent, Column, EngineKind, Image, Lsn, Op, Position, Relation, RowImage, Transaction,
    Value,
};
use cdc_filter::{PREDICATE_DEPTH_MAX, Predicate};
use proptest::prelude::*;

const COLUMNS: [&str; 6] = ["id", "name", "total", "price", "at", "odd name"];

fn relation() -> Arc<Relation> {
    let columns = COLUMNS
        .iter()
        .map(|name| Column::new(*name, "any"))
        .collect();
    Arc::new(Relation::new(
        EngineKind::Relational,
        "public",
        "orders",
        columns,
        vec![0],
    ))
}

fn event(op: Op, before: Option<Vec<Value>>, after: Option<Vec<Value>>) -> ChangeEvent {
    let position = Position::new(Lsn(1), 0);
    let mut event = ChangeEvent::new(position, relation(), Transaction::default(), op);
    let image = |row: Option<Vec<Value>>| {
        row.map_or(Image::Absent, |row| {
            Image::Full(RowImage::from_values(&row))
        })
    };
    event.before = image(before);
    event.after = image(after);
    event
}

fn row(id: i64, name: &str, total: &str) -> Vec<Value> {
    vec![
        Value::Int(id),
        name.into(),
        Value::Decimal(total.into()),
        Value::Float64(0.1),
        Value::TimestampTz(1_795_348_800_000_000), // 2026-11-22T12:00:00Z
        Value::Null,
    ]
}

#[test]
fn an_update() {
    let update = event(
        Op::Update,
        Some(row(7, "ann", "19.90")),
        Some(row(7, "anna", "24.90")),
    );
    for (text, want) in [
        ("op == 'update'", Some(true)),
        ("op != \"update\"", Some(false)),
        ("op in ['insert', 'update',]", Some(true)),
        ("!(op in ['insert'])", Some(true)),
        ("schema == 'public' && table == 'orders'", Some(true)),
        (
            "table.startsWith('ord') && !table.endsWith('x')",
            Some(true),
        ),
        ("op != 'update' || after.total != before.total", Some(true)),
        ("after.total == 24.9", Some(true)),
        ("after.total > 24", Some(true)),
        ("24 < after.total && after.total <= 24.90", Some(true)),
        (
            "after.total > 24.900000000000000000000000000000000001",
            Some(false),
        ),
        ("after.total < -1e3", Some(false)),
        (
            "after.id == 7 && after.id != 8 && after.id >= 7.0",
            Some(true),
        ),
        ("after.id < 99999999999999999999999", Some(true)),
        ("key.id in [1, 7]", Some(true)),
        ("key.name == 'anna'", None), // not a key column
        ("after.price == 0.1", Some(true)),
        ("after.name.contains('nn')", Some(true)),
        ("after.name.endsWith(before.name)", Some(false)),
        ("before.name < after.name", Some(true)),
        ("after.at >= '2026-11-22T14:00:00+02:00'", Some(true)),
        ("after.at > '2026-11-22 12:00:00Z'", Some(false)),
        ("after.at > '2026-11-21'", Some(true)),
        ("'2026-11-21' > after.at", Some(false)),
        ("after.at > 'yesterday'", None),
        ("changed(total)", Some(true)),
        ("changed(id) || changed('odd name')", Some(false)),
        ("has(after.total)", Some(true)),
        ("has(after[\"odd name\"])", Some(true)),
        ("has(after.missing)", Some(false)),
        ("after[\"odd name\"] == null", Some(true)),
        ("after['odd name'] != null", Some(false)),
        ("after['odd name'] > 5", Some(false)),
        ("!(after['odd name'] > 5)", Some(true)),
        ("after['odd name'] == 5", Some(false)),
        ("after['odd name']", Some(false)),
        ("after['odd name'].contains('a')", Some(false)),
        ("after.missing == 1", None),
        ("after.name > 5", None),
        ("after.name", None),
        ("after.missing == 1 && false", Some(false)),
        ("after.missing == 1 || true", Some(true)),
        ("after.missing == 1 || false", None),
        ("!(after.missing == 1)", None),
        ("after.id in [1, null, 'x']", None),
        ("after.id in ['x', 7]", Some(true)),
        ("(((true)))", Some(true)),
        ("true && (after.id) == 7", Some(true)),
        ("'it\\'s' == \"it's\"", Some(true)),
        ("1 == 1.0 && -1 < +1", Some(true)),
    ] {
        let predicate = Predicate::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(predicate.evaluate(&update), want, "{text}");
        assert_eq!(predicate.keep(&update), want != Some(false), "{text}");
    }
}

#[test]
fn absent_and_unavailable_are_unknown() {
    let insert = event(Op::Insert, None, Some(row(7, "ann", "1")));
    let delete = event(Op::Delete, Some(row(7, "ann", "1")), None);
    let mut toast = row(7, "ann", "1");
    toast[1] = Value::Unavailable;
    let partial = event(Op::Update, Some(row(7, "ann", "1")), Some(toast));
    let unkept = event(Op::Update, None, Some(row(7, "ann", "1")));
    let truncate = event(Op::Truncate, None, None);
    for (text, event, want) in [
        ("before.total != after.total", &insert, None),
        (
            "op != 'update' || before.total != after.total",
            &insert,
            Some(true),
        ),
        ("has(before.total)", &insert, Some(false)),
        ("changed(total)", &insert, Some(true)),
        ("after.id > 100", &delete, None),
        ("before.id > 100", &delete, Some(false)),
        ("key.id == 7", &delete, Some(true)),
        ("changed(total)", &delete, Some(true)),
        ("after.name == 'ann'", &partial, None),
        ("after.name == null", &partial, None),
        ("has(after.name)", &partial, Some(false)),
        ("changed(name)", &partial, None),
        ("changed(total)", &unkept, None),
        ("changed(total) || after.id == 1", &truncate, None),
        ("op == 'truncate'", &truncate, Some(true)),
    ] {
        assert_eq!(
            Predicate::parse(text).unwrap().evaluate(event),
            want,
            "{text} on {}",
            event.op
        );
    }
}

#[test]
fn a_damaged_row_is_kept() {
    let mut damaged = event(Op::Insert, None, Some(row(7, "ann", "1")));
    damaged.after = Image::Full(RowImage::from_bytes(vec![6, 0, 4, 1].into()));
    let predicate = Predicate::parse("after.id == 1 || changed(id) && has(after.name)").unwrap();
    assert!(predicate.keep(&damaged));
}

#[test]
fn columns_are_found_again_when_tables_differ() {
    let predicate = Predicate::parse("after.total == 1").unwrap();
    let wide = event(Op::Insert, None, Some(row(7, "ann", "1")));
    let mut narrow = wide.clone();
    let columns = vec![Column::new("total", "int8")];
    narrow.relation = Arc::new(Relation::new(
        EngineKind::Relational,
        "a",
        "b",
        columns,
        vec![],
    ));
    narrow.after = Image::Full(RowImage::from_values(&[Value::Int(2)]));
    for _ in 0..3 {
        assert_eq!(predicate.evaluate(&wide), Some(true));
        assert_eq!(predicate.evaluate(&narrow), Some(false));
    }
    let predicate = Predicate::parse("after.totl == 1 && key.id == 2 || changed(nme)").unwrap();
    assert_eq!(predicate.missing_columns(&relation()), ["nme", "totl"]);
}

#[test]
fn errors_point_at_what_is_wrong() {
    for (text, spot, words) in [
        ("", "", "empty"),
        ("after.total >", "", "the predicate ends"),
        ("after.total = 5", "=", "written `==`"),
        ("after.a == 1 and after.b == 2", "and", "`&&`"),
        ("after.a == 1 & true", "&", "`&&`"),
        ("total > 5", "total", "after.total"),
        ("after > 5", "after", "name a column"),
        (
            "op == 'updated'",
            "op == 'updated'",
            "known are insert, update",
        ),
        ("op in ['update', 'c']", "'c'", "known are"),
        ("op < 'update'", "op < 'update'", "no order"),
        ("op", "op", "not a condition"),
        ("after.a == 1 && 5", "5", "a number is not a condition"),
        (
            "(after.a == 1) == true",
            "(after.a == 1)",
            "cannot be compared",
        ),
        ("!after.a == true", "!after.a", "cannot be compared"),
        ("1 < after.a < 5", "<", "do not chain"),
        (
            "after.a < null",
            "after.a < null",
            "less or greater than null",
        ),
        ("after.a in []", "[]", "empty"),
        ("after.a in 5", "5", "expected `[`"),
        ("after.a.lower('x')", "lower", "startsWith"),
        ("after.a.contains(5)", "5", "a text"),
        ("after.a == 'open", "'open", "not closed"),
        ("after.a == '\\q'", "\\q", "unknown escape"),
        ("after.a == 1.", "1.", "not a number"),
        ("after.a == 1e99999999999", "1e99999999999", "not a number"),
        ("after.a == -b", "-", "no arithmetic"),
        ("after.a == 5 # note", "#", "means nothing"),
        ("changed(after.a)", ".", "alone"),
        ("has(a)", "a", "after.a"),
        ("after.a == 'é' ß", "ß", "expected the end"),
    ] {
        let error = Predicate::parse(text).expect_err(text);
        assert_eq!(&text[error.span.clone()], spot, "{text}: {error}");
        assert!(error.message.contains(words), "{text}: {error}");
    }
}

#[test]
fn size_and_depth_are_bounded() {
    let deep = |n: usize| format!("{}true{}", "(".repeat(n), ")".repeat(n));
    assert!(Predicate::parse(&deep(PREDICATE_DEPTH_MAX)).is_ok());
    assert!(Predicate::parse(&deep(PREDICATE_DEPTH_MAX + 1)).is_err());
    assert!(Predicate::parse(&format!("{}true", "!".repeat(1000))).is_err());
    assert!(Predicate::parse(&" ".repeat(20_000)).is_err());
    // Long chains are flat and do not count as depth.
    let chain = vec!["true"; 1500].join(" && ");
    assert_eq!(
        Predicate::parse(&chain)
            .unwrap()
            .evaluate(&event(Op::Insert, None, None)),
        Some(true)
    );
    let list = |n: usize| format!("after.id in [{}]", vec!["1"; n].join(","));
    assert!(Predicate::parse(&list(1024)).is_ok());
    assert!(Predicate::parse(&list(1025)).is_err());
}

/// A second reading of the language: a tree with its own rendering and its own evaluation on owned
/// values.
#[derive(Clone, Debug)]
enum Tree {
    Compare(&'static str, Side, Side),
    In(Side, Vec<Side>),
    Not(Box<Tree>),
    And(Box<Tree>, Box<Tree>),
    Or(Box<Tree>, Box<Tree>),
}

#[derive(Clone, Debug)]
enum Side {
    Int(i64),
    /// Cents.
    Decimal(i64),
    Text(String),
    Null,
    Column(bool, usize),
}

impl Tree {
    fn text(&self) -> String {
        match self {
            Self::Compare(sign, a, b) => format!("{} {sign} {}", a.text(), b.text()),
            Self::In(a, list) => {
                format!(
                    "{} in [{}]",
                    a.text(),
                    list.iter().map(Side::text).collect::<Vec<_>>().join(", ")
                )
            }
            Self::Not(a) => format!("!({})", a.text()),
            Self::And(a, b) => format!("({}) && ({})", a.text(), b.text()),
            Self::Or(a, b) => format!("({}) || ({})", a.text(), b.text()),
        }
    }

    fn says(&self, before: Option<&[Value]>, after: Option<&[Value]>) -> Option<bool> {
        match self {
            Self::Compare(sign, a, b) => {
                compare(sign, &a.value(before, after)?, &b.value(before, after)?)
            }
            Self::In(a, list) => {
                let a = a.value(before, after)?;
                let mut so_far = Some(false);
                for item in list {
                    let equal = item
                        .value(before, after)
                        .and_then(|item| compare("==", &a, &item));
                    so_far = or(so_far, equal);
                }
                so_far
            }
            Self::Not(a) => a.says(before, after).map(|value| !value),
            Self::And(a, b) => {
                let [a, b] = [a, b].map(|side| side.says(before, after).map(|value| !value));
                or(a, b).map(|value| !value)
            }
            Self::Or(a, b) => or(a.says(before, after), b.says(before, after)),
        }
    }
}

fn or(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    }
}

impl Side {
    fn text(&self) -> String {
        match self {
            Self::Int(n) => n.to_string(),
            Self::Decimal(cents) => decimal(*cents),
            Self::Text(text) => format!("'{text}'"),
            Self::Null => "null".into(),
            Self::Column(true, n) => format!("after[\"{}\"]", COLUMNS[*n]),
            Self::Column(false, n) => format!("before[\"{}\"]", COLUMNS[*n]),
        }
    }

    fn value(&self, before: Option<&[Value]>, after: Option<&[Value]>) -> Option<Value> {
        let value = match self {
            Self::Int(n) => Value::Int(*n),
            Self::Decimal(cents) => Value::Decimal(decimal(*cents)),
            Self::Text(text) => Value::Text(text.clone()),
            Self::Null => Value::Null,
            Self::Column(true, n) => after?[*n].clone(),
            Self::Column(false, n) => before?[*n].clone(),
        };
        (value != Value::Unavailable).then_some(value)
    }
}

fn decimal(cents: i64) -> String {
    format!(
        "{}{}.{:02}",
        if cents < 0 { "-" } else { "" },
        cents.abs() / 100,
        cents.abs() % 100
    )
}

fn cents(value: &Value) -> Option<i128> {
    match value {
        Value::Int(n) => Some(i128::from(*n) * 100),
        Value::UInt(n) => Some(i128::from(*n) * 100),
        Value::Decimal(digits) => digits.replace('.', "").parse().ok(),
        _ => None,
    }
}

fn compare(sign: &str, a: &Value, b: &Value) -> Option<bool> {
    if matches!(a, Value::Null) || matches!(b, Value::Null) {
        let equal = matches!((a, b), (Value::Null, Value::Null));
        return Some(match sign {
            "!=" => !equal,
            "==" | "<=" | ">=" => equal,
            _ => false,
        });
    }
    let ordering = match (a, b) {
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        _ => cents(a)?.cmp(&cents(b)?),
    };
    Some(match sign {
        "==" => ordering.is_eq(),
        "!=" => ordering.is_ne(),
        "<" => ordering.is_lt(),
        "<=" => ordering.is_le(),
        ">" => ordering.is_gt(),
        _ => ordering.is_ge(),
    })
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![
        (-3i64..4).prop_map(Side::Int),
        any::<i64>().prop_map(Side::Int),
        (-300i64..400).prop_map(Side::Decimal),
        "[ab]{0,2}".prop_map(Side::Text),
        Just(Side::Null),
        (any::<bool>(), 0usize..6).prop_map(|(after, n)| Side::Column(after, n)),
        (any::<bool>(), 0usize..6).prop_map(|(after, n)| Side::Column(after, n)),
    ]
}

fn tree() -> impl Strategy<Value = Tree> {
    let signs = prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">="]);
    let literal_null = |side: &Side| matches!(side, Side::Null);
    let leaf = prop_oneof![
        (signs, side(), side()).prop_map(move |(sign, a, b)| {
            let ordered = sign != "==" && sign != "!=";
            let sign = if ordered && (literal_null(&a) || literal_null(&b)) {
                "=="
            } else {
                sign
            };
            Tree::Compare(sign, a, b)
        }),
        (side(), prop::collection::vec(side(), 1..4)).prop_map(|(a, list)| Tree::In(a, list)),
    ];
    leaf.prop_recursive(4, 24, 2, |inner| {
        let pair = (
            inner.clone().prop_map(Box::new),
            inner.clone().prop_map(Box::new),
        );
        prop_oneof![
            inner.prop_map(|a| Tree::Not(Box::new(a))),
            pair.clone().prop_map(|(a, b)| Tree::And(a, b)),
            pair.prop_map(|(a, b)| Tree::Or(a, b)),
        ]
    })
}

fn values() -> impl Strategy<Value = Option<Vec<Value>>> {
    let value = prop_oneof![
        (-3i64..4).prop_map(Value::Int),
        any::<u64>().prop_map(Value::UInt),
        (-300i64..400).prop_map(|c| Value::Decimal(decimal(c))),
        "[ab]{0,2}".prop_map(Value::Text),
        Just(Value::Null),
        Just(Value::Unavailable),
    ];
    prop::option::weighted(0.9, prop::collection::vec(value, 6))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn agrees_with_the_naive_evaluator(tree in tree(), before in values(), after in values()) {
        let want = tree.says(before.as_deref(), after.as_deref());
        let text = tree.text();
        let predicate = Predicate::parse(&text).map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?;
        prop_assert_eq!(predicate.evaluate(&event(Op::Update, before, after)), want, "{}", text);
    }

    #[test]
    fn any_text_is_read_or_refused_with_a_span_inside_it(
        text in prop_oneof![
            "\\PC{0,60}",
            "((after|before|op|in|has|changed|true|null|[().,!<>=&|\\[\\]'\"\\\\-]|[0-9.e]{1,4}|é| ){1,3}){0,20}",
        ],
        row in values(),
    ) {
        match Predicate::parse(&text) {
            Ok(predicate) => { let _ = predicate.keep(&event(Op::Update, row.clone(), row)); }
            Err(error) => prop_assert!(text.get(error.span.clone()).is_some(), "{:?}", error.span),
        }
    }
}
