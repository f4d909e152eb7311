//! What an operator does to a pipeline, running or not: replay, pause, move, verify, redrive.

use serde_json::Value;

use crate::bad::shop::{Running, Shop, delivered, file_config, refused, token, until};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Ids of the events on standard output, in order.
fn printed(out: &str) -> Vec<i64> {
    let events = out.lines().filter(|line| line.starts_with("{\"id\":"));
    events
        .map(|line| json(line)["after"]["id"].as_i64().unwrap())
        .collect()
}

fn queue_config() -> String {
    file_config("wal:wal").replace("emitter = \"file\"", "emitter = \"queue\"")
}

/// A range goes out again, with the same ids, and no position moves.
#[test]
fn a_replay_delivers_a_range_and_moves_nothing() {
    let mut shop = Shop::with_config(&queue_config());
    shop.commit(30);
    let first = shop.tool.run(&["-q", "run", "--once"]);
    assert_eq!((first.code, printed(&first.out)), (0, shop.committed()));
    let stored = token(&shop.tool);
    let position = |id: i64| {
        let line = first.out.lines().nth(usize::try_from(id).unwrap() - 1);
        format!(
            "position:{}",
            json(line.unwrap())["position"].as_str().unwrap()
        )
    };
    let (from, to) = (position(10), position(20));
    let replay = ["-q", "replay", "--emitter", "queue", "--from"];
    let run = |rest: &[&str]| shop.tool.run(&[&replay[..], rest].concat());
    let again = run(&[&from, "--to", &to]);
    assert_eq!(again.code, 0, "{}", again.err);
    assert_eq!(printed(&again.out), shop.committed()[10..20]);
    // Event by event what was delivered before, to the byte.
    for line in again
        .out
        .lines()
        .filter(|line| line.starts_with("{\"id\":"))
    {
        assert!(first.out.contains(line));
    }
    let said = "10 events read, 0 filtered out, 10 delivered";
    assert!(again.err.contains(said), "{}", again.err);
    assert_eq!(again.out.lines().count(), 10, "events and nothing else");
    let machine = run(&[&from, "--to", &to, "-o", "json"]);
    assert_eq!(machine.out, again.out);
    assert_eq!(json(&machine.err)["delivered"], 10);
    assert_eq!(printed(&run(&["time:-1h"]).out), shop.committed());
    let count = run(&["earliest", "--dry-run", "--set", "where=after.id > 25"]);
    assert_eq!(count.out, "queue: 5 of 30 events would be replayed\n");
    assert_eq!(token(&shop.tool), stored, "no checkpoint moved");

    refused(&run(&[&to, "--to", &from]), 2, &["the range is empty"]);
    refused(&run(&["yesterday"]), 2, &["read where to begin"]);
    refused(&run(&["position:FF/0:0"]), 5, &["ahead of the source"]);
    let other = shop
        .tool
        .run(&["replay", "--emitter", "x", "--from", "earliest"]);
    refused(&other, 3, &["there are queue"]);
}

/// While the pipeline runs: its own files stay its own.
#[test]
fn a_replay_to_files_takes_a_directory_of_its_own() {
    let mut shop = Shop::new();
    shop.commit(10);
    let mut run = Running::start(shop.tool.command(&["-q", "run"]));
    run.until_health("running");
    until("all is delivered", || {
        (shop.delivered() == shop.committed()).then_some(())
    });
    let replay = |rest: &[&str]| {
        let start = ["replay", "--emitter", "file", "--from", "earliest"];
        shop.tool.run(&[&start[..], rest].concat())
    };
    refused(&replay(&[]), 2, &["--path"]);
    refused(&replay(&["--path", "out"]), 2, &["is not empty"]);
    let done = replay(&["-q", "--path", "again"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(delivered(&shop.tool.path("again")), shop.committed());
    assert_eq!(shop.delivered(), shop.committed());
    run.ask_to_stop();
    assert_eq!(run.end().code, 0);
}

/// A destination that refuses some: the replay says which, and ends with 8.
#[test]
fn a_replay_names_what_was_refused() {
    let config = file_config("wal:wal")
        .replace("emitter = \"file\"", "emitter = \"custom\"")
        .replace(
            "[cdc.file]\npath = \"out\"",
            "[cdc.custom]\ncommand = [\"sh\", \"consumer.sh\"]",
        );
    let mut shop = Shop::with_config(&config);
    shop.tool.write(
        "consumer.sh",
        r#"while read -r line; do id=$(printf '%s' "$line" | sed 's/^{"id":"\([^"]*\)".*/\1/')
case "$line" in *'"key":{"id":3}'*) printf '{"reject":"%s","reason":"no"}\n' "$id";; *) printf '%s\n' "$id";; esac
done
"#,
    );
    shop.commit(5);
    let run = shop.tool.run(&[
        "-q",
        "replay",
        "--emitter",
        "custom",
        "--from",
        "earliest",
        "-o",
        "json",
    ]);
    assert_eq!(run.code, 8, "{}", run.err);
    let report = json(&run.out);
    assert_eq!(
        (&report["delivered"], &report["failed"], &report["complete"]),
        (&4.into(), &1.into(), &false.into())
    );
    assert!(
        report["failures"][0]["message"]
            .as_str()
            .unwrap()
            .ends_with("no")
    );
    let letters = shop.tool.answer(&["dlq", "stats", "-o", "json"]);
    assert_eq!(
        json(&letters)["letters"],
        0,
        "the dead letters are the lane's"
    );
}

