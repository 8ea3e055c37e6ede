//! What is told of one version to whoever asks why: verdict, dates, every rule, the facts that rules saw. Refuses to find
//! any of it out, and to lay it out: a terminal, a page and a program have it each in their own way.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::npm::packument::index::ManifestTraits;
use crate::npm::{Integrity, PackageName};
use crate::policy::{Advisory, Facts, Presence, Reason, TraceStep, Verdict};
use crate::units::timestamp;

/// Maintainers that are named; there may be hundreds.
const NAMED: usize = 12;

/// What the policy says of one version, and why: what `coldframe explain` prints.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The package.
    pub name: PackageName,
    /// The version that was asked for, after tags and ranges are resolved over everything upstream has.
    pub version: Box<str>,
    /// The dist-tag or range that was asked for, where it was no version.
    pub asked: Option<RequestedSpec>,
    /// The verdict.
    pub verdict: Verdict,
    /// The decision that lets it through, and what would have held it back.
    pub waiver: Option<Reason>,
    /// Everything that is asked about a version in its order, and what it made of this one.
    pub steps: Vec<TraceStep>,
    /// Where each dist-tag points upstream, and where for clients.
    pub tags: Vec<DistTagChange>,
    /// What rules saw.
    pub seen: ExplainedFacts,
    /// When upstream says it was published.
    pub published: Option<Timestamp>,
    /// The effective publish time, from which age counts.
    pub effective: Timestamp,
    /// The nearest version that is allowed: the highest at or below it by the dist-tag rule.
    pub nearest: Option<Box<str>>,
    /// The minimum release age that applies to the package.
    pub minimum_release_age: Duration,
    /// The registry's address, without credentials.
    pub upstream: Arc<str>,
    /// When upstream was last asked.
    pub validated: Timestamp,
    /// The instant it is judged as of, where one was asked for.
    pub as_of: Option<Timestamp>,
    /// What is not known as it was at that instant, in words.
    pub remarks: Vec<&'static str>,
}

/// A dist-tag or range, and what whoever asks for it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedSpec {
    /// As it was written.
    pub text: Box<str>,
    /// The version that clients get for it here; `None` when they get none.
    pub given: Option<Box<str>>,
}

/// A dist-tag, upstream and here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DistTagChange {
    /// Its name.
    pub tag: Box<str>,
    /// Where it points upstream.
    pub upstream: Box<str>,
    /// Where it points for clients; `None` when it is left out.
    pub shown: Option<Box<str>>,
}

/// The facts that rules saw, kept for whoever asks why.
#[derive(Debug, Clone, Default)]
pub struct ExplainedFacts {
    /// Why it is not in upstream's packument, in words; `None` when it is.
    pub gone: Option<String>,
    /// When the package's oldest release was published.
    pub born: Option<Timestamp>,
    /// Since when the established package exists that pins exactly it as one of its parts.
    pub kin: Option<Timestamp>,
    /// Why its manifest cannot be believed.
    pub flaw: Option<String>,
    /// What its tarball hashes to, as SRI.
    pub integrity: Option<String>,
    /// Whether it was first seen with another integrity.
    pub integrity_changed: bool,
    /// What its manifest says of itself.
    pub traits: ManifestTraits,
    /// Who published it.
    pub publisher: Option<String>,
    /// Who maintains it.
    pub maintainers: Vec<String>,
    /// The dist-tags that point to it upstream.
    pub tags: Vec<String>,
    /// The advisories that name it.
    pub advisories: Vec<ExplainedAdvisory>,
    /// The reviewed advisory that names it as the fix.
    pub fix: Option<String>,
    /// What differs from its predecessors.
    pub signals: Vec<&'static str>,
    /// What opening its tarball showed.
    pub findings: Vec<&'static str>,
}

/// One advisory on a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedAdvisory {
    /// Its id.
    pub id: String,
    /// The feed it stands in.
    pub feed: String,
    /// `malware` or `vulnerability`.
    pub kind: &'static str,
    /// How far its feed is followed.
    pub trust: &'static str,
    /// How bad, if it says so.
    pub severity: Option<&'static str>,
    /// Whether it is not obeyed: it marks every version of an established package.
    pub set_aside: bool,
    /// One line for people; may be empty.
    pub summary: String,
}

