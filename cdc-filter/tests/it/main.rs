//! Integration tests of this crate, one binary.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod filter;
mod predicate;
mod transform;
