//! Where a version comes from: who signed it, what it was built from, and which release its tarball is compared with.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::units::timestamp;
use crate::vetting::provenance::ProvenanceStatus;
use crate::vetting::signatures::SignatureStatus;

/// Everything is `None` for a version that left upstream, and for one that is explained as of another instant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExplainedOrigin {
    /// What the registry's signature shows.
    pub signature: Option<SignatureStatus>,
    /// What its attestations show.
    pub provenance: Option<ExplainedProvenance>,
    /// Since when the package has provenance. `None` if no release has.
    pub provenance_since: Option<ProvenanceSince>,
    pub predecessor: Option<ExplainedPredecessor>,
}

impl ExplainedOrigin {
    /// Returns what is known as labelled rows.
    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let rows = [
            ("signature", self.signature.as_ref().map(SignatureStatus::describe)),
            ("provenance", self.provenance.as_ref().map(ExplainedProvenance::describe)),
            ("provenance since", self.provenance_since.as_ref().map(ProvenanceSince::describe)),
            ("predecessor", self.predecessor.as_ref().map(ExplainedPredecessor::describe)),
        ];
        rows.into_iter().filter_map(|(about, text)| Some((about, text?))).collect()
    }
}

/// What the attestations of a version show, as far as they were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExplainedProvenance {
    Verified {
        status: ProvenanceStatus,
        /// The oldest release that was built from the same source, among those that were verified.
        since: Option<Box<str>>,
    },
    /// Upstream announces attestations that were not fetched.
    Unverified,
    /// Other releases have attestations.
    Missing,
    /// No release of the document has attestations.
    NoneStated,
    /// Provenance is not verified.
    Off,
}

impl ExplainedProvenance {
    /// Describes it in one line.
    fn describe(&self) -> String {
        match self {
            Self::Verified { status, since: Some(since) } => format!("{}, as {since} was", status.describe()),
            Self::Verified { status, since: None } => status.describe(),
            Self::Unverified => "not observable: upstream announces attestations and sends none".to_owned(),
            Self::Missing => "none, though other releases have attestations".to_owned(),
            Self::NoneStated => "not observable: upstream announces no attestations".to_owned(),
            Self::Off => "not verified, as `sigstore-root` demands".to_owned(),
        }
    }

    pub(super) fn json(&self) -> Value {
        let status = match self {
            Self::Verified { status, since } => {
                let mut json = status.json();
                json["detail"] = json!(self.describe());
                json["since"] = json!(since);
                return json;
            }
            Self::Unverified => "unverified",
            Self::Missing => "missing",
            Self::NoneStated => "not-observable",
            Self::Off => "off",
        };
        json!({ "status": status, "detail": self.describe() })
    }
}

/// The first release for which upstream announces attestations, whether or not they were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenanceSince {
    pub version: Box<str>,
    /// Its effective publish time.
    pub published: Timestamp,
    /// The releases from it on, by time, and those of them with attestations.
    pub releases: usize,
    pub attested: usize,
}

impl ProvenanceSince {
    fn describe(&self) -> String {
        let Self { version, published, releases, attested } = self;
        let published = timestamp::format_utc(*published);
        format!("{version} of {published}, as far as upstream states; {attested} of {releases} releases from it on have it")
    }

    pub(super) fn json(&self) -> Value {
        let Self { version, published, releases, attested } = self;
        json!({ "version": version, "published": published.to_string(), "releases": releases, "attested": attested })
    }
}

/// The release whose tarball the version's tarball is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExplainedPredecessor {
    Version(Box<str>),
    /// No older release can serve as one.
    None,
    /// The version is older than every window of rules on what a tarball changed.
    NotNeeded,
}

impl ExplainedPredecessor {
    fn describe(&self) -> String {
        match self {
            Self::Version(version) => format!("{version}, whose tarball its own is compared with"),
            Self::None => "none: no release below it is old enough, so all files of its tarball count as new".to_owned(),
            Self::NotNeeded => "not needed: no rule judges any more what its tarball changed".to_owned(),
        }
    }

    pub(super) fn json(&self) -> Value {
        let (status, version) = match self {
            Self::Version(version) => ("known", Some(version)),
            Self::None => ("none", None),
            Self::NotNeeded => ("not-needed", None),
        };
        json!({ "status": status, "version": version, "detail": self.describe() })
    }
}
