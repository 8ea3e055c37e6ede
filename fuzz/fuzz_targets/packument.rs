//! Fuzzes packuments; see `tests/properties/packument.rs`.
#![no_main]

#[path = "../../tests/properties/packument.rs"]
mod packument;

libfuzzer_sys::fuzz_target!(|input: &[u8]| packument::holds(input));
