//! Finds out what is to be told of one version: verdict, dates, rules, and what to take instead; now, or as of another instant.
//! Refuses to serve anything.

pub mod explanation;

use std::sync::Arc;

use jiff::Timestamp;

use crate::firewall::Components;
use crate::firewall::error::{self, FirewallError};
use crate::firewall::explain::explanation::{DistTagChange, ExplainedFacts, Explanation, RequestedSpec};
use crate::firewall::package::PackageSnapshot;
use crate::firewall::package::removed::RemovedVersion;
use crate::firewall::packages::fetch::DocumentNeed;
use crate::firewall::policy_state::PolicySnapshot;
use crate::firewall::queries::packument::{self, best, no_version};
use crate::firewall::request::Client;
use crate::firewall::verdicts::VerdictTable;
use crate::npm::PackumentForm;
use crate::npm::packument::dist_tags;
use crate::npm::{PackageName, Packument, Range};
use crate::policy::{Facts, judge, waiver};
use crate::units::timestamp;

impl Components {
    pub(crate) async fn explain(
        self: &Arc<Self>,
        asker: &Client,
        name: &PackageName,
        wanted: Option<&str>,
        at: Option<Timestamp>,
    ) -> Result<Explanation, FirewallError> {
        // The full form: rules may ask who published, which the other one does not say.
        let present = self.reading(asker, name, DocumentNeed::Form(PackumentForm::Full), None).await?.known;
        let validated = present.validated;
        let (known, world) = match at {
            None => (present, self.world()),
            Some(at) => {
                let now = Arc::clone(&present);
                let known = self.over_versions(&present, asker.address, move || Arc::new(now.as_of(at))).await?;
                self.find_kin(asker, &known).await;
                (known, Arc::new(self.world().as_of(at)))
            }
        };
        let (inner, asked, name) = (Arc::clone(self), asker.clone(), name.clone());
        let (judged, wanted) = (Arc::clone(&known), Box::<str>::from(wanted.unwrap_or("latest")));
        let tell = move || {
            let told = Explainer { known: &judged, world: &world, asker: &asked, validated, at };
            let screen = judged.screen(&world, asked.profile);
            if at.is_none() {
                inner.note_overbroad(&name, &screen);
            }
            told.of(&name, &wanted, &screen)
        };
        self.over_versions(&known, asker.address, tell).await?
    }
}

/// One question, and what there is to answer it from.
struct Explainer<'a> {
    known: &'a PackageSnapshot,
    world: &'a PolicySnapshot,
    asker: &'a Client,
    /// When upstream was last asked.
    validated: Timestamp,
    at: Option<Timestamp>,
}

impl Explainer<'_> {
    fn of(&self, name: &PackageName, wanted: &str, screen: &VerdictTable) -> Result<Explanation, FirewallError> {
        let found = self.known.packument.as_deref().and_then(|packument| {
            let (at, _) = packument.find(resolve(packument, wanted)?)?;
            Some((packument, at))
        });
        let Some((packument, at)) = found else {
            return match RemovedVersion::find(self.known, wanted, self.world) {
                Some(departed) if !departed.is_later_than(self.at) => {
                    Ok(self.explanation(&departed.facts(self.at), None, screen))
                }
                _ => Err(self.nothing(name, wanted)),
            };
        };
        let advisories = self.world.advisories.of(name.as_str()).among(self.known.dated(packument));
        let asked = (*packument.entries[at].key != *wanted).then(|| {
            let given = packument::resolve(packument, screen, wanted).and_then(|key| packument.find(key));
            let given = given.filter(|(at, _)| screen.shown[*at]).map(|(_, entry)| entry.key.clone());
            RequestedSpec { text: wanted.into(), given }
        });
        Ok(self.explanation(&self.known.facts(packument, at, &advisories), asked, screen))
    }

    fn explanation(&self, facts: &Facts<'_>, asked: Option<RequestedSpec>, screen: &VerdictTable) -> Explanation {
        let (known, world) = (self.known, self.world);
        let policy = world.policy(self.asker.profile);
        let rules = policy.about(facts.name);
        let packument = known.packument.as_deref();
        let tags = packument.iter().flat_map(|packument| screen.each_tag(packument));
        let tags = tags.map(|(tag, target, shown)| DistTagChange {
            tag: tag.into(),
            upstream: target.into(),
            shown: shown.map(Into::into),
        });
        Explanation {
            name: facts.name.clone(),
            version: facts.version.into(),
            asked,
            verdict: judge(&rules, &world.standing, facts, known.validated),
            waiver: waiver(&rules, &world.standing, facts, known.validated).map(|note| note.reason),
            steps: policy.trace(&world.standing, facts, known.validated),
            tags: tags.collect(),
            seen: ExplainedFacts::of(facts),
            published: facts.published,
            effective: facts.effective,
            nearest: packument.and_then(|packument| screen.nearest(packument, facts.version)).map(Into::into),
            minimum_release_age: policy.minimum_release_age(facts.name),
            upstream: Arc::clone(known.registry.id()),
            validated: self.validated,
            as_of: self.at,
            remarks: self.remarks(),
        }
    }

    /// What is taken as it is now, because nobody kept what it was.
    fn remarks(&self) -> Vec<&'static str> {
        match self.at {
            Some(at) if at < self.validated => vec![
                "rules and feeds are those of now; decisions, ages and dist-tags are as of then, as far as the ledger knows",
                "versions that upstream has lost since are not among those to use instead",
            ],
            Some(_) => vec!["it opens if upstream still has it then, and says nothing else of it"],
            None => Vec::new(),
        }
    }

    /// There is nothing to explain.
    fn nothing(&self, name: &PackageName, wanted: &str) -> FirewallError {
        let Some(at) = self.at else { return no_version(name, wanted) };
        let text = format!("no version of {name} at {} matches: {wanted}", timestamp::tell(at));
        FirewallError::NotFound(error::one_line(&text).into())
    }
}

/// What `wanted` means over everything upstream has, hidden or not.
fn resolve<'a>(packument: &'a Packument, wanted: &str) -> Option<&'a str> {
    if let Some((_, entry)) = packument.find_same(wanted) {
        return Some(&entry.key);
    }
    let latest = packument.dist_tags.iter().find(|(tag, _)| **tag == *wanted);
    if let Some((_, target)) = latest {
        return Some(target);
    }
    if wanted == "latest" {
        return dist_tags::highest(packument.entries.iter());
    }
    best(packument, &Range::parse(wanted)?, None, |_| true)
}
