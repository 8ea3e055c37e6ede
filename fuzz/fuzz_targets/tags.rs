//! Fuzzes the history of dist-tags; see `tests/properties/tags.rs`.
#![no_main]

#[path = "../../tests/properties/tags.rs"]
mod tags;

libfuzzer_sys::fuzz_target!(|input: &[u8]| tags::holds(input));
