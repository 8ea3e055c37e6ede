//! Selects the rules that may match a version: rules without a version range, and rules whose range contains it.

use std::borrow::Cow;

use crate::npm::{PrereleaseMode, RangeTable};
use crate::policy::facts::Facts;
use crate::policy::rules::rule::{Rule, RuleAction};

/// Rules in order, with a shared table of their version ranges.
#[derive(Debug, Clone)]
pub(crate) struct RuleIndex {
    pub(super) all: Vec<Rule>,
    ranges: Option<RangeTable>,
    ranged: RuleSet,
}

/// A set of rules as a bit set.
#[derive(Debug, Clone, Default)]
pub(crate) struct RuleSet(Box<[u64]>);

impl RuleIndex {
    pub(crate) fn of(all: Vec<Rule>) -> Self {
        let ranged = all.iter().enumerate().filter_map(|(number, rule)| {
            // Refusing and warning rules also match prereleases in their range. Allowing rules match exactly as npm does.
            let prereleases = if rule.action == RuleAction::Allow { PrereleaseMode::Named } else { PrereleaseMode::Covered };
            Some((number, rule.conditions.versions.clone()?, prereleases))
        });
        let ranges = RangeTable::of(all.len(), ranged.collect());
        let mut rules = Self { all, ranges, ranged: RuleSet::default() };
        rules.ranged = rules.select(|rule| rule.conditions.versions.is_some());
        rules
    }

    pub(crate) fn select(&self, wanted: impl Fn(&Rule) -> bool) -> RuleSet {
        let mut chosen = vec![0; self.all.len().div_ceil(64)];
        for (number, rule) in self.all.iter().enumerate() {
            chosen[number / 64] |= u64::from(wanted(rule)) << (number % 64);
        }
        RuleSet(chosen.into())
    }

    /// Iterates over the chosen rules in order.
    pub(crate) fn each<'a>(&'a self, chosen: &'a RuleSet) -> RuleIter<'a> {
        RuleIter { rules: &self.all, chosen, ranges: None, word: 0, left: chosen.0.first().copied().unwrap_or(0) }
    }

    /// Iterates, in order, over the chosen rules whose range may contain the version.
    pub(crate) fn candidates<'a>(&'a self, chosen: &'a RuleSet, facts: &Facts<'_>) -> RuleIter<'a> {
        // For most packages no rule has a version range. Skip the lookup then.
        let conditions = chosen.0.iter().zip(&self.ranged.0).any(|(chosen, ranged)| chosen & ranged != 0);
        let ranges = self
            .ranges
            .as_ref()
            .filter(|_| conditions)
            .zip(facts.parsed)
            .and_then(|(ranges, version)| ranges.candidates(version));
        let first = |bits: &[u64]| bits.first().copied().unwrap_or(0);
        let left = first(&chosen.0) & ranges.as_deref().map_or(u64::MAX, first);
        RuleIter { rules: &self.all, chosen, ranges, word: 0, left }
    }
}

impl RuleSet {
    /// Keeps the rules for which `wanted` is true.
    pub(crate) fn narrowed(mut self, rules: &RuleIndex, wanted: impl Fn(&Rule) -> bool) -> Self {
        for (number, rule) in rules.all.iter().enumerate() {
            if self.has(number) && !wanted(rule) {
                self.0[number / 64] &= !(1 << (number % 64));
            }
        }
        self
    }

    fn has(&self, number: usize) -> bool {
        self.0[number / 64] & (1 << (number % 64)) != 0
    }
}

/// Iterates over the set bits.
pub(crate) struct RuleIter<'a> {
    rules: &'a [Rule],
    chosen: &'a RuleSet,
    ranges: Option<Cow<'a, [u64]>>,
    word: usize,
    left: u64,
}

impl<'a> Iterator for RuleIter<'a> {
    type Item = &'a Rule;

    fn next(&mut self) -> Option<&'a Rule> {
        while self.left == 0 {
            self.word += 1;
            let chosen = self.chosen.0.get(self.word)?;
            let within = self.ranges.as_deref().and_then(|bits| bits.get(self.word)).copied().unwrap_or(u64::MAX);
            self.left = chosen & within;
        }
        let number = self.word * 64 + self.left.trailing_zeros() as usize;
        self.left &= self.left - 1;
        self.rules.get(number)
    }
}
