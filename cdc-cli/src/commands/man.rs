//! `man`: manual pages made from the definition of the command line.

use std::io::Write as _;
use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use serde_json::json;

use crate::args::{Cli, Global, ManArgs};
use crate::exit::Exit;
use crate::output;
use crate::report::CliError;

pub(crate) fn run(args: &ManArgs, global: &Global) -> Result<Exit, CliError> {
    let mut command = Cli::command();
    command.build();
    let Some(directory) = &args.directory else {
        let page = page(&command)?;
        output::finish(std::io::stdout().lock().write_all(&page))?;
        return Ok(Exit::Done);
    };
    std::fs::create_dir_all(directory).map_err(|cause| {
        CliError::new(
            Exit::Runtime,
            format!("create the directory {}", directory.display()),
        )
        .with_cause(cause)
    })?;
    let mut written = Vec::new();
    write_all(&command, "cdc-cli", directory, &mut written)?;
    output::answer(
        global.output,
        || written.iter().map(|name| format!("{name}\n")).collect(),
        || json!({ "written": written }),
    )?;
    Ok(Exit::Done)
}

fn write_all(
    command: &Command,
    name: &str,
    directory: &Path,
    written: &mut Vec<String>,
) -> Result<(), CliError> {
    let path = directory.join(format!("{name}.1"));
    // `name` has dashes where the user types spaces, as manual pages of subcommands do.
    let owned: &'static str = Box::leak(name.to_owned().into_boxed_str());
    let page = page(&command.clone().name(owned))?;
    std::fs::write(&path, page).map_err(|cause| {
        CliError::new(Exit::Runtime, format!("write {}", path.display())).with_cause(cause)
    })?;
    written.push(path.display().to_string());
    for inner in command
        .get_subcommands()
        .filter(|inner| inner.get_name() != "help")
    {
        write_all(
            inner,
            &format!("{name}-{}", inner.get_name()),
            directory,
            written,
        )?;
    }
    Ok(())
}

fn page(command: &Command) -> Result<Vec<u8>, CliError> {
    let mut page = Vec::new();
    Man::new(command.clone())
        .render(&mut page)
        .map_err(|cause| {
            CliError::new(
                Exit::Runtime,
                format!("render the manual page of {}", command.get_name()),
            )
            .with_cause(cause)
        })?;
    Ok(page)
}
