//! Messages from clients; what must hold stands in `bodies.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratite::fuzz::message(data));
