//! Fuzzes the reader of archives; see `tests/properties/archive.rs`.
#![no_main]

#[path = "../../tests/properties/archive.rs"]
mod archive;

libfuzzer_sys::fuzz_target!(|input: &[u8]| archive::holds(input));