impl ExplainedFacts {
    /// What there is to see of a version.
    #[must_use]
    pub fn of(facts: &Facts<'_>) -> Self {
        let owned = |text: &str| text.to_owned();
        let obeyed = facts.advised().map(|advisory| ExplainedAdvisory::of(advisory, false));
        let aside = facts.advisories.set_aside(facts.version, facts.parsed).map(|advisory| ExplainedAdvisory::of(advisory, true));
        Self {
            gone: match facts.presence {
                Presence::Present => None,
                Presence::Gone { last_seen: None, .. } => Some("never seen here".to_owned()),
                Presence::Gone { last_seen: Some(seen), replaced } => {
                    let how = if replaced { ", replaced by a security placeholder" } else { "" };
                    Some(format!("last seen {}{how}", timestamp::tell(seen)))
                }
            },
            born: facts.born,
            kin: facts.kin,
            flaw: facts.flaw.map(owned),
            integrity: facts.integrity.map(Integrity::to_sri),
            integrity_changed: facts.integrity_changed,
            traits: facts.traits,
            publisher: facts.publisher.map(owned),
            maintainers: facts.maintainers.iter().map(|name| owned(name)).collect(),
            tags: facts.pointing().map(owned).collect(),
            advisories: obeyed.chain(aside).collect(),
            fix: facts.fix.map(owned),
            signals: facts.signals.iter().map(crate::vetting::Signal::as_str).collect(),
            findings: facts.findings.iter().map(crate::vetting::Finding::as_str).collect(),
        }
    }

    /// The facts in words, each with what it is about. What is not there is left out.
    #[must_use]
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        let mut row = |about, told: Option<String>| rows.extend(told.map(|told| (about, told)));
        let joined = |names: &[String]| (!names.is_empty()).then(|| names.join(", "));
        row("upstream", self.gone.as_ref().map(|how| format!("no longer has it, {how}")));
        row("package", self.born.map(|born| format!("first published {}", timestamp::tell(born))));
        row("part of", self.kin.map(|kin| format!("an established package, which exists since {}", timestamp::tell(kin))));
        row("publisher", self.publisher.clone());
        let (named, more) = self.maintainers.split_at(self.maintainers.len().min(NAMED));
        let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
        row("maintainers", joined(named).map(|names| names + &more));
        row("dist-tags", joined(&self.tags));
        row("integrity", self.integrity.clone());
        row("integrity", self.integrity_changed.then(|| "not the one it was first seen with".to_owned()));
        row("contradiction", self.flaw.clone());
        row("manifest", joined(&self.of_manifest()));
        for advised in &self.advisories {
            row("advisory", Some(advised.tell()));
        }
        row("fix of", self.fix.clone());
        let words = |words: &[&str]| (!words.is_empty()).then(|| words.join(", "));
        row("signals", words(&self.signals));
        row("findings", words(&self.findings));
        rows
    }

    fn of_manifest(&self) -> Vec<String> {
        let ManifestTraits { deprecated, install_script, git_dependency, url_dependency, file_dependency } = self.traits;
        let told = [
            (deprecated, "deprecated"),
            (install_script, "runs a script at install"),
            (git_dependency, "depends on a git repository"),
            (url_dependency, "depends on a tarball at an address"),
            (file_dependency, "depends on a file of the installing machine"),
        ];
        told.iter().filter(|(is, _)| *is).map(|(_, words)| (*words).to_owned()).collect()
    }
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

    fn tell(&self) -> String {
        let severity = self.severity.map(|severity| format!(", {severity}")).unwrap_or_default();
        let aside = if self.set_aside { ", set aside: it marks every version of an established package" } else { "" };
        let summary = if self.summary.is_empty() { String::new() } else { format!(": {}", self.summary) };
        format!(
            "{} ({}{severity}) of the feed `{}`, followed with `{}`{aside}{summary}",
            self.id, self.kind, self.feed, self.trust
        )
    }
}

