//! Explains one version: verdict, dates, rules, and the version to use instead, now or as of another instant.

pub mod explanation;
pub mod origin;

use std::sync::Arc;

use jiff::Timestamp;

use crate::firewall::client_scope;
use crate::firewall::components::Firewall;
use crate::firewall::error::{self, FirewallError, Result, no_version};
use crate::firewall::explain::explanation::{DistTagChange, ExplainedFacts, Explanation, RequestedSpec};
use crate::firewall::explain::origin::{ExplainedOrigin, ExplainedPredecessor, ExplainedProvenance, ProvenanceSince};
use crate::firewall::package::removed::RemovedVersion;
use crate::firewall::package::signal_table::SignalTable;
use crate::firewall::package::signing::SignatureVerifier;
use crate::firewall::packages::request::DocumentNeed;
use crate::firewall::policy_state::PolicySnapshot;
use crate::firewall::request::Client;
use crate::firewall::verdicts::VerdictTable;
use crate::firewall::verdicts::cache::CachedPackage;
use crate::firewall::verdicts::resolve::{self, best_in_range};
use crate::npm::packument::dist_tags;
use crate::npm::{PackageName, Packument, PackumentForm, Range};
use crate::policy::{Facts, RuleId, Warning, explain};
use crate::units::timestamp;
use crate::vetting::inspect::Inspection;
use crate::vetting::provenance::ProvenanceStatus;

impl Firewall {
    /// Explains one version. `wanted` is a version, a dist-tag or a range, by default `latest`. `at` evaluates it as of that
    /// instant.
    pub(crate) async fn explain(
        &self,
        client: &Client,
        name: &PackageName,
        wanted: Option<&str>,
        at: Option<Timestamp>,
    ) -> Result<Explanation> {
        client_scope::check(client, name)?;
        // The full form: rules may depend on the publisher, which the abbreviated form lacks.
        let present = self.0.packages.lookup(client, name, DocumentNeed::Form(PackumentForm::Full), None).await?.package;
        let validated = present.confirmed.validated;
        let (package, policy_snapshot) = match at {
            None => (present, self.0.policy.snapshot()),
            Some(at) => {
                let now = Arc::clone(&present);
                let as_of = move || Arc::new(CachedPackage::from(now.as_of(at)));
                let package = self.0.workers.run_over_versions(&present, client.address, as_of).await?;
                self.0.packages.load_parent(client, &package).await;
                self.0.packages.load_new_dependencies(client, &package).await;
                (package, Arc::new(self.0.policy.snapshot().as_of(at)))
            }
        };
        if at.is_none()
            && let Some(position) = self.position(client, &package, wanted.unwrap_or("latest")).await?
        {
            // Whatever its age: an explanation says where a version was built.
            Box::pin(self.0.packages.provenance.load(client, &package, &policy_snapshot, &[position])).await;
        }
        let (recorder, asked, name) = (Arc::clone(&self.0.recorder), client.clone(), name.clone());
        let (judged, wanted) = (Arc::clone(&package), Box::<str>::from(wanted.unwrap_or("latest")));
        let explain = move || {
            let explainer = Explainer { package: &judged, policy_snapshot: &policy_snapshot, client: &asked, validated, at };
            let table = judged.verdicts(&policy_snapshot, asked.profile);
            if at.is_none() {
                recorder.overbroad_advisories(&name, &table);
            }
            explainer.of(&name, &wanted, &table)
        };
        self.0.workers.run_over_versions(&package, client.address, explain).await?
    }

    /// Opens the tarball of one version, whatever its verdict is, and explains the version.
    pub(crate) async fn vet(
        &self,
        client: &Client,
        name: &PackageName,
        wanted: Option<&str>,
    ) -> Result<(Explanation, Inspection)> {
        let lookup = self.0.packages.lookup(client, name, DocumentNeed::Form(PackumentForm::Full), None).await?;
        let wanted = wanted.unwrap_or("latest");
        let at = self.position(client, &lookup.package, wanted).await?.ok_or_else(|| no_version(name, wanted))?;
        let inspection = self.0.tarballs.inspect(client, &lookup, at).await?;
        Ok((self.explain(client, name, Some(wanted), None).await?, inspection))
    }

