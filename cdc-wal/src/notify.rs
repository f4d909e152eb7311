//! Waking tails of the same process, without a runtime.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::task::Waker;

use crate::threads::{AtomicU64, AtomicUsize, Mutex, MutexGuard, fence};

/// Calls another's code, a hook's or a waker's: one that panics must not take the thread away that everybody
/// waits for, nor keep others from being told.
pub(crate) fn guarded(call: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(call)).is_err() {
        tracing::error!("a hook or a waker of the log panicked");
    }
}

/// Wakers of waiting tails. Waking costs a fence and one atomic load while nobody waits.
///
/// Who wakes has stored what is new and looks whether somebody waits; who waits has stored that, and looks
/// for what is new. Without a fence between each one's store and load both may see what was before,
/// and the tail sleeps until the next change. No test sees it: processors seldom do it, and models
/// never, whose stores are seen by all at once.
///
/// A waker is another's code, and may own the task that has the tail: it is called and let go without the
/// lock, which that tail takes when it ends.
#[derive(Debug, Default)]
pub(crate) struct Notify {
    waiting: AtomicUsize,
    next: AtomicU64,
    wakers: Mutex<Wakers>,
}

#[derive(Debug, Default)]
struct Wakers {
    by_tail: HashMap<u64, Waker>,
    /// An empty one with room, so that who commits makes none.
    spare: HashMap<u64, Waker>,
}

impl Notify {
    /// A tail's own number.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Wakers> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the waker at the next change. Look at what is waited for again afterwards: a change
    /// before the registration wakes nobody.
    pub(crate) fn register(&self, number: u64, waker: &Waker) {
        let mut wakers = self.lock();
        let known = wakers.by_tail.get(&number);
        if known.is_some_and(|known| known.will_wake(waker)) {
            return;
        }
        let old = wakers.by_tail.insert(number, waker.clone());
        self.waiting.store(wakers.by_tail.len(), Ordering::SeqCst);
        fence(Ordering::SeqCst);
        drop(wakers);
        drop(old);
    }

    /// Forgets a tail.
    pub(crate) fn remove(&self, number: u64) {
        let mut wakers = self.lock();
        let old = wakers.by_tail.remove(&number);
        self.waiting.store(wakers.by_tail.len(), Ordering::SeqCst);
        drop(wakers);
        drop(old);
    }

    /// Wakes all that wait.
    pub(crate) fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut wakers = self.lock();
        let empty = std::mem::take(&mut wakers.spare);
        let mut due = std::mem::replace(&mut wakers.by_tail, empty);
        self.waiting.store(0, Ordering::SeqCst);
        drop(wakers);
        for (_, waker) in due.drain() {
            guarded(|| waker.wake());
        }
        let mut wakers = self.lock();
        if wakers.spare.capacity() < due.capacity() {
            std::mem::swap(&mut wakers.spare, &mut due);
        }
        drop(wakers);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Wake;

    use super::*;

    /// A task as simple executors have it: the last waker that goes takes the task with it, and its
    /// tail.
    struct Task(Arc<Notify>, u64);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    impl Drop for Task {
        fn drop(&mut self) {
            assert!(
                self.0.wakers.try_lock().is_ok(),
                "a waker was let go under the lock that its tail takes to end"
            );
            self.0.remove(self.1);
        }
    }

    #[test]
    fn a_waker_may_own_its_tail() {
        let notify = Arc::new(Notify::default());
        let register = |number| {
            let task = Waker::from(Arc::new(Task(notify.clone(), number)));
            notify.register(number, &task);
        };
        register(1);
        notify.wake();
        register(2);
        register(2);
        notify.remove(2);
        assert_eq!(notify.waiting.load(Ordering::SeqCst), 0);
    }
}
