//! Capture from SQLite databases that the `sqlite3` command writes, in processes of their own.

use std::process::Command;

use serde_json::Value;

use crate::bad::shop::{Running, file_config, lines, refused, until};
use crate::tool::Tool;

/// Runs SQL as somebody else's program does.
#[track_caller]
pub(crate) fn sqlite3(tool: &Tool, file: &str, sql: &str) {
    let run = Command::new("sqlite3")
        .args(["-bail", "-cmd", ".timeout 10000", file, sql])
        .current_dir(tool.directory())
        .output()
        .unwrap_or_else(|error| panic!("sqlite3: {error}: install the package `sqlite3`"));
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{sql}: {said}");
}

fn events(tool: &Tool) -> Vec<Value> {
    let lines = lines(&tool.path("out"));
    let event = |line: &String| serde_json::from_str(line).unwrap();
    lines.iter().map(event).collect()
}

/// Operation, table, and both rows as JSON text.
fn shown(event: &Value) -> String {
    format!(
        "{} {}.{} {} -> {}",
        event["op"].as_str().unwrap(),
        event["schema"].as_str().unwrap(),
        event["table"].as_str().unwrap(),
        event["before"],
        event["after"]
    )
}

#[test]
fn rows_that_are_there_come_first_then_every_change_and_nothing_twice() {
    every_change("pinned");
}

#[test]
fn without_a_lock_every_change_comes_and_nothing_twice() {
    every_change("lock-free");
}

fn every_change(mode: &str) {
    let config = file_config("sqlite:app.db");
    let tool = Tool::with_config(&format!("{config}[cdc.sqlite]\nmode = \"{mode}\"\n"));
    sqlite3(
        &tool,
        "app.db",
        "PRAGMA journal_mode=wal; CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, price REAL); \
         INSERT INTO t VALUES(1, 'one', 1.5), (2, 'two', NULL);",
    );
    let mut run = Running::start(tool.command(&["-q", "run"]));
    until("the rows are read", || {
        (events(&tool).len() == 2).then_some(())
    });
    sqlite3(
        &tool,
        "app.db",
        "BEGIN; UPDATE t SET price = 2 WHERE id = 2; DELETE FROM t WHERE id = 1; \
         INSERT INTO t VALUES(3, 'three', 3); COMMIT;",
    );
    sqlite3(&tool, "app.db", "BEGIN; DELETE FROM t; ROLLBACK;");
    // Whatever the application does with its log: the reader holds what it has not read.
    sqlite3(&tool, "app.db", "PRAGMA wal_checkpoint(TRUNCATE);");
    sqlite3(
        &tool,
        "app.db",
        "INSERT INTO t VALUES(4, x'00ff', 9007199254740993);",
    );
    until("the changes are delivered", || {
        (events(&tool).len() >= 6).then_some(())
    });
    // Stopped and started again: nothing is read twice, and the snapshot is not repeated.
    run.ask_to_stop();
    assert_eq!(run.end().code, 0);
    run = Running::start(tool.command(&["-q", "run"]));
    let state = run.until_status("it runs again", |status| {
        status["source"].as_str().map(str::to_owned)
    });
    assert_eq!(state, "sqlite:app.db");
    sqlite3(&tool, "app.db", "UPDATE t SET id = 5 WHERE id = 4;");
    until("the new key is delivered", || {
        (events(&tool).len() >= 8).then_some(())
    });
    run.ask_to_stop();
    assert_eq!(run.end().code, 0);
    let events = events(&tool);
    let mut texts: Vec<_> = events.iter().map(shown).collect();
    assert_eq!(texts.len(), 8, "{texts:#?}");
    // Net changes of a transaction come table by table; their order within is the reader's.
    texts[2..5].sort();
    texts[6..8].sort();
    let row = |id: i64, name: &str, price: &str| {
        format!("{{\"id\":{id},\"name\":{name},\"price\":{price}}}")
    };
    let one = row(1, "\"one\"", "1.5");
    let big = "9007199254740992.0";
    assert_eq!(
        texts,
        [
            format!("read main.t null -> {one}"),
            format!("read main.t null -> {}", row(2, "\"two\"", "null")),
            format!("delete main.t {one} -> null"),
            format!("insert main.t null -> {}", row(3, "\"three\"", "3.0")),
            format!(
                "update main.t {} -> {}",
                row(2, "\"two\"", "null"),
                row(2, "\"two\"", "2.0")
            ),
            format!("insert main.t null -> {}", row(4, "\"AP8=\"", big)),
            format!("delete main.t {} -> null", row(4, "\"AP8=\"", big)),
            format!("insert main.t null -> {}", row(5, "\"AP8=\"", big)),
        ]
    );
    let position = |event: &Value| {
        let text = event["position"].as_str().unwrap();
        text.parse::<cdc_core::Position>().unwrap()
    };
    assert!(events.is_sorted_by(|a, b| position(a) < position(b)));
    assert!(
        events[2..5]
            .iter()
            .all(|e| e["tx"]["id"] == events[2]["tx"]["id"])
    );
}

