//! What both demonstrations share: telling, and waiting for what was promised.

use std::time::{Duration, Instant};

use crate::config::Paint;
use crate::exit::Exit;
use crate::output::print;
use crate::report::{CliError, paint};

/// Longest wait for something that the demonstration promises to happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Prints lines, with pauses for a reader.
#[derive(Debug)]
pub(crate) struct Narrator {
    bold: &'static str,
    off: &'static str,
    pause: Duration,
}

impl Narrator {
    /// In colour on a terminal; `fast` leaves the pauses out.
    pub(crate) fn new(fast: bool) -> Self {
        let colour = paint(std::io::IsTerminal::is_terminal(&std::io::stdout())) == Paint::Color;
        Self {
            bold: if colour { "\x1b[1m" } else { "" },
            off: if colour { "\x1b[0m" } else { "" },
            pause: if fast {
                Duration::ZERO
            } else {
                Duration::from_millis(1200)
            },
        }
    }

    pub(crate) const fn colour(&self) -> bool {
        !self.off.is_empty()
    }

    pub(crate) fn step(&self, number: u32, title: &str) -> Result<(), CliError> {
        std::thread::sleep(self.pause);
        print(&format!("\n{}{number}. {title}{}\n", self.bold, self.off))
    }

    pub(crate) fn say(&self, text: &str) -> Result<(), CliError> {
        print(&format!("   {text}\n"))
    }
}

/// Waits until something has happened.
///
/// # Errors
/// It did not happen within 30 s, or looking failed.
pub(crate) fn wait(
    what: &str,
    mut done: impl FnMut() -> Result<bool, CliError>,
) -> Result<(), CliError> {
    let began = Instant::now();
    while !done()? {
        if began.elapsed() > PATIENCE {
            return Err(CliError::new(
                Exit::Runtime,
                format!("{what}: it did not happen within {} s", PATIENCE.as_secs()),
            ));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
