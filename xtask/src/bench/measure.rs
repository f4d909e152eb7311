//! What a process cost: wall time, CPU time, peak memory, read from `/proc`.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::command::{self, Running};
use crate::error::Context;
use crate::{Error, Result, ensure};

/// The cost of one process from start to end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    /// Seconds on the clock.
    pub(super) wall: f64,
    /// Seconds of CPU, user and system, all threads.
    pub(super) cpu: f64,
    /// Highest resident memory seen, in MiB. Looked at every 5 ms, so a shorter peak is missed
    /// only if it falls behind the last look.
    pub(super) resident_mib: f64,
}

/// Runs a command to its end and measures it.
///
/// # Errors
/// It cannot be started, fails, or takes longer than an hour.
pub(super) fn measure(command: &mut Command, name: &str, log: &std::path::Path) -> Result<Cost> {
    measure_with(command, name, log, None)
}

/// As [`measure`]; gives the program memory for what it writes out of a ballast.
///
/// # Errors
/// As [`measure`].
pub(super) fn measure_with(
    command: &mut Command,
    name: &str,
    log: &std::path::Path,
    mut ballast: Option<Ballast>,
) -> Result<Cost> {
    let ticks = ticks_per_second()?;
    let start = Instant::now();
    let mut running = Running::start(command.stdin(Stdio::null()), name, Some(log))?;
    let pid = running.pid();
    let mut resident_kib = 0;
    // An ended process that nobody has waited for keeps its times in `/proc`.
    let (cpu, wall) = loop {
        let (state, spent) = stat(pid)?;
        if state == 'Z' {
            break (spent, start.elapsed());
        }
        resident_kib = resident_kib.max(peak(pid));
        if let Some(ballast) = &mut ballast {
            ballast.make_room(written(pid))?;
        }
        ensure!(
            start.elapsed() < Duration::from_secs(3600),
            "{name} takes longer than an hour"
        );
        std::thread::sleep(Duration::from_millis(5));
    };
    let status = running.wait(Duration::from_secs(10))?;
    ensure!(status.success(), "{name}: {status}{}", running.said());
    Ok(Cost {
        wall: wall.as_secs_f64(),
        cpu: number(cpu) / number(ticks),
        resident_mib: number(resident_kib) / 1024.0,
    })
}

/// Largest file [`warm_page_cache`] writes, and largest ballast.
const WARM_BYTES_MAX: u64 = 4 << 30;

/// A file system in memory.
const MEMORY: &str = "/dev/shm";

/// Memory that is given free as fast as the measured program writes.
///
/// On a virtual machine the first write to a page of memory that the host has to supply costs ten
/// times a later one, and hosts take free memory back within seconds: a program that writes files for longer
/// than that pays for it, and says nothing about itself. A file in memory keeps as many pages from the host as will be needed;
/// it is cut by what the program has written, and those pages are the next to be used.
#[derive(Debug)]
pub(super) struct Ballast {
    file: std::fs::File,
    path: std::path::PathBuf,
    bytes: u64,
    left: u64,
}

impl Ballast {
    /// Given free ahead of what is written.
    const AHEAD: u64 = 64 << 20;

    /// A ballast for about so many bytes; none where there is no file system in memory.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn new(bytes: u64) -> Result<Option<Self>> {
        if !std::path::Path::new(MEMORY).is_dir() {
            return Ok(None);
        }
        let path = std::path::Path::new(MEMORY).join(format!("cdc-bench-{}", std::process::id()));
        let attempted = || format!("write {}", path.display());
        let mut file = std::fs::File::create(&path).context(attempted)?;
        let chunk = vec![1_u8; 1 << 20];
        let bytes = bytes.min(WARM_BYTES_MAX) + Self::AHEAD;
        for _ in 0..bytes.div_ceil(1 << 20) {
            std::io::Write::write_all(&mut file, &chunk).context(attempted)?;
        }
        Ok(Some(Self {
            file,
            path,
            bytes,
            left: bytes,
        }))
    }

    fn make_room(&mut self, written: u64) -> Result<()> {
        let left = self.bytes.saturating_sub(written + Self::AHEAD);
        if left < self.left {
            let cut = self.file.set_len(left);
            cut.context(|| format!("cut {}", self.path.display()))?;
            self.left = left;
        }
        Ok(())
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        // Nothing can be done about it, and it says so itself by being there.
        drop(std::fs::remove_file(&self.path));
    }
}

