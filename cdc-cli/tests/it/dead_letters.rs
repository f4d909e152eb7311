//! Dead letters, from the command line: picked, shown, sent again in order, given up, taken elsewhere.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bad::shop::{Running, Shop, file_config, refused, until};
use crate::tool::Run;

/// A consumer that rejects the texts in the file `reject`, and writes down what it takes.
const CONSUMER: &str = r#"touch reject
while read -r line; do
id=$(printf '%s' "$line" | sed 's/^{"id":"\([^"]*\)".*/\1/')
text=$(printf '%s' "$line" | sed 's/.*"after":{"id":\([0-9]*\),"text":"\([^"]*\)".*/\1\2/')
if grep -q "^$text$" reject; then printf '{"reject":"%s","reason":"no"}\n' "$id"
else printf '%s\n' "$text" >> taken; printf '%s\n' "$id"; fi
done
"#;

fn shop() -> Shop {
    let config = file_config("wal:wal")
        .replace("emitter = \"file\"", "emitter = \"custom\"")
        .replace(
            "[cdc.file]\npath = \"out\"",
            "[cdc.custom]\ncommand = [\"sh\", \"consumer.sh\"]",
        )
        // The consumer takes what stands behind a rejected event in the same batch.
        .replace("[cdc]\n", "[cdc]\nbatch_size = 1\n");
    let shop = Shop::with_config(&config);
    shop.tool.write("consumer.sh", CONSUMER);
    shop
}

/// Rows 1 and 2, three times each; what row 1 was first and row 2 second is rejected.
pub(crate) fn poisoned() -> Shop {
    let mut shop = shop();
    shop.tool.write("reject", "1a\n2b\n");
    shop.write(&[
        (1, "a"),
        (2, "a"),
        (1, "b"),
        (2, "b"),
        (1, "c"),
        (2, "c"),
        (3, "a"),
    ]);
    shop.delivers();
    assert_eq!(taken(&shop), ["2a", "3a"]);
    shop
}

