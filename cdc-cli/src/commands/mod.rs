//! One command a file; here is only who is called.

mod completions;
mod config;
mod init;
mod man;
mod token;
mod validate;

use crate::args::{Cli, Command, ConfigCommand, TokenCommand};
use crate::exit::Exit;
use crate::report::CliError;

/// Runs the command.
///
/// # Errors
/// What went wrong, with its exit code.
pub(crate) fn run(cli: Cli) -> Result<Exit, CliError> {
    let global = &cli.global;
    match cli.command {
        Command::Init(args) => init::run(&args, global),
        Command::Validate(args) => validate::run(&args, global),
        Command::Config(ConfigCommand::Show(args)) => config::run(&args, global),
        Command::Token(TokenCommand::Inspect(args)) => token::run(&args, global),
        Command::Completions(args) => completions::run(&args, global),
        Command::Man(args) => man::run(&args, global),
    }
}
