//! Damage in the log itself.

use std::os::unix::fs::FileExt as _;

use super::shop::{Shop, refused};

/// Where the frame ends in front of what `wal info` calls the end of the written log.
fn written_in_last_segment(shop: &Shop) -> (std::path::PathBuf, u64) {
    let last = shop.segments().pop().unwrap();
    let bytes = std::fs::read(&last).unwrap();
    let used = bytes.iter().rposition(|&byte| byte != 0).unwrap() as u64 + 1;
    (last, used.div_ceil(8) * 8)
}

#[test]
fn damage_in_the_middle_stops_the_run_before_it() {
    let mut shop = Shop::new();
    drop(shop.commit(300));
    let segments = shop.segments();
    assert!(segments.len() > 4, "{segments:?}");
    let damaged = &segments[2];
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(damaged)
        .unwrap();
    let mut whole = [0; 64];
    file.read_exact_at(&mut whole, 30_000).unwrap();
    file.write_all_at(&whole.map(|byte| byte ^ 0x55), 30_000)
        .unwrap();

    // The check and the run name the same file and the same place in it.
    let check = shop.tool.run(&["wal", "verify", "wal", "-o", "json"]);
    assert_eq!((check.code, check.err.as_str()), (7, ""));
    let check: serde_json::Value = serde_json::from_str(&check.out).unwrap();
    assert_eq!(
        (&check["ok"], &check["damage"]["torn_tail"]),
        (&false.into(), &false.into())
    );
    let named = damaged.file_name().unwrap().to_str().unwrap();
    assert!(check["damage"]["file"].as_str().unwrap().ends_with(named));
    let offset = check["damage"]["offset"].as_u64().unwrap();
    assert!((28_000..=30_064).contains(&offset), "{offset}");
    let place = format!("at byte {offset}");
    let text = shop.tool.run(&["wal", "verify", "wal"]);
    assert_eq!(text.code, 7);
    assert!(
        text.out.contains("DAMAGE") && text.out.contains(&place),
        "{}",
        text.out
    );

    let mut delivered = 0;
    for _ in 0..2 {
        let run = shop.tool.run(&["-q", "run", "--once"]);
        refused(&run, 7, &[named, &place, "restore it"]);
        assert!(!run.err.contains("xxxx"), "no row values: {}", run.err);
        let now = shop.delivered();
        assert_eq!(now, (1..=now.len() as i64).collect::<Vec<_>>());
        assert!(now.len() < 150, "nothing behind the damage: {}", now.len());
        assert!(delivered == 0 || delivered == now.len(), "no repeats");
        delivered = now.len();
    }

    file.write_all_at(&whole, 30_000).unwrap();
    shop.goes_on();
    assert_eq!(shop.tool.run(&["wal", "verify", "wal"]).code, 0);
}

#[test]
fn a_repair_is_shown_first_keeps_the_rest_and_no_emitter_passes_the_loss_unasked() {
    let mut shop = Shop::new();
    drop(shop.commit(300));
    let damaged = shop.segments()[2].clone();
    let file = std::fs::File::options().write(true).open(&damaged).unwrap();
    file.write_all_at(&[0x5a; 64], 30_000).unwrap();
    let before = std::fs::read(&damaged).unwrap();

    let plan = shop.tool.run(&["wal", "repair", "wal"]);
    assert_eq!((plan.code, plan.err.as_str()), (7, ""));
    let named = damaged.file_name().unwrap().to_str().unwrap();
    assert!(plan.out.contains(named) && plan.out.contains("nothing was changed"));
    assert_eq!(std::fs::read(&damaged).unwrap(), before);
    let json = shop.tool.run(&["wal", "repair", "wal", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    let lost = 300 - json["transactions"].as_u64().unwrap();
    assert!((1..4).contains(&lost), "{json}");
    refused(
        &shop.tool.run(&["wal", "repair", "wal", "--cut"]),
        3,
        &["only a journal"],
    );

    let done = shop.tool.run(&["wal", "repair", "wal", "--apply"]);
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    let done = done.out;
    assert!(done.contains("repaired"), "{done}");
    let aside = done.trim().rsplit_once(": ").unwrap().1;
    let aside = shop.tool.path(aside);
    assert_eq!(std::fs::read(aside.join(named)).unwrap(), before);
    assert!(aside.join("report.txt").is_file());
    assert_eq!(shop.tool.run(&["wal", "verify", "wal"]).code, 0);
    let again = shop.tool.answer(&["wal", "repair", "wal"]);
    assert!(again.contains("nothing is damaged"), "{again}");

    let run = shop.tool.run(&["-q", "run", "--once"]);
    refused(&run, 5, &["was lost to damage", "go on at"]);
    let delivered = shop.delivered().len();
    assert!(delivered > 50 && delivered < 200, "{delivered}");
    let resume = run.err.split("go on at ").nth(1).unwrap();
    let resume = resume
        .split_whitespace()
        .next()
        .unwrap()
        .trim_end_matches('"');
    let moved = ["position", "set", "--emitter", "file", resume, "--yes"];
    shop.tool.answer(&moved);
    assert_eq!(shop.tool.run(&["-q", "run", "--once"]).code, 0);
    let numbers = shop.delivered();
    assert_eq!(numbers.len() as u64, 300 - lost);
    assert!(numbers.is_sorted() && numbers.last() == Some(&300));
}

#[test]
fn a_missing_segment_is_named() {
    let mut shop = Shop::new();
    drop(shop.commit(200));
    let missing = shop.segments()[1].clone();
    let away = shop.tool.path("away");
    std::fs::rename(&missing, &away).unwrap();
    let named = missing.file_name().unwrap().to_str().unwrap();
    refused(
        &shop.tool.run(&["-q", "run", "--once"]),
        7,
        &[named, "is missing", "restore it"],
    );
    assert_eq!(shop.tool.run(&["wal", "verify", "wal"]).code, 7);
    std::fs::rename(&away, &missing).unwrap();
    shop.goes_on();
}

#[test]
fn a_torn_tail_costs_nothing_that_was_acknowledged() {
    let mut shop = Shop::new();
    drop(shop.commit(40));
    // What a crash in the middle of a write leaves: part of a frame, and noise.
    let (last, end) = written_in_last_segment(&shop);
    let file = std::fs::File::options().write(true).open(&last).unwrap();
    let torn: Vec<u8> = (1..=251).cycle().take(700).collect();
    file.write_all_at(&torn, end).unwrap();

    let check = shop.tool.run(&["wal", "verify", "wal"]);
    assert_eq!((check.code, check.err.as_str()), (0, ""));
    assert!(check.out.contains("torn tail"), "{}", check.out);
    shop.goes_on();

    let log = shop.commit(40);
    assert!(log.recovered_cut_bytes() > 0, "the writer has cut it");
    drop(log);
    shop.goes_on();
    let out = shop.tool.answer(&["wal", "verify", "wal"]);
    assert!(out.contains("every frame is whole"), "{out}");
}

#[test]
fn a_log_that_is_not_there_is_no_empty_log() {
    let mut shop = Shop::new();
    shop.commit(3);
    for source in ["wal:nowhere", "wal:state"] {
        let run = shop.tool.run(&["-q", "run", "--once", "--source", source]);
        refused(
            &run,
            4,
            &["there is none", "name the directory", &source[4..]],
        );
    }
    let run = shop
        .tool
        .run(&["-q", "run", "--once", "--source", "wal:cdc.toml"]);
    refused(&run, 4, &["cdc.toml"]);
    shop.goes_on();
}
