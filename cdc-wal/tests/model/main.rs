//! Models of the log's threads: the real code, run under many orders of turns.
//!
//! `cargo xtask model` builds the log with locks, signals and counters whose turns a scheduler
//! chooses (feature `model`) and runs each model under random orders and under orders with few, well
//! placed changes of turn. A thread that sleeps for ever is a deadlock and found as one: no wait
//! in a model ever times out.

#![allow(clippy::unwrap_used, reason = "a model that cannot go on has failed")]

mod commit;
mod follow;
mod letting_go;
mod support;
