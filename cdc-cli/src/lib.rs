//! `cdc-cli`: change data capture from the command line.
//!
//! All of it is in this library, so that fuzz targets reach it; the binary calls [`main`] and nothing
//! else. There is no interface for others here: embed the libraries instead.

mod args;
mod assemble;
mod bench;
mod commands;
mod config;
mod demo;
mod destination;
mod exit;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod logging;
mod loopback;
mod output;
mod pretty;
mod progress;
mod rate;
mod report;
mod time;

use std::process::ExitCode;

use clap::Parser as _;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = args::Cli::parse();
    let output = cli.global.output;
    match logging::start(&cli.global).and_then(|()| commands::run(cli)) {
        Ok(exit) => exit.into(),
        Err(error) => {
            error.print(output);
            error.code().into()
        }
    }
}
