//! `demo`: no set-up at all.

use crate::args::{DemoArgs, Global};
use crate::demo;
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
            let exit = demo::play(dir, args.fast)?;
            print(&format!(
                "\nLook around: cdc-cli -c {0}/cdc.toml status; cdc-cli -c {0}/cdc.toml dlq ls; cdc-cli wal info {0}/wal\n",
                dir.display()
            ))?;
            Ok(exit)
        }
        None => {
            let dir = tempfile::Builder::new()
                .prefix("cdc-demo-")
                .tempdir()
                .map_err(failed)?;
            demo::play(dir.path(), args.fast)
        }
    }
}