    /// Returns the position of the version that `wanted` resolves to over all upstream versions.
    async fn position(&self, client: &Client, package: &Arc<CachedPackage>, wanted: &str) -> Result<Option<usize>> {
        let (known, text) = (Arc::clone(package), Box::<str>::from(wanted));
        let find = move || {
            let packument = known.packument.as_deref()?;
            Some(packument.find(resolve(packument, &text)?)?.0)
        };
        self.0.workers.run_over_versions(package, client.address, find).await
    }
}

/// The inputs of one explanation.
struct Explainer<'a> {
    package: &'a CachedPackage,
    policy_snapshot: &'a PolicySnapshot,
    client: &'a Client,
    /// When upstream last confirmed the package.
    validated: Timestamp,
    at: Option<Timestamp>,
}

impl Explainer<'_> {
    fn of(&self, name: &PackageName, wanted: &str, table: &VerdictTable) -> Result<Explanation> {
        let found = self.package.packument.as_deref().and_then(|packument| {
            let (at, _) = packument.find(resolve(packument, wanted)?)?;
            Some((packument, at))
        });
        let Some((packument, at)) = found else {
            return match RemovedVersion::find(self.package, wanted, self.policy_snapshot) {
                Some(removed) if !removed.is_later_than(self.at) => Ok(self.explanation(&removed.facts(self.at), None, table)),
                _ => Err(self.nothing(name, wanted)),
            };
        };
        let advisories = self.policy_snapshot.advisories.of(name.as_str()).applicable_to(self.package.dated(packument));
        let asked = (*packument.entries[at].key != *wanted).then(|| {
            let given = resolve::resolve(packument, table, wanted).and_then(|key| packument.find(key));
            let given = given.filter(|(at, _)| table.shown[*at]).map(|(_, entry)| entry.key.clone());
            RequestedSpec { text: wanted.into(), given }
        });
        let signals = self.package.signals(self.policy_snapshot, self.client.profile);
        let cohorts = self.package.cohorts(self.policy_snapshot, self.client.profile);
        let facts = self.package.facts(packument, at, (&signals, cohorts.as_deref()), &advisories);
        let mut explanation = self.explanation(&facts, asked, table);
        // An index of an earlier instant lacks what signatures are found by.
        if self.at.is_none() {
            let verifier = SignatureVerifier::new(self.package, packument, &self.policy_snapshot.signing_keys);
            explanation.seen.origin = ExplainedOrigin {
                signature: Some(verifier.verify(at)),
                provenance: Some(self.provenance(packument, at)),
                provenance_since: self.provenance_since(packument),
                predecessor: Some(predecessor(packument, at, &signals)),
            };
        }
        Ok(explanation)
    }

    /// Returns the oldest release with attestations. Upstream's other releases may have some that it does not announce.
    fn provenance_since(&self, packument: &Packument) -> Option<ProvenanceSince> {
        let releases = || packument.entries.iter().zip(&*self.package.provenance);
        let attested = || releases().filter(|(entry, _)| entry.outline.has_provenance);
        let (first, history) = attested().min_by_key(|(_, history)| history.effective)?;
        let since = history.effective;
        Some(ProvenanceSince {
            version: first.key.clone(),
            published: since,
            releases: releases().filter(|(_, history)| history.effective >= since).count(),
            attested: attested().count(),
        })
    }

    /// Returns what the attestations of the entry at `at` show, as far as they were read.
    fn provenance(&self, packument: &Packument, at: usize) -> ExplainedProvenance {
        let entry = &packument.entries[at];
        if self.policy_snapshot.trust_root.is_none() {
            return ExplainedProvenance::Off;
        }
        if !entry.outline.has_provenance {
            let has_any = packument.entries.iter().any(|entry| entry.outline.has_provenance);
            return if has_any { ExplainedProvenance::Missing } else { ExplainedProvenance::NoneStated };
        }
        let known = self.package.vetted.load();
        let Some(verified) = known.provenance_of(entry) else { return ExplainedProvenance::Unverified };
        let source = verified.status.source();
        let is_same = |other: &ProvenanceStatus| source.zip(other.source()).is_some_and(|(source, other)| source.is_same(other));
        let same = known.current_provenance(packument).filter(|(_, other)| is_same(&other.status));
        let first = same.min_by_key(|(at, _)| self.package.provenance.get(*at).map(|history| history.effective));
        let first = first.map(|(_, first)| first.version.clone());
        let since = first.filter(|first| *first != entry.key);
        ExplainedProvenance::Verified { status: verified.status.clone(), since }
    }

    fn explanation(&self, facts: &Facts<'_>, asked: Option<RequestedSpec>, table: &VerdictTable) -> Explanation {
        let (package, policy_snapshot) = (self.package, self.policy_snapshot);
        let policy = policy_snapshot.policy(self.client.profile);
        let (verdict, trace) = explain(policy, &policy_snapshot.active_decisions, facts, package.confirmed.validated);
        let by_decision = |warning: &&Warning| matches!(warning.reason.rule, RuleId::Approved | RuleId::BreakGlass);
        let waiver = trace.warnings.iter().find(by_decision).map(|warning| warning.reason.clone());
        let packument = package.packument.as_deref();
        let tags = packument.iter().flat_map(|packument| table.each_tag(packument));
        let tags = tags.map(|(tag, target, shown)| DistTagChange {
            tag: tag.into(),
            upstream: target.into(),
            shown: shown.map(Into::into),
        });
        let may_be_requested = verdict.reason().is_some_and(|reason| policy.allows_requests(&reason.rule));
        Explanation {
            may_be_requested,
            name: facts.name.clone(),
            version: facts.version.into(),
            asked,
            verdict,
            waiver,
            steps: trace.into_steps(),
            tags: tags.collect(),
            seen: ExplainedFacts::of(facts),
            published: facts.published,
            effective: facts.effective,
            nearest: packument.and_then(|packument| table.nearest_allowed(packument, facts.version)).map(Into::into),
            minimum_release_age: policy.minimum_release_age(facts.name),
            upstream: Arc::clone(package.registry.id()),
            validated: self.validated,
            as_of: self.at,
            remarks: self.caveats(),
        }
    }

    /// Returns caveats about facts that are current because their history is not recorded.
    fn caveats(&self) -> Vec<&'static str> {
        match self.at {
            Some(at) if at < self.validated => vec![
                "rules and feeds are current; decisions, ages and dist-tags are as of that time, as far as recorded",
                "versions removed upstream since that time are not suggested",
            ],
            Some(_) => vec!["it opens only if upstream still has it then, with unchanged metadata"],
            None => Vec::new(),
        }
    }

    /// Returns the error for a version that does not exist.
    fn nothing(&self, name: &PackageName, wanted: &str) -> FirewallError {
        let Some(at) = self.at else { return no_version(name, wanted) };
        let text = format!("no version of {name} at {} matches: {wanted}", timestamp::format_utc(at));
        FirewallError::NotFound(error::one_line(&text).into())
    }
}

/// Returns the release whose tarball that of the entry at `at` is compared with.
fn predecessor(packument: &Packument, at: usize, signals: &SignalTable) -> ExplainedPredecessor {
    let Some(earlier) = signals.predecessors.get(&at) else { return ExplainedPredecessor::NotNeeded };
    let earlier = earlier.and_then(|earlier| packument.entries.get(earlier));
    earlier.map_or(ExplainedPredecessor::None, |earlier| ExplainedPredecessor::Version(earlier.key.clone()))
}

/// Resolves `wanted` over all upstream versions, hidden or not.
fn resolve<'a>(packument: &'a Packument, wanted: &str) -> Option<&'a str> {
    if let Some((_, entry)) = packument.find_same(wanted) {
        return Some(&entry.key);
    }
    if let Some(target) = packument.dist_tag(wanted) {
        return Some(target);
    }
    if wanted == "latest" {
        return dist_tags::highest(packument.entries.iter());
    }
    best_in_range(packument, &Range::parse(wanted)?, None, |_| true)
}
