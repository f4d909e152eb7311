//! Integration tests of this crate, one binary.

mod broken;
mod command;
mod layers;
#[cfg(test)]
mod tool;
