//! Letters whose rows hold JSON that common parsers refuse: found by their key, and imported.

use std::io::Cursor;
use std::sync::Arc;

use cdc_core::testing::sim_storage::SimStorage;
use cdc_core::{Column, DeadLetter, DeadLetterQueue, Image, Relation, RowImage, Value};
use cdc_dlq::{LetterFilter, letter_line, parse_line};

use crate::sample::{letter, open};

/// A letter of row 7 with this JSON in a column of it.
fn with_json(commit: u64, json: &str) -> DeadLetter {
    let mut letter = letter("a", commit);
    let relation = Relation::new(
        letter.event.relation.engine,
        "public",
        "orders",
        vec![Column::new("id", "int8"), Column::new("doc", "json")],
        vec![0],
    );
    letter.event.relation = Arc::new(relation);
    let values = [Value::Int(7), Value::Json(json.into())];
    letter.event.after = Image::Full(RowImage::from_values(&values));
    letter
}

fn line(letter: &DeadLetter) -> String {
    let mut line = Vec::new();
    letter_line(letter, &mut line).unwrap();
    String::from_utf8(line).unwrap()
}

const HARD: [&str; 4] = [
    "{\"a\":\"\\ud83d\"}",
    "\"\\ude00\"",
    "{\"a\":1e400}",
    "[1e400,\"\\ud83d\",\"\\ud83d\\ude00\"]",
];

fn long() -> String {
    format!("[{}]", "9".repeat(401))
}

#[test]
fn letters_of_any_json_are_exported_and_imported() {
    let long = long();
    let letters: Vec<_> = (1..)
        .zip(HARD.into_iter().chain([&*long]))
        .map(|(commit, json)| with_json(commit, json))
        .collect();
    let mut dlq = open(&SimStorage::new());
    dlq.append(&letters).unwrap();
    let mut lines = Vec::new();
    let all = LetterFilter::default();
    assert_eq!(dlq.reader().export(&all, &mut lines).unwrap(), 5);
    let mut other = open(&SimStorage::new());
    let done = other.import(&mut Cursor::new(&lines), false, |_| Ok(()));
    assert_eq!(done.unwrap().taken, 5);
    for letter in &letters {
        let read = other.reader().get("a", letter.event_id()).unwrap().unwrap();
        assert_eq!(read.event, letter.event);
    }
}

#[test]
fn lines_that_hold_half_a_surrogate_pair_are_imported() {
    // As versions before wrote them: the JSON as it is.
    for json in HARD {
        let letter = with_json(1, json);
        let quoted = serde_json::to_string(json).unwrap();
        let before = line(&letter).replacen(&quoted, json, 1);
        assert!(before.contains(&format!("\"doc\":{json}")), "{before}");
        let read = parse_line(before.as_bytes()).unwrap();
        assert_eq!(read.event, letter.event);
    }
}

#[test]
fn an_edit_is_noticed_beside_them() {
    for json in HARD.into_iter().chain([&*long()]) {
        let whole = line(&with_json(1, json));
        for (from, to, name) in [
            ("\"id\":7", "\"id\":8", "event"),
            ("\"attempts\":1", "\"attempts\":2", "attempts"),
        ] {
            let edited = whole.replacen(from, to, 1);
            assert_ne!(edited, whole);
            let error = parse_line(edited.as_bytes()).unwrap_err();
            let words = format!("`{name}` does not say what `record` says");
            assert!(error.contains(&words), "{json}: {error}");
        }
        let cut = parse_line(&whole.as_bytes()[..whole.len() - 5]).unwrap_err();
        assert!(cut.contains("not one whole JSON object"), "{cut}");
    }
}

#[test]
fn they_are_found_by_their_key() {
    let long = long();
    for json in HARD.into_iter().chain([&*long]) {
        let mut letter = with_json(1, json);
        let matches = |letter: &DeadLetter, key: &str| {
            let key: cdc_dlq::KeyFilter = key.parse().unwrap();
            key.matches(&letter.source, &letter.event)
        };
        assert!(matches(&letter, "7"), "{json}");
        assert!(matches(&letter, "id=7"), "{json}");
        assert!(!matches(&letter, "8"), "{json}");
        // Without a key, by any column, this one among them.
        let mut relation = letter.event.relation.as_ref().clone();
        relation.key.clear();
        letter.event.relation = Arc::new(relation);
        assert!(matches(&letter, "id=7"), "{json}");
    }
    let mut number = with_json(1, "1e400");
    let mut relation = number.event.relation.as_ref().clone();
    relation.key = vec![1];
    number.event.relation = Arc::new(relation);
    for key in ["1e400", "doc=1e400", "{\"doc\":1e400}"] {
        let key: cdc_dlq::KeyFilter = key.parse().unwrap();
        assert!(key.matches(&number.source, &number.event));
    }
}
