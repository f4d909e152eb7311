//! Errors of commands, and how they are printed: once, with their causes, to standard error.

use std::error::Error as StdError;
use std::fmt;
use std::io::{IsTerminal as _, Write as _};

use cdc_core::{CheckpointError, DlqError, SourceError, TokenError};

use crate::args::OutputFormat;
use crate::config::{ConfigError, Paint, Problem};
use crate::exit::Exit;

/// Longest chain of causes that is printed.
const CAUSES_MAX: usize = 16;

/// Why a command failed, and the exit code that says so.
#[derive(Debug)]
pub(crate) struct CliError {
    code: Exit,
    message: String,
    cause: Option<Box<dyn StdError + Send + Sync + 'static>>,
    problems: Vec<Problem>,
}

impl CliError {
    /// An error without cause. The message says what was attempted, on what, and what to do.
    pub(crate) fn new(code: Exit, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            cause: None,
            problems: Vec::new(),
        }
    }

    /// The same error with its cause.
    #[must_use]
    pub(crate) fn with_cause(
        mut self,
        cause: impl Into<Box<dyn StdError + Send + Sync + 'static>>,
    ) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// An error that speaks for itself: its own message and its own causes.
    pub(crate) fn from_error(code: Exit, error: impl StdError + Send + Sync + 'static) -> Self {
        let mut message = error.to_string();
        if message.is_empty() {
            code.meaning().clone_into(&mut message);
        }
        // The outermost message becomes the headline; its causes follow, each once.
        Self {
            code,
            message,
            cause: Some(Box::new(Outer(Box::new(error)))),
            problems: Vec::new(),
        }
    }

    /// The exit code.
    pub(crate) const fn code(&self) -> Exit {
        self.code
    }

    /// Messages from the outside in, each once.
    fn chain(&self) -> Vec<String> {
        let mut chain = vec![self.message.clone()];
        let mut next = self
            .cause
            .as_deref()
            .map(|cause| cause as &(dyn StdError + 'static));
        while let Some(error) = next {
            if chain.len() > CAUSES_MAX {
                break;
            }
            let text = error.to_string();
            // Some errors print their source in their own message: say it once.
            if !text.is_empty() && !chain.iter().any(|earlier| earlier.contains(&text)) {
                chain.push(text);
            }
            next = error.source();
        }
        chain
    }

    /// Messages from the outside in, as one line.
    pub(crate) fn line(&self) -> String {
        self.chain().join(": ")
    }

    /// The report as text, each line ended.
    pub(crate) fn text(&self, paint: Paint) -> String {
        if !self.problems.is_empty() {
            let mut out: Vec<String> = self
                .problems
                .iter()
                .map(|problem| problem.render(paint))
                .collect();
            if self.problems.len() > 1 {
                out.push(format!(
                    "{} problems in the configuration\n",
                    self.problems.len()
                ));
            }
            return out.join("\n");
        }
        let (bold, red, _, off) = paint.codes();
        let mut chain = self.chain().into_iter();
        let mut out = format!(
            "{red}error{off}{bold}: {}{off}\n",
            chain.next().unwrap_or_default()
        );
        for cause in chain {
            out.push_str("  caused by: ");
            out.push_str(&cause);
            out.push('\n');
        }
        out
    }

    /// The report as one JSON object.
    pub(crate) fn json(&self) -> serde_json::Value {
        let mut chain = self.chain();
        let message = chain.remove(0);
        let problems: Vec<_> = self.problems.iter().map(Problem::json).collect();
        serde_json::json!({
            "error": {
                "kind": self.code.name(),
                "exit_code": self.code.code(),
                "message": message,
                "causes": chain,
                "problems": problems,
            }
        })
    }

    /// Prints the report to standard error. A closed standard error is nobody's loss.
    pub(crate) fn print(&self, output: OutputFormat) {
        let text = match output {
            OutputFormat::Json => format!("{}\n", self.json()),
            OutputFormat::Text => self.text(paint_of_stderr()),
        };
        let _closed = std::io::stderr().lock().write_all(text.as_bytes());
    }
}

/// Colours on a terminal, unless the user or the terminal says no.
pub(crate) fn paint_of_stderr() -> Paint {
    paint(std::io::stderr().is_terminal())
}

/// Colours if this is a terminal, unless `NO_COLOR` or `TERM=dumb` says no.
pub(crate) fn paint(terminal: bool) -> Paint {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    if terminal && !no_color && !dumb {
        Paint::Color
    } else {
        Paint::Plain
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for CliError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::File(error) => Self::from_error(Exit::Configuration, error),
            ConfigError::Problems(problems) => Self {
                code: Exit::Configuration,
                message: problems
                    .first()
                    .map(|problem| problem.message().to_owned())
                    .unwrap_or_default(),
                cause: None,
                problems,
            },
        }
    }
}

impl From<SourceError> for CliError {
    fn from(error: SourceError) -> Self {
        Self::from_error(Exit::of_source(&error), error)
    }
}

impl From<CheckpointError> for CliError {
    fn from(error: CheckpointError) -> Self {
        Self::from_error(Exit::of_checkpoint(&error), error)
    }
}

impl From<DlqError> for CliError {
    fn from(error: DlqError) -> Self {
        Self::from_error(Exit::of_dead_letters(&error), error)
    }
}

impl From<TokenError> for CliError {
    fn from(error: TokenError) -> Self {
        Self::from_error(Exit::Position, error)
    }
}

/// An error whose own message is already the headline.
struct Outer(Box<dyn StdError + Send + Sync + 'static>);

impl fmt::Display for Outer {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

impl fmt::Debug for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl StdError for Outer {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cdc_core::SourceErrorKind;

    #[test]
    fn causes_are_printed_once_each() {
        let disk = std::io::Error::other("no space left");
        let error =
            SourceError::new(SourceErrorKind::Io, "write the journal in /x").with_cause(disk);
        let error = CliError::from(error);
        assert_eq!(error.code(), Exit::Runtime);
        assert_eq!(
            error.text(Paint::Plain),
            "error: write the journal in /x\n  caused by: no space left\n"
        );
        let wrapped = CliError::new(Exit::State, "open the state: no space left")
            .with_cause(std::io::Error::other("no space left"));
        assert_eq!(
            wrapped.text(Paint::Plain),
            "error: open the state: no space left\n"
        );
        assert_eq!(wrapped.json()["error"]["exit_code"], 7);
    }
}
