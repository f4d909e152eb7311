//! The demonstration inside an engine: an order store whose write-ahead log is ours, in one
//! process with its pipeline.

mod steps;
mod store;

pub(crate) use steps::play;
