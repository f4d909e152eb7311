//! See `cdc_wal::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cdc_wal::fuzzing::run("log", data));
