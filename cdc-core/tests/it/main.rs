//! Integration tests of this crate, one binary.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

mod conformance;
mod full_mount;
mod storage;
