//! Fuzzes keys and signatures of the registry; see `tests/properties/signatures.rs`.
#![no_main]

#[path = "../../tests/properties/signatures.rs"]
mod signatures;

libfuzzer_sys::fuzz_target!(|input: &[u8]| signatures::holds(input));
