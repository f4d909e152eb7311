//! What surrounds the process: where its log lines go.

use std::fs::File;
use std::process::Stdio;

use super::shop::Shop;

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
