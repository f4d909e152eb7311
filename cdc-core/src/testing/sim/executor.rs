//! One thread, a virtual clock, and tasks polled in an order that the seed decides.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::{SimRandom, locked};
use crate::Clock;

/// Wall time at the begin of every simulation: 2026-01-01T00:00:00Z.
const EPOCH_MICROS: i64 = 1_767_225_600_000_000;

/// The time of a simulation. It stands still while anything can run. Clones are the same clock.
#[derive(Clone, Debug, Default)]
pub struct SimClock(Arc<Mutex<Time>>);

#[derive(Debug, Default)]
struct Time {
    now: Duration,
    timers: BTreeMap<(Duration, u64), Waker>,
    next: u64,
}

impl SimClock {
    /// Time since the simulation began.
    pub fn now(&self) -> Duration {
        locked(&self.0).now
    }

    /// When the next timer fires.
    pub fn next_timer(&self) -> Option<Duration> {
        locked(&self.0).timers.keys().next().map(|(at, _)| *at)
    }

    /// Time passes; timers up to then fire.
    pub fn advance(&self, by: Duration) {
        if !by.is_zero() {
            self.advance_to(self.now() + by);
        }
    }

    /// As [`advance`](Self::advance), to a moment; never back.
    pub fn advance_to(&self, to: Duration) {
        let mut due = Vec::new();
        {
            let mut time = locked(&self.0);
            time.now = time.now.max(to);
            let now = time.now;
            while let Some(first) = time.timers.first_entry() {
                if first.key().0 > now {
                    break;
                }
                due.push(first.remove());
            }
        }
        for waker in due {
            waker.wake();
        }
    }

    /// Waits; the future is the executor's to wake.
    pub fn wait(&self, duration: Duration) -> Sleep {
        Sleep {
            clock: self.clone(),
            until: self.now() + duration,
            timer: None,
        }
    }
}

impl Clock for SimClock {
    fn wall_micros(&self) -> i64 {
        EPOCH_MICROS + i64::try_from(self.now().as_micros()).unwrap_or(i64::MAX / 2)
    }

    fn elapsed(&self) -> Duration {
        self.now()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.wait(duration))
    }
}

/// Resolves when the virtual time has come.
#[derive(Debug)]
pub struct Sleep {
    clock: SimClock,
    until: Duration,
    timer: Option<(Duration, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let clock = self.clock.clone();
        let mut time = locked(&clock.0);
        if time.now >= self.until {
            if let Some(key) = self.timer.take() {
                time.timers.remove(&key);
            }
            return Poll::Ready(());
        }
        let key = match self.timer {
            Some(key) => key,
            None => {
                time.next += 1;
                (self.until, time.next)
            }
        };
        self.timer = Some(key);
        time.timers.insert(key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.timer {
            locked(&self.clock.0).timers.remove(&key);
        }
    }
}

type Work = Pin<Box<dyn Future<Output = ()>>>;

/// Takes tasks from inside other tasks. Clones feed the same executor.
#[derive(Clone, Default)]
pub struct Spawner(Arc<Mutex<Vec<(String, u64, SendWork)>>>);

type SendWork = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Spawner {
    /// Starts a task of a group with the next step of the executor.
    pub fn spawn(
        &self,
        name: impl Into<String>,
        group: u64,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        locked(&self.0).push((name.into(), group, Box::pin(work)));
    }
}

impl fmt::Debug for Spawner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawner").finish_non_exhaustive()
    }
}

struct Task {
    name: String,
    group: u64,
    work: Work,
    waker: Waker,
}

struct TaskWake {
    id: usize,
    ready: Arc<Mutex<BTreeSet<usize>>>,
}

impl Wake for TaskWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        locked(&self.ready).insert(self.id);
    }
}

/// One step of an executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// A task of this group was polled.
    Task(u64),
    /// Nothing can run before the clock moves.
    Idle,
}

/// Runs tasks in groups; a group is a simulated process and can be killed whole.
pub struct SimExecutor {
    tasks: BTreeMap<usize, Task>,
    /// Ordered, so that the order of wake-ups decides nothing: some libraries draw it at random.
    ready: Arc<Mutex<BTreeSet<usize>>>,
    next: usize,
    spawner: Spawner,
    random: SimRandom,
}

impl fmt::Debug for SimExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimExecutor")
            .field("tasks", &self.tasks.len())
            .finish_non_exhaustive()
    }
}

impl SimExecutor {
    /// An executor without tasks that draws from `random`.
    pub fn new(random: SimRandom) -> Self {
        Self {
            tasks: BTreeMap::new(),
            ready: Arc::default(),
            next: 0,
            spawner: Spawner::default(),
            random,
        }
    }

    /// What starts tasks from inside tasks.
    pub fn spawner(&self) -> Spawner {
        self.spawner.clone()
    }

    /// Starts a task.
    pub fn spawn(
        &mut self,
        name: impl Into<String>,
        group: u64,
        work: impl Future<Output = ()> + 'static,
    ) {
        self.start(name.into(), group, Box::pin(work));
    }

    fn start(&mut self, name: String, group: u64, work: Work) {
        let id = self.next;
        self.next += 1;
        let wake = Arc::new(TaskWake {
            id,
            ready: self.ready.clone(),
        });
        let task = Task {
            name,
            group,
            work,
            waker: wake.clone().into(),
        };
        self.tasks.insert(id, task);
        wake.wake();
    }

    /// Polls one of the tasks that can run.
    pub fn step(&mut self) -> Polled {
        let spawned = std::mem::take(&mut *locked(&self.spawner.0));
        for (name, group, work) in spawned {
            self.start(name, group, work);
        }
        loop {
            let id = {
                let mut ready = locked(&self.ready);
                if ready.is_empty() {
                    return Polled::Idle;
                }
                let chosen = self.random.index(ready.len());
                let Some(id) = ready.iter().nth(chosen).copied() else {
                    return Polled::Idle;
                };
                ready.remove(&id);
                id
            };
            let Some(task) = self.tasks.get_mut(&id) else {
                continue;
            };
            let group = task.group;
            let polled = task
                .work
                .as_mut()
                .poll(&mut Context::from_waker(&task.waker));
            if polled.is_ready() {
                self.tasks.remove(&id);
            }
            return Polled::Task(group);
        }
    }

    /// Drops every task of a group.
    pub fn kill(&mut self, group: u64) {
        locked(&self.spawner.0).retain(|(_, of, _)| *of != group);
        let doomed: Vec<usize> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.group == group)
            .map(|(id, _)| *id)
            .collect();
        for id in doomed {
            self.tasks.remove(&id);
        }
    }

    /// Names of a group's tasks that have not ended.
    pub fn alive(&self, group: u64) -> Vec<&str> {
        self.tasks
            .values()
            .filter(|task| task.group == group)
            .map(|task| task.name.as_str())
            .collect()
    }
}
