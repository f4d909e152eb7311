//! `run`: the main job.

use crate::args::{Global, RunArgs};
use crate::assemble::runner::{self, From, RunOptions, Until};
use crate::exit::Exit;
use crate::report::CliError;

pub(crate) fn run(args: &RunArgs, global: &Global) -> Result<Exit, CliError> {
    let config = global.load()?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let until = match &args.until {
        Some(token) => Until::Token(token.parse()?),
        None if args.once => Until::CaughtUp,
        None => Until::Stopped,
    };
    let from = match args.from.as_deref() {
        None | Some("earliest") => From::Earliest,
        Some("latest") => From::Latest,
        Some(token) => From::Token(token.parse()?),
    };
    let options = RunOptions {
        until,
        accept_gap: args.accept_gap,
        from,
    };
    runner::run(&config, &options)
}