pub(crate) fn taken(shop: &Shop) -> Vec<String> {
    let text = std::fs::read_to_string(shop.tool.path("taken")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

pub(crate) fn dlq(shop: &Shop, arguments: &[&str]) -> Run {
    shop.tool.run(&[&["-q", "dlq"][..], arguments].concat())
}

#[track_caller]
pub(crate) fn answer(shop: &Shop, arguments: &[&str]) -> String {
    let run = dlq(shop, arguments);
    assert_eq!((run.code, run.err.as_str()), (0, ""), "{arguments:?}");
    run.out
}

/// States and rows of the letters that are picked, as `dlq ls` has them.
fn listed(shop: &Shop, selection: &[&str]) -> Vec<String> {
    let out = answer(shop, &[&["ls", "-o", "json"], selection].concat());
    let letters = json(&out)["letters"].as_array().unwrap().clone();
    let of = |letter: &Value| {
        let shown = answer(
            shop,
            &["show", letter["event_id"].as_str().unwrap(), "-o", "json"],
        );
        let after = &json(&shown)["event"]["after"];
        format!(
            "{}{} {}",
            after["id"],
            after["text"].as_str().unwrap(),
            letter["state"].as_str().unwrap()
        )
    };
    letters.iter().map(of).collect()
}

#[test]
fn letters_are_picked_by_row_table_state_class_and_time() {
    let shop = poisoned();
    let all = [
        "1a pending",
        "1b parked",
        "2b pending",
        "1c parked",
        "2c parked",
    ];
    assert_eq!(listed(&shop, &[]), all);
    for (selection, found) in [
        (
            &["--key", "1"][..],
            &["1a pending", "1b parked", "1c parked"][..],
        ),
        (&["--key", "id=2"], &["2b pending", "2c parked"]),
        (
            &["--key", "{\"id\":2}", "--state", "parked"],
            &["2c parked"],
        ),
        (&["--key", "9"], &[]),
        (
            &["--table", "t", "--state", "pending"],
            &["1a pending", "2b pending"],
        ),
        (
            &["--table", "public.t", "--key", "2"],
            &["2b pending", "2c parked"],
        ),
        (&["--table", "other.t"], &[]),
        (&["--emitter", "custom"], &all),
        (&["--emitter", "x"], &[]),
        (
            &["--class", "parked"],
            &["1b parked", "1c parked", "2c parked"],
        ),
        (&["--since", "-1h"], &all),
        (&["--since", "2100-01-01T00:00:00Z"], &[]),
        (&["--until", "-1h"], &[]),
        (&["--until", "2100-01-01T00:00:00Z"], &all),
        (&["--limit", "2"], &all[..2]),
    ] {
        assert_eq!(listed(&shop, selection), found, "{selection:?}");
    }
    let more = answer(&shop, &["ls", "--limit", "2"]);
    assert!(more.ends_with("and more; 5 in all\n"), "{more}");
    for command in ["ls", "show"] {
        let typo = answer(&shop, &[command, "--emitter", "costum"]);
        assert_eq!(typo, "no dead letter is selected; open are 5 of custom\n");
    }
    let shown = answer(&shop, &["show", "--key", "2", "--state", "pending"]);
    assert!(
        shown.contains("\"text\": \"b\"") && shown.contains("message"),
        "{shown}"
    );
    for (arguments, words) in [
        (&["ls", "--key", ""][..], "the key is empty"),
        (&["ls", "--key", "{"], "no JSON object"),
        (
            &["ls", "--state", "dead"],
            "there are pending, parked and redriving",
        ),
        (&["ls", "--since", "soon"], "RFC 3339"),
        (&["show", "x"], "event id"),
        (
            &["show", "5a5a5a5a5a5a5a5a-0000000000000001-00000000"],
            "none that is open",
        ),
    ] {
        refused(&dlq(&shop, arguments), 2, &[words]);
    }
    // clap's own words.
    assert_eq!(dlq(&shop, &["show"]).code, 2);
    assert_eq!(dlq(&shop, &["redrive", "--rate", "0"]).code, 2);
}

#[test]
fn a_dry_run_changes_nothing_and_a_redrive_keeps_order() {
    let shop = poisoned();
    let before = answer(&shop, &["export"]);
    assert_eq!(
        answer(&shop, &["redrive", "--dry-run"]),
        "custom: 5 would be redriven\n"
    );
    let picked = answer(&shop, &["redrive", "--key", "2", "--dry-run", "-o", "json"]);
    assert_eq!(json(&picked)["letters"]["custom"], 2);
    refused(&dlq(&shop, &["discard", "--key", "1"]), 2, &["--yes"]);
    assert_eq!(answer(&shop, &["export"]), before);

    // What waits does not pass what it waits for, even when only that is picked.
    shop.tool.write("reject", "2b\n");
    assert_eq!(
        answer(&shop, &["redrive", "--state", "parked", "--key", "1"]),
        "custom: 0 delivered, 0 failed again, 2 left alone\n"
    );
    let run = dlq(&shop, &["redrive"]);
    assert_eq!((run.code, run.err.as_str()), (8, ""));
    assert_eq!(
        run.out,
        "custom: 3 delivered, 1 failed again, 1 left alone\n"
    );
    assert_eq!(taken(&shop), ["2a", "3a", "1a", "1b", "1c"]);
    shop.tool.write("reject", "");
    let begun = Instant::now();
    let done = answer(&shop, &["redrive", "--rate", "1", "-o", "json"]);
    assert_eq!(json(&done)["redriven"]["custom"]["delivered"], 2);
    assert!(begun.elapsed() >= Duration::from_secs(1), "one a second");
    assert_eq!(taken(&shop)[5..], ["2b", "2c"]);
    assert_eq!(answer(&shop, &["redrive"]), "no dead letters\n");
    assert_eq!(
        answer(&shop, &["redrive", "--emitter", "custom"]),
        "no dead letters\n"
    );
    for command in [&["redrive"][..], &["discard", "--yes"]] {
        let run = dlq(&shop, &[command, &["--emitter", "costum"]].concat());
        assert_eq!(run.code, 2, "{}", run.err);
        assert!(run.err.contains("only custom"), "{}", run.err);
    }
    assert_eq!(answer(&shop, &["ls"]), "no dead letters\n");
}

/// Events of a row that come while its letters wait go behind them, also when the redrive is of a
/// running pipeline; `status` answers meanwhile.
#[test]
fn a_running_pipeline_redrives_in_order_too() {
    let mut shop = poisoned();
    let mut run = Running::start(shop.tool.command(&["-q", "run"]));
    run.until_health("running");
    shop.write(&[(1, "d"), (3, "b")]);
    until("row 3 went on", || {
        taken(&shop).contains(&"3b".to_owned()).then_some(())
    });
    // Letters of what waits are stored together, a moment later.
    until("row 1 waits", || {
        (listed(&shop, &["--key", "1"]).len() == 4).then_some(())
    });
    shop.tool.write("reject", "");
    assert_eq!(
        answer(&shop, &["redrive"]),
        "custom: 6 delivered, 0 failed again, 0 left alone\n"
    );
    assert_eq!(
        taken(&shop),
        ["2a", "3a", "3b", "1a", "1b", "2b", "1c", "2c", "1d"]
    );
    shop.write(&[(1, "e")]);
    until("row 1 is free", || {
        taken(&shop).contains(&"1e".to_owned()).then_some(())
    });
    run.ask_to_stop();
    assert_eq!(run.end().code, 0);
}

#[test]
fn letters_go_out_and_come_back_in_order() {
    let shop = poisoned();
    let said = answer(&shop, &["export", "--to", "letters.ndjson"]);
    assert_eq!(said, "letters.ndjson: 5 letters\n");
    let lines = std::fs::read_to_string(shop.tool.path("letters.ndjson")).unwrap();
    assert_eq!(lines, answer(&shop, &["export"]));
    refused(
        &dlq(&shop, &["export", "--to", "letters.ndjson"]),
        1,
        &["not there yet"],
    );
    assert_eq!(
        answer(&shop, &["import", "letters.ndjson"]),
        "5 letters read, 0 imported, 5 known already\n"
    );
    let gone = answer(&shop, &["discard", "--emitter", "custom", "--yes"]);
    assert_eq!(gone, "custom: 5 discarded\n");

    // One edited line: nothing.
    let edited = lines.replacen("\"text\":\"c\"", "\"text\":\"C\"", 1);
    shop.tool.write("edited.ndjson", &edited);
    let run = dlq(&shop, &["import", "edited.ndjson"]);
    refused(
        &run,
        2,
        &["nothing was imported", "line 4", "`event`", "edit none"],
    );
    shop.tool.write("cut.ndjson", &lines[..lines.len() - 9]);
    refused(
        &dlq(&shop, &["import", "cut.ndjson"]),
        2,
        &["line 5", "one whole JSON object"],
    );
    refused(&dlq(&shop, &["import", "nowhere"]), 2, &["nowhere"]);
    assert_eq!(listed(&shop, &[]), [""; 0]);
    let looked = answer(
        &shop,
        &["import", "letters.ndjson", "--dry-run", "-o", "json"],
    );
    assert_eq!(
        (&json(&looked)["imported"], &json(&looked)["dry_run"]),
        (&5.into(), &true.into())
    );
    assert_eq!(listed(&shop, &[]), [""; 0]);

    // Whatever the order of the lines, through a pipe.
    let mut reversed: Vec<_> = lines.lines().rev().collect();
    reversed.push("");
    let mut import = shop
        .tool
        .command(&["dlq", "import", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = import.stdin.take().unwrap();
    pipe.write_all(reversed.join("\n").as_bytes()).unwrap();
    drop(pipe);
    let out = import.wait_with_output().unwrap();
    assert_eq!(
        String::from_utf8(out.stdout).unwrap(),
        "5 letters read, 5 imported, 0 known already\n"
    );
    assert_eq!(
        answer(&shop, &["export"]),
        lines,
        "as they were, to the byte"
    );

    // What comes to a row with letters waits behind them, since they are back.
    let mut shop = shop;
    shop.write(&[(1, "d")]);
    shop.delivers();
    let running = Running::start(shop.tool.command(&["run"]));
    let mut running = running;
    running.until_health("running");
    refused(
        &dlq(&shop, &["import", "letters.ndjson"]),
        7,
        &["another process is using it"],
    );
    running.ask_to_stop();
    assert_eq!(running.end().code, 0);
    shop.tool.write("reject", "");
    answer(&shop, &["redrive"]);
    assert_eq!(taken(&shop)[2..], ["1a", "1b", "2b", "1c", "2c", "1d"]);
}

#[test]
fn letters_of_another_source_or_emitter_are_told_apart() {
    let shop = poisoned();
    let lines = answer(&shop, &["export"]);
    let other = poisoned();
    other.tool.write("letters.ndjson", &lines);
    refused(
        &dlq(&other, &["import", "letters.ndjson"]),
        2,
        &["line 1", "comes from source", "import it where it belongs"],
    );
    // Without a checkpoint there is nothing to contradict.
    let fresh = self::shop();
    fresh.tool.write("letters.ndjson", &lines);
    fresh.tool.write(
        "cdc.toml",
        &std::fs::read_to_string(fresh.tool.path("cdc.toml"))
            .unwrap()
            .replace("emitter = \"custom\"", "emitter = \"queue\""),
    );
    let said = answer(&fresh, &["import", "letters.ndjson"]);
    assert!(
        said.contains("5 imported") && said.contains("emitter custom, which is not configured"),
        "{said}"
    );
    refused(&dlq(&fresh, &["redrive"]), 3, &["no emitter of this name"]);
}

/// Who reads the events of a redrive from a pipe finds nothing else among them.
#[test]
fn a_redrive_to_standard_output_reports_beside_it() {
    let shop = poisoned();
    let config = std::fs::read_to_string(shop.tool.path("cdc.toml")).unwrap();
    let config = config.replace("emitter = \"custom\"\n", "").replace(
        "[cdc.custom]\ncommand = [\"sh\", \"consumer.sh\"]",
        "[[cdc.emitters]]\nname = \"custom\"\nemitter = \"queue\"",
    );
    shop.tool.write("cdc.toml", &config);
    let run = dlq(&shop, &["-q", "redrive"]);
    assert_eq!(run.code, 0, "{}", run.err);
    let sent: Vec<Value> = run.out.lines().map(json).collect();
    let ids: Vec<_> = sent.iter().map(|event| &event["after"]["id"]).collect();
    assert_eq!(ids, [1, 1, 2, 1, 2]);
    assert_eq!(
        run.err,
        "custom: 5 delivered, 0 failed again, 0 left alone\n"
    );
    let run = dlq(&shop, &["redrive"]);
    assert_eq!(run.out, "no dead letters\n");
}

/// At the bound the stream waits, loudly; giving letters up makes room.
#[test]
fn a_full_queue_holds_the_emitter_until_there_is_room() {
    let mut shop = shop();
    let text = "x".repeat(900);
    let rows: Vec<(i64, &str)> = (1..=6).map(|id| (id, text.as_str())).collect();
    let rejected: String = rows
        .iter()
        .map(|(id, text)| format!("{id}{text}\n"))
        .collect();
    shop.tool.write("reject", &rejected);
    shop.write(&rows);
    for (bound, key) in [("4KiB", "dlq_bytes_max"), ("4", "dlq_letters_max")] {
        let set = format!("{key}={bound}");
        let mut run = Running::start(shop.tool.command(&["-q", "run", "--set", &set]));
        let reason = run.until_status("it waits", |status| {
            let reason = status["lanes"][0]["reason"].as_str()?;
            reason.contains(key).then(|| reason.to_owned())
        });
        assert!(reason.contains("dead letter queue"), "{reason}");
        let kept = listed(&shop, &[]).len();
        assert!((1..6).contains(&kept), "{kept}");
        if key == "dlq_bytes_max" {
            answer(&shop, &["discard", "--key", "1", "--yes"]);
        }
        run.ask_to_stop();
        assert_eq!(run.end().code, 0);
    }
    shop.delivers();
    assert_eq!(listed(&shop, &[]).len(), 5);
}

/// A bar on a terminal, and nowhere else.
#[test]
fn a_redrive_shows_its_progress_on_a_terminal() {
    let on_terminal = |shop: &Shop, arguments: &str, no: &str| {
        let binary = env!("CARGO_BIN_EXE_cdc-cli");
        let line = format!("{binary} {arguments}");
        let out = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .current_dir(shop.tool.directory())
            .env("TERM", if no == "dumb" { "dumb" } else { "xterm" })
            .stdin(Stdio::null())
            .output()
            .expect("script is installed: package bsdutils");
        String::from_utf8(out.stdout).unwrap()
    };
    let shop = poisoned();
    shop.tool.write("reject", "");
    let out = on_terminal(&shop, "dlq redrive --key 1", "");
    assert!(
        out.contains("\r[..............................] custom: 0 delivered, 0 failed"),
        "{out:?}"
    );
    assert!(out.contains("custom: 3 delivered"), "{out:?}");
    for (arguments, no) in [
        ("dlq redrive --key 2 -o json", ""),
        ("-q dlq redrive --key 2", ""),
        ("dlq redrive --key 2", "dumb"),
    ] {
        let out = on_terminal(&shop, arguments, no);
        assert!(!out.contains("[..."), "{arguments}: {out:?}");
    }
    let bar = on_terminal(
        &shop,
        "replay --emitter custom --from earliest --dry-run",
        "",
    );
    assert!(!bar.contains("[..."), "a count shows none: {bar:?}");
}
