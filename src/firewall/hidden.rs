//! What a package's readers were not shown, and why: of what is known already, for whoever sums up an install. Refuses to
//! fetch anything.

use jiff::Timestamp;

use super::known::Slot;
use super::{Asker, Inner};
use crate::npm::{PackageName, Version};
use crate::policy::{RuleId, Verdict};

/// Hidden versions that are named one by one.
const NAMED: usize = 3;

/// The hidden versions of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hidden {
    /// Those that are newer than everything that is shown, the newest first, three at most. Prereleases only where nothing but
    /// prereleases is shown.
    pub newer: Vec<Kept>,
    /// The highest of the others, and how many they are.
    pub others: Option<(Kept, usize)>,
}

/// One hidden version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The version.
    pub version: Box<str>,
    /// The rule that keeps it back.
    pub rule: RuleId,
    /// Why, in words.
    pub detail: String,
    /// When it opens by itself.
    pub opens: Option<Timestamp>,
    /// The nearest version that is allowed.
    pub nearest: Option<Box<str>>,
}

impl Inner {
    /// What is hidden of a package from `asker`; `None` when nothing is, or nothing is known.
    pub(super) fn hidden(&self, asker: &Asker, name: &PackageName) -> Option<Hidden> {
        let slot = Slot::of(name, self.registries.of(name), &asker.authorization);
        let known = self.documents.get(&slot)?;
        let packument = known.packument.as_ref()?;
        let screen = known.screen(&self.world(), asker.profile);
        let shown = packument.entries.iter().zip(&screen.shown).filter(|(_, shown)| **shown);
        let shown = shown.filter_map(|(entry, _)| entry.version.as_ref());
        // A stable version stands above all prereleases, as it does for whoever takes `latest`.
        let rank = |version: &Version| (!version.is_prerelease(), version.clone());
        let highest = shown.map(rank).max();
        let mut hidden: Vec<(_, Kept)> = screen
            .verdicts
            .iter()
            .filter_map(|(at, verdict)| {
                let entry = &packument.entries[*at];
                let nearest = screen.nearest(packument, &entry.key).map(Into::into);
                Some((entry.version.as_ref().map(rank), Kept::of(&entry.key, verdict, nearest)?))
            })
            .collect();
        hidden.sort_by(|(one, _), (other, _)| other.cmp(one));
        let newer = hidden.iter().take_while(|(rank, _)| rank.is_some() && *rank > highest).count().min(NAMED);
        let mut rest = hidden.split_off(newer).into_iter().map(|(_, kept)| kept);
        let count = rest.len();
        let found =
            Hidden { newer: hidden.into_iter().map(|(_, kept)| kept).collect(), others: rest.next().map(|kept| (kept, count)) };
        (!found.newer.is_empty() || found.others.is_some()).then_some(found)
    }
}

impl Kept {
    fn of(version: &str, verdict: &Verdict, nearest: Option<Box<str>>) -> Option<Self> {
        let reason = verdict.reason()?;
        let (rule, detail) = (reason.rule.clone(), reason.detail.clone());
        Some(Self { version: version.into(), rule, detail, opens: verdict.opens(), nearest })
    }
}
