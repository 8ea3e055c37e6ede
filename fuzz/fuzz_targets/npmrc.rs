//! Whatever stands in a project's `.npmrc`: see `tests/properties/npmrc.rs`.
#![no_main]

#[path = "../../tests/properties/npmrc.rs"]
mod npmrc;

libfuzzer_sys::fuzz_target!(|input: &[u8]| npmrc::holds(input));
