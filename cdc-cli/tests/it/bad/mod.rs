//! Bad input and failing surroundings: each a named error and an exit code, and once the cause is
//! gone the run goes on with nothing lost.

mod destinations;
mod logs;
mod past;
pub(crate) mod postgres;
mod postgres_cluster;
mod process;
pub(crate) mod shop;
mod state;
mod tokens;
