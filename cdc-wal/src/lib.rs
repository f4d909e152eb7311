//! The log of WeftKit CDC.

pub mod error;
pub mod format;
#[cfg(feature = "postgres")]
pub mod postgres;

pub use error::{LogError, LogErrorKind};
