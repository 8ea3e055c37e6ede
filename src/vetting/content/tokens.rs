//! Finds all tokens in a text with one automaton.
//!
//! Each step of an automaton waits for the memory load of the step before. The text is therefore cut into parts whose steps take
//! turns, so that the processor overlaps their loads.

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::dfa::DFA;
use aho_corasick::{Anchored, MatchKind};

/// The parts of a piece that are read side by side. One alone took three times as long, and eight were no faster.
const LANES: usize = 4;

/// The bytes of a piece. Its matches are kept in memory until all of its parts are read.
const PIECE_BYTES: usize = 64 << 10;

/// Shorter texts are read in one part.
const MIN_LANE_BYTES: usize = 256;

/// A token, by its position in the list that the finder was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TokenMatch {
    pub token: usize,
    pub start: usize,
    pub end: usize,
}

pub(super) struct TokenFinder {
    automaton: DFA,
    start: StateID,
}

impl TokenFinder {
    /// Returns `None` if the tokens do not compile.
    pub(super) fn new(tokens: &[&str]) -> Option<Self> {
        // All matches, also those inside of others: a token must not hide another one that begins inside it.
        let automaton = DFA::builder().match_kind(MatchKind::Standard).prefilter(false).build(tokens).ok()?;
        let start = automaton.start_state(Anchored::No).ok()?;
        Some(Self { automaton, start })
    }

    /// Calls `take` for each token, in the order of their ends.
    pub(super) fn find(&self, content: &[u8], mut take: impl FnMut(TokenMatch)) {
        let mut lanes: [Lane; LANES] = std::array::from_fn(|_| Lane { state: self.start, hits: Vec::new() });
        let mut from = 0;
        while from < content.len() {
            let length = (content.len() - from).min(PIECE_BYTES);
            from = self.read_piece(content, from, length, &mut lanes);
            for (state, end) in lanes.iter_mut().flat_map(|lane| lane.hits.drain(..)) {
                for index in 0..self.automaton.match_len(state) {
                    let pattern = self.automaton.match_pattern(state, index);
                    let start = end - self.automaton.pattern_len(pattern);
                    take(TokenMatch { token: pattern.as_usize(), start, end });
                }
            }
        }
    }

    /// Reads a piece of the content into the lanes. The first lane continues in its state and keeps the state at the end. Returns the
    /// end of the piece.
    fn read_piece(&self, content: &[u8], from: usize, length: usize, lanes: &mut [Lane; LANES]) -> usize {
        let part = length / LANES;
        if part < MIN_LANE_BYTES {
            self.read(content, from, from + length, &mut lanes[0]);
            return from + length;
        }
        let starts: [usize; LANES] = std::array::from_fn(|lane| from + lane * part);
        for (lane, start) in lanes.iter_mut().zip(starts).skip(1) {
            // A token that ends in this part may begin before it.
            lane.state = self.start;
            let overlap = self.automaton.max_pattern_len().saturating_sub(1);
            for byte in &content[start.saturating_sub(overlap)..start] {
                lane.state = self.automaton.next_state(Anchored::No, lane.state, *byte);
            }
        }
        let parts = starts.map(|start| &content[start..start + part]);
        let mut states: [StateID; LANES] = std::array::from_fn(|lane| lanes[lane].state);
        #[expect(clippy::needless_range_loop, reason = "the parts advance side by side")]
        for at in 0..part {
            let mut is_special = false;
            for lane in 0..LANES {
                states[lane] = self.automaton.next_state(Anchored::No, states[lane], parts[lane][at]);
                is_special |= self.automaton.is_special(states[lane]);
            }
            // Matches, as there is no prefilter. One comparison, unlike `is_match`.
            if is_special {
                for ((lane, state), start) in lanes.iter_mut().zip(states).zip(starts) {
                    lane.note(&self.automaton, state, start + at + 1);
                }
            }
        }
        lanes[LANES - 1].state = states[LANES - 1];
        // What the division left over.
        self.read(content, from + part * LANES, from + length, &mut lanes[LANES - 1]);
        lanes[0].state = lanes[LANES - 1].state;
        from + length
    }

    fn read(&self, content: &[u8], from: usize, to: usize, lane: &mut Lane) {
        for (at, byte) in content[from..to].iter().enumerate() {
            lane.state = self.automaton.next_state(Anchored::No, lane.state, *byte);
            lane.note(&self.automaton, lane.state, from + at + 1);
        }
    }
}

struct Lane {
    state: StateID,
    /// States in which tokens end, and the position after them.
    hits: Vec<(StateID, usize)>,
}

impl Lane {
    fn note(&mut self, automaton: &DFA, state: StateID, end: usize) {
        if automaton.is_match(state) {
            self.hits.push((state, end));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: [&str; 6] = ["ab", "abc", "bc", "c", "a-long-token-with-28-letters", "\\x"];

    /// Finds tokens by comparing them at each position.
    fn expected(text: &[u8]) -> Vec<TokenMatch> {
        let at = |end: usize| {
            TOKENS.iter().enumerate().filter_map(move |(token, name)| {
                let start = end.checked_sub(name.len())?;
                (&text[start..end] == name.as_bytes()).then_some(TokenMatch { token, start, end })
            })
        };
        (1..=text.len()).flat_map(at).collect()
    }

    fn found(text: &[u8]) -> Vec<TokenMatch> {
        let mut found = Vec::new();
        TokenFinder::new(&TOKENS).unwrap().find(text, |token| found.push(token));
        found
    }

    fn sorted(mut matches: Vec<TokenMatch>) -> Vec<TokenMatch> {
        matches.sort_by_key(|found| (found.end, found.start));
        matches
    }

    #[test]
    fn tokens_are_found_at_each_position_of_texts_of_all_lengths() {
        let text = "abcab-a-long-token-with-28-letters\\x\\xbcc..abab".repeat(4_000);
        for length in [0, 1, 5, 46, 1_023, 1_024, 1_029, 4_099, 65_535, 65_536, 65_541, 140_003] {
            for skipped in 0..7 {
                let text = &text.as_bytes()[skipped..skipped + length];
                assert_eq!(sorted(found(text)), sorted(expected(text)), "{length} bytes from {skipped}");
            }
        }
    }

    #[test]
    fn tokens_across_the_borders_of_parts_are_found_once() {
        for at in (1_000..1_100).chain(16_350..16_400).chain(65_500..65_560) {
            let mut text = vec![b'.'; 131_072];
            text[at..at + 28].copy_from_slice(b"a-long-token-with-28-letters");
            assert_eq!(found(&text), [TokenMatch { token: 4, start: at, end: at + 28 }], "at {at}");
        }
    }

    #[test]
    fn ends_are_in_order() {
        let ends: Vec<usize> = found("abc".repeat(50_000).as_bytes()).iter().map(|found| found.end).collect();
        assert!(ends.is_sorted() && ends.len() == 200_000);
    }
}
