//! `demo`: the whole system in one process, on an embedded engine, explained step by step.
//!
//! Nothing here is simulated: the store commits to a real log on disk, the lanes are those of
//! `run`, the receiver is a real HTTP server on loopback, and the counts at the end are taken at
//! the destinations.

mod receiver;
mod steps;
mod store;

pub(crate) use steps::play;
