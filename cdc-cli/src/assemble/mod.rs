//! From configuration to a running pipeline.

pub(crate) mod capture;
pub(crate) mod control;
pub(crate) mod dead_letters;
pub(crate) mod foreign;
pub(crate) mod history;
pub(crate) mod lanes;
pub(crate) mod link;
pub(crate) mod outlook;
pub(crate) mod rate;
pub(crate) mod record;
pub(crate) mod redrive;
pub(crate) mod runner;
pub(crate) mod source;
pub(crate) mod stages;
pub(crate) mod start;
pub(crate) mod state;
pub(crate) mod status;
