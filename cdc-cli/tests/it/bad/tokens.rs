//! Tokens and positions that cannot be used.

use cdc_core::ResumeToken;

use super::shop::{Shop, refused};

/// A token of some PostgreSQL server.
const FOREIGN: &str = "cdc1_04130c9i6cq3adhn70sm2oj3chimc000003g0000000mmdq8000000g000001arh8sgg";

/// The same, written by a version that does not exist yet.
const NEWER: &str = "cdc1_08130c9i6cq3adhn70sm2oj3chimc000003g0000000mmdq8000000g000000rv1kt0g";

#[test]
fn no_unusable_token_moves_or_starts_anything() {
    let mut shop = Shop::new();
    shop.commit(3);
    shop.delivers();
    shop.commit(2);
    let before = shop.token();
    let damaged = format!("{}0000{}", &before[..30], &before[34..]);
    assert_ne!(damaged, before);
    for (token, words) in [
        ("cdc1_garbage", &["read a resume token", "copy"][..]),
        (
            &damaged,
            &["checksum does not match", "copy the token again"],
        ),
        (
            &before[..before.len() - 9],
            &["read a resume token", "copy"],
        ),
        (
            &before[..before.len() - 1],
            &["read a resume token", "copy the"],
        ),
        (&before.to_ascii_uppercase(), &["capital letters"]),
        (NEWER, &["version 2", "reads up to 1", "upgrade"]),
        (FOREIGN, &["belongs to", "use a token of this source"]),
    ] {
        for arguments in [
            &["-q", "run", "--until", token][..],
            &["position", "set", "--emitter", "file", token],
        ] {
            let run = shop.tool.run(arguments);
            refused(&run, 5, words);
            assert_eq!(run.out, "");
        }
        assert_eq!(shop.token(), before, "a refused token moved the position");
        assert_eq!(shop.delivered(), [1, 2, 3], "{token} delivered something");
    }
    let run = shop.tool.run(&["-q", "run", "--until", &before]);
    assert_eq!((run.code, shop.delivered().len()), (0, 3), "{}", run.err);
    shop.goes_on();
}

#[test]
fn an_expired_position_is_named_with_the_oldest_there_is() {
    let mut shop = Shop::new();
    shop.commit(3);
    shop.delivers();
    let expired = shop.token();
    // Nobody told the engine that this consumer needs its log: it is trimmed.
    shop.retain_bytes = 128 << 10;
    let log = shop.commit(300);
    log.trim().unwrap();
    let oldest = log.oldest().unwrap().to_string();
    drop(log);

    let words = [
        "no longer retained",
        "oldest position to resume from is",
        &oldest,
    ];
    refused(&shop.tool.run(&["-q", "run", "--once"]), 5, &words);
    refused(&shop.tool.run(&["-q", "run"]), 5, &words);
    assert_eq!(shop.token(), expired);
    assert_eq!(shop.delivered(), [1, 2, 3]);

    // Nor can it be moved there, by token or position.
    for to in [expired.as_str(), "0/1:0"] {
        let set = ["position", "set", "--emitter", "file", to, "--yes"];
        refused(&shop.tool.run(&set), 5, &words);
    }

    // The decision is a person's, and it is the one command that the error leads to.
    let skip = ["position", "set", "--emitter", "file", "earliest"];
    refused(
        &shop.tool.run(&skip),
        5,
        &["would never be delivered", "--yes"],
    );
    let out = shop
        .tool
        .answer(&["position", "set", "--emitter", "file", "earliest", "--yes"]);
    assert!(out.contains(&oldest), "{out}");
    shop.delivers();
    let delivered = shop.delivered();
    let first = delivered[3];
    assert!(first > 4, "something was trimmed");
    let rest: Vec<i64> = (first..=303).collect();
    assert_eq!(delivered[3..], rest, "everything retained, in order");
}

#[test]
fn a_position_ahead_of_the_log_is_refused() {
    let mut shop = Shop::new();
    shop.commit(5);
    shop.delivers();
    let ahead = shop.token();
    // The engine was restored from a copy that is older than what was delivered.
    let back_up = shop.tool.path("back-up");
    std::fs::rename(shop.tool.path("wal"), &back_up).unwrap();
    let mut older = Shop::new();
    older.commit(1);
    std::fs::rename(older.tool.path("wal"), shop.tool.path("wal")).unwrap();
    refused(&shop.tool.run(&["-q", "run", "--once"]), 5, &["belongs to"]);
    std::fs::remove_dir_all(shop.tool.path("wal")).unwrap();
    std::fs::rename(back_up, shop.tool.path("wal")).unwrap();

    shop.commit(1);
    let out = shop.tool.answer(&["position", "show", "-o", "json"]);
    let out: serde_json::Value = serde_json::from_str(&out).unwrap();
    let at = out["checkpoints"][0]["position"].as_str().unwrap();
    let far = at.replacen("0/", "7/", 1);
    let set = ["position", "set", "--emitter", "file"];
    let known: ResumeToken = ahead.parse().unwrap();
    let token = ResumeToken::new(*known.lineage(), far.parse().unwrap()).to_string();
    for to in [&far, &token] {
        let run = shop.tool.run(&[&set[..], &[to, "--yes"]].concat());
        refused(&run, 5, &["ahead of the source", "ends at"]);
        assert_eq!(shop.token(), ahead, "a refused position was stored");
    }
    // Where there is no log nobody knows its end; the start looks again.
    let away = |from: &str, to: &str| {
        std::fs::rename(shop.tool.path(from), shop.tool.path(to)).unwrap();
    };
    away("wal", "away");
    shop.tool.answer(&[&set[..], &[&far, "--yes"]].concat());
    away("away", "wal");
    refused(
        &shop.tool.run(&["-q", "run", "--once"]),
        5,
        &["ahead of the source", "ends at"],
    );
    shop.tool.answer(&[&set[..], &[&ahead]].concat());
    shop.goes_on();
}

/// Stored, it would end the lane at its first checkpoint.
#[test]
fn a_token_of_another_timeline_is_not_stored() {
    let mut shop = Shop::new();
    shop.commit(3);
    shop.delivers();
    let stored = shop.token();
    let token: ResumeToken = stored.parse().unwrap();
    let mut lineage = *token.lineage();
    lineage.timeline += 1;
    let token = ResumeToken::new(lineage, token.position()).to_string();
    let run = shop
        .tool
        .run(&["position", "set", "--emitter", "file", &token, "--yes"]);
    refused(
        &run,
        5,
        &["timeline", "is not in the history of the source"],
    );
    assert_eq!(shop.token(), stored);
    shop.goes_on();
}
