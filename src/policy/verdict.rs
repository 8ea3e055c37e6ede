//! What a policy says of one version, and which rule said it. Refuses to know how a refusal is worded for a client.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

/// A rule that can keep a version back. The words are stable: people grep for them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RuleId {
    /// A rule of a policy file, by its id.
    File(Arc<str>),
    /// The same version was seen with another integrity before.
    IntegrityChanged,
    /// The tarball's bytes are not what the packument says.
    IntegrityMismatch,
    /// The packument states neither `integrity` nor `shasum`, so nothing could be checked.
    IntegrityMissing,
    /// The manifest contradicts its packument: other name, other version, repeated field, no tarball.
    SelfContradiction,
    /// It was taken down upstream while young, or a security placeholder took its place.
    Takedown,
    /// It is no longer in the packument and was not served by us before.
    Unpublished,
    /// Its tarball lies on a host that is not the upstream's.
    TarballHost,
    /// Somebody denied it while Coldframe ran.
    Denied,
    /// Somebody froze what is newer than an instant.
    Freeze,
    /// Somebody approved it: what of it was let through is noted.
    Approved,
    /// Somebody let everything through for a while: what that let through is noted.
    Observed,
    /// An advisory of a feed names it as malware.
    Advisory,
    /// A feed that is to be followed could not be read at all yet.
    FeedMissing,
}

impl RuleId {
    const BUILT_IN: [Self; 13] = [
        Self::IntegrityChanged,
        Self::IntegrityMismatch,
        Self::IntegrityMissing,
        Self::SelfContradiction,
        Self::Takedown,
        Self::Unpublished,
        Self::TarballHost,
        Self::Denied,
        Self::Freeze,
        Self::Approved,
        Self::Observed,
        Self::Advisory,
        Self::FeedMissing,
    ];

    /// The rule's id as people read it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::File(id) => id,
            Self::IntegrityChanged => "integrity-changed",
            Self::IntegrityMismatch => "integrity-mismatch",
            Self::IntegrityMissing => "integrity-missing",
            Self::SelfContradiction => "self-contradiction",
            Self::Takedown => "takedown",
            Self::Unpublished => "unpublished",
            Self::TarballHost => "tarball-host",
            Self::Denied => "denied",
            Self::Freeze => "freeze",
            Self::Approved => "approved",
            Self::Observed => "observed",
            Self::Advisory => "advisory",
            Self::FeedMissing => "feed-missing",
        }
    }

    /// Reads an id that another process wrote.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let built_in = Self::BUILT_IN.into_iter().find(|rule| rule.as_str() == text);
        built_in.unwrap_or_else(|| Self::File(text.into()))
    }

    /// Whether an approval can open what this rule keeps back. What upstream took down or cannot be believed stays shut, a denial is
    /// taken back instead, and a missing feed is read.
    #[must_use]
    pub fn may_be_approved(&self) -> bool {
        !matches!(
            self,
            Self::IntegrityMismatch
                | Self::IntegrityMissing
                | Self::SelfContradiction
                | Self::Takedown
                | Self::Unpublished
                | Self::TarballHost
                | Self::Denied
                | Self::FeedMissing
        )
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// Why a version is kept back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The rule that decided.
    pub rule: RuleId,
    /// The particulars in words, lower case, no full stop: what a person reads after the version's name.
    pub detail: String,
}

/// The outcome of a policy for one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Served.
    Allow,
    /// Refused until an instant.
    Hold {
        /// The first instant at which it may open, if upstream is asked again then.
        until: Timestamp,
        /// Why.
        reason: Reason,
    },
    /// Refused.
    Deny {
        /// Why.
        reason: Reason,
    },
}

impl Verdict {
    /// A denial.
    #[must_use]
    pub fn deny(rule: RuleId, detail: impl Into<String>) -> Self {
        Self::Deny { reason: Reason { rule, detail: detail.into() } }
    }

    /// Whether the version is served.
    #[must_use]
    pub fn allows(&self) -> bool {
        matches!(self, Self::Allow)
    }

    /// Why not, unless it is allowed.
    #[must_use]
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Allow => None,
            Self::Hold { reason, .. } | Self::Deny { reason } => Some(reason),
        }
    }

    /// The same, for another reason; what is allowed needs none.
    #[must_use]
    pub(crate) fn because(self, reason: Reason) -> Self {
        match self {
            Self::Allow => self,
            Self::Hold { until, .. } => Self::Hold { until, reason },
            Self::Deny { .. } => Self::Deny { reason },
        }
    }

    /// The one of two verdicts that keeps the version back for longer.
    #[must_use]
    pub fn longer(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Deny { .. }, _) | (_, Self::Allow) => self,
            (_, Self::Deny { .. }) | (Self::Allow, _) => other,
            (Self::Hold { until, .. }, Self::Hold { until: later, .. }) => {
                if later > until {
                    other
                } else {
                    self
                }
            }
        }
    }

    /// The instant at which it opens, if it is held.
    #[must_use]
    pub fn opens(&self) -> Option<Timestamp> {
        match self {
            Self::Hold { until, .. } => Some(*until),
            Self::Allow | Self::Deny { .. } => None,
        }
    }
}