/// A paused emitter gets nothing and holds its place; a moved one goes on from there.
#[test]
fn emitters_are_paused_and_moved_while_they_run() {
    let mut shop = Shop::with_config(&format!(
        "{}[cdc.custom]\ncommand = [\"sh\", \"-c\", \"while read -r l; do printf '%s\\\\n' \\\"$l\\\" >> taken; printf '%s\\\\n' \\\"$l\\\" | sed 's/^{{\\\"id\\\":\\\"\\\\([^\\\"]*\\\\)\\\".*/\\\\1/'; done\"]\n",
        file_config("wal:wal")
            .replace("emitter = \"file\"", "emitter = \"custom\"")
            .replace("[cdc.file]\npath = \"out\"\n", "")
    ));
    shop.commit(5);
    let mut run = Running::start(shop.tool.command(&["-q", "run"]));
    run.until_health("running");
    let taken = || {
        let text = std::fs::read_to_string(shop.tool.path("taken")).unwrap_or_default();
        crate::bad::shop::ids(&text)
    };
    until("five are taken", || {
        (taken() == [1, 2, 3, 4, 5]).then_some(())
    });
    let first = until("they are checkpointed", || {
        let text = shop.tool.answer(&["position", "show", "-o", "json"]);
        let token = json(&text)["checkpoints"][0]["token"].as_str()?.to_owned();
        (taken().len() == 5).then_some(token)
    });
    assert_eq!(
        shop.tool.answer(&["emitter", "pause", "custom"]),
        "custom: paused\n"
    );
    run.until_health("paused");
    let tool = &shop.tool;
    refused(
        &tool.run(&["emitter", "pause", "x"]),
        1,
        &["there is no emitter x"],
    );
    assert_eq!(
        tool.answer(&["emitter", "resume", "custom"]),
        "custom: resumed\n"
    );
    run.until_health("running");
    // Back: everything comes again. Forward needs a yes.
    let moved = tool.answer(&[
        "position",
        "set",
        "--emitter",
        "custom",
        "earliest",
        "-o",
        "json",
    ]);
    assert!(json(&moved)["before"].is_string());
    until("all came again", || {
        (taken() == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]).then_some(())
    });
    let ahead = tool.run(&[
        "position",
        "set",
        "--emitter",
        "custom",
        "position:FF/0:0",
        "--yes",
    ]);
    refused(&ahead, 5, &["ahead of the source"]);
    assert!(first.starts_with("cdc1_"));
    run.ask_to_stop();
    assert_eq!(run.end().code, 0);
    refused(
        &tool.run(&["emitter", "pause", "custom"]),
        1,
        &["none is running there"],
    );
}

/// Files are proven whole, and one changed byte is found.
#[test]
fn files_are_verified() {
    let mut shop = Shop::with_config(
        &file_config("wal:wal")
            .replace("path = \"out\"", "path = \"out\"\nrotate_bytes = \"4KiB\""),
    );
    shop.commit(20);
    shop.delivers();
    let whole = shop.tool.answer(&["verify", "out"]);
    assert!(whole.contains("complete and untouched"), "{whole}");
    let report = json(&shop.tool.answer(&["verify", "out", "-o", "json"]));
    assert_eq!(report["whole"], true);
    assert!(
        report["streams"][0]["files"].as_u64().unwrap() > 2,
        "{report}"
    );
    let mut files: Vec<_> = std::fs::read_dir(shop.tool.path("out"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "ndjson"))
        .collect();
    files.sort();
    let text = std::fs::read_to_string(&files[1]).unwrap();
    std::fs::write(&files[1], text.replacen("xxx", "xyx", 1)).unwrap();
    let changed = shop.tool.run(&["verify", "out"]);
    assert_eq!(changed.code, 8, "{}", changed.out);
    assert!(
        changed.out.contains("NOT as it was written"),
        "{}",
        changed.out
    );
    refused(
        &shop.tool.run(&["verify", "state"]),
        2,
        &["holds no files of a file emitter"],
    );
    refused(
        &shop.tool.run(&["verify", "nowhere"]),
        1,
        &["name a directory"],
    );
}

