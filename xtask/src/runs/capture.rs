//! The binary under test, run as a user runs it: one configuration file, one folder of state.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::Plan;
use super::scraper::Scraper;
use crate::command::{self, Running};
use crate::error::Context;
use crate::guard::TempDir;
use crate::postgres::Postgres;
use crate::{Result, ensure};

/// How long a capture may take to reach the end of the source, or to shut down.
const LIMIT: Duration = Duration::from_secs(1800);

/// A configured `cdc-cli`.
#[derive(Debug)]
pub(super) struct Capture {
    cli: PathBuf,
    config: PathBuf,
    source: String,
    dir: PathBuf,
    scraper: Scraper,
}

impl Capture {
    /// Writes the configuration `cdc.toml` into `dir`: state and dead letters below `dir`, then
    /// `emitters` as it stands.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn new(
        plan: &Plan,
        postgres: &Postgres,
        dir: &TempDir,
        emitters: &str,
    ) -> Result<Self> {
        let config = dir.join("cdc.toml");
        let capture = Self {
            cli: plan.cli.clone(),
            config,
            source: postgres.url(),
            dir: dir.path().to_owned(),
            scraper: Scraper::start()?,
        };
        capture.configure(emitters)?;
        Ok(capture)
    }

    /// Writes the configuration anew, for the next start.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn configure(&self, emitters: &str) -> Result<()> {
        let text = format!(
            "[cdc]\nstate_path = {:?}\ndlq_path = {:?}\nhttp = {{ listen = \"127.0.0.1:{}\" }}\n{emitters}",
            self.state(),
            self.dir.join("dlq"),
            self.scraper.port()
        );
        std::fs::write(&self.config, text).context(|| format!("write {}", self.config.display()))
    }

    /// Where its HTTP surface listens.
    pub(super) const fn port(&self) -> u16 {
        self.scraper.port()
    }

    /// The folder of journal, checkpoints and lock.
    pub(super) fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The command that runs it, for runs that need more than [`start`](Self::start).
    pub(super) fn run_command(&self) -> Command {
        let mut command = Command::new(&self.cli);
        command
            .args(["run", "-c"])
            .arg(&self.config)
            .args(["--source", &self.source]);
        command.current_dir(&self.dir).env("RUST_LOG", "info");
        command
    }

    /// Holds it to its counters: at every scrape of `/metrics` so far, what each lane read is what became of
    /// it. Says how many scrapes there were.
    ///
    /// # Errors
    /// They did not add up, or it was never scraped.
    pub(super) fn counters(&self) -> Result<String> {
        let scrapes = self.scraper.check()?;
        Ok(format!("the counters add up at {scrapes} scrapes"))
    }

    /// Where it logs to.
    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("cdc-cli.log")
    }

    /// Starts it.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start(&self) -> Result<Running> {
        Running::start(&mut self.run_command(), "cdc-cli run", Some(&self.log()))
    }

    /// Runs it up to what is the end of the source when it starts; it ends by itself.
    ///
    /// # Errors
    /// It does not end, or with another code than 0.
    pub(super) fn catch_up(&self) -> Result<()> {
        let mut command = self.run_command();
        let mut running = Running::start(
            command.arg("--once"),
            "cdc-cli run --once",
            Some(&self.log()),
        )?;
        let status = running.wait(LIMIT)?;
        ensure!(
            status.success(),
            "cdc-cli run --once: {status}{}",
            running.said()
        );
        Ok(())
    }

    /// Asks a running capture to end and checks that it drains and says so.
    ///
    /// # Errors
    /// It had ended before, does not end, or with another code than 0.
    pub(super) fn shut_down(&self, mut running: Running) -> Result<()> {
        let early = running.ended()?;
        ensure!(early.is_none(), "cdc-cli ended by itself{}", running.said());
        running.terminate()?;
        let status = running.wait(LIMIT)?;
        ensure!(
            status.success(),
            "cdc-cli after SIGTERM: {status}{}",
            running.said()
        );
        Ok(())
    }

    /// Runs another command of the binary with the same configuration and returns its output.
    ///
    /// # Errors
    /// It ends with another code than 0.
    pub(super) fn command(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.cli);
        command
            .args(words)
            .arg("-c")
            .arg(&self.config)
            .current_dir(&self.dir);
        command::output(&mut command)
    }
}

/// The configuration of one file emitter in the short form.
pub(super) fn file_emitter(path: &Path) -> String {
    format!("emitter = \"file\"\n\n[cdc.file]\npath = {path:?}\n")
}
