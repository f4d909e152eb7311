//! A progress bar on standard error, on a terminal only.

use std::io::{IsTerminal as _, Write as _};

use crate::args::{Global, OutputFormat};
use crate::config::Paint;
use crate::report::paint_of_stderr;

const WIDTH: u64 = 30;

/// One line that is drawn over itself.
#[derive(Debug)]
pub(crate) struct Bar {
    shown: bool,
    drawn: bool,
}

impl Bar {
    /// A bar, unless nobody would see it or a program reads.
    pub(crate) fn new(global: &Global) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            shown: std::io::stderr().is_terminal()
                && global.output == OutputFormat::Text
                && global.quiet == 0
                && !dumb,
            drawn: false,
        }
    }

    /// Draws `done` of `all`, and a few words.
    pub(crate) fn show(&mut self, done: u64, all: u64, words: &str) {
        if !self.shown {
            return;
        }
        self.write(&format!("{} {words}", bar(done, all)));
    }

    /// Draws a line of words alone, dimmed if this is to have colours.
    pub(crate) fn words(&mut self, words: &str) {
        if !self.shown {
            return;
        }
        match paint_of_stderr() {
            Paint::Color => self.write(&format!("\x1b[2m{words}\x1b[0m")),
            Paint::Plain => self.write(words),
        }
    }

    fn write(&mut self, text: &str) {
        self.drawn = true;
        // A terminal that went away is nobody's loss.
        drop(std::io::stderr().write_all(format!("\r{text}\x1b[K").as_bytes()));
    }

    /// Takes it away, for what is printed next.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            drop(std::io::stderr().write_all(b"\r\x1b[K"));
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

fn bar(done: u64, all: u64) -> String {
    let all = all.max(1);
    let share = u128::from(done.min(all)) * u128::from(WIDTH) / u128::from(all);
    let filled = usize::try_from(share).unwrap_or_default();
    let empty = usize::try_from(WIDTH).unwrap_or_default() - filled;
    format!("[{}{}]", "#".repeat(filled), ".".repeat(empty))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_they_are() {
        assert_eq!(bar(0, 10), format!("[{}]", ".".repeat(30)));
        assert_eq!(
            bar(5, 10),
            format!("[{}{}]", "#".repeat(15), ".".repeat(15))
        );
        for (done, all) in [(10, 10), (11, 10), (1, 0), (u64::MAX, u64::MAX)] {
            assert_eq!(bar(done, all), format!("[{}]", "#".repeat(30)));
        }
    }
}
