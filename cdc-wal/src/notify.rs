//! Waking tails of the same process, without a runtime.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::task::Waker;

use crate::threads::{AtomicU64, AtomicUsize, Mutex};

/// Wakers of waiting tails. Waking costs one atomic load while nobody waits.
#[derive(Debug, Default)]
pub(crate) struct Notify {
    waiting: AtomicUsize,
    next: AtomicU64,
    wakers: Mutex<HashMap<u64, Waker>>,
}

impl Notify {
    /// A tail's own number.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Wakes the waker at the next change. Look at what is waited for again afterwards: a change
    /// before the registration wakes nobody.
    pub(crate) fn register(&self, number: u64, waker: &Waker) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        match wakers.get_mut(&number) {
            Some(known) => known.clone_from(waker),
            None => {
                wakers.insert(number, waker.clone());
            }
        }
        self.waiting.store(wakers.len(), Ordering::SeqCst);
    }

    /// Forgets a tail.
    pub(crate) fn remove(&self, number: u64) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        wakers.remove(&number);
        self.waiting.store(wakers.len(), Ordering::SeqCst);
    }

    /// Wakes all that wait.
    pub(crate) fn wake(&self) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, waker) in wakers.drain() {
            waker.wake();
        }
        self.waiting.store(0, Ordering::SeqCst);
    }
}
