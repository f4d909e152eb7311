//! The demonstration beside an application: an SQLite database that somebody else's program
//! writes, and `cdc-cli run` as an operator would start it.
//!
//! The application is Python's `sqlite3` module or the `sqlite3` command, in a process of its own;
//! nothing in the database and nothing in the application is changed. Everything is looked at and
//! mended with the commands an operator has, run from this very binary.

mod application;
mod steps;
mod tool;

pub(crate) use application::{Application, WRITERS};
pub(crate) use steps::play;
