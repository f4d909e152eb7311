//! `cdc-cli`: change data capture from the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    cdc_cli::main()
}
