use super::*;
use cdc_core::Image;
use cdc_core::testing::{insert, row, source};

#[test]
fn updates_show_the_key_and_what_changed() {
    let mut update = insert(7, 1, 42);
    update.op = Op::Update;
    update.before = Image::Full(row(42, "old name", "1.50"));
    update.after = Image::Full(row(42, "new\u{1b}[31m", "1.50"));
    let mut out = String::new();
    let mut pretty = Pretty::new(false);
    pretty
        .event(&source(), &insert(7, 0, 42), &mut out)
        .unwrap();
    pretty.event(&source(), &update, &mut out).unwrap();
    let lines: Vec<_> = out.lines().collect();
    assert!(lines[0].starts_with("── tx 7 · 2026-"), "{out}");
    assert_eq!(
        lines[1],
        "  + insert   public.orders  id=42  name=name  total=1.50"
    );
    assert_eq!(
        lines[2],
        "  ~ update   public.orders  id=42  name=\"old name\" → \"new\\u001b[31m\""
    );
    assert_eq!(lines.len(), 3, "one headline for one transaction: {out}");
}

#[test]
fn long_values_are_cut() {
    let shown = text(&Value::String("x".repeat(500)));
    assert!(shown.ends_with("… (500 characters)"), "{shown}");
    assert!(shown.chars().count() < 110);
}

/// As a terminal gets it, with escapes shown as letters.
fn rendered(events: &[ChangeEvent], kind: SourceKind, colour: bool) -> String {
    let mut info = source().as_ref().clone();
    info.lineage.kind = kind;
    let mut out = String::new();
    let mut pretty = Pretty::new(colour);
    for event in events {
        pretty.event(&info, event, &mut out).unwrap();
    }
    out.replace('\u{1b}', "␛")
}

/// A transaction of each operation, one that stands for several, and a new shape.
fn transactions() -> Vec<ChangeEvent> {
    let meta = |entries: &[(&str, cdc_core::Value)]| {
        let entries = entries.iter().map(|(k, v)| ((*k).into(), v.clone()));
        Some(std::sync::Arc::new(cdc_core::Meta(entries.collect())))
    };
    let text = |text: &str| cdc_core::Value::Text(text.to_owned());
    let mut update = insert(0x2_0000_0010, 1, 41);
    update.op = Op::Update;
    update.before = Image::Full(row(41, "name", "1.25"));
    let mut delete = insert(0x2_0000_0010, 2, 40);
    delete.op = Op::Delete;
    delete.before = std::mem::replace(&mut delete.after, Image::Absent);
    delete.last = true;
    let mut shape = insert(0x2_0000_0014, 0, 0);
    shape.op = Op::Schema;
    shape.after = Image::Absent;
    shape.meta = meta(&[
        ("change", text("alter")),
        ("sql", text("CREATE TABLE orders(\n  id INT,\tname TEXT)")),
        ("was", text("order")),
    ]);
    shape.last = true;
    let mut merged = insert(0x3_0000_0001, 0, 44);
    merged.meta = meta(&[
        ("rowid", cdc_core::Value::Int(9)),
        ("merged", cdc_core::Value::Bool(true)),
    ]);
    merged.last = true;
    vec![insert(0x2_0000_0010, 0, 42), update, delete, shape, merged]
}

#[test]
fn a_terminal_shows_transactions_in_colours_with_what_changed() {
    let shown = rendered(&transactions(), SourceKind::Sqlite, true);
    insta::assert_snapshot!("terminal", shown);
}

#[test]
fn without_colours_it_reads_the_same() {
    let plain = rendered(&transactions(), SourceKind::Sqlite, false);
    insta::assert_snapshot!("plain", plain);
    let colours = rendered(&transactions(), SourceKind::Sqlite, true);
    let mut stripped = String::new();
    for (n, part) in colours.split("␛[").enumerate() {
        let part = if n == 0 {
            part
        } else {
            part.split_once('m').unwrap().1
        };
        stripped.push_str(part);
    }
    assert_eq!(stripped, plain);
}

/// An insert with a number in its JSON that no 64-bit float holds.
fn large_number() -> ChangeEvent {
    let mut event = insert(7, 0, 42);
    let values = [
        cdc_core::Value::Int(42),
        cdc_core::Value::Json("{\"a\":1e400}".into()),
        cdc_core::Value::Null,
    ];
    event.after = Image::Full(cdc_core::RowImage::from_values(&values));
    event
}

#[test]
fn rows_with_numbers_that_do_not_fit_are_shown() {
    let mut out = String::new();
    Pretty::new(false)
        .event(&source(), &large_number(), &mut out)
        .unwrap();
    assert!(out.contains("id=42") && out.contains("1e400"), "{out}");
    assert_eq!(parsed(b"{\"a\""), Value::String("{\"a\"".into()));
}

#[test]
fn letters_with_numbers_that_do_not_fit_are_shown() {
    let dead = DeadLetter {
        emitter: "hook".into(),
        source: source(),
        event: large_number(),
        failure: cdc_core::Failure {
            stage: cdc_core::Stage::Deliver,
            class: "event".into(),
            message: "refused".into(),
            status: None,
            response: None,
        },
        attempts: 1,
        first_failed_micros: 1000,
        last_failed_micros: 1000,
        state: cdc_core::LetterState::Pending,
    };
    let row = letter(&dead, true);
    assert_eq!(row["event_id"], dead.event_id().to_string());
    assert_eq!(row["event"]["after"]["name"]["a"], "1e400");
    let named = letter(&dead, false);
    assert_eq!(named["event"], Value::Null);
    assert_eq!(
        (
            &named["position"],
            &named["op"],
            &named["schema"],
            &named["table"]
        ),
        (
            &row["event"]["position"],
            &row["event"]["op"],
            &row["event"]["schema"],
            &row["event"]["table"]
        )
    );
}
