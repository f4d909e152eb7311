//! What the models share: the schedules, a log on a simulated disk, transactions, a clock whose
//! timers never end.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cdc_core::testing::sim_storage::SimStorage;
use cdc_core::testing::{relation, row};
use cdc_core::{BatchLimit, Clock, Position, WalSource};
use cdc_wal::{Log, LogConfig, LogError, SyncPolicy, WalTail};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner};

/// Schedules of each of the two kinds for one model, unless `WEFTKIT_MODEL_SCHEDULES` says otherwise.
const SCHEDULES: usize = 24;
/// Bytes of stack of a thread: a debug build needs more than the default.
const STACK_BYTES: usize = 512 << 10;
/// Changes of turn that the second kind of schedule places.
const CHANGES: usize = 3;

fn number(variable: &str, default: usize) -> usize {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is {text:?}, not a number")),
        Err(_) => default,
    }
}

/// Runs a model under many schedules; what fails prints its schedule, which
/// `WEFTKIT_MODEL_REPLAY` runs again.
pub(crate) fn explore(model: impl Fn() + Send + Sync + 'static) {
    explore_times((1, 1), model);
}

/// As [`explore`], with one schedule in `part`: for models that move much data.
pub(crate) fn explore_part(part: usize, model: impl Fn() + Send + Sync + 'static) {
    explore_times((1, part), model);
}

/// As [`explore`], with so many times the schedules: for small models of a window that is hard to
/// hit.
pub(crate) fn explore_more(times: usize, model: impl Fn() + Send + Sync + 'static) {
    explore_times((times, 1), model);
}

fn explore_times((times, part): (usize, usize), model: impl Fn() + Send + Sync + 'static) {
    let model = Arc::new(model);
    if let Ok(schedule) = std::env::var("WEFTKIT_MODEL_REPLAY") {
        shuttle::replay(move || model(), &schedule);
        return;
    }
    let schedules = (number("WEFTKIT_MODEL_SCHEDULES", SCHEDULES) * times / part).max(1);
    let seed = number("WEFTKIT_MODEL_SEED", 1) as u64;
    run(RandomScheduler::new_from_seed(seed, schedules), &model);
    run(
        PctScheduler::new_from_seed(seed, CHANGES, schedules),
        &model,
    );
}

fn run(scheduler: impl Scheduler + 'static, model: &Arc<impl Fn() + Send + Sync + 'static>) {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    let model = model.clone();
    Runner::new(scheduler, config).run(move || model());
}

/// Timers never end: what waits for its time would hide who forgot to wake it.
#[derive(Debug)]
struct Stopped;

impl Clock for Stopped {
    fn wall_micros(&self) -> i64 {
        1_795_352_707_123_456
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
}

pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(Stopped)
}

/// A log with the smallest segments on this disk.
pub(crate) fn config(disk: &SimStorage) -> LogConfig {
    LogConfig {
        segment_bytes: 64 << 10,
        sync: SyncPolicy::Always,
        storage: disk.shared(),
        ..LogConfig::new("/log")
    }
}

/// One transaction with a row of about `bytes`.
pub(crate) fn commit(log: &Log, id: u64, bytes: usize) -> Result<Position, LogError> {
    let mut tx = log.begin(id);
    tx.insert(&relation(), &row(1, &"x".repeat(bytes), "1"))?;
    tx.commit()
}

/// Numbers of transactions, in the order of a tail.
pub(crate) type Seen = Arc<Mutex<Vec<u64>>>;

/// Follows until `enough` have come, or the log ends.
pub(crate) async fn follow(
    mut tail: WalTail,
    seen: Seen,
    enough: usize,
) -> Result<(), cdc_core::SourceError> {
    loop {
        {
            if seen.lock().unwrap().len() >= enough {
                return Ok(());
            }
        }
        let Some(batch) = tail.next_batch(BatchLimit::default()).await? else {
            return Ok(());
        };
        let ids = batch.events().iter().map(|event| event.transaction.id);
        seen.lock().unwrap().extend(ids);
    }
}

/// Everything that is in a log now, by the numbers of its transactions.
pub(crate) fn contents(log: &Log) -> Vec<u64> {
    let mut tail = log.tail(cdc_wal::StartAt::Earliest, clock()).unwrap();
    let mut ids = Vec::new();
    while let Some(batch) = tail.poll_batch(&BatchLimit::default()).unwrap() {
        ids.extend(batch.events().iter().map(|event| event.transaction.id));
    }
    ids
}
