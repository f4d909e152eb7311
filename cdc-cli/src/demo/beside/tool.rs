//! This binary, run as an operator runs it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::exit::Exit;
use crate::report::CliError;

/// Longest a process may take to drain.
const STOP_TIME_MAX: Duration = Duration::from_secs(30);

/// Commands of this binary with one configuration.
#[derive(Clone, Debug)]
pub(super) struct Tool {
    program: PathBuf,
    config: PathBuf,
    dir: PathBuf,
}

/// A pipeline in a process of its own; killed when dropped.
#[derive(Debug)]
pub(super) struct Pipeline(Child);

fn failed(what: &str, cause: std::io::Error) -> CliError {
    CliError::new(Exit::Runtime, format!("{what} of the demonstration")).with_cause(cause)
}

impl Tool {
    pub(super) fn new(dir: &Path) -> Result<Self, CliError> {
        let program = std::env::current_exe()
            .map_err(|cause| failed("find this program for a process", cause))?;
        Ok(Self {
            program,
            config: dir.join("cdc.toml"),
            dir: dir.to_path_buf(),
        })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("-c")
            .arg(&self.config)
            .args(args)
            .stdin(Stdio::null());
        // The demonstration's configuration alone counts.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("WEFTKIT_CDC_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// `cdc-cli run`, in the background; what it logs goes to `run.log`.
    pub(super) fn run(&self) -> Result<Pipeline, CliError> {
        let start = || {
            let log = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(self.dir.join("run.log"))?;
            let mut command = self.command(&["run"]);
            command.stdout(Stdio::null()).stderr(log);
            command.spawn()
        };
        start()
            .map(Pipeline)
            .map_err(|cause| failed("start `cdc-cli run`", cause))
    }

    /// What a command prints; `None` if it fails.
    pub(super) fn try_text(&self, args: &[&str]) -> Result<Option<String>, CliError> {
        let output = self
            .command(args)
            .stderr(Stdio::null())
            .output()
            .map_err(|cause| failed("start a command", cause))?;
        Ok(output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// What a command prints.
    pub(super) fn text(&self, args: &[&str]) -> Result<String, CliError> {
        self.try_text(args)?.ok_or_else(|| {
            CliError::new(
                Exit::Runtime,
                format!(
                    "run `cdc-cli {}`: it failed; see {}",
                    args.join(" "),
                    self.dir.join("run.log").display()
                ),
            )
        })
    }

    /// A lane's counter, from `cdc-cli status`; 0 while nothing runs.
    pub(super) fn count(&self, emitter: &str, name: &str) -> Result<u64, CliError> {
        Ok(self.lane(emitter)?["counts"][name].as_u64().unwrap_or(0))
    }

    /// How a lane is doing, in a word.
    pub(super) fn health(&self, emitter: &str) -> Result<String, CliError> {
        let lane = self.lane(emitter)?;
        Ok(lane["health"].as_str().unwrap_or("starting").to_owned())
    }

    fn lane(&self, emitter: &str) -> Result<Value, CliError> {
        let text = self
            .try_text(&["status", "-o", "json"])?
            .unwrap_or_default();
        let status: Value = serde_json::from_str(&text).unwrap_or_default();
        let lanes = status["lanes"].as_array();
        let named = lanes
            .into_iter()
            .flatten()
            .find(|lane| lane["name"] == emitter);
        Ok(named.cloned().unwrap_or_default())
    }
}

impl Pipeline {
    /// `kill -9`: nothing is drained, nothing is stored.
    pub(super) fn kill(mut self) -> Result<(), CliError> {
        self.0
            .kill()
            .and_then(|()| self.0.wait())
            .map(drop)
            .map_err(|cause| failed("kill the pipeline", cause))
    }

    /// SIGTERM, and waits until it has drained.
    pub(super) fn stop(mut self) -> Result<(), CliError> {
        let pid = self.0.id().to_string();
        let told = Command::new("kill").args(["-TERM", &pid]).status();
        told.map_err(|cause| failed("stop the pipeline", cause))?;
        let began = Instant::now();
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => {
                    return Err(CliError::new(
                        Exit::Runtime,
                        format!("stop the pipeline of the demonstration: it ended with {status}"),
                    ));
                }
                Ok(None) if began.elapsed() < STOP_TIME_MAX => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Ok(None) => {
                    return Err(CliError::new(
                        Exit::Runtime,
                        "stop the pipeline of the demonstration: it did not drain in 30 s",
                    ));
                }
                Err(cause) => return Err(failed("wait for the pipeline", cause)),
            }
        }
    }

    /// True while the process runs.
    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}
