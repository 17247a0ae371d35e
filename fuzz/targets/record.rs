//! Records of the database, from arbitrary bytes; what must hold stands in `bodies.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratite::fuzz::record(data));
