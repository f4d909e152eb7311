//! `run`: the main job.

use crate::args::{Global, RunArgs};
use crate::assemble::runner::{self, RunOptions, Until};
use crate::assemble::start::Start;
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
    let from = args.from.as_deref().map(str::parse::<Start>).transpose()?;
    if args.dry_run {
        return super::check::dry_run(&config, &from.unwrap_or_default(), global);
    }
    let options = RunOptions {
        until,
        accept_gap: args.accept_gap,
        from: from.unwrap_or_default(),
    };
    runner::run(&config, &options)
}
