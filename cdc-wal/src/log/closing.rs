//! Closing a log: what the last handle leaves is flushed, the log's threads end, and the lock on the
//! directory goes last.
//!
//! A hook or a waker may have held the last handle, on a thread of the log: the flusher calls them while the next
//! sync is begun, and nobody but it ends that sync. So it does not close the log there and then, which
//! would wait for itself, but when it has done its work.

use std::sync::atomic::Ordering;

use cdc_core::storage::StorageLock;

use super::state::Shared;
use crate::threads::{self, JoinHandle};

/// What ends with a log.
#[derive(Debug)]
pub(crate) struct Closing {
    pub(super) threads: Vec<JoinHandle<()>>,
    pub(super) _lock: Box<dyn StorageLock>,
}

impl Closing {
    /// Closes the log, or has the log's own thread do it that this is.
    pub(super) fn begin(self, shared: &Shared) {
        let here = threads::current().id();
        if self
            .threads
            .iter()
            .any(|thread| thread.thread().id() == here)
        {
            *shared.lock_left() = Some(self);
            stop(shared);
        } else {
            self.close(shared);
        }
    }

    fn close(mut self, shared: &Shared) {
        let next = {
            let mut state = shared.lock();
            state.closing = true;
            state.next
        };
        // Nobody is left to tell; what was promised durable is, and recovery finds the rest.
        if let Err(error) = shared.flush_to(next) {
            tracing::warn!(%error, dir = %shared.dir.display(), "log closed without a last flush");
        }
        stop(shared);
        for thread in self.threads.drain(..) {
            // The one that this was left to has done its work.
            if thread.thread().id() != threads::current().id() && thread.join().is_err() {
                tracing::error!(dir = %shared.dir.display(), "a thread of the log panicked");
            }
        }
        {
            // In front of the lock on the directory, which goes with this: a trim under way ends,
            // and whoever confirms later leaves the files to the next who opens the log.
            let _files = shared.lock_files();
            shared.closed.store(true, Ordering::SeqCst);
        }
        shared.notify.wake();
    }
}

/// Has the log's threads end.
pub(super) fn stop(shared: &Shared) {
    shared.lock().closing = true;
    shared.work.notify_all();
    shared.sync_due.notify_all();
}

/// The last thing that a thread of the log does: it closes the log if that was left to it.
pub(super) fn thread_ended(shared: &Shared) {
    let left = shared.lock_left().take();
    if let Some(closing) = left {
        closing.close(shared);
    }
}
