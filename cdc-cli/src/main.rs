//! cdc-cli
fn main() {}
