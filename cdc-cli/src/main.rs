//! `cdc-cli`: change data capture from the command line.

mod args;
mod assemble;
mod bench;
mod commands;
mod config;
mod demo;
mod destination;
mod exit;
mod http;
mod logging;
mod loopback;
mod output;
mod pretty;
mod progress;
mod report;
mod time;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
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
