//! Fuzzes the comparison of manifests; see `tests/properties/manifest.rs`.
#![no_main]

#[path = "../../tests/properties/manifest.rs"]
mod manifest;

libfuzzer_sys::fuzz_target!(|input: &[u8]| manifest::holds(input));
