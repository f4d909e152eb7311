//! Integration tests of this crate, one binary.

mod crash;
mod decode;
mod journal;
mod log;
#[cfg(feature = "postgres")]
mod postgres;
mod recovery;
mod support;
mod tail;
