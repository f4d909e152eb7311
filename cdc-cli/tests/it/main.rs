//! Integration tests of this crate, one binary.

#[cfg(test)]
mod bad;
mod broken;
mod command;
mod layers;
#[cfg(test)]
mod tool;
