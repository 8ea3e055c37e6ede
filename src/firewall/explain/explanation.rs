//! The explanation of one version: verdict, dates, every rule, and the facts that rules used. Callers render it as text, HTML or
//! JSON.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::firewall::explain::origin::{ExplainedOrigin, ExplainedPredecessor, ExplainedProvenance, ProvenanceSince};
use crate::npm::packument::index::ManifestTraits;
use crate::npm::{Integrity, PackageName};
use crate::policy::{Advisory, Facts, Presence, Reason, Removal, TraceStep, Verdict};
use crate::text::{shell_word, single_line};
use crate::units::timestamp;
use crate::vetting::compare::SignalEvidence;
use crate::vetting::signatures::SignatureStatus;
use crate::vetting::{Finding, FindingEvidence, Signal};

/// Maintainers listed by name. There may be hundreds.
const MAX_MAINTAINERS: usize = 12;

/// The verdict of one version and its reasons, as printed by `coldframe explain`.
#[derive(Debug, Clone)]
pub struct Explanation {
    pub name: PackageName,
    /// The version that the request resolves to over all upstream versions.
    pub version: Box<str>,
    /// The requested dist-tag or range, unless an exact version was requested.
    pub asked: Option<RequestedSpec>,
    pub verdict: Verdict,
    /// The decision that allows the version, and the rule it overrides.
    pub waiver: Option<Reason>,
    /// All rules in order, each with its outcome for this version.
    pub steps: Vec<TraceStep>,
    /// Where each dist-tag points upstream and for clients.
    pub tags: Vec<DistTagChange>,
    /// The facts that rules used.
    pub seen: ExplainedFacts,
    /// The publish time that upstream states.
    pub published: Option<Timestamp>,
    /// The effective publish time, from which age counts.
    pub effective: Timestamp,
    /// The nearest allowed version: the highest at or below this one by the dist-tag rule.
    pub nearest: Option<Box<str>>,
    /// The minimum release age that applies to the package.
    pub minimum_release_age: Duration,
    /// The registry's address, without credentials.
    pub upstream: Arc<str>,
    /// When upstream was last asked.
    pub validated: Timestamp,
    /// The requested evaluation instant.
    pub as_of: Option<Timestamp>,
    /// Whether people may ask for it, if it is refused.
    pub may_be_requested: bool,
    /// Caveats about facts whose value at that instant is unknown.
    pub remarks: Vec<&'static str>,
}

/// A requested dist-tag or range, and the version that clients get for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedSpec {
    /// The dist-tag or range as written.
    pub text: Box<str>,
    /// The version that clients get; `None` if they get none.
    pub given: Option<Box<str>>,
}

/// A dist-tag with its upstream and visible targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DistTagChange {
    pub tag: Box<str>,
    pub upstream: Box<str>,
    /// The target for clients; `None` if the tag is left out.
    pub shown: Option<Box<str>>,
}

