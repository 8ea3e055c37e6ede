//! What must hold whatever strangers send. Each file states it for one parser; the fuzz targets drive the same functions for
//! hours, this drives them for a moment: the seeds as they are, and thousands of inputs made of them.
#![expect(clippy::expect_used, clippy::panic, reason = "what does not hold says so by panicking")]

mod audit;
mod config;
mod endpoint;
mod lockfile;
mod npmrc;
mod packument;
mod range;
mod tags;

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

#[test]
fn a_packument_is_written_as_it_was_read() {
    drive("packument", 4_000, packument::holds);
}

#[test]
fn every_path_is_one_question_or_none() {
    drive("endpoint", 6_000, endpoint::holds);
}

#[test]
fn a_range_is_answered_with_just_its_bytes() {
    drive("range", 6_000, range::holds);
}

#[test]
fn npms_configuration_gives_addresses_and_tells_no_secret() {
    drive("npmrc", 6_000, npmrc::holds);
}

#[test]
fn a_configuration_that_is_taken_is_taken_again() {
    drive("config", 3_000, config::holds);
}

#[test]
fn an_audit_is_read_as_it_is_written_or_not_at_all() {
    drive("audit", 4_000, audit::holds);
}

#[test]
fn the_history_of_dist_tags_holds_what_upstream_stated() {
    drive("tags", 3_000, tags::holds);
}

#[test]
fn a_lockfile_is_read_in_one_way_or_refused() {
    drive("lockfile", 3_000, lockfile::holds);
}

/// Feeds `holds` the target's seeds, then `cases` inputs made of them and of its dictionary.
fn drive(target: &str, cases: u32, holds: fn(&[u8])) {
    let (seeds, words) = (seeds(target), words(target));
    for seed in &seeds {
        holds(seed);
    }
    let word = prop_oneof![3 => proptest::sample::select(words), 1 => proptest::collection::vec(any::<u8>(), 0..4)];
    let edit = (any::<Index>(), prop_oneof![Just(0), 0..12_usize], word);
    // Mostly few, or next to nothing would get past the first look.
    let edits = prop_oneof![
        3 => proptest::collection::vec(edit.clone(), 0..3),
        1 => proptest::collection::vec(edit, 3..10),
    ];
    let inputs = (proptest::sample::select(seeds), edits).prop_map(|(seed, edits)| edits.into_iter().fold(seed, edited));
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let told = runner.run(&inputs.prop_map(Shown), |input| {
        holds(&input.0);
        Ok(())
    });
    if let Err(wrong) = told {
        panic!("{wrong}");
    }
}

/// `input` with some bytes cut out and others put there.
fn edited(mut input: Vec<u8>, (place, cut, word): (Index, usize, Vec<u8>)) -> Vec<u8> {
    let start = place.index(input.len() + 1);
    let end = (start + cut).min(input.len());
    input.splice(start..end, word);
    input
}

/// An input that is shown as text.
#[derive(Clone)]
struct Shown(Vec<u8>);

impl std::fmt::Debug for Shown {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "b\"{}\"", self.0.escape_ascii())
    }
}

fn beside_the_targets(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(path)
}

/// The seeds of a target, in the order of their names.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = beside_the_targets("seeds").join(target);
    let mut paths: Vec<_> = std::fs::read_dir(folder).expect("a folder of seeds").flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a seed")).collect()
}

/// The words of a target's dictionary, in the form that libFuzzer reads: one in quotes a line.
fn words(target: &str) -> Vec<Vec<u8>> {
    let text = std::fs::read_to_string(beside_the_targets("dictionaries").join(format!("{target}.dict"))).expect("a dictionary");
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
                let digit = |letter: &u8| char::from(*letter).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
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
