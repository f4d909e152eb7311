//! Integration tests of this crate, one binary.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod bounds;
mod crash;
mod full;
mod import;
mod index;
mod json;
mod model;
mod queue;
mod room;
mod sample;
