//! One error: a sentence for the terminal, with what caused it.

use std::fmt;

/// What went wrong, written for the person who ran the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(String);

/// Result of an automation step.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// Adds what was attempted to an error.
pub trait Context<T> {
    /// Puts `attempt` before the error's own text; `attempt` is only called on an error.
    ///
    /// # Errors
    /// The same failure, with the attempt named.
    fn context<S: fmt::Display>(self, attempt: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context<S: fmt::Display>(self, attempt: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| Error(format!("{}: {error}", attempt())))
    }
}

/// Fails with a formatted [`Error`] unless a condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::Error::new(format!($($message)+)));
        }
    };
}
