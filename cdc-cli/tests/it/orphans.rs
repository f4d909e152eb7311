//! Dead letters of an emitter that has no position yet, or that is no longer configured.

use crate::bad::shop::{Running, Shop, refused};
use crate::dead_letters::{answer, dlq, poisoned, taken};

/// The same program under another name: the letters that are there belong to nobody.
fn rename(shop: &Shop) {
    let text = std::fs::read_to_string(shop.tool.path("cdc.toml")).unwrap();
    let text = text.replace("emitter = \"custom\"\n", "").replace(
        "[cdc.custom]\ncommand",
        "[[cdc.emitters]]\nname = \"other\"\nemitter = \"custom\"\ncustom.command",
    );
    shop.tool.write("cdc.toml", &text);
}

/// Nobody knows how far it is: its first start would be refused behind a position that a redrive
/// made up.
#[test]
fn letters_of_an_emitter_without_a_position_wait_for_its_first_start() {
    let shop = poisoned();
    std::fs::remove_dir_all(shop.tool.path("state")).unwrap();
    shop.tool.write("reject", "");
    refused(
        &dlq(&shop, &["redrive"]),
        2,
        &["custom", "no position yet", "start the pipeline first"],
    );
    let shown = shop.tool.answer(&["position", "show"]);
    assert_eq!(shown, "no checkpoints in state\n");
    assert_eq!(taken(&shop), ["2a", "3a"]);
    shop.delivers();
    assert_eq!(
        answer(&shop, &["redrive"]),
        "custom: 5 delivered, 0 failed again, 0 left alone\n"
    );
    assert_eq!(answer(&shop, &["ls"]), "no dead letters\n");
}

/// One emitter's error does not keep the others from theirs, and what was sent is said.
#[test]
fn letters_of_an_emitter_that_is_gone_do_not_hold_up_the_others() {
    let shop = poisoned();
    rename(&shop);
    shop.delivers();
    let of_other = answer(&shop, &["ls", "--emitter", "other"]);
    assert_eq!(of_other.lines().count(), 5, "{of_other}");
    shop.tool.write("reject", "2b\n");
    let run = dlq(&shop, &["redrive"]);
    assert_eq!((run.code, run.err.as_str()), (8, ""));
    let gone = "custom: 0 delivered, 0 failed again, 5 left alone; stopped: ";
    assert!(run.out.starts_with(gone), "{}", run.out);
    assert!(run.out.contains("no emitter of this name"), "{}", run.out);
    let others = "\nother: 3 delivered, 1 failed again, 1 left alone\n";
    assert!(run.out.ends_with(others), "{}", run.out);

    let mut running = Running::start(shop.tool.command(&["-q", "run"]));
    running.until_health("running");
    shop.tool.write("reject", "");
    let run = dlq(&shop, &["redrive"]);
    assert_eq!((run.code, run.err.as_str()), (8, ""));
    assert!(run.out.starts_with(gone), "{}", run.out);
    assert!(run.out.contains("no emitter custom"), "{}", run.out);
    let others = "\nother: 2 delivered, 0 failed again, 0 left alone\n";
    assert!(run.out.ends_with(others), "{}", run.out);
    // Where nothing at all could be done, the error is the answer.
    let alone = dlq(&shop, &["redrive", "--emitter", "custom"]);
    refused(&alone, 1, &["no emitter custom"]);
    running.ask_to_stop();
    assert_eq!(running.end().code, 0);
}

/// They count against the bounds of the queue, so they can be given up while the pipeline runs.
#[test]
fn letters_of_an_emitter_that_is_gone_are_given_up_while_the_pipeline_runs() {
    let shop = poisoned();
    rename(&shop);
    shop.tool.write("reject", "");
    let mut running = Running::start(shop.tool.command(&["-q", "run"]));
    running.until_health("running");
    assert_eq!(
        answer(&shop, &["discard", "--key", "1", "--yes"]),
        "custom: 3 discarded\n"
    );
    assert_eq!(
        answer(&shop, &["discard", "--emitter", "custom", "--yes"]),
        "custom: 2 discarded\n"
    );
    assert_eq!(answer(&shop, &["ls"]), "no dead letters\n");
    running.ask_to_stop();
    assert_eq!(running.end().code, 0);
}

