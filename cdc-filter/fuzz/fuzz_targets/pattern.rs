//! See `cdc_filter::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cdc_filter::fuzzing::run("pattern", data));
