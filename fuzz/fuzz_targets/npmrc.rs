//! Fuzzes `.npmrc` files; see `tests/properties/npmrc.rs`.
#![no_main]

#[path = "../../tests/properties/npmrc.rs"]
mod npmrc;

libfuzzer_sys::fuzz_target!(|input: &[u8]| npmrc::holds(input));
