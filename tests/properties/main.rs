//! Properties that hold for any untrusted input, one file per parser. The fuzz targets run the same functions for hours. This
//! test runs them on the seeds and on thousands of inputs derived from them.
#![expect(clippy::expect_used, clippy::panic, reason = "a property panics if it is violated")]

mod archive;
mod attestations;
mod audit;
mod authorization;
mod config;
mod contents;
mod endpoint;
mod lockfile;
mod manifest;
mod npmrc;
mod packument;
mod range;
mod signatures;
mod tags;
#[path = "../it/tar.rs"]
mod tar;

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

#[test]
fn packument_is_rendered_as_parsed() {
    drive("packument", 4_000, packument::holds);
}

#[test]
fn path_parses_to_one_endpoint_or_none() {
    drive("endpoint", 6_000, endpoint::holds);
}

#[test]
fn range_response_has_exactly_the_requested_bytes() {
    drive("range", 6_000, range::holds);
}

#[test]
fn npmrc_yields_addresses_and_reveals_no_secret() {
    drive("npmrc", 6_000, npmrc::holds);
}

#[test]
fn printed_configuration_parses_to_the_same_values() {
    drive("config", 3_000, config::holds);
}

#[test]
fn audit_body_is_parsed_correctly_or_rejected() {
    drive("audit", 4_000, audit::holds);
}

#[test]
fn dist_tag_history_matches_upstream() {
    drive("tags", 3_000, tags::holds);
}

#[test]
fn lockfile_is_parsed_unambiguously_or_rejected() {
    drive("lockfile", 3_000, lockfile::holds);
}

#[test]
fn archive_without_flaws_is_read_as_by_pnpm() {
    drive("archive", 4_000, archive::holds);
}

#[test]
fn manifest_equals_itself_and_differences_are_printable() {
    drive("manifest", 4_000, manifest::holds);
}

#[test]
fn registry_signature_is_valid_for_one_release() {
    drive("signatures", 4_000, signatures::holds);
}

#[test]
fn provenance_is_valid_for_one_release() {
    drive("attestations", 1_000, attestations::holds);
}

#[test]
fn access_token_in_a_header_is_never_forwarded() {
    drive("authorization", 6_000, authorization::holds);
}

#[test]
fn tarball_compared_with_itself_shows_nothing() {
    drive("contents", 2_000, contents::holds);
}

/// Runs `holds` on the target's seeds, then on `cases` inputs derived from them and the target's dictionary.
fn drive(target: &str, cases: u32, holds: fn(&[u8])) {
    let (seeds, words) = (seeds(target), words(target));
    for seed in &seeds {
        holds(seed);
    }
    let word = prop_oneof![3 => proptest::sample::select(words), 1 => proptest::collection::vec(any::<u8>(), 0..4)];
    let edit = (any::<Index>(), prop_oneof![Just(0), 0..12_usize], word);
    // Mostly a few edits, since inputs with many are rejected early.
    let edits = prop_oneof![
        3 => proptest::collection::vec(edit.clone(), 0..3),
        1 => proptest::collection::vec(edit, 3..10),
    ];
    let inputs = (proptest::sample::select(seeds), edits).prop_map(|(seed, edits)| edits.into_iter().fold(seed, edited));
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let result = runner.run(&inputs.prop_map(Shown), |input| {
        holds(&input.0);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// Replaces `cut` bytes of `input` by a word.
fn edited(mut input: Vec<u8>, (position, cut, word): (Index, usize, Vec<u8>)) -> Vec<u8> {
    let start = position.index(input.len() + 1);
    let end = (start + cut).min(input.len());
    input.splice(start..end, word);
    input
}

/// An input whose debug form is escaped text.
#[derive(Clone)]
struct Shown(Vec<u8>);

impl std::fmt::Debug for Shown {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "b\"{}\"", self.0.escape_ascii())
    }
}

fn fuzz_path(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(path)
}

/// Returns the seeds of a target, sorted by name.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = fuzz_path("seeds").join(target);
    let mut paths: Vec<_> = std::fs::read_dir(folder).expect("a folder of seeds").flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a seed")).collect()
}

/// Returns the words of a target's dictionary in libFuzzer's format: one quoted word per line.
fn words(target: &str) -> Vec<Vec<u8>> {
    let text = std::fs::read_to_string(fuzz_path("dictionaries").join(format!("{target}.dict"))).expect("a dictionary");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| unescape(line.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).expect("a word in quotes")))
        .collect()
}

fn unescape(word: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), word.as_bytes());
    while let [first, after @ ..] = rest {
        (bytes, rest) = match (first, after) {
            (b'\\', [b'x', high, low, after @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                bytes.push(digit(high).expect("a digit") << 4 | digit(low).expect("a digit"));
                (bytes, after)
            }
            (b'\\', [escaped, after @ ..]) => {
                bytes.push(*escaped);
                (bytes, after)
            }
            _ => {
                bytes.push(*first);
                (bytes, after)
            }
        };
    }
    bytes
}
