//! What surrounds the process: where its log lines go, its environment, a signal at its start.

use std::ffi::OsStr;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Stdio;

use super::shop::{Running, Shop, until};
use crate::tool::Tool;

/// A token of some PostgreSQL server.
const TOKEN: &str = "cdc1_04130c9i6cq3adhn70sm2oj3chimc000003g0000000mmdq8000000g000001arh8sgg";

/// A log line that cannot be written is lost, and nothing else.
#[test]
fn log_lines_that_cannot_be_written_stop_nothing() {
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let unread = || Stdio::from(std::io::pipe().unwrap().1);
    for (name, takes_nothing) in [("full", full as fn() -> Stdio), ("unread", unread)] {
        let mut shop = Shop::new();
        for format in ["text", "json"] {
            shop.commit(10);
            let mut run = shop
                .tool
                .command(&["-vv", "--log-format", format, "run", "--once"]);
            let status = run.stderr(takes_nothing()).status().unwrap();
            assert_eq!(status.code(), Some(0), "{name}, {format}");
            assert_eq!(shop.delivered(), shop.committed(), "{name}, {format}");
        }
    }
}

/// What was to be done up to some point and was not is not done.
#[test]
fn a_signal_while_it_connects_ends_it_and_a_bounded_run_is_not_complete() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let source = format!("postgres://u:p@{}/db", silent.local_addr().unwrap());
    for (bound, code) in [(&[][..], 0), (&["--once"], 8), (&["--until", TOKEN], 8)] {
        let tool = Tool::new();
        let start = [
            "-q",
            "run",
            "--source",
            &source,
            "--set",
            "state_path=state",
        ];
        let run = Running::start(tool.command(&[&start, bound].concat()));
        let connection = until("it connects", || silent.accept().ok());
        run.ask_to_stop();
        let run = run.end();
        assert_eq!((run.code, run.err.as_str()), (code, ""), "{bound:?}");
        drop(connection);
    }
}

/// Left out in silence, it would be another directory, or another level.
#[test]
fn a_variable_that_is_no_text_is_refused_by_name() {
    let mut shop = Shop::new();
    shop.commit(3);
    let with = |name: &str| {
        let mut run = shop.tool.command(&["-q", "run", "--once"]);
        run.env(name, OsStr::from_bytes(b"/hunter2/\xff"));
        Running::start(run).end()
    };
    for (name, code) in [
        ("WEFTKIT_CDC_STATE_PATH", 3),
        ("WEFTKIT_CDC_NO_SUCH_KEY", 3),
        ("WEFTKIT_CDC_LOG", 2),
    ] {
        let run = with(name);
        assert_eq!(run.code, code, "{}", run.err);
        assert!(run.err.contains(name), "{}", run.err);
        assert!(run.err.contains("UTF-8"), "{}", run.err);
        assert!(!run.err.contains("hunter2"), "{}", run.err);
        assert!(shop.delivered().is_empty());
    }
    // Somebody else's variables are somebody else's business.
    let run = with("SOME_PATH");
    assert_eq!(run.code, 0, "{}", run.err);
    assert_eq!(shop.delivered(), shop.committed());
}
