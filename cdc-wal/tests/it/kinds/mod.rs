//! The eight kinds of engine: their mapping, their examples, and the conformance kit.

mod broken;
mod conformance;
mod examples;
mod mapping;
