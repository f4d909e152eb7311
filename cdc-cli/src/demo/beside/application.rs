//! The application: a process that writes an SQLite database and has never heard of us.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Programs that can play the application, in the order they are looked for.
pub(crate) const WRITERS: [&str; 2] = ["python3", "sqlite3"];

/// Runs each line of its input as SQL and says that it is done.
const PYTHON: &str = "\
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
for line in sys.stdin:
    db.executescript(line)
    print('ok', flush=True)
";

/// The running application. Dropping it ends the process.
#[derive(Debug)]
pub(crate) struct Application {
    child: Child,
    // Closed before the process is waited for.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// What it is, for people.
    pub(crate) what: &'static str,
    asks: bool,
}

impl Application {
    /// Starts what this machine has; `None` if it has neither.
    ///
    /// # Errors
    /// A program is there and cannot be started.
    pub(crate) fn start(database: &Path) -> io::Result<Option<Self>> {
        for writer in WRITERS {
            let mut command = Command::new(writer);
            let (what, asks) = if writer == "python3" {
                command.args(["-u", "-c", PYTHON]);
                ("Python's sqlite3 module", false)
            } else {
                command.args(["-batch", "-bail", "-cmd", ".timeout 10000"]);
                ("the sqlite3 command", true)
            };
            command
                .arg(database)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null());
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let (input, output) = (child.stdin.take(), child.stdout.take());
            let output = output.ok_or_else(|| io::Error::other("its output is not a pipe"))?;
            let mut application = Self {
                child,
                input,
                output: BufReader::new(output),
                what,
                asks,
            };
            // A Python without the module ends at once; then the next one may do.
            if application.execute("SELECT 1;").is_ok() {
                return Ok(Some(application));
            }
        }
        Ok(None)
    }

    /// Runs SQL on one line; returns when the application says that it is done.
    ///
    /// # Errors
    /// The application has ended: the SQL failed.
    pub(crate) fn execute(&mut self, sql: &str) -> io::Result<()> {
        let ended = || io::Error::new(io::ErrorKind::BrokenPipe, "the application has ended");
        let input = self.input.as_mut().ok_or_else(ended)?;
        let ask = if self.asks { "SELECT 'ok';" } else { "" };
        writeln!(input, "{sql} {ask}")?;
        input.flush()?;
        let mut line = String::new();
        // What a statement itself says, such as the journal mode, comes before.
        while line.trim_end() != "ok" {
            line.clear();
            if self.output.read_line(&mut line)? == 0 {
                return Err(ended());
            }
        }
        Ok(())
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        drop(self.input.take());
        // It ends at the end of its input; if not, it is not waited for longer.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_application_writes_a_database_and_reports_what_fails() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("shop.db");
        let mut application = Application::start(&file)
            .unwrap()
            .unwrap_or_else(|| panic!("none of {WRITERS:?} is installed"));
        application
            .execute("PRAGMA journal_mode = wal; CREATE TABLE t(x); INSERT INTO t VALUES(1);")
            .unwrap();
        assert!(std::fs::metadata(&file).unwrap().len() > 0);
        assert!(
            application
                .execute("INSERT INTO absent VALUES(1);")
                .is_err()
        );
    }
}
