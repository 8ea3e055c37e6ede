//! Fuzzes the reader of access tokens in headers; see `tests/properties/authorization.rs`.
#![no_main]

#[path = "../../tests/properties/authorization.rs"]
mod authorization;

libfuzzer_sys::fuzz_target!(|input: &[u8]| authorization::holds(input));
