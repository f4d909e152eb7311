//! The log's own thread: prepares segments ahead, syncs on the interval, trims after a roll.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::closing;
use super::config::SyncPolicy;
use super::retention;
use super::state::Shared;
use crate::threads::{Builder, JoinHandle};

/// Longest time that written-out bytes lag behind when commits do not wait for a sync.
const WRITE_OUT: Duration = Duration::from_millis(20);

/// How often segments are looked at for their age.
const AGE_LOOK: Duration = Duration::from_secs(1);

pub(crate) fn spawn(shared: Arc<Shared>) -> std::io::Result<JoinHandle<()>> {
    Builder::new().name("cdc-wal".into()).spawn(move || {
        run(&shared);
        closing::thread_ended(&shared);
    })
}

fn run(shared: &Shared) {
    let mut trimmed_at = 0;
    let mut synced = Instant::now();
    let mut looked = Instant::now();
    let mut prepare_failed = false;
    let tick = match shared.config.sync {
        SyncPolicy::Always => Duration::from_secs(1),
        SyncPolicy::Group(interval) => interval.clamp(Duration::from_millis(1), WRITE_OUT),
        SyncPolicy::Never => WRITE_OUT,
    };
    loop {
        let mut state = shared.lock();
        if state.closing || state.dead.is_some() {
            return;
        }
        let base = state.current.base();
        let aged = shared.config.retain_age.is_some() && looked.elapsed() >= AGE_LOOK;
        if aged || (state.trim_due && base != trimmed_at) {
            looked = Instant::now();
            prepare_failed &= base == trimmed_at;
            trimmed_at = base;
            drop(state);
            if let Err(error) = retention::trim(shared) {
                tracing::warn!(%error, "log not trimmed");
            }
            continue;
        }
        if state.prepare_due() && !prepare_failed {
            state.preparing = true;
            drop(state);
            let file = shared.prepare_ahead(|| match shared.config.sync {
                SyncPolicy::Group(interval) if synced.elapsed() >= interval => {
                    synced = Instant::now();
                    let next = shared.lock().next;
                    shared.flush_to(next)
                }
                _ => Ok(()),
            });
            let mut state = shared.lock();
            state.preparing = false;
            match file {
                Ok(file) => state.prepared = Some(file),
                // The writer tries again when it needs the segment, and reports the failure.
                Err(error) => {
                    prepare_failed = true;
                    tracing::warn!(%error, "next log segment not prepared ahead");
                }
            }
            shared.turn.notify_all();
            continue;
        }
        let (next, flushed, pending) = (state.next, state.flushed, !state.pending.is_empty());
        drop(state);
        let result = match shared.config.sync {
            SyncPolicy::Group(interval) if next > flushed && synced.elapsed() >= interval => {
                synced = Instant::now();
                shared.flush_to(next)
            }
            _ if pending && shared.config.sync != SyncPolicy::Always => shared.write_out(),
            _ => Ok(()),
        };
        if let Err(error) = result {
            // The log is dead now and says so to everybody who uses it.
            tracing::error!(%error, dir = %shared.dir.display(), "log failed in the background");
            return;
        }
        let state = shared.lock();
        if state.closing {
            return;
        }
        if state.current.base() == base && (prepare_failed || !state.prepare_due()) {
            let waited = shared.work.wait_timeout(state, tick);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }
}
