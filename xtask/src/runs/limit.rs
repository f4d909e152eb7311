//! A ceiling over one process's memory: a control group where this process may make one, else a
//! bound on what it may map to write.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::error::Context;

/// Where control groups are mounted: version 2, then version 1.
const V2: &str = "/sys/fs/cgroup";
const V1: &str = "/sys/fs/cgroup/memory";

/// A ceiling. Dropped, its group is removed, if its processes have ended.
#[derive(Debug)]
pub(super) struct Ceiling {
    bytes: u64,
    group: Option<Group>,
}

#[derive(Debug)]
struct Group {
    path: PathBuf,
    version: u8,
}

impl Ceiling {
    /// A group of its own under a limit; without the right to make one, the bound that the kernel
    /// puts on a process's writable private memory (`RLIMIT_DATA`). Not on its address space: that
    /// counts what allocators and threads only reserve.
    pub(super) fn new(bytes: u64) -> Self {
        let name = format!("weftkit-{}", std::process::id());
        let group = Group::v2(&Path::new(V2).join(&name), bytes)
            .or_else(|| Group::v1(&Path::new(V1).join(&name), bytes));
        Self { bytes, group }
    }

    /// What it is, for the report.
    pub(super) fn name(&self) -> String {
        let mib = self.bytes >> 20;
        match &self.group {
            Some(group) => format!("control group (version {}) of {mib} MiB", group.version),
            None => {
                format!("RLIMIT_DATA of {mib} MiB, for lack of the right to make a control group")
            }
        }
    }

    /// The same command, under the ceiling.
    pub(super) fn over(&self, command: &Command) -> Command {
        let mut limited = Command::new("sh");
        match &self.group {
            // The shell joins the group, then becomes the program.
            Some(group) => {
                limited.args(["-c", "echo $$ >\"$0\" && exec \"$@\""]);
                limited.arg(group.path.join("cgroup.procs"));
            }
            None => {
                limited.args(["-c", "ulimit -d \"$0\" && exec \"$@\""]);
                limited.arg((self.bytes >> 10).to_string());
            }
        }
        limited.arg(command.get_program()).args(command.get_args());
        if let Some(dir) = command.get_current_dir() {
            limited.current_dir(dir);
        }
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => limited.env(name, value),
                None => limited.env_remove(name),
            };
        }
        limited
    }

    /// How many processes the kernel killed for memory.
    ///
    /// # Errors
    /// The group cannot be read.
    pub(super) fn kills(&self) -> Result<u64> {
        let Some(group) = &self.group else {
            return Ok(0);
        };
        let file = group.path.join(match group.version {
            2 => "memory.events",
            _ => "memory.oom_control",
        });
        let text = fs::read_to_string(&file).context(|| format!("read {}", file.display()))?;
        let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        Ok(kills.and_then(|n| n.trim().parse().ok()).unwrap_or(0))
    }
}

impl Drop for Ceiling {
    fn drop(&mut self) {
        if let Some(group) = &self.group {
            // Processes that were just killed leave the group a moment later.
            for _ in 0..50 {
                if fs::remove_dir(&group.path).is_ok() {
                    return;
                }
                crate::command::pause();
            }
        }
    }
}

impl Group {
    fn v2(path: &Path, bytes: u64) -> Option<Self> {
        Path::new(V2)
            .join("cgroup.controllers")
            .exists()
            .then_some(())?;
        Self::make(path, &[("memory.max", bytes), ("memory.swap.max", 0)], 2)
    }

    fn v1(path: &Path, bytes: u64) -> Option<Self> {
        Path::new(V1)
            .join("memory.limit_in_bytes")
            .exists()
            .then_some(())?;
        Self::make(path, &[("memory.limit_in_bytes", bytes)], 1)
    }

    fn make(path: &Path, limits: &[(&str, u64)], version: u8) -> Option<Self> {
        fs::create_dir(path).ok()?;
        let group = Self {
            path: path.to_owned(),
            version,
        };
        for (n, (file, bytes)) in limits.iter().enumerate() {
            let written = fs::write(path.join(file), bytes.to_string());
            // A kernel without swap has no limit on it.
            if written.is_err() && n == 0 {
                let _removed = fs::remove_dir(path);
                return None;
            }
        }
        Some(group)
    }
}

/// What `/proc/PID/status` says in KiB under a name; 0 when the process has ended.
pub(super) fn status_kib(pid: u32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    text.lines()
        .find_map(|line| {
            line.strip_prefix(name)?
                .strip_prefix(':')?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_over_the_ceiling_does_not_get_its_memory() {
        let ceiling = Ceiling::new(64 << 20);
        let mut small = Command::new("sh");
        small.args(["-c", "exit 0"]);
        assert!(ceiling.over(&small).status().unwrap().success());
        // A string that doubles until something says no.
        let mut large = Command::new("sh");
        large.args([
            "-c",
            "s=0123456789abcdef; while [ ${#s} -lt 500000000 ]; do s=$s$s; done",
        ]);
        large.stderr(std::process::Stdio::null());
        assert!(!ceiling.over(&large).status().unwrap().success());
    }
}
