//! Fuzzes lockfiles; see `tests/properties/lockfile.rs`.
#![no_main]

#[path = "../../tests/properties/lockfile.rs"]
mod lockfile;

libfuzzer_sys::fuzz_target!(|input: &[u8]| lockfile::holds(input));
