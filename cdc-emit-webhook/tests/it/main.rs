//! Integration tests of this crate, one binary.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod answers;
mod contract;
mod guard;
mod requests;
mod server;
#[cfg(feature = "tls")]
mod tls;
