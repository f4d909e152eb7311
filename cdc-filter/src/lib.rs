//! cdc-filter