/// The log is another one, and so is the state; the letters are the old log's. Their positions mean other
/// events now: nothing starts before somebody has dealt with them, and everything that deals with them works.
#[test]
fn letters_of_a_history_that_has_ended_are_dealt_with_before_another_begins() {
    let mut shop = poisoned();
    let exported = answer(&shop, &["export"]);
    for directory in ["wal", "state"] {
        std::fs::remove_dir_all(shop.tool.path(directory)).unwrap();
    }
    shop.tool.write("reject", "");
    shop.write(&[(1, "z"), (4, "a")]);
    let said = ["custom", "dlq redrive", "dlq discard", "dlq_path"];
    refused(&shop.tool.run(&["-q", "run", "--once"]), 5, &said);
    let check = shop.tool.run(&["check"]);
    assert_eq!(check.code, 5, "{}", check.out);
    assert!(check.out.contains("dlq redrive"), "{}", check.out);
    assert_eq!(taken(&shop), ["2a", "3a"], "nothing overtakes them");
    assert_eq!(answer(&shop, &["ls"]).lines().count(), 5);
    assert_eq!(answer(&shop, &["export"]), exported);

    // The state of files goes with positions, and these are of another history.
    let text = std::fs::read_to_string(shop.tool.path("cdc.toml")).unwrap();
    let files = text.replace("emitter = \"custom\"\n", "").replace(
        "[cdc.custom]\ncommand = [\"sh\", \"consumer.sh\"]",
        "[[cdc.emitters]]\nname = \"custom\"\nemitter = \"file\"\nfile = { path = \"out\" }",
    );
    shop.tool.write("cdc.toml", &files);
    let words = ["state_path they are of", "dlq discard"];
    refused(&dlq(&shop, &["redrive"]), 5, &words);
    shop.tool.write("cdc.toml", &text);

    assert_eq!(
        answer(&shop, &["redrive"]),
        "custom: 5 delivered, 0 failed again, 0 left alone\n"
    );
    assert_eq!(answer(&shop, &["ls"]), "no dead letters\n");
    let shown = shop.tool.answer(&["position", "show"]);
    assert_eq!(
        shown, "no checkpoints in state\n",
        "of this history nothing is done"
    );
    shop.delivers();
    let expected = ["2a", "3a", "1a", "1b", "2b", "1c", "2c", "1z", "4a"];
    assert_eq!(taken(&shop), expected);
}

/// Letters of both histories, as they came together before a start looked at that: those of the one that has
/// ended go first, whatever their positions.
#[test]
fn letters_of_two_histories_go_one_history_after_the_other() {
    let mut shop = poisoned();
    std::fs::rename(shop.tool.path("dlq"), shop.tool.path("old")).unwrap();
    for directory in ["wal", "state"] {
        std::fs::remove_dir_all(shop.tool.path(directory)).unwrap();
    }
    shop.tool.write("reject", "1x\n");
    shop.write(&[(1, "x"), (1, "y")]);
    shop.delivers();
    // A start without that look would have appended to the letters that are there.
    let newer = answer(&shop, &["export"]);
    std::fs::remove_dir_all(shop.tool.path("dlq")).unwrap();
    std::fs::rename(shop.tool.path("old"), shop.tool.path("dlq")).unwrap();
    shop.tool.write("newer.ndjson", &newer);
    assert!(answer(&shop, &["import", "newer.ndjson"]).contains("2 imported"));
    shop.tool.write("reject", "");
    refused(
        &shop.tool.run(&["-q", "run", "--once"]),
        5,
        &["custom", "dlq redrive"],
    );
    assert_eq!(
        answer(&shop, &["redrive"]),
        "custom: 7 delivered, 0 failed again, 0 left alone\n"
    );
    let expected = ["1a", "1b", "2b", "1c", "2c", "1x", "1y"];
    assert_eq!(taken(&shop)[2..], expected);
    shop.delivers();
}
