//! What happened in a simulation, for people, and its digest, for comparing two runs.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::random::mix;
use super::{SimClock, locked};
use crate::testing::sim_storage::{DiskCall, DiskWatch};

/// Lines kept of one run; the oldest make room.
const LINES_MAX: usize = 20_000;

/// A record of a run. Clones are the same record.
#[derive(Clone, Debug)]
pub struct Timeline {
    clock: SimClock,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    digest: u64,
    lines: Option<std::collections::VecDeque<String>>,
    disk_delay: Duration,
}

impl Timeline {
    /// A record that keeps its lines, or only their digest.
    pub fn new(clock: SimClock, keep: bool) -> Self {
        let inner = Inner {
            digest: 0,
            lines: keep.then(Default::default),
            disk_delay: Duration::ZERO,
        };
        Self {
            clock,
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// Notes that something happened; the text is made only if it is kept.
    pub fn note(&self, who: &str, what: impl FnOnce() -> String) {
        let mut inner = locked(&self.inner);
        let now = self.clock.now();
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        inner.digest = mix(inner.digest ^ nanos ^ who.len() as u64);
        if let Some(lines) = &mut inner.lines {
            if lines.len() == LINES_MAX {
                lines.pop_front();
            }
            let mut line = String::new();
            // Writing to a string cannot fail.
            let _ = write!(line, "{:>13.6} {who:<12} {}", now.as_secs_f64(), what());
            lines.push_back(line);
        }
    }

    /// Takes a number into the digest alone.
    pub fn stir(&self, number: u64) {
        let mut inner = locked(&self.inner);
        inner.digest = mix(inner.digest ^ number);
    }

    /// Equal for equal runs.
    pub fn digest(&self) -> u64 {
        locked(&self.inner).digest
    }

    /// The lines kept, in order.
    pub fn lines(&self) -> Vec<String> {
        locked(&self.inner)
            .lines
            .as_ref()
            .map(|lines| lines.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// How long every call of the disk takes from now on.
    pub fn set_disk_delay(&self, delay: Duration) {
        locked(&self.inner).disk_delay = delay;
    }
}

/// Every call of the disk takes its time and is noted.
impl DiskWatch for Timeline {
    fn called(&self, call: DiskCall, path: &Path, bytes: usize, fails: bool) {
        let delay = locked(&self.inner).disk_delay;
        self.clock.advance(delay);
        self.stir(call as u64 ^ (bytes as u64) << 8);
        self.note("disk", || {
            let failed = if fails { ": FAILS" } else { "" };
            format!("{call:?} {} {bytes}{failed}", path.display())
        });
    }
}
