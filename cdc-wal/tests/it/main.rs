//! Integration tests of this crate, one binary.

mod ahead;
mod commit;
mod crash;
mod cursors;
mod damage;
mod decode;
mod follow;
mod frozen;
mod journal;
mod kinds;
mod log;
mod many;
#[cfg(target_os = "linux")]
mod mapped;
mod missing;
mod misuse;
#[cfg(feature = "postgres")]
mod postgres;
mod recovery;
mod recycling;
mod repair;
mod rocksdb;
mod savepoint;
#[cfg(feature = "sqlite")]
mod sqlite;
mod support;
mod tail;
mod trimming;
