//! Log lines go to standard error; standard output belongs to events and answers.

use std::env::VarError;
use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::args::{Global, LogFormat};
use crate::config::Paint;
use crate::exit::Exit;
use crate::report::{CliError, paint_of_stderr};

/// The variable that sets levels by module, such as `cdc_wal=debug,info`.
const LOG_VARIABLE: &str = "WEFTKIT_CDC_LOG";

/// Starts logging as the flags and the environment say.
///
/// # Errors
/// Exit code 2 if the variable is not a filter.
pub(crate) fn start(global: &Global) -> Result<(), CliError> {
    let filter = match std::env::var(LOG_VARIABLE) {
        Err(VarError::NotUnicode(_)) => {
            return Err(CliError::new(
                Exit::Usage,
                format!("read {LOG_VARIABLE}: it is not UTF-8 text; set it to a log filter, such as \"info\", or unset it"),
            ));
        }
        Ok(text) if !text.trim().is_empty() => EnvFilter::try_new(&text).map_err(|error| {
            CliError::new(
                Exit::Usage,
                format!("read {LOG_VARIABLE}: it is not a log filter; write for example \"info\" or \"cdc_wal=debug,info\""),
            )
            .with_cause(error)
        })?,
        _ => EnvFilter::new(level(global.verbose, global.quiet)),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A line that cannot be written is lost; saying so there as well would panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal() && paint_of_stderr() == Paint::Color)
        .with_target(global.verbose > 0);
    match global.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

const fn level(verbose: u8, quiet: u8) -> &'static str {
    match (verbose, quiet) {
        (0, 0) => "info",
        (0, 1) => "error",
        (0, _) => "off",
        (1, _) => "debug",
        _ => "trace",
    }
}
