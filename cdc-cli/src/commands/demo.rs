//! `demo`: no set-up at all.

use std::path::Path;

use crate::args::{DemoArgs, DemoEngine, Global};
use crate::demo::beside::{self, Application, WRITERS};
use crate::demo::{Narrator, embedded};
use crate::exit::Exit;
use crate::output::print;
use crate::report::CliError;

pub(crate) fn run(args: &DemoArgs, _global: &Global) -> Result<Exit, CliError> {
    let failed = |cause| {
        CliError::new(Exit::Runtime, "make a directory for the demonstration").with_cause(cause)
    };
    match &args.keep {
        Some(dir) => {
            std::fs::create_dir_all(dir).map_err(failed)?;
            if std::fs::read_dir(dir).map_err(failed)?.next().is_some() {
                return Err(CliError::new(
                    Exit::Usage,
                    format!(
                        "keep the demonstration in {}: it is not empty; name a new directory",
                        dir.display()
                    ),
                ));
            }
            let exit = play(dir, args)?;
            print(&format!(
                "\nLook around: cdc-cli -c {0}/cdc.toml status; cdc-cli -c {0}/cdc.toml dlq ls; ls {0}\n",
                dir.display()
            ))?;
            Ok(exit)
        }
        None => {
            let dir = tempfile::Builder::new()
                .prefix("cdc-demo-")
                .tempdir()
                .map_err(failed)?;
            play(dir.path(), args)
        }
    }
}

fn play(dir: &Path, args: &DemoArgs) -> Result<Exit, CliError> {
    let narrator = Narrator::new(args.fast);
    if args.engine == Some(DemoEngine::Embedded) {
        return embedded::play(dir, &narrator);
    }
    let application = Application::start(&dir.join("shop.db")).map_err(|cause| {
        CliError::new(Exit::Runtime, "start an application for the demonstration").with_cause(cause)
    })?;
    match application {
        Some(application) => beside::play(dir, application, &narrator),
        None if args.engine.is_some() => Err(CliError::new(
            Exit::Runtime,
            format!(
                "show capture from SQLite: none of {} is installed to play the application; install one, or say --engine embedded",
                WRITERS.join(", ")
            ),
        )),
        None => {
            print(
                "Neither python3 nor sqlite3 is here to write an SQLite database: this shows an embedded engine.\n",
            )?;
            embedded::play(dir, &narrator)
        }
    }
}