impl Explanation {
    /// `allow`, `hold`, `deny`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self.verdict {
            Verdict::Allow => "allow",
            Verdict::Hold { .. } => "hold",
            Verdict::Deny { .. } => "deny",
        }
    }

    /// What comes first: `axios@1.14.1 is held`.
    #[must_use]
    pub fn headline(&self) -> String {
        let outcome = match self.verdict {
            Verdict::Allow => "allowed",
            Verdict::Hold { .. } => "held",
            Verdict::Deny { .. } => "denied",
        };
        format!("{}@{} is {outcome}", self.name, self.version)
    }

    /// The verdict and what follows from it in words, each with what it is about.
    #[must_use]
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        let mut row = |about, told: String| rows.push((about, told));
        if let Some(at) = self.as_of {
            row("as of", timestamp::tell(at));
        }
        if let Some(RequestedSpec { text, given }) = &self.asked {
            let given = given.as_ref().map_or_else(|| "nothing".to_owned(), |given| format!("{}@{given}", self.name));
            row("asked", format!("`{text}` means {} upstream, gives {given} here", self.version));
        }
        row("published", self.published.map_or_else(|| "unknown".to_owned(), timestamp::tell));
        if self.published != Some(self.effective) {
            row("counts from", timestamp::tell(self.effective));
        }
        if let Some(reason) = self.verdict.reason() {
            row("rule", reason.rule.to_string());
            row("reason", reason.detail.clone());
            row("opens", self.verdict.opens().map_or_else(|| "never by itself".to_owned(), timestamp::tell_opening));
            let nearest = self.nearest.as_ref().map(|nearest| format!("{}@{nearest}", self.name));
            row("use instead", nearest.unwrap_or_else(|| "no version is allowed".to_owned()));
        } else {
            row("minimum age", timestamp::tell_age(self.minimum_release_age));
            row("tarball", "checked against its integrity before the first byte leaves".to_owned());
        }
        if let Some(waiver) = &self.waiver {
            row("waived", waiver.detail.clone());
        }
        row("upstream", format!("{} (asked {})", self.upstream, timestamp::tell(self.validated)));
        for DistTagChange { tag, upstream, shown } in &self.tags {
            row(
                "dist-tag",
                match shown.as_deref() {
                    Some(shown) if shown == &**upstream => format!("{tag} points to {shown}, as upstream"),
                    Some(shown) => format!("{tag} points to {shown} here, to {upstream} upstream"),
                    None => format!("{tag} points to nowhere here, to {upstream} upstream"),
                },
            );
        }
        for remark in &self.remarks {
            row("note", (*remark).to_owned());
        }
        rows
    }

    /// Everything, for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let instant = |at: Option<Timestamp>| at.map(|at| at.to_string());
        let reason = self.verdict.reason();
        let tag =
            |DistTagChange { tag, upstream, shown }: &DistTagChange| json!({ "tag": tag, "upstream": upstream, "here": shown });
        json!({
            "name": self.name.as_str(),
            "version": self.version,
            "asked": self.asked.as_ref().map(|asked| json!({ "text": asked.text, "given": asked.given })),
            "asOf": instant(self.as_of),
            "verdict": self.word(),
            "rule": reason.map(|reason| reason.rule.as_str()),
            "reason": reason.map(|reason| &reason.detail),
            "waiver": self.waiver.as_ref().map(|reason| json!({ "rule": reason.rule.as_str(), "reason": reason.detail })),
            "rules": self.steps.iter().map(step_json).collect::<Vec<_>>(),
            "facts": self.seen.json(),
            "distTags": self.tags.iter().map(tag).collect::<Vec<_>>(),
            "published": instant(self.published),
            "effective": self.effective.to_string(),
            "opens": instant(self.verdict.opens()),
            "nearest": self.nearest,
            "minimumReleaseAgeSeconds": self.minimum_release_age.as_secs(),
            "upstream": &*self.upstream,
            "validated": self.validated.to_string(),
            "notes": self.remarks,
        })
    }
}

fn step_json(step: &TraceStep) -> Value {
    json!({ "rule": step.rule.as_str(), "action": step.action, "outcome": step.outcome.as_str(), "detail": step.detail })
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
        json!({
            "gone": self.gone,
            "packagePublished": instant(self.born),
            "partOfEstablishedSince": instant(self.kin),
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
            "findings": self.findings,
        })
    }
}
