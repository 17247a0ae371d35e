//! Filters, with serde_json and NIP-01's words as the judges; what must hold stands in `bodies.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratite::fuzz::filter(data));
