//! Configuration: defaults, file, environment and flags, merged, checked and typed.
//!
//! [`load`] is all that commands need. The path of a value is: text with spans ([`layers`]) →
//! merged tree ([`tree`]) → names and types checked against the one table of keys ([`keys`],
//! [`read`]) → [`Config`]. A value never loses the place it was written at, so that every
//! complaint has a caret and `config show --origin` can answer.

mod build;
mod check;
mod destination;
mod document;
mod http;
mod keys;
mod layers;
mod model;
mod names;
mod problem;
mod read;
mod shared;
mod show;
mod source;
mod template;
mod transforms;
mod tree;
mod value;

use std::path::{Path, PathBuf};

pub(crate) use layers::{Layers, ReadFileError};
#[cfg(test)]
pub(crate) use model::Secret;
pub(crate) use model::{
    Config, Confirm, DeadKey, Destination, EmitterConfig, FileSync, HttpConfig, HttpVersion,
    OnRestart, Style, WebhookBody, WebhookConfig, window_of,
};
pub(crate) use problem::{Paint, Problem};
pub(crate) use show::{Setting, settings};
pub(crate) use source::{PostgresUrl, Source};
pub(crate) use template::template;
pub(crate) use value::{Environment, duration_text, parse_duration, size_text};

/// Where a configuration is looked for when nobody names one.
pub(crate) const DEFAULT_PATHS: [&str; 2] = ["cdc.toml", "/etc/weftkit/cdc.toml"];

/// Why there is no configuration.
#[derive(Debug)]
pub(crate) enum ConfigError {
    /// The file could not be read.
    File(ReadFileError),
    /// Something in it, in the environment or in a flag is wrong.
    Problems(Vec<Problem>),
}

/// Reads, merges and checks all layers.
///
/// # Errors
/// [`ConfigError`] with everything that is wrong, not only the first thing.
pub(crate) fn load(layers: &Layers) -> Result<Config, ConfigError> {
    let mut problems = Vec::new();
    let merged = layers::merge(layers, &mut problems).map_err(ConfigError::File)?;
    build::build(&merged, &layers.environment, problems).map_err(ConfigError::Problems)
}

/// Every setting in effect and where it comes from.
///
/// # Errors
/// As [`load`]: what cannot be used is not shown.
pub(crate) fn show(layers: &Layers) -> Result<Vec<Setting>, ConfigError> {
    load(layers)?;
    let mut problems = Vec::new();
    let merged = layers::merge(layers, &mut problems).map_err(ConfigError::File)?;
    Ok(settings(&merged))
}

/// The file to read: the one that was named, else the first default that exists.
pub(crate) fn choose_file(named: Option<&Path>) -> Option<PathBuf> {
    named.map(Path::to_path_buf).or_else(|| {
        DEFAULT_PATHS
            .iter()
            .map(PathBuf::from)
            .find(|path| path.is_file())
    })
}

#[cfg(test)]
mod tests;