/// Programs that come and go leave no log behind: whatever they did while nothing ran is seen, from
/// the very first run on.
#[test]
fn what_passing_programs_write_between_runs_is_seen() {
    let tool = Tool::with_config(&file_config("sqlite:app.db"));
    sqlite3(
        &tool,
        "app.db",
        "PRAGMA journal_mode=wal; CREATE TABLE t(id INTEGER PRIMARY KEY); INSERT INTO t VALUES(1);",
    );
    for id in 1..4 {
        let run = tool.run(&["-q", "run", "--once"]);
        assert_eq!((run.code, run.err.as_str()), (0, ""));
        let ids: Vec<_> = events(&tool)
            .iter()
            .map(|e| e["after"]["id"].as_i64())
            .collect();
        assert_eq!(ids, (1..=id).map(Some).collect::<Vec<_>>());
        // Nothing happened: nothing comes.
        assert_eq!(tool.run(&["-q", "run", "--once"]).code, 0);
        assert_eq!(events(&tool).len() as i64, id);
        let next = id + 1;
        sqlite3(&tool, "app.db", &format!("INSERT INTO t VALUES({next});"));
    }
    // What is remembered is of this file: a look at another says what a start would say.
    assert!(tool.answer(&["check"]).contains("followed before"));
    sqlite3(
        &tool,
        "other.db",
        "PRAGMA journal_mode=wal; CREATE TABLE t(id INTEGER PRIMARY KEY);",
    );
    for command in [&["check"][..], &["run", "--once"]] {
        let run = tool.run(&[command, &["--source", "sqlite:other.db"]].concat());
        assert_eq!(run.code, 5, "{}{}", run.out, run.err);
    }
    tool.write("state/sqlite/sqlite-source", "no state");
    for command in [&["check"][..], &["run", "--once"]] {
        let run = tool.run(command);
        assert_eq!(run.code, 7, "{}{}", run.out, run.err);
    }
}

