//! Fuzzes request paths; see `tests/properties/endpoint.rs`.
#![no_main]

#[path = "../../tests/properties/endpoint.rs"]
mod endpoint;

libfuzzer_sys::fuzz_target!(|input: &[u8]| endpoint::holds(input));
