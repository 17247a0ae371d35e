//! What stands before a connection's first frame: headers, and the PROXY protocol; what must hold stands in `bodies.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ratite::fuzz::header(data));
