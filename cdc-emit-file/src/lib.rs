//! cdc-emit-file
