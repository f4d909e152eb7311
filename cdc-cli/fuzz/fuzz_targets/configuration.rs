//! See `cdc_cli::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cdc_cli::fuzzing::run("configuration", data));
