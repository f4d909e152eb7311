//! Locks, signals, counters and threads of the log: the standard library's, or, with the feature
//! `model`, those whose turns a test chooses.
//!
//! Everything that threads of the log share goes through here, so that the models of
//! `tests/model` run the very code that is shipped.

#[cfg(not(feature = "model"))]
pub(crate) use std::{
    sync::{
        Condvar, Mutex, MutexGuard, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, fence},
    },
    thread::{Builder, JoinHandle, current},
};

#[cfg(feature = "model")]
pub(crate) use shuttle::{
    sync::{
        Condvar, Mutex, MutexGuard, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, fence},
    },
    thread::{Builder, JoinHandle, current},
};
