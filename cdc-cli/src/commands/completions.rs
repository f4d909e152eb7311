//! `completions`: a completion script made from the definition of the command line.

use std::io::Write as _;

use clap::CommandFactory as _;

use crate::args::{Cli, CompletionsArgs, Global};
use crate::exit::Exit;
use crate::output;
use crate::report::CliError;

pub(crate) fn run(args: &CompletionsArgs, _global: &Global) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cdc-cli", &mut script);
    output::finish(std::io::stdout().lock().write_all(&script))?;
    Ok(Exit::Done)
}
