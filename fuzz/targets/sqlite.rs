//! Databases of other relays, from arbitrary bytes; what must hold stands in `imports.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratite::fuzz::sqlite(data));
