//! Lists the hidden versions of a package for the summary of an install, from memory only.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::firewall::components::Firewall;
use crate::firewall::package::CacheKey;
use crate::firewall::request::Client;
use crate::firewall::verdicts::Want;
use crate::firewall::verdicts::resolve::{is_satisfied, pick_unfiltered};
use crate::npm::{PackageName, Version};
use crate::policy::{Reason, RuleId};

/// Hidden versions that are listed one by one.
const MAX_LISTED: usize = 3;

/// The hidden versions of a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HiddenVersions {
    /// Versions newer than every visible one, newest first, three at most. Prereleases only if nothing but prereleases is
    /// visible.
    pub newer: Vec<HeldVersion>,
    /// The highest of the other hidden versions, and their number.
    pub others: Option<(HeldVersion, usize)>,
    /// Whether any requirement on the package is known.
    #[serde(default)]
    pub is_wanted: bool,
    /// The hidden versions that requirements would select, those of the project first.
    #[serde(default)]
    pub wanted: Vec<WantedVersion>,
}

/// A hidden version that a requirement would select.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedVersion {
    pub want: Want,
    /// Whether no visible version satisfies it, so that the client fails.
    pub fails: bool,
    pub kept: HeldVersion,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldVersion {
    pub version: Box<str>,
    pub rule: RuleId,
    pub detail: String,
    /// When it opens; `None` if it does not open automatically.
    pub opens: Option<Timestamp>,
    pub nearest: Option<Box<str>>,
}

impl Firewall {
    /// Returns the hidden versions of a package and those the project requires; `None` if nothing is hidden or known. A version
    /// that the project requires and no visible version can replace is recorded as refused.
    pub(crate) fn hidden_versions(&self, client: &Client, name: &PackageName, wants: &[Want]) -> Option<HiddenVersions> {
        let cache_key = CacheKey::of(name, self.0.registries.of(name), &client.authorization);
        let package = self.0.cache.get(&cache_key)?;
        let packument = package.packument.as_ref()?;
        let table = package.verdicts(&self.0.policy.snapshot(), client.profile);
        let shown = packument.entries.iter().zip(&table.shown).filter(|(_, shown)| **shown);
        let shown = shown.filter_map(|(entry, _)| entry.version.as_ref());
        // Stable versions rank above all prereleases, as for clients that use `latest`.
        let rank = |version: &Version| (!version.is_prerelease(), version.clone());
        let highest = shown.map(rank).max();
        let mut hidden: Vec<(_, usize)> =
            table.verdicts.iter().map(|(at, _)| (packument.entries[*at].version.as_ref().map(rank), *at)).collect();
        hidden.sort_by(|(a, _), (b, _)| b.cmp(a));
        let newer = hidden.iter().take_while(|(rank, _)| rank.is_some() && *rank > highest).count().min(MAX_LISTED);
        let kept = |at: usize| {
            let (version, verdict) = (&packument.entries[at].key, table.verdict(at));
            let Reason { rule, detail } = verdict.reason()?.clone();
            let nearest = table.nearest_allowed(packument, version).map(Into::into);
            Some(HeldVersion { version: version.clone(), rule, detail, opens: verdict.opens_at(), nearest })
        };
        let rest = hidden.split_off(newer);
        let others = rest.first().and_then(|(_, at)| Some((kept(*at)?, rest.len())));
        let newer: Vec<HeldVersion> = hidden.into_iter().filter_map(|(_, at)| kept(at)).collect();
        let of_others = self.0.wants.of(&cache_key);
        let of_others = of_others.as_deref().unwrap_or_default();
        let wanted = wants.iter().chain(of_others).filter_map(|want| {
            let at = pick_unfiltered(packument, &want.spec).filter(|at| !table.shown[*at])?;
            let fails = !is_satisfied(packument, &table, &want.spec);
            Some(WantedVersion { want: want.clone(), fails, kept: kept(at)? })
        });
        let wanted: Vec<WantedVersion> = wanted.collect();
        // The command fails because of these, but most clients request no tarball of them.
        for missing in wanted.iter().filter(|wanted| wanted.fails && wanted.want.is_direct && client.is_installing) {
            if let Some((at, _)) = packument.find(&missing.kept.version) {
                self.0.recorder.withheld(client, packument, &table, at, self.0.policy.now());
            }
        }
        let is_wanted = !(wants.is_empty() && of_others.is_empty());
        (!newer.is_empty() || others.is_some()).then_some(HiddenVersions { newer, others, is_wanted, wanted })
    }
}