/// The facts that rules used, for display.
#[derive(Debug, Clone, Default)]
pub struct ExplainedFacts {
    /// Why the version is not in upstream's packument; `None` if it is.
    pub gone: Option<String>,
    /// When the oldest release of the package was published.
    pub first_published: Option<Timestamp>,
    /// When the established parent package that pins this version was first published.
    pub parent: Option<Timestamp>,
    /// The inconsistency in its manifest.
    pub flaw: Option<String>,
    /// As SRI.
    pub integrity: Option<String>,
    /// Whether it was first seen with a different integrity.
    pub integrity_changed: bool,
    pub traits: ManifestTraits,
    pub publisher: Option<String>,
    pub maintainers: Vec<String>,
    /// The upstream dist-tags that point to it.
    pub tags: Vec<String>,
    pub advisories: Vec<ExplainedAdvisory>,
    /// The reviewed advisory that lists it as the fix.
    pub fix: Option<String>,
    /// Signals: differences from its predecessors.
    pub signals: Vec<&'static str>,
    /// What each signal is based on.
    pub evidence: Vec<SignalEvidence>,
    /// Signals that upstream's documents cannot show.
    pub unobservable: Vec<&'static str>,
    /// Signals that depend on look-ups that have not ended.
    pub pending: Vec<&'static str>,
    /// Findings from the contents of its tarball.
    pub findings: Vec<FindingEvidence>,
    pub origin: ExplainedOrigin,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedAdvisory {
    pub id: String,
    pub feed: String,
    /// `malware` or `vulnerability`.
    pub kind: &'static str,
    pub trust: &'static str,
    pub severity: Option<&'static str>,
    /// Whether it is not applied because it marks every version of an established package.
    pub set_aside: bool,
    /// A one-line summary; may be empty.
    pub summary: String,
}

impl ExplainedFacts {
    /// Collects the facts of a version.
    pub(crate) fn of(facts: &Facts<'_>) -> Self {
        let owned = |text: &str| text.to_owned();
        let (version, parsed) = (facts.version, facts.parsed);
        let obeyed = facts.advisories.matching(version, parsed).map(|advisory| ExplainedAdvisory::of(advisory, false));
        let suppressed = facts.advisories.suppressed(version, parsed).map(|advisory| ExplainedAdvisory::of(advisory, true));
        Self {
            gone: match facts.presence {
                Presence::Present => None,
                Presence::Gone(Removal { last_seen: None, .. }) => Some("never seen by coldframe".to_owned()),
                Presence::Gone(Removal { last_seen: Some(seen), replaced, .. }) => {
                    let how = if replaced { ", replaced by a security placeholder" } else { "" };
                    Some(format!("last seen {}{how}", timestamp::format_utc(seen)))
                }
            },
            first_published: facts.first_published,
            parent: facts.parent,
            flaw: facts.flaw.map(owned),
            integrity: facts.integrity.map(Integrity::to_sri),
            integrity_changed: facts.integrity_changed,
            traits: facts.traits,
            publisher: facts.publisher.map(owned),
            maintainers: facts.maintainers.iter().map(|name| owned(name)).collect(),
            tags: facts.tags.pointing_to(facts.version).map(owned).collect(),
            advisories: obeyed.chain(suppressed).collect(),
            fix: facts.fix.map(owned),
            signals: facts.signals.iter().map(Signal::as_str).collect(),
            evidence: facts.evidence.to_vec(),
            unobservable: facts.unobservable.iter().map(Signal::as_str).collect(),
            pending: facts.pending.iter().map(Signal::as_str).collect(),
            findings: facts.finding_evidence.iter().cloned().chain(listed_digest(facts)).collect(),
            origin: ExplainedOrigin::default(),
        }
    }

    /// Returns the facts as labelled rows. Missing facts are left out.
    pub(crate) fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        let mut row = |about, text: Option<String>| rows.extend(text.map(|text| (about, text)));
        let joined = |names: &[String]| (!names.is_empty()).then(|| names.join(", "));
        row("upstream", self.gone.as_ref().map(|how| format!("no longer has this version, {how}")));
        let first_published = |at| format!("first published {}", timestamp::format_utc(at));
        row("package", self.first_published.map(first_published));
        row("part of", self.parent.map(|at| format!("an established package, {}", first_published(at))));
        row("publisher", self.publisher.clone());
        let (named, more) = self.maintainers.split_at(self.maintainers.len().min(MAX_MAINTAINERS));
        let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
        row("maintainers", joined(named).map(|names| names + &more));
        row("dist-tags", joined(&self.tags));
        row("integrity", self.integrity.clone());
        row("integrity", self.integrity_changed.then(|| "differs from the one first seen".to_owned()));
        for (about, text) in self.origin.rows() {
            row(about, Some(text));
        }
        row("contradiction", self.flaw.clone());
        row("manifest", joined(&self.of_manifest()));
        for advised in &self.advisories {
            row("advisory", Some(advised.describe()));
        }
        row("fix of", self.fix.clone());
        let words = |words: &[&str]| (!words.is_empty()).then(|| words.join(", "));
        for evidence in &self.evidence {
            row("signal", Some(format!("{}: {}", evidence.signal.as_str(), evidence.describe())));
        }
        row("not decided", words(&self.pending));
        // Two signals need no baseline.
        let has_no_baseline = self.unobservable.len() + 2 >= Signal::ALL.len();
        let no_baseline = "there is no older release to compare with".to_owned();
        row("not observable", if has_no_baseline { Some(no_baseline) } else { words(&self.unobservable) });
        for found in &self.findings {
            row("finding", Some(found.describe()));
        }
        rows
    }

