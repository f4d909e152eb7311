//! Integration tests of this crate, one binary.

#[cfg(test)]
mod bad;
mod broken;
mod command;
#[cfg(feature = "crash-points")]
#[cfg(test)]
mod crash;
#[cfg(test)]
mod dead_letters;
#[cfg(test)]
mod http;
mod layers;
#[cfg(test)]
mod operate;
#[cfg(test)]
mod orphans;
#[cfg(test)]
mod rocksdb;
#[cfg(test)]
mod sqlite;
#[cfg(test)]
mod tool;
#[cfg(test)]
mod wal;
