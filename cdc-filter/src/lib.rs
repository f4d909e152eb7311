//! Filters and transforms of WeftKit CDC: which events go on, and in what shape.
//!
//! Pure functions of events: no I/O, no clock, no async. Filters ([`TableFilter`],
//! [`EventFilter`], [`Predicate`]) implement [`cdc_core::Filter`], transforms ([`Transformer`],
//! [`TransformChain`]) implement [`cdc_core::Transform`].
//!
//! # Guarantees
//! A filter drops only what its configuration surely excludes: what it cannot decide is kept. A
//! transform changes what it says and copies everything else byte for byte; if it cannot do what it
//! says, it fails with an error that names table and column and never a value, and the event
//! becomes a dead letter.

mod cache;
mod filter;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod glob;
mod predicate;
mod transform;

pub use filter::{EventFilter, FilterConfig, FilterError, PATTERNS_MAX, TableFilter};
pub use glob::PATTERN_BYTES_MAX;
pub use predicate::{
    LIST_LEN_MAX, PREDICATE_BYTES_MAX, PREDICATE_DEPTH_MAX, Predicate, PredicateError,
};
pub use transform::{
    Action, HashKey, Mask, SetTo, TransformChain, TransformConfig, TransformConfigError,
    Transformer,
};
