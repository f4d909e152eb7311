//! `wal info | dump` of a log that is whole; damage is in `bad/logs.rs`.

use cdc_core::{Column, EngineKind, Position, Relation, RowImage, Value};
use cdc_wal::{Log, LogConfig};
use serde_json::Value as Json;
use std::sync::Arc;

use crate::tool::Tool;

/// A log of two commits and a cursor, closed.
fn log() -> (Tool, Position) {
    let tool = Tool::new();
    let columns = vec![Column::new("id", "int8"), Column::new("name", "text")];
    let people = Relation::new(EngineKind::Relational, "public", "people", columns, vec![0]);
    let people = Arc::new(people);
    let log = Log::open(LogConfig {
        segment_bytes: 64 << 10,
        ..LogConfig::new(tool.path("wal"))
    });
    let log = log.unwrap();
    let mut first = None;
    for (id, name) in [(1, "ann"), (2, "bob")] {
        let mut tx = log.begin(7);
        let row = RowImage::from_values(&[Value::Int(id), Value::Text(name.into())]);
        tx.insert(&people, &row).unwrap();
        let end = tx.commit().unwrap();
        first.get_or_insert(end);
    }
    log.register_cursor("search", first.unwrap()).unwrap();
    (tool, first.unwrap())
}

fn json(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn info_says_whose_log_it_is_how_large_and_who_holds_it() {
    let (tool, first) = log();
    let text = tool.answer(&["wal", "info", "wal"]);
    for part in [
        "wal (wal), database wal",
        "1 of 64.0 KiB, 4.2 KiB used",
        &format!("cursor search  {first}\n"),
        "3 frames, 2 commits, 2 events, 1 relations",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let info = json(&tool.answer(&["wal", "info", "wal", "-o", "json"]));
    assert_eq!(info["cursors"][0]["name"], "search");
    assert_eq!(info["cursors"][0]["position"], first.to_string());
    assert_eq!(info["segment_bytes"], 64 << 10);
    assert_eq!(info["kind"], "wal");
    assert!(info["lineage"].as_str().unwrap().starts_with("wal-"));
}

#[test]
fn rows_are_dumped_when_asked_for_and_json_stays_json() {
    let (tool, _) = log();
    let plain = tool.answer(&["wal", "dump", "wal"]);
    assert!(!plain.contains("ann"), "{plain}");
    let text = tool.answer(&["wal", "dump", "wal", "--rows"]);
    assert!(text.contains("insert public.people  before absent  after full(1, ann)"));
    let lines = tool.answer(&["wal", "dump", "wal", "--rows", "-o", "json"]);
    let lines: Vec<Json> = lines.lines().map(json).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["rows"], Json::Array(Vec::new()));
    assert_eq!(lines[2]["rows"][0]["op"], "insert");
    assert_eq!(lines[2]["rows"][0]["after"], "full(2, bob)");
    let plain = tool.answer(&["wal", "dump", "wal", "-o", "json", "--limit", "2"]);
    assert!(
        plain
            .lines()
            .map(json)
            .all(|line| line.get("rows").is_none())
    );
}

#[test]
fn a_place_where_nothing_begins_is_not_called_damaged() {
    let (tool, _) = log();
    let first = json(
        tool.answer(&["wal", "dump", "wal", "-o", "json"])
            .lines()
            .next()
            .unwrap(),
    );
    let first = first["lsn"].as_str().unwrap();
    let middle = format!("{}8", &first[..first.len() - 1]);
    let run = tool.run(&["wal", "dump", "wal", "--from", &middle]);
    assert_eq!((run.code, run.out.as_str()), (2, ""), "{}", run.err);
    assert!(
        run.err.contains(&format!("no frame begins at {middle}")),
        "{}",
        run.err
    );
    assert!(!run.err.contains("damaged"), "{}", run.err);
}

#[test]
fn a_repair_of_nothing_says_so_as_the_other_commands_do() {
    let tool = Tool::new();
    std::fs::create_dir(tool.path("empty")).unwrap();
    for command in [
        &["info"][..],
        &["dump"],
        &["verify"],
        &["repair"],
        &["repair", "--apply"],
    ] {
        for name in ["empty", "missing"] {
            let run = tool.run(&[&["wal"][..], command, &[name]].concat());
            assert_eq!(run.code, 4, "{command:?} {name}: {}", run.err);
            assert!(run.err.contains("there is none"), "{}", run.err);
        }
    }
    assert_eq!(std::fs::read_dir(tool.path("empty")).unwrap().count(), 0);
}
