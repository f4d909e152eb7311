//! See `cdc_core::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cdc_core::fuzzing::run("envelope", data));
