//! What the process has used, from the kernel.

use std::fs;

/// Clock ticks a second in `/proc/self/stat`: fixed at 100 for user space on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time and memory of this process. Zeros where the kernel does not say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// User and system time in seconds.
    pub(crate) cpu_seconds: f64,
    /// Most resident memory so far, in KiB.
    pub(crate) peak_rss_kib: u64,
}

impl Usage {
    /// Until now.
    pub(crate) fn now() -> Self {
        Self {
            cpu_seconds: cpu().unwrap_or_default(),
            peak_rss_kib: peak().unwrap_or_default(),
        }
    }

    /// CPU time since another reading; memory is the peak of the whole process.
    pub(crate) fn since(self, before: &Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - before.cpu_seconds,
            ..self
        }
    }
}

fn cpu() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in brackets may hold anything; the fields behind it count from state (3).
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let user: f64 = fields.get(11)?.parse().ok()?;
    let system: f64 = fields.get(12)?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}