    fn of_manifest(&self) -> Vec<String> {
        let ManifestTraits { deprecated, install_script, git_dependency, url_dependency, file_dependency } = self.traits;
        let traits = [
            (deprecated, "deprecated"),
            (install_script, "runs a script at install"),
            (git_dependency, "depends on a git repository"),
            (url_dependency, "depends on a tarball URL"),
            (file_dependency, "depends on a local file"),
        ];
        traits.iter().filter(|(is, _)| *is).map(|(_, words)| (*words).to_owned()).collect()
    }
}

/// Returns the finding that a feed lists a digest of the tarball. Rules get it from the feeds, so it has no evidence of its own.
fn listed_digest(facts: &Facts<'_>) -> Option<FindingEvidence> {
    let advisory = facts.advisories.listing(facts.integrity).next()?;
    let detail = format!("{} of the feed `{}` lists its digest", advisory.id, advisory.feed);
    Some(FindingEvidence { finding: Finding::AdvisedIntegrity, detail: single_line(&detail).into_owned() })
}

impl ExplainedAdvisory {
    fn of(advisory: Advisory<'_>, set_aside: bool) -> Self {
        Self {
            id: advisory.id.to_owned(),
            feed: advisory.feed.to_owned(),
            kind: advisory.kind.as_str(),
            trust: advisory.trust.as_str(),
            severity: advisory.severity.map(crate::policy::Severity::as_str),
            set_aside,
            summary: advisory.summary.to_owned(),
        }
    }

    fn describe(&self) -> String {
        let severity = self.severity.map(|severity| format!(", {severity}")).unwrap_or_default();
        let suppressed = if self.set_aside { ", set aside: marks every version of an established package" } else { "" };
        let summary = if self.summary.is_empty() { String::new() } else { format!(": {}", self.summary) };
        format!("{} ({}{severity}) of the feed `{}`, trust `{}`{suppressed}{summary}", self.id, self.kind, self.feed, self.trust)
    }
}

impl Explanation {
    /// Returns `allow`, `hold` or `deny`.
    pub(crate) fn outcome(&self) -> &'static str {
        match self.verdict {
            Verdict::Allow => "allow",
            Verdict::Hold { .. } => "hold",
            Verdict::Deny { .. } => "deny",
        }
    }

    /// Returns the first line, such as `axios@1.14.1 is held`.
    pub(crate) fn headline(&self) -> String {
        let outcome = match self.verdict {
            Verdict::Allow => "allowed",
            Verdict::Hold { .. } => "held",
            Verdict::Deny { .. } => "denied",
        };
        format!("{}@{} is {outcome}", self.name, self.version)
    }

    /// Returns the verdict and its consequences as labelled rows.
    pub(crate) fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        let mut row = |about, text: String| rows.push((about, text));
        if let Some(at) = self.as_of {
            row("as of", timestamp::format_utc(at));
        }
        if let Some(RequestedSpec { text, given }) = &self.asked {
            let given = given.as_ref().map_or_else(|| "nothing".to_owned(), |given| format!("{}@{given}", self.name));
            row("asked", format!("`{text}` resolves to {} upstream, to {given} here", self.version));
        }
        row("published", self.published.map_or_else(|| "unknown".to_owned(), timestamp::format_utc));
        if self.published != Some(self.effective) {
            row("counts from", timestamp::format_utc(self.effective));
        }
        if let Some(reason) = self.verdict.reason() {
            row("rule", reason.rule.to_string());
            row("reason", reason.detail.clone());
            row("opens", self.verdict.opens_at().map_or_else(|| "not automatically".to_owned(), timestamp::format_utc_ceil));
            let nearest = self.nearest.as_ref().map(|nearest| format!("{}@{nearest}", self.name));
            row("use instead", nearest.unwrap_or_else(|| "no version is allowed".to_owned()));
            let spec = format!("{}@{}", self.name, self.version);
            let ask = || format!("coldframe request {} --reason TEXT", shell_word(&spec));
            row(
                "ask",
                if self.may_be_requested { ask() } else { "not possible, what refuses it yields to no request".to_owned() },
            );
        } else {
            row("minimum age", timestamp::format_duration(self.minimum_release_age));
            row("tarball", "checked against its integrity before it is sent".to_owned());
        }
        if let Some(waiver) = &self.waiver {
            row("waived", waiver.detail.clone());
        }
        row("upstream", format!("{} (asked {})", self.upstream, timestamp::format_utc(self.validated)));
        for DistTagChange { tag, upstream, shown } in &self.tags {
            row(
                "dist-tag",
                match shown.as_deref() {
                    Some(shown) if shown == &**upstream => format!("{tag} points to {shown}, as upstream"),
                    Some(shown) => format!("{tag} points to {shown} here, to {upstream} upstream"),
                    None => format!("{tag} is left out here, points to {upstream} upstream"),
                },
            );
        }
        for remark in &self.remarks {
            row("note", (*remark).to_owned());
        }
        rows
    }

    /// Returns the explanation as JSON.
    pub(crate) fn json(&self) -> Value {
        let instant = |at: Option<Timestamp>| at.map(|at| at.to_string());
        let reason = self.verdict.reason();
        let step = |step: &TraceStep| json!({ "rule": step.rule.as_str(), "action": step.action, "outcome": step.outcome.as_str(), "detail": step.detail });
        let tag =
            |DistTagChange { tag, upstream, shown }: &DistTagChange| json!({ "tag": tag, "upstream": upstream, "here": shown });
        json!({
            "name": self.name.as_str(),
            "version": self.version,
            "asked": self.asked.as_ref().map(|asked| json!({ "text": asked.text, "given": asked.given })),
            "asOf": instant(self.as_of),
            "verdict": self.outcome(),
            "rule": reason.map(|reason| reason.rule.as_str()),
            "reason": reason.map(|reason| &reason.detail),
            "waiver": self.waiver.as_ref().map(|reason| json!({ "rule": reason.rule.as_str(), "reason": reason.detail })),
            "rules": self.steps.iter().map(step).collect::<Vec<_>>(),
            "facts": self.seen.json(),
            "distTags": self.tags.iter().map(tag).collect::<Vec<_>>(),
            "published": instant(self.published),
            "effective": self.effective.to_string(),
            "opens": instant(self.verdict.opens_at()),
            "nearest": self.nearest,
            "mayBeRequested": reason.map(|_| self.may_be_requested),
            "minimumReleaseAgeSeconds": self.minimum_release_age.as_secs(),
            "upstream": &*self.upstream,
            "validated": self.validated.to_string(),
            "notes": self.remarks,
        })
    }
}

