//! Events turned around.
