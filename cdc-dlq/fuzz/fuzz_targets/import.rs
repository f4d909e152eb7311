//! See `cdc_dlq::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cdc_dlq::fuzzing::run("import", data));
