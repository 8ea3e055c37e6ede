//! Fuzzes attestations and trusted roots; see `tests/properties/attestations.rs`.
#![no_main]

#[path = "../../tests/properties/attestations.rs"]
mod attestations;

libfuzzer_sys::fuzz_target!(|input: &[u8]| attestations::holds(input));
