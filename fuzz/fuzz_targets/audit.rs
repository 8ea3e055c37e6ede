//! Fuzzes audit bodies; see `tests/properties/audit.rs`.
#![no_main]

#[path = "../../tests/properties/audit.rs"]
mod audit;

libfuzzer_sys::fuzz_target!(|input: &[u8]| audit::holds(input));
