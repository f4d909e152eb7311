//! The state directory, the dead letter queue and the configuration file.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use super::shop::{Running, Shop, file_config, refused, until};

/// The command without the right to write where the permissions forbid it, also for root.
fn bound_by_permissions(shop: &Shop, arguments: &[&str]) -> Option<Command> {
    use std::os::unix::fs::MetadataExt as _;
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return Some(shop.tool.command(arguments));
    }
    let drop = "--bounding-set=-dac_override,-dac_read_search";
    let mut command = Command::new("setpriv");
    command.args([drop, "true"]);
    // Without setpriv, or in a container without the right to give rights up.
    command.output().ok().filter(|out| out.status.success())?;
    let mut command = Command::new("setpriv");
    command
        .arg(drop)
        .arg(env!("CARGO_BIN_EXE_cdc-cli"))
        .args(arguments)
        .current_dir(shop.tool.directory())
        .env_remove("WEFTKIT_CDC_SOURCE");
    Some(command)
}

fn mode(path: &std::path::Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_state_directory_that_cannot_be_written_is_named() {
    let mut shop = Shop::new();
    shop.commit(3);
    shop.tool.write("file", "");
    let run = shop
        .tool
        .run(&["-q", "run", "--once", "--set", "state_path=file/state"]);
    refused(
        &run,
        7,
        &[
            "open the state directory file/state",
            "writable",
            "state_path",
        ],
    );
    assert!(shop.delivered().is_empty());
    let look = shop.tool.run(&["check", "--set", "state_path=file/state"]);
    assert_eq!(look.code, 7, "{}{}", look.out, look.err);
    let look = shop.tool.run(&["check", "--set", "state_path=file"]);
    assert_eq!(look.code, 7, "{}{}", look.out, look.err);

    std::fs::create_dir(shop.tool.path("state")).unwrap();
    mode(&shop.tool.path("state"), 0o555);
    if let Some(command) = bound_by_permissions(&shop, &["-q", "run", "--once"]) {
        let run = Running::start(command).end();
        refused(
            &run,
            7,
            &[
                "open the state directory state",
                "writable for this user",
                "ermission denied",
            ],
        );
        assert!(shop.delivered().is_empty());
    }
    // A state that may not be looked into is not an empty one.
    mode(&shop.tool.path("state"), 0o000);
    for arguments in [&["position", "show"][..], &["check"]] {
        if let Some(command) = bound_by_permissions(&shop, arguments) {
            let run = Running::start(command).end();
            assert_eq!(run.code, 7, "{}{}", run.out, run.err);
            assert!((run.out + &run.err).contains("ermission denied"));
        }
    }
    mode(&shop.tool.path("state"), 0o700);
    shop.goes_on();
}

#[test]
fn a_state_directory_in_use_is_left_alone() {
    let mut shop = Shop::new();
    shop.commit(3);
    let mut first = Running::start(shop.tool.command(&["run"]));
    first.until_health("running");
    let words = [
        "state directory state",
        "another process is using it",
        "stop that one",
    ];
    for arguments in [&["-q", "run", "--once"][..], &["-q", "run"]] {
        refused(&shop.tool.run(arguments), 7, &words);
    }
    shop.commit(3);
    until("the first goes on", || {
        (shop.delivered() == shop.committed()).then_some(())
    });
    first.ask_to_stop();
    let end = first.end();
    assert_eq!(end.code, 0, "{}", end.err);
    shop.commit(3);
    shop.goes_on();
}

#[test]
fn a_dead_letter_queue_in_use_is_left_alone() {
    let mut shop = Shop::new();
    shop.commit(3);
    let mut first = Running::start(shop.tool.command(&["run"]));
    first.until_health("running");
    let other = [
        "-q",
        "run",
        "--once",
        "--set",
        "state_path=other",
        "--set",
        "file.path=other_out",
    ];
    refused(
        &shop.tool.run(&other),
        7,
        &["dead letter queue", "dlq", "another process is using it"],
    );
    first.ask_to_stop();
    assert_eq!(first.end().code, 0);
    let run = shop.tool.run(&other);
    assert_eq!(run.code, 0, "{}", run.err);
    assert_eq!(
        super::shop::delivered(&shop.tool.path("other_out")),
        [1, 2, 3]
    );
    shop.goes_on();
}

/// The address of a socket holds 108 bytes, a path 4096.
#[test]
fn a_state_directory_with_a_long_name_is_as_good_as_any() {
    let long = "s".repeat(150);
    let config = file_config("wal:wal").replace("\"state\"", &format!("\"{long}\""));
    let mut shop = Shop::with_config(&config);
    shop.commit(3);
    shop.delivers();
    let status = shop.tool.answer(&["status"]);
    assert!(status.contains("wal:wal: not running"), "{status}");
    let set = ["position", "set", "--emitter", "file", "earliest"];
    shop.tool.answer(&set);
    let mut run = Running::start(shop.tool.command(&["run"]));
    run.until_health("running");
    until("all comes again", || {
        (shop.delivered() == [1, 2, 3, 1, 2, 3]).then_some(())
    });
    // The running process is asked: the lock would refuse what is done here.
    shop.tool.answer(&set);
    until("and once more", || {
        (shop.delivered().len() == 9).then_some(())
    });
    shop.tool.answer(&["emitter", "pause", "file"]);
    run.ask_to_stop();
    let end = run.end();
    assert_eq!(end.code, 0, "{}", end.err);
    assert!(!end.err.contains("control socket"), "{}", end.err);
    assert_eq!(shop.tool.answer(&["dlq", "redrive"]), "no dead letters\n");
}

#[test]
fn a_check_finds_the_damaged_dead_letters_that_a_start_would_find() {
    let shop = crate::dead_letters::poisoned();
    shop.tool.answer(&["check"]);
    let segment = std::fs::read_dir(shop.tool.path("dlq")).unwrap();
    let segment = segment
        .map(|entry| entry.unwrap().path())
        .max_by_key(|path| path.metadata().unwrap().len())
        .expect("letters are kept in a file");
    let mut bytes = std::fs::read(&segment).unwrap();
    // In the first letter: what follows it is whole.
    bytes[200] ^= 0xff;
    std::fs::write(&segment, bytes).unwrap();
    let words = ["dead letter queue", "the file is damaged"];
    refused(&shop.tool.run(&["-q", "run", "--once"]), 7, &words);
    for look in [&["check"][..], &["run", "--dry-run"]] {
        let look = shop.tool.run(look);
        assert_eq!(look.code, 7, "{}{}", look.out, look.err);
        for word in words {
            assert!(look.out.contains(word), "no {word:?} in:\n{}", look.out);
        }
    }
}

#[test]
fn damaged_checkpoints_are_no_fresh_start() {
    let mut shop = Shop::new();
    shop.commit(3);
    shop.delivers();
    let file = shop.tool.path("state/checkpoints");
    let whole = std::fs::read(&file).unwrap();
    for damaged in [vec![0x55; whole.len()], whole[..100].to_vec()] {
        std::fs::write(&file, damaged).unwrap();
        for arguments in [
            &["-q", "run", "--once"][..],
            &["position", "show"],
            &["status"],
        ] {
            refused(
                &shop.tool.run(arguments),
                7,
                &["read checkpoints at state/checkpoints", "restore the file"],
            );
        }
    }
    std::fs::write(&file, whole).unwrap();
    shop.commit(2);
    shop.goes_on();
}

#[test]
fn damaged_checkpoints_are_set_anew_as_their_error_says_and_kept() {
    let mut shop = Shop::new();
    shop.commit(3);
    shop.delivers();
    let set = ["position", "set", "--emitter", "file"];
    let anew = |to: &[&str]| shop.tool.run(&[&set, to, &["--replace-damaged"]].concat());
    refused(&anew(&["earliest"]), 2, &["they are not damaged"]);
    let file = shop.tool.path("state/checkpoints");
    std::fs::write(&file, b"WKCDCCP1 and nothing").unwrap();
    let run = shop.tool.run(&[&set[..], &["earliest"]].concat());
    refused(&run, 7, &["`position set --replace-damaged`"]);
    refused(
        &anew(&["latest"]),
        5,
        &["would not be delivered again", "--yes"],
    );
    let run = anew(&["earliest"]);
    assert_eq!(run.code, 0, "{}", run.err);
    let kept = std::fs::read_dir(shop.tool.path("state")).unwrap();
    let kept = kept
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains("checkpoints.damaged-"))
        .expect("the damaged file is kept");
    assert_eq!(std::fs::read(kept).unwrap(), b"WKCDCCP1 and nothing");
    let run = shop.tool.run(&["-q", "run", "--once"]);
    assert_eq!(run.code, 0, "{}", run.err);
    assert_eq!(shop.delivered(), [1, 2, 3, 1, 2, 3], "again, none left out");
}

