//! Reading the log: frames from files, transactions from frames.

pub(crate) mod assemble;
pub(crate) mod frames;
pub(crate) mod locate;
