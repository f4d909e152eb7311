//! One command a file; here is only who is called.

mod bench;
mod check;
mod completions;
mod config;
mod demo;
mod dlq;
mod drop_slot;
mod emitter;
mod init;
mod man;
pub(crate) mod position;
mod replay;
mod run;
mod status;
mod tail;
mod token;
mod validate;
mod verify;
mod wal;

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
        Command::Demo(args) => demo::run(&args, global),
        Command::Dlq(command) => dlq::run(&command, global),
        Command::Wal(command) => wal::run(&command, global),
        Command::Bench(args) => bench::run(&args, global),
        Command::DropSlot(args) => drop_slot::run(&args, global),
        Command::Run(args) => run::run(&args, global),
        Command::Replay(args) => replay::run(&args, global),
        Command::Emitter(command) => emitter::run(&command, global),
        Command::Verify(args) => verify::run(&args, global),
        Command::Tail(args) => tail::run(&args, global),
        Command::Check(args) => check::run(&args, global),
        Command::Status(args) => status::run(&args, global),
        Command::Position(command) => position::run(&command, global),
        Command::Init(args) => init::run(&args, global),
        Command::Validate(args) => validate::run(&args, global),
        Command::Config(ConfigCommand::Show(args)) => config::run(&args, global),
        Command::Token(TokenCommand::Inspect(args)) => token::run(&args, global),
        Command::Completions(args) => completions::run(&args, global),
        Command::Man(args) => man::run(&args, global),
    }
}

/// A runtime for a command: the main thread alone.
///
/// # Errors
/// Exit code 1 if the system has no resources for it.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|cause| {
            CliError::new(Exit::Runtime, "start the runtime of the command").with_cause(cause)
        })
}

/// Runs one future on it.
///
/// # Errors
/// As for [`runtime`].
pub(crate) fn block_on<F: Future>(future: F) -> Result<F::Output, CliError> {
    Ok(runtime()?.block_on(future))
}
