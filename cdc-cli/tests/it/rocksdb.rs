//! Capture from a RocksDB database that the `ldb` command writes, a process a change.

use std::process::Command;

use serde_json::Value;

use crate::bad::shop::{Running, file_config, lines, until};
use crate::tool::Tool;

/// Puts an entry. `ldb` keeps no log files: when it opens the database it puts what is in the log into
/// tables and deletes the file.
#[track_caller]
fn put(tool: &Tool, key: &str, value: &str) {
    let run = Command::new("ldb")
        .args(["--db=store", "--create_if_missing", "put", key, value])
        .current_dir(tool.directory())
        .output()
        .unwrap_or_else(|error| panic!("ldb: {error}: install the package `rocksdb-tools`"));
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{key}: {said}");
}

fn keys(tool: &Tool) -> Vec<String> {
    let key = |line: &String| {
        let event: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(event["source"]["kind"], "rocksdb");
        assert_eq!(
            (&event["schema"], &event["table"]),
            (&"store".into(), &"default".into())
        );
        event["key"]["key"].as_str().expect("base64").to_owned()
    };
    lines(&tool.path("out")).iter().map(key).collect()
}

#[test]
fn changes_are_captured_over_a_restart_and_a_deleted_log_is_a_gap() {
    let tool = Tool::with_config(&file_config("rocksdb:store"));
    // Base64 in events: bytes need not be text.
    put(&tool, "before", "1");
    let mut run = Running::start(tool.command(&["-q", "run"]));
    let state = run.until_status("it runs", |status| {
        status["source"].as_str().map(str::to_owned)
    });
    assert_eq!(state, "rocksdb:store");
    put(&tool, "b", "2");
    until("the change is delivered", || {
        (keys(&tool).len() == 1).then_some(())
    });
    run.ask_to_stop();
    assert_eq!(run.end().code, 0);
    put(&tool, "c", "3");
    let once = tool.run(&["-q", "run", "--once"]);
    assert_eq!(once.code, 0, "{}", once.err);
    assert_eq!(keys(&tool), ["Yg==", "Yw=="]);
    // The second one deletes the file of the first.
    put(&tool, "d", "4");
    put(&tool, "e", "5");
    let gap = tool.run(&["-q", "run", "--once"]);
    assert_eq!(gap.code, 5, "{}", gap.err);
    assert!(gap.err.contains("WAL_ttl_seconds"), "{}", gap.err);
    let check = tool.run(&["check"]);
    assert_eq!(check.code, 3, "{}", check.out);
    assert!(check.out.contains("WAL_ttl_seconds"), "{}", check.out);
    let accepted = tool.run(&["-q", "run", "--once", "--accept-gap"]);
    assert_eq!(accepted.code, 0, "{}", accepted.err);
    let lines = lines(&tool.path("out"));
    assert!(
        lines[2].contains("weftkit.cdc.gap") && lines[3].contains("\"ZQ==\""),
        "{lines:#?}"
    );
    let tail = tool.run(&[
        "-q",
        "tail",
        "rocksdb:store",
        "--earliest",
        "--count",
        "1",
        "-o",
        "json",
    ]);
    assert!(tail.out.contains("\"ZQ==\""), "{}{}", tail.out, tail.err);
}