/// A new emitter begins in the past, from what is retained.
#[test]
fn a_new_emitter_begins_at_a_time_or_a_position() {
    let mut shop = Shop::with_config(&queue_config());
    shop.commit(10);
    let begin = |from: &str, state: &str| {
        let set = format!("state_path={state}");
        let run = shop
            .tool
            .run(&["-q", "run", "--once", "--from", from, "--set", &set]);
        assert_eq!(run.code, 0, "{}", run.err);
        run.out
    };
    let all = begin("time:-1h", "a");
    assert_eq!(printed(&all), shop.committed());
    let fifth = json(all.lines().nth(4).unwrap());
    let from = format!("position:{}", fifth["position"].as_str().unwrap());
    assert_eq!(printed(&begin(&from, "b")), shop.committed()[5..]);
    assert_eq!(printed(&begin("latest", "c")), [0; 0]);
    let run = shop.tool.run(&["run", "--once", "--from", "time:soon"]);
    refused(&run, 2, &["RFC 3339"]);
}

/// A look: what would be delivered, what would stop it, and nothing changed.
#[test]
fn a_dry_run_says_what_would_be_delivered_and_changes_nothing() {
    let mut shop = Shop::new();
    shop.commit(5);
    let look = |more: &[&str]| {
        let run = shop
            .tool
            .run(&[&["run", "--dry-run", "-o", "json"], more].concat());
        (run.code, json(&run.out))
    };
    let (code, first) = look(&["--set", "where=after.id > 3"]);
    assert_eq!(code, 0, "{first}");
    let emitter = &first["emitters"][0];
    assert_eq!(
        (&emitter["captured_events"], &emitter["kept_events"]),
        (&5.into(), &2.into())
    );
    for path in ["state", "out", "dlq"] {
        assert!(!shop.tool.path(path).exists(), "{path}");
    }
    shop.delivers();
    let before = token(&shop.tool);
    let (_, second) = look(&[]);
    assert_eq!(second["emitters"][0]["captured_events"], 0);
    let text = shop.tool.answer(&["run", "--dry-run"]);
    assert!(
        text.contains("up to date") && text.contains("nothing was changed"),
        "{text}"
    );
    assert_eq!(token(&shop.tool), before);
    assert_eq!(shop.delivered(), shop.committed());
    refused(
        &shop.tool.run(&["run", "--dry-run", "--from", "time:soon"]),
        2,
        &["RFC 3339"],
    );
    assert_eq!(shop.tool.run(&["run", "--dry-run", "--once"]).code, 2);

    // Ahead of the log: `check` foresees it.
    let at = json(&shop.tool.answer(&["position", "show", "-o", "json"]));
    let far = at["checkpoints"][0]["position"]
        .as_str()
        .unwrap()
        .replacen("0/", "7/", 1);
    let away = |from: &str, to: &str| {
        std::fs::rename(shop.tool.path(from), shop.tool.path(to)).unwrap();
    };
    away("wal", "away");
    shop.tool
        .answer(&["position", "set", "--emitter", "file", &far, "--yes"]);
    away("away", "wal");
    for arguments in [&["check"][..], &["run", "--dry-run"]] {
        let run = shop.tool.run(arguments);
        assert_eq!(run.code, 5, "{}", run.out);
        assert!(run.out.contains("ahead of the source"), "{}", run.out);
    }
    std::fs::write(shop.tool.path("state/checkpoints"), "x").unwrap();
    let run = shop.tool.run(&["check"]);
    assert_eq!(run.code, 7, "{}", run.out);
    assert!(run.out.contains("read checkpoints"), "{}", run.out);
}

/// Large integers are strings unless the reader is known to keep them whole.
#[test]
fn numbers_are_written_as_configured() {
    let mut shop = Shop::with_config(&queue_config());
    shop.write(&[(1 << 60, "x")]);
    let printed = |more: &[&str]| {
        let run = shop.tool.run(
            &[
                &[
                    "-q",
                    "run",
                    "--once",
                    "--set",
                    &format!("state_path={}", more.len()),
                ][..],
                more,
            ]
            .concat(),
        );
        assert_eq!(run.code, 0, "{}", run.err);
        json(run.out.lines().next().unwrap())["after"]["id"].clone()
    };
    assert_eq!(printed(&[]), "1152921504606846976");
    assert_eq!(
        printed(&["--set", "numbers=plain"]),
        1_152_921_504_606_846_976i64
    );
}
