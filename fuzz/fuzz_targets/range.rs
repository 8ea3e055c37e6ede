//! Fuzzes range and conditional headers of tarball requests; see `tests/properties/range.rs`.
#![no_main]

#[path = "../../tests/properties/range.rs"]
mod range;

libfuzzer_sys::fuzz_target!(|input: &[u8]| range::holds(input));
