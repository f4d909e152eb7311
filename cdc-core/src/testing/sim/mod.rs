//! Parts of a simulated world: an executor with a virtual clock, a database, destinations, and an
//! oracle that knows what was committed.
//!
//! Everything here runs on one thread and draws from one seed, so that a run is repeated bit for
//! bit by its seed. The pipeline, the log and the stores that run inside are the real ones; the
//! binary `cdc-sim` puts them together (`docs/simulator.md`).

mod bounds;
mod database;
mod destination;
mod executor;
mod files;
mod in_files;
mod judged;
mod oracle;
mod random;
mod stores;
mod timeline;
mod workload;

pub use database::{SimDatabase, SimSource};
pub use destination::{Alive, DestinationConfig, SimDestination, SimEmitter};
pub use executor::{Polled, SimClock, SimExecutor, Spawner};
pub use files::{Lines, lines};
pub use oracle::{EmitterRules, Oracle, Safety, Way};
pub use random::SimRandom;
pub use stores::{WatchedCheckpoints, WatchedDlq};
pub use timeline::Timeline;
pub use workload::{TransactionSpec, Workload};

use std::sync::{Mutex, MutexGuard, PoisonError};

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
