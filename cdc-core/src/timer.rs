//! A clock without a runtime: one thread of the process wakes all who sleep.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::{Clock, wall_micros};

/// The machine's clock, for programs of any executor, or of none: sleeping needs no runtime.
///
/// The first sleep starts a thread, one for the process, which wakes all who sleep.
#[derive(Clone, Copy, Debug)]
pub struct ThreadClock {
    start: Instant,
}

impl ThreadClock {
    /// A clock that starts now.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Default for ThreadClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ThreadClock {
    fn wall_micros(&self) -> i64 {
        wall_micros()
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(Sleep {
            until: Instant::now().checked_add(duration),
            number: None,
        })
    }
}

/// Who sleeps, by when they want to be woken. Each entry is that of a [`Sleep`] that is polled and
/// not dropped, so there are as many as sleepers.
#[derive(Debug, Default)]
struct Timer {
    sleepers: Mutex<Sleepers>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Sleepers {
    by_time: BTreeMap<(Instant, u64), Waker>,
    next: u64,
    /// The thread runs.
    running: bool,
}

fn timer() -> &'static Timer {
    static TIMER: OnceLock<Timer> = OnceLock::new();
    TIMER.get_or_init(Timer::default)
}

impl Timer {
    fn lock(&self) -> MutexGuard<'_, Sleepers> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the waker at the time; gives the number to forget it by, `None` if there is no thread
    /// to do it.
    fn add(&'static self, until: Instant, known: Option<u64>, waker: Waker) -> Option<u64> {
        let mut sleepers = self.lock();
        if !sleepers.running {
            let thread = std::thread::Builder::new().name("cdc-timer".into());
            sleepers.running = thread.spawn(|| self.run()).is_ok();
        }
        if !sleepers.running {
            return None;
        }
        let number = known.unwrap_or(sleepers.next);
        if known.is_none() {
            sleepers.next += 1;
        }
        // A waker may own what sleeps, and dropping it may come back here: never under the lock.
        let old = sleepers.by_time.insert((until, number), waker);
        let first = sleepers.by_time.keys().next() == Some(&(until, number));
        drop(sleepers);
        drop(old);
        if first {
            self.changed.notify_one();
        }
        Some(number)
    }

    fn forget(&self, until: Instant, number: u64) {
        let old = self.lock().by_time.remove(&(until, number));
        drop(old);
    }

    fn run(&self) {
        let mut sleepers = self.lock();
        loop {
            let now = Instant::now();
            let first = sleepers.by_time.first_key_value().map(|(&(at, _), _)| at);
            sleepers = match first {
                None => self
                    .changed
                    .wait(sleepers)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(at) if at > now => {
                    let waited = self.changed.wait_timeout(sleepers, at - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                Some(_) => {
                    let due = sleepers.by_time.pop_first();
                    drop(sleepers);
                    // A waker that panics must not take the thread from all others.
                    let woken = catch_unwind(AssertUnwindSafe(|| {
                        if let Some((_, waker)) = due {
                            waker.wake();
                        }
                    }));
                    if woken.is_err() {
                        tracing::error!("a waker panicked");
                    }
                    self.lock()
                }
            };
        }
    }
}

/// A sleep; `until` is `None` if no time is that late.
#[derive(Debug)]
struct Sleep {
    until: Option<Instant>,
    number: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(until) = self.until else {
            return Poll::Pending;
        };
        if Instant::now() >= until {
            return Poll::Ready(());
        }
        self.number = timer().add(until, self.number, context.waker().clone());
        if self.number.is_none() {
            // Without a thread it sleeps here, a little at a time, and the program goes on slowly.
            let rest = until.saturating_duration_since(Instant::now());
            std::thread::sleep(rest.min(Duration::from_millis(1)));
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let (Some(until), Some(number)) = (self.until, self.number) {
            timer().forget(until, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;
    use std::task::Wake;

    use super::*;

    struct Send(mpsc::Sender<u32>, u32);

    impl Wake for Send {
        fn wake(self: Arc<Self>) {
            self.0.send(self.1).unwrap();
        }
    }

    struct Panics;

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("against its contract");
        }
    }

    fn poll(
        sleep: &mut Pin<Box<dyn Future<Output = ()> + std::marker::Send>>,
        waker: &Waker,
    ) -> bool {
        sleep
            .as_mut()
            .poll(&mut Context::from_waker(waker))
            .is_ready()
    }

    #[test]
    fn sleepers_are_woken_in_time_order_without_a_runtime_unless_dropped() {
        let clock = ThreadClock::new();
        let (send, woken) = mpsc::channel();
        let waker = |n| Waker::from(Arc::new(Send(send.clone(), n)));
        let begun = clock.elapsed();
        let mut panics = clock.sleep(Duration::from_millis(1));
        assert!(!poll(&mut panics, &Waker::from(Arc::new(Panics))));
        let mut dropped = clock.sleep(Duration::from_millis(10));
        assert!(!poll(&mut dropped, &waker(0)));
        drop(dropped);
        let mut late = clock.sleep(Duration::from_millis(60));
        assert!(!poll(&mut late, &waker(2)));
        let mut early = clock.sleep(Duration::from_millis(30));
        assert!(!poll(&mut early, &waker(9)), "only the last waker counts");
        assert!(!poll(&mut early, &waker(1)));
        let mut never = clock.sleep(Duration::MAX);
        assert!(!poll(&mut never, &waker(3)));
        assert_eq!(woken.recv().unwrap(), 1);
        assert!(poll(&mut early, &waker(1)));
        assert!(clock.elapsed() - begun >= Duration::from_millis(30));
        assert_eq!(woken.recv().unwrap(), 2);
        assert!(poll(&mut late, &waker(2)));
        assert!(poll(&mut clock.sleep(Duration::ZERO), &waker(4)));
    }

    /// The task that a waker owns, and the sleep that the task owns.
    struct Owns(Mutex<Option<Pin<Box<dyn Future<Output = ()> + std::marker::Send>>>>);

    impl Wake for Owns {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn a_waker_that_owns_its_sleep_is_let_go() {
        let clock = ThreadClock::new();
        let task = Arc::new(Owns(Mutex::new(Some(
            clock.sleep(Duration::from_millis(1)),
        ))));
        let waker = Waker::from(task.clone());
        {
            let mut sleep = task.0.lock().unwrap();
            assert!(!poll(sleep.as_mut().unwrap(), &waker));
        }
        let (weak, last) = (Arc::downgrade(&task), waker);
        drop(task);
        drop(last);
        // The timer's thread drops the last one, and goes on.
        let (send, woken) = mpsc::channel();
        let mut after = clock.sleep(Duration::from_millis(20));
        assert!(!poll(&mut after, &Waker::from(Arc::new(Send(send, 1)))));
        assert_eq!(woken.recv().unwrap(), 1);
        assert!(weak.upgrade().is_none());
    }
}