#[test]
fn a_configuration_may_begin_with_a_byte_order_mark() {
    let mut shop = Shop::new();
    shop.commit(2);
    let marked = format!("\u{feff}{}", file_config("wal:wal"));
    shop.tool.write("marked.toml", &marked);
    let run = shop.tool.run(&["-q", "-c", "marked.toml", "run", "--once"]);
    assert_eq!(run.code, 0, "{}", run.err);
    assert_eq!(shop.delivered(), [1, 2]);
}

#[test]
fn an_unreadable_configuration_is_named() {
    let mut shop = Shop::new();
    shop.commit(2);
    std::fs::write(
        shop.tool.path("latin.toml"),
        b"[cdc]\nsource = \"wal:\xe9\"\n",
    )
    .unwrap();
    for (file, words) in [
        ("missing.toml", &["missing.toml"][..]),
        ("wal", &["wal"]),
        ("latin.toml", &["latin.toml"]),
    ] {
        refused(&shop.tool.run(&["-c", file, "run", "--once"]), 3, words);
    }
    shop.tool.write("secret.toml", &file_config("wal:wal"));
    mode(&shop.tool.path("secret.toml"), 0o000);
    let arguments = ["-q", "-c", "secret.toml", "run", "--once"];
    if let Some(command) = bound_by_permissions(&shop, &arguments) {
        let run = Running::start(command).end();
        refused(&run, 3, &["secret.toml", "ermission denied"]);
    }
    shop.goes_on();
}
