//! `demo`: the whole system on one machine, without set-up, explained step by step.
//!
//! Nothing here is simulated: commits go to real files, the lanes are those of `run`, the receiver
//! is a real HTTP server on loopback, and the counts at the end are taken at the destinations.

pub(crate) mod beside;
mod configuration;
pub(crate) mod embedded;
mod narrator;
mod receiver;

pub(crate) use narrator::Narrator;