/// Keeps the files of the source's state, or puts them back: a loss of power does that to what was not
/// synced.
fn copy_state(tool: &Tool, from: &str, to: &str) {
    let (from, to) = (tool.path(from), tool.path(to));
    drop(std::fs::remove_dir_all(&to));
    std::fs::create_dir_all(&to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// The state of the source forgets transactions the journal has: they are taken back, and what the
/// database holds comes instead, a row that is again as it was before included.
#[test]
fn what_a_loss_of_power_leaves_unknown_is_taken_back() {
    for mode in ["pinned", "lock-free"] {
        let config = file_config("sqlite:app.db");
        let tool = Tool::with_config(&format!("{config}[cdc.sqlite]\nmode = \"{mode}\"\n"));
        let once = || {
            let run = tool.run(&["-q", "run", "--once"]);
            assert_eq!(run.code, 0, "{mode}: {}", run.err);
        };
        let write = |sql: &str| sqlite3(&tool, "app.db", sql);
        write(
            "PRAGMA journal_mode=wal; CREATE TABLE t(id INTEGER PRIMARY KEY, x); \
             INSERT INTO t VALUES(1, 'a'), (2, 'b');",
        );
        once();
        copy_state(&tool, "state/sqlite", "kept");
        write("UPDATE t SET x = 'A' WHERE id = 1; INSERT INTO t VALUES(3, 'c');");
        write("DELETE FROM t WHERE id = 2;");
        once();
        copy_state(&tool, "kept", "state/sqlite");
        write(
            "UPDATE t SET x = 'a' WHERE id = 1; DELETE FROM t WHERE id = 3; \
             INSERT INTO t VALUES(4, 'd');",
        );
        once();
        // Applied by key, each change finds the row as it says it was.
        let mut rows = std::collections::BTreeMap::new();
        for event in events(&tool) {
            let id = |row: &Value| row["id"].as_i64().unwrap();
            if event["before"].is_object() {
                let was = rows.remove(&id(&event["before"]));
                assert_eq!(was.as_ref(), Some(&event["before"]), "{mode}: {event}");
            }
            if event["after"].is_object() {
                rows.insert(id(&event["after"]), event["after"].clone());
            }
        }
        let left: Vec<String> = rows.values().map(ToString::to_string).collect();
        let expected = [r#"{"id":1,"x":"a"}"#, r#"{"id":4,"x":"d"}"#];
        assert_eq!(left, expected, "{mode}");
    }
}

#[test]
fn tail_shows_what_commits_from_now_on_and_leaves_nothing_behind() {
    let tool = Tool::new();
    sqlite3(
        &tool,
        "app.db",
        "PRAGMA journal_mode=wal; CREATE TABLE t(id INTEGER PRIMARY KEY, n); INSERT INTO t VALUES(1, 1);",
    );
    let mut run = Running::start(tool.command(&["tail", "sqlite:app.db", "-n", "1", "-o", "json"]));
    // Rows that are there are not shown, so one of many updates is the first it can show.
    let mut n = 1;
    until("it has shown one", || {
        n += 1;
        sqlite3(&tool, "app.db", &format!("UPDATE t SET n = {n};"));
        run.has_ended().then_some(())
    });
    let run = run.end();
    assert_eq!(run.code, 0, "{}", run.err);
    let event: Value = serde_json::from_str(run.out.trim()).unwrap();
    assert_eq!(
        (&event["op"], &event["key"]),
        (&"update".into(), &serde_json::json!({"id": 1}))
    );
    let names: Vec<_> = std::fs::read_dir(tool.directory())
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("app.db"))
        .collect();
    assert_eq!(names, Vec::<String>::new());
}

/// Its copy of the database lies where nobody can foresee it: a place that a killed one left, or
/// that somebody else has prepared, is not used.
#[test]
fn tail_without_a_lock_copies_into_a_new_directory_and_removes_it() {
    let tool = Tool::with_config("[cdc]\nsqlite.mode = \"lock-free\"\n");
    let kept = tool.path("kept");
    std::fs::create_dir(&kept).unwrap();
    sqlite3(
        &tool,
        "app.db",
        "PRAGMA journal_mode=wal; CREATE TABLE t(id INTEGER PRIMARY KEY, n); INSERT INTO t VALUES(1, 1);",
    );
    let binary = env!("CARGO_BIN_EXE_cdc-cli");
    let script = format!(
        "mkdir kept/weftkit-tail-$$; echo 'no state' > kept/weftkit-tail-$$/sqlite-source; exec {binary} tail sqlite:app.db -n 1 -o json"
    );
    let mut tail = Command::new("sh");
    tail.args(["-c", &script])
        .current_dir(tool.directory())
        .env("TMPDIR", &kept);
    let mut run = Running::start(tail);
    let mut n = 1;
    until("it has shown one", || {
        n += 1;
        sqlite3(&tool, "app.db", &format!("UPDATE t SET n = {n};"));
        run.has_ended().then_some(())
    });
    let run = run.end();
    assert_eq!(run.code, 0, "{}", run.err);
    assert!(run.out.contains("\"op\":\"update\""), "{}", run.out);
    let left = std::fs::read_dir(&kept).unwrap().map(|at| at.unwrap());
    let left: Vec<_> = left.map(|at| at.path()).collect();
    assert_eq!(left.len(), 1, "{left:?}");
    let state = std::fs::read_to_string(left[0].join("sqlite-source")).unwrap();
    assert_eq!(state, "no state\n", "what was there is left alone");
}

#[test]
fn what_cannot_be_captured_is_refused_by_name() {
    let tool = Tool::with_config(&file_config("sqlite:app.db"));
    refused(&tool.run(&["run", "--once"]), 4, &["app.db"]);
    sqlite3(&tool, "app.db", "CREATE TABLE t(x);");
    // The rollback journal: named, with the one command that changes it.
    refused(
        &tool.run(&["run", "--once"]),
        3,
        &["app.db", "PRAGMA journal_mode = WAL"],
    );
    let check = tool.run(&["check"]);
    assert_eq!(check.code, 3, "{}", check.out);
    assert!(check.out.contains("journal_mode"), "{}", check.out);
    sqlite3(&tool, "app.db", "PRAGMA journal_mode = WAL;");
    let check = tool.answer(&["check", "--set", "tables=t,custmers"]);
    assert!(
        check.contains("fits no table at the source: custmers")
            && check.contains("there are: main.t"),
        "{check}"
    );
    let look = tool.answer(&["run", "--dry-run", "--set", "tables=t"]);
    assert!(look.contains("tables  main.t"), "{look}");
    assert!(!tool.path("out").exists());
    tool.write("noise.db", &"no database ".repeat(1000));
    refused(
        &tool.run(&["run", "--once", "--source", "sqlite:noise.db"]),
        3,
        &["noise.db"],
    );
}

#[test]
fn both_demonstrations_end_with_counts_that_add_up() {
    for engine in ["sqlite", "embedded"] {
        let tool = Tool::new().variable("PATH", &std::env::var("PATH").unwrap_or_default());
        let run = tool.run(&["demo", "--fast", "--engine", engine]);
        assert_eq!(run.code, 0, "{engine}: {}\n{}", run.out, run.err);
        assert!(
            run.out.contains("Nothing is missing"),
            "{engine}: {}",
            run.out
        );
    }
}