impl ExplainedFacts {
    fn json(&self) -> Value {
        let instant = |at: Option<Timestamp>| at.map(|at| at.to_string());
        let advisory = |advised: &ExplainedAdvisory| {
            json!({
                "id": advised.id,
                "feed": advised.feed,
                "kind": advised.kind,
                "trust": advised.trust,
                "severity": advised.severity,
                "setAside": advised.set_aside,
                "summary": advised.summary,
            })
        };
        let evidence =
            |SignalEvidence { signal, old, new }: &SignalEvidence| json!({ "signal": signal.as_str(), "old": old, "new": new });
        json!({
            "gone": self.gone,
            "packagePublished": instant(self.first_published),
            "partOfEstablishedSince": instant(self.parent),
            "contradiction": self.flaw,
            "integrity": self.integrity,
            "integrityChanged": self.integrity_changed,
            "deprecated": self.traits.deprecated,
            "installScript": self.traits.install_script,
            "gitDependency": self.traits.git_dependency,
            "urlDependency": self.traits.url_dependency,
            "fileDependency": self.traits.file_dependency,
            "publisher": self.publisher,
            "maintainers": self.maintainers,
            "distTags": self.tags,
            "advisories": self.advisories.iter().map(advisory).collect::<Vec<_>>(),
            "fixOf": self.fix,
            "signals": self.signals,
            "evidence": self.evidence.iter().map(evidence).collect::<Vec<_>>(),
            "signalsPending": self.pending,
            "signalsNotObservable": self.unobservable,
            "findings": self.findings.iter().map(FindingEvidence::json).collect::<Vec<_>>(),
            "signature": self.origin.signature.as_ref().map(SignatureStatus::json),
            "provenance": self.origin.provenance.as_ref().map(ExplainedProvenance::json),
            "provenanceSince": self.origin.provenance_since.as_ref().map(ProvenanceSince::json),
            "predecessor": self.origin.predecessor.as_ref().map(ExplainedPredecessor::json),
        })
    }
}
