//! Configuration to filters and transforms.

use cdc_core::{Filter, Transform};
use cdc_filter::{EventFilter, TransformChain};

use crate::config::EmitterConfig;
use crate::exit::Exit;
use crate::report::CliError;

/// The filter of an emitter.
///
/// # Errors
/// Exit code 3; loading the configuration has checked it already.
pub(crate) fn filter(emitter: &EmitterConfig) -> Result<Box<dyn Filter>, CliError> {
    let filter = EventFilter::new(&emitter.filter);
    Ok(Box::new(filter.map_err(|error| {
        CliError::from_error(Exit::Configuration, error)
    })?))
}

/// The transforms of an emitter, none or one chain.
///
/// # Errors
/// Exit code 3.
pub(crate) fn transforms(emitter: &EmitterConfig) -> Result<Vec<Box<dyn Transform>>, CliError> {
    let chain = TransformChain::new(emitter.transforms.clone()).map_err(|(at, error)| {
        CliError::new(
            Exit::Configuration,
            format!("build transform {} of emitter {}", at + 1, emitter.name),
        )
        .with_cause(error)
    })?;
    Ok(if chain.is_empty() {
        Vec::new()
    } else {
        vec![Box::new(chain) as _]
    })
}
