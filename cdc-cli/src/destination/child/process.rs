//! The running child: its pipes, its end.

use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, WaitOptions, kill_process_group, test_kill_process_group, waitpgid,
};
use tokio::io::BufReader;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// How often is asked whether a child has ended.
const ASK_EVERY: Duration = Duration::from_millis(5);
/// Longest pause between two looks at what it has started.
const LOOK_MAX: Duration = Duration::from_millis(100);
/// Longest wait for what was killed and is not our child: its end may wait for a disk, and it may never
/// be reaped by whoever has it now.
const KILLED_WAIT: Duration = Duration::from_secs(1);

/// A child with a process group of its own, so that its end reaches what it has started, and a
/// ctrl-c on the terminal does not reach it before it has answered.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    group: Option<Pid>,
    /// `None` once it was closed.
    pub(super) input: Option<ChildStdin>,
    pub(super) output: BufReader<ChildStdout>,
    /// Between two batches: everything that was given is answered.
    pub(super) idle: bool,
    stop_timeout: Duration,
    ended: bool,
}

impl Process {
    /// Starts a program. `None` if its pipes are not there, which the operating system does not do.
    ///
    /// # Errors
    /// From the operating system: most often there is no such program.
    pub(super) fn start(
        program: &str,
        arguments: &[String],
        stop_timeout: Duration,
    ) -> std::io::Result<Option<Self>> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            // Of no effect after an orderly end; a panic must not leave it behind.
            .kill_on_drop(true)
            .spawn()?;
        let group = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Ok(None);
        };
        Ok(Some(Self {
            child,
            group,
            input: Some(input),
            output: BufReader::new(output),
            idle: true,
            stop_timeout,
            ended: false,
        }))
    }

    /// How it ended, if it did.
    pub(super) fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // It may be gone already.
            let _ = kill_process_group(group, signal);
        }
    }

    /// True if something of its process group is there, now that the child itself has ended: a consumer
    /// behind a shell outlives the shell. What runs as another user cannot be ended, and is not waited for.
    fn outlived(&self) -> bool {
        let Some(group) = self.group else {
            return false;
        };
        // The first process of a container inherits orphans; nobody else asks how they ended.
        while let Ok(Some(_)) = waitpgid(group, WaitOptions::NOHANG) {}
        test_kill_process_group(group).is_ok() && lives(group)
    }

    /// Ends it: SIGTERM, then SIGKILL for it and what it has started. It is gone when this returns, and so
    /// is what it has started: the next one would run beside it.
    ///
    /// Cancel safety: dropping the future ends it as a drop of the process does.
    pub(super) async fn end(mut self) {
        self.signal(Signal::TERM);
        let stop_timeout = self.stop_timeout;
        if timeout(stop_timeout, self.gone()).await.is_err() {
            self.signal(Signal::KILL);
            // Its errors say that it is gone.
            let _ = self.child.wait().await;
            let _ = timeout(KILLED_WAIT, self.gone()).await;
        }
        self.ended = true;
    }

    /// Waits until it has ended, and everything of its process group.
    async fn gone(&mut self) {
        let _ = self.child.wait().await;
        let mut pause = ASK_EVERY;
        while self.outlived() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_MAX);
        }
    }

    /// Waits, blocking; false if it still runs then, or with its `group` what it has started.
    fn wait_blocking(&mut self, group: bool) -> bool {
        let start = Instant::now();
        let mut pause = ASK_EVERY;
        loop {
            let ended = match self.child.try_wait() {
                Ok(None) => false,
                Ok(Some(_)) | Err(_) => true,
            };
            if ended && !(group && self.outlived()) {
                return true;
            }
            if start.elapsed() >= self.stop_timeout {
                return false;
            }
            std::thread::sleep(pause);
            if ended {
                pause = (pause * 2).min(LOOK_MAX);
            }
        }
    }
}

impl Drop for Process {
    /// An orderly end: its input is closed if it has answered everything; then SIGTERM; then
    /// SIGKILL. Blocks for at most twice `stop_timeout`. What is there after a child that ended by itself is
    /// the child's.
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.input = None;
        if self.idle && self.wait_blocking(false) {
            return;
        }
        self.signal(Signal::TERM);
        if self.wait_blocking(true) {
            return;
        }
        self.signal(Signal::KILL);
    }
}

/// True if a process of this group does more than wait to be asked how it ended: whoever inherited it may
/// take its time, or never ask. Only `/proc` tells; without it everything lives.
fn lives(group: Pid) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return true;
    };
    let group = group.as_raw_pid().to_string();
    let (mut any, mut lives) = (false, false);
    for process in processes.flatten() {
        // It may be gone by now, or be no process.
        let Ok(stat) = std::fs::read_to_string(process.path().join("stat")) else {
            continue;
        };
        // PID (NAME) STATE PARENT GROUP, and a name may hold anything.
        let Some((_, rest)) = stat.rsplit_once(')') else {
            continue;
        };
        any = true;
        let mut words = rest.split_ascii_whitespace();
        let state = words.next();
        let is_of_group = words.nth(1) == Some(&group);
        lives |= is_of_group && !matches!(state, Some("Z" | "X"));
    }
    lives || !any
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_lives_until_its_processes_have_ended_whoever_asks_for_them() {
        use std::os::unix::process::CommandExt as _;

        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .process_group(0)
            .spawn()
            .unwrap();
        let group = Pid::from_child(&child);
        assert!(lives(group));
        child.kill().unwrap();
        // Nobody has asked how it ended: it is there, and does nothing more.
        while lives(group) {
            std::thread::yield_now();
        }
        test_kill_process_group(group).unwrap();
        child.wait().unwrap();
        assert!(test_kill_process_group(group).is_err());
    }
}
