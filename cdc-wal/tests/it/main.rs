//! Integration tests of this crate, one binary.

mod crash;
mod damage;
mod decode;
mod journal;
mod kinds;
mod log;
#[cfg(target_os = "linux")]
mod mapped;
#[cfg(feature = "postgres")]
mod postgres;
mod recovery;
mod savepoint;
mod support;
mod tail;
