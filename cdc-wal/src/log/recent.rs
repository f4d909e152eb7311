//! What was written last, kept for tails of this process: they get the very bytes, without a read.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use crate::threads::{AtomicUsize, Mutex};

/// Most bytes kept; who falls further behind reads the files until it has caught up.
const RECENT_BYTES_MAX: usize = 4 << 20;
/// Most writes kept.
const RECENT_WRITES_MAX: usize = 1024;

/// A ring of the last writes. Nothing is kept while nobody follows.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    followers: AtomicUsize,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    /// LSN of the first byte, and the bytes: whole frames, of one segment each, ascending.
    writes: VecDeque<(u64, Bytes)>,
    bytes: usize,
}

impl Recent {
    /// Keeps what was just written. Called by the writer, which never waits for a follower longer
    /// than for one look-up.
    pub(crate) fn push(&self, at: u64, bytes: &Bytes) {
        if bytes.is_empty() || self.followers.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        while ring.bytes + bytes.len() > RECENT_BYTES_MAX || ring.writes.len() >= RECENT_WRITES_MAX
        {
            let Some((_, gone)) = ring.writes.pop_front() else {
                // More than is ever kept at once.
                return;
            };
            ring.bytes -= gone.len();
        }
        ring.bytes += bytes.len();
        ring.writes.push_back((at, bytes.clone()));
    }

    /// The write that holds an LSN, with the LSN of its first byte.
    fn get(&self, lsn: u64) -> Option<(u64, Bytes)> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let index = ring.writes.partition_point(|(at, _)| *at <= lsn);
        let (at, bytes) = ring.writes.get(index.checked_sub(1)?)?;
        (lsn < at + bytes.len() as u64).then(|| (*at, bytes.clone()))
    }
}

/// A tail's interest in what is written. Dropping the last one frees what is kept.
#[derive(Debug)]
pub(crate) struct Follower(Arc<Recent>);

impl Follower {
    pub(crate) fn new(recent: &Arc<Recent>) -> Self {
        {
            // Commits only push: the room is made here.
            let mut ring = recent.ring.lock().unwrap_or_else(PoisonError::into_inner);
            ring.writes.reserve(RECENT_WRITES_MAX);
        }
        recent.followers.fetch_add(1, Ordering::AcqRel);
        Self(recent.clone())
    }

    pub(crate) fn get(&self, lsn: u64) -> Option<(u64, Bytes)> {
        self.0.get(lsn)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if self.0.followers.fetch_sub(1, Ordering::AcqRel) == 1 {
            let mut ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
            *ring = Ring::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_writes_are_kept_within_their_bounds_while_somebody_follows() {
        let recent = Arc::new(Recent::default());
        let push = |at: u64, len: usize| recent.push(at, &Bytes::from(vec![1; len]));
        push(0, 10);
        let follower = Follower::new(&recent);
        assert!(follower.get(0).is_none(), "nobody followed");
        push(100, 50);
        push(150, 50);
        assert_eq!(
            follower.get(149).map(|(at, b)| (at, b.len())),
            Some((100, 50))
        );
        assert_eq!(follower.get(150).map(|(at, _)| at), Some(150));
        for lsn in [99, 200] {
            assert!(follower.get(lsn).is_none(), "{lsn}");
        }
        for n in 1..=1000 {
            push(n * 100_000, 100_000);
        }
        let ring = recent.ring.lock().unwrap();
        assert!(ring.bytes <= RECENT_BYTES_MAX && ring.writes.len() == 41);
        drop(ring);
        assert!(follower.get(150).is_none() && follower.get(100_000_000).is_some());
        for n in 0..3000 {
            push(1 << 40 | n, 1);
        }
        assert_eq!(recent.ring.lock().unwrap().writes.len(), RECENT_WRITES_MAX);
        push(1 << 41, RECENT_BYTES_MAX + 1);
        assert!(
            follower.get(1 << 41).is_none(),
            "larger than all that is kept"
        );
        drop(follower);
        assert_eq!(recent.ring.lock().unwrap().writes.len(), 0);
    }
}
