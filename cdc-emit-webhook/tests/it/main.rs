//! Integration tests of this crate, one binary.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod answers;
#[cfg(feature = "http2")]
mod at_once;
mod contract;
mod guard;
mod receiver;
mod requests;
mod secrecy;
mod server;
mod standard;
#[cfg(feature = "tls")]
mod tls;
