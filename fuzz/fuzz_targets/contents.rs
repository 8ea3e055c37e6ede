//! Fuzzes the search of files for marks; see `tests/properties/contents.rs`.
#![no_main]

#[path = "../../tests/properties/contents.rs"]
mod contents;
#[path = "../../tests/it/tar.rs"]
mod tar;

libfuzzer_sys::fuzz_target!(|input: &[u8]| contents::holds(input));