/// Bytes a process has written so far, to files and sockets.
fn written(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("wchar:")?.trim().parse().ok())
        .unwrap_or(0)
}

/// Writes about as many bytes as the measured program will, and removes them again.
///
/// On a virtual machine the first write to a page of memory since boot costs ten times a later one
/// (1.0 s against 0.1 s of system time for 335 MB was measured here): the host has to supply the
/// page. That is charged to whoever comes first, and says nothing about the program.
///
/// # Errors
/// The file cannot be written.
pub(super) fn warm_page_cache(dir: &std::path::Path, bytes: u64) -> Result<()> {
    let path = dir.join("warm");
    let attempted = || "write a file to warm the page cache";
    let mut file = std::fs::File::create(&path).context(attempted)?;
    let chunk = vec![1_u8; 1 << 20];
    for _ in 0..bytes.min(WARM_BYTES_MAX).div_ceil(1 << 20) {
        std::io::Write::write_all(&mut file, &chunk).context(attempted)?;
    }
    std::fs::remove_file(&path).context(|| "remove the file that warmed the page cache")
}

/// A count as a number to calculate rates with; exact up to 2^53.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of events, ticks and bytes are smaller"
)]
pub(super) fn number(count: u64) -> f64 {
    count as f64
}

fn ticks_per_second() -> Result<u64> {
    let text = command::output(Command::new("getconf").arg("CLK_TCK"))?;
    text.trim()
        .parse()
        .context(|| "read the clock's ticks per second")
}

/// State and CPU ticks of a process.
fn stat(pid: u32) -> Result<(char, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .context(|| format!("look at process {pid}"))?;
    parse_stat(&text).ok_or_else(|| Error::new("look at a process: unexpected /proc format"))
}

fn parse_stat(text: &str) -> Option<(char, u64)> {
    // The name is in parentheses and may hold anything.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let state = fields.first()?.chars().next()?;
    let user: u64 = fields.get(11)?.parse().ok()?;
    let system: u64 = fields.get(12)?.parse().ok()?;
    Some((state, user + system))
}

/// Peak resident memory in KiB; 0 when the process has just ended.
fn peak(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    text.lines()
        .find_map(|line| {
            line.strip_prefix("VmHWM:")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or(0)
}

/// The middle value; the mean of the two middle ones of an even count.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = sorted.len() / 2;
    let upper = sorted.get(at).copied().unwrap_or(0.0);
    if sorted.len().is_multiple_of(2) && at > 0 {
        f64::midpoint(sorted.get(at - 1).copied().unwrap_or(upper), upper)
    } else {
        upper
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_process_does_not_confuse() {
        let line = "42 (a ) b) Z 1 2 3 4 5 6 7 8 9 10 250 50 0 0";
        assert_eq!(parse_stat(line), Some(('Z', 300)));
    }

    #[test]
    fn a_busy_process_costs_what_it_costs() {
        let dir = crate::guard::TempDir::new("measure").unwrap();
        let script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let cost = measure(
            Command::new("sh").args(["-c", script]),
            "sh",
            &dir.join("log"),
        )
        .unwrap();
        assert!(cost.cpu > 0.0 && cost.resident_mib > 0.1, "{cost:?}");
        let failed = measure(
            Command::new("sh").args(["-c", "exit 3"]),
            "sh",
            &dir.join("log"),
        );
        assert!(failed.unwrap_err().to_string().contains("exit status: 3"));
    }

    #[test]
    fn medians() {
        for (values, expected) in [(&[3.0, 1.0, 2.0][..], 2.0), (&[1.0, 2.0], 1.5), (&[], 0.0)] {
            assert!((median(values) - expected).abs() < 1e-9);
        }
    }
}
