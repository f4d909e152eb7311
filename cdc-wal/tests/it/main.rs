//! Integration tests of this crate, one binary.

mod crash;
mod journal;
mod log;
#[cfg(feature = "postgres")]
mod postgres;
mod support;
