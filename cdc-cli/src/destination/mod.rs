//! Destinations that only the binary has: a child process, and standard output.

mod child;
mod stdout;

pub(crate) use child::{ChildConfig, ChildEmitter};
pub(crate) use stdout::{PrintedQueue, Printer, StandardOutput};
