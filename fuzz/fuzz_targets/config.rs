//! Fuzzes configuration files; see `tests/properties/config.rs`.
#![no_main]

#[path = "../../tests/properties/config.rs"]
mod config;

libfuzzer_sys::fuzz_target!(|input: &[u8]| config::holds(input));
