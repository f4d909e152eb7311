//! What surrounds the process: where its log lines go, a signal at its start.

use std::fs::File;
use std::net::TcpListener;
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
