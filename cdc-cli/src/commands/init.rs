//! `init`: write a commented configuration file.

use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use serde_json::json;

use crate::args::{Global, InitArgs};
use crate::config;
use crate::exit::Exit;
use crate::output;
use crate::report::CliError;

pub(crate) fn run(args: &InitArgs, global: &Global) -> Result<Exit, CliError> {
    let template = config::template();
    if args.stdout {
        output::print(&template)?;
        return Ok(Exit::Done);
    }
    let path = args.path.display();
    // Nobody else's business: a source's password may end up in it.
    let opened = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&args.path);
    let written = opened.and_then(|mut file| {
        file.write_all(template.as_bytes())?;
        file.sync_all()
    });
    match written {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(CliError::new(
                Exit::Usage,
                format!(
                    "write {path}: the file exists and is never overwritten; name another file, or use --stdout"
                ),
            ));
        }
        Err(error) => {
            return Err(CliError::new(Exit::Runtime, format!("write {path}")).with_cause(error));
        }
    }
    output::answer(
        global.output,
        || format!("wrote {path}\nnext: set `source` in it, then `cdc-cli validate -c {path}`\n"),
        || json!({ "written": path.to_string() }),
    )?;
    Ok(Exit::Done)
}
