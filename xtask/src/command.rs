//! Child processes: run to the end, capture, or follow.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::error::Context;
use crate::{Error, Result, guard};

/// The command as a person would type it, for messages.
pub fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

/// A `cargo` command in the workspace, without the variables that `cargo run` put around this
/// process: build scripts watch some of them and would rebuild half the tree for nothing.
pub fn cargo<S: AsRef<OsStr>>(args: &[S]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(args).current_dir(crate::root());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let inherited = [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_BIN_",
            "CARGO_CRATE_",
        ];
        if inherited.iter().any(|prefix| text.starts_with(prefix))
            || [
                "CARGO_PRIMARY_PACKAGE",
                "CARGO_TARGET_TMPDIR",
                "OUT_DIR",
                "LD_LIBRARY_PATH",
            ]
            .contains(&&*text)
        {
            command.env_remove(&name);
        }
    }
    command
}

/// The folder cargo builds into.
///
/// # Errors
/// `cargo metadata` fails.
pub fn target_dir() -> Result<PathBuf> {
    let metadata = metadata()?;
    metadata["target_directory"]
        .as_str()
        .map(PathBuf::from)
        .ok_or_else(|| Error::new("read `cargo metadata`: no target_directory in its answer"))
}

/// `cargo metadata` of the workspace's own packages.
///
/// # Errors
/// Cargo fails, for example because a manifest does not parse.
pub fn metadata() -> Result<serde_json::Value> {
    let text = output(&mut cargo(&[
        "metadata",
        "--format-version",
        "1",
        "--no-deps",
    ]))?;
    serde_json::from_str(&text).context(|| "parse the answer of `cargo metadata`")
}

/// Runs a command to its end, its output on our terminal.
///
/// # Errors
/// It cannot be started or ends with another status than 0.
pub fn check(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if status.success() {
        return Ok(());
    }
    Err(Error::new(format!("`{}` failed: {status}", shown(command))))
}

/// Runs a command to its end and returns its status.
///
/// # Errors
/// It cannot be started.
pub fn status(command: &mut Command) -> Result<ExitStatus> {
    let mut child = command
        .spawn()
        .context(|| format!("start `{}`", shown(command)))?;
    let pid = child.id();
    guard::kill_at_exit(pid);
    let status = child
        .wait()
        .context(|| format!("wait for `{}`", shown(command)));
    guard::forget(pid);
    status
}

/// Runs a command to its end and returns its standard output.
///
/// # Errors
/// It cannot be started or ends with another status than 0; the message holds the end of its
/// standard error.
pub fn output(command: &mut Command) -> Result<String> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command
        .spawn()
        .context(|| format!("start `{}`", shown(command)))?;
    let pid = child.id();
    guard::kill_at_exit(pid);
    let output = child.wait_with_output();
    guard::forget(pid);
    let output = output.context(|| format!("wait for `{}`", shown(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim();
        let tail: Vec<&str> = said.lines().rev().take(12).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        return Err(Error::new(format!(
            "`{}` failed: {}\n{}",
            shown(command),
            output.status,
            tail.join("\n")
        )));
    }
    String::from_utf8(output.stdout).context(|| format!("read the output of `{}`", shown(command)))
}

/// Runs a command, passes its output lines on as they come, and gives each to `line` too.
///
/// # Errors
/// It cannot be started. Its own failure is in the returned status.
pub fn follow(command: &mut Command, mut line: impl FnMut(&str)) -> Result<ExitStatus> {
    follow_quietly(command, |text| {
        println!("{text}");
        line(text);
    })
}

/// As [`follow`], without passing the lines on.
///
/// # Errors
/// As [`follow`].
pub fn follow_quietly(command: &mut Command, mut line: impl FnMut(&str)) -> Result<ExitStatus> {
    let (reader, writer) = std::io::pipe().context(|| "make a pipe")?;
    let again = writer.try_clone().context(|| "make a pipe")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(again)
        .spawn()
        .context(|| format!("start `{}`", shown(command)))?;
    // The command holds the pipe's write ends; without this the reader would never see the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let pid = child.id();
    guard::kill_at_exit(pid);
    for text in BufReader::new(reader)
        .split(b'\n')
        .map_while(std::result::Result::ok)
    {
        line(&String::from_utf8_lossy(&text));
    }
    let status = child
        .wait()
        .context(|| format!("wait for `{}`", shown(command)));
    guard::forget(pid);
    status
}

/// The first executable file of this name in `folders` and then in `PATH`.
pub fn find(name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders
        .iter()
        .chain(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// A child process that does not outlive its owner: dropped, it is killed and reaped; and if
/// this process dies first, the guard kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    name: String,
    log: Option<PathBuf>,
}

impl Running {
    /// Starts `command`. With `log`, standard output and error are appended to that file.
    ///
    /// # Errors
    /// The command cannot be started, or the file not opened.
    pub fn start(command: &mut Command, name: &str, log: Option<&Path>) -> Result<Self> {
        if let Some(log) = log {
            let open = || {
                std::fs::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(log)
            };
            command
                .stdout(open().context(|| format!("open {}", log.display()))?)
                .stderr(open().context(|| format!("open {}", log.display()))?);
        }
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .context(|| format!("start `{}`", shown(command)))?;
        guard::kill_at_exit(child.id());
        Ok(Self {
            child,
            name: name.to_owned(),
            log: log.map(Path::to_owned),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The status, if it has ended.
    ///
    /// # Errors
    /// The operating system refuses to say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .context(|| format!("wait for {}", self.name))
    }

    /// Asks it to end (SIGTERM).
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub fn terminate(&self) -> Result<()> {
        signal("TERM", self.child.id())
    }

    /// Kills it (SIGKILL) and waits for its end.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.child
            .kill()
            .context(|| format!("kill {}", self.name))?;
        self.child
            .wait()
            .context(|| format!("wait for {}", self.name))?;
        guard::forget(self.child.id());
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It is still running after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                guard::forget(self.child.id());
                return Ok(status);
            }
            if start.elapsed() > limit {
                return Err(Error::new(format!(
                    "{} is still running after {} s{}",
                    self.name,
                    limit.as_secs(),
                    self.said()
                )));
            }
            pause();
        }
    }

    /// The end of what it logged, for a message; empty without a log.
    pub fn said(&self) -> String {
        let Some(log) = &self.log else {
            return String::new();
        };
        let Ok(mut file) = std::fs::File::open(log) else {
            return String::new();
        };
        let mut text = Vec::new();
        // A log that cannot be read only makes the message shorter.
        let _read = file.read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines
            .get(lines.len().saturating_sub(15)..)
            .unwrap_or_default();
        format!("\n--- end of its output\n{}", tail.join("\n"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already ended is what we want, so neither failure matters.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
        guard::forget(self.child.id());
    }
}

/// Sends a signal by name to one process.
///
/// # Errors
/// There is no such process, or no permission.
pub fn signal(name: &str, pid: u32) -> Result<()> {
    // The shell's built-in, because a bare system need not have the `kill` program.
    check(Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]))
}

/// A short wait between two looks at something another process does.
pub fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}
