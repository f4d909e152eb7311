//! Integration tests of this crate, one binary.

mod filter;
mod predicate;
mod transform;
