//! Verdicts on one version, with the rule that decided and its reason.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The id of a changed integrity. An approval names it among its records, where advisories are named by id.
pub const CHANGED_INTEGRITY: &str = "integrity-changed";

/// A rule that can refuse a version or let it through. The ids are stable: users grep for them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum RuleId {
    File(Arc<str>),
    /// The same version was seen with another integrity before.
    IntegrityChanged,
    /// The tarball's bytes are not what the packument says.
    IntegrityMismatch,
    /// The packument states neither `integrity` nor `shasum`, so nothing could be checked.
    IntegrityMissing,
    /// The manifest contradicts its packument: different name or version, repeated field, no tarball.
    SelfContradiction,
    /// The version was removed upstream while it was young, or a security placeholder replaced it.
    Takedown,
    /// The version is no longer in the packument and was never seen by Coldframe.
    Unpublished,
    /// The tarball is on a host that is not the upstream's.
    TarballHost,
    /// A `deny` decision covers the version.
    Denied,
    Freeze,
    /// An approval allows the version. What it waives is recorded under this id.
    Approved,
    /// Break-glass is active. What it waives is recorded under this id.
    BreakGlass,
    /// An advisory lists the version as malware.
    Advisory,
    /// A required feed has not been loaded yet.
    FeedMissing,
    /// The version needs siblings that open later.
    Cohort,
}

impl RuleId {
    pub(crate) const BUILT_IN: [Self; 14] = [
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
        Self::BreakGlass,
        Self::Advisory,
        Self::FeedMissing,
        Self::Cohort,
    ];

    /// Returns the id as users see it.
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::File(id) => id,
            Self::IntegrityChanged => CHANGED_INTEGRITY,
            Self::IntegrityMismatch => "integrity-mismatch",
            Self::IntegrityMissing => "integrity-missing",
            Self::SelfContradiction => "self-contradiction",
            Self::Takedown => "takedown",
            Self::Unpublished => "unpublished",
            Self::TarballHost => "tarball-host",
            Self::Denied => "denied",
            Self::Freeze => "freeze",
            Self::Approved => "approved",
            Self::BreakGlass => "break-glass",
            Self::Advisory => "advisory",
            Self::FeedMissing => "feed-missing",
            Self::Cohort => "cohort",
        }
    }

    /// Checks whether an approval can open what this rule refuses. It cannot open versions that were taken down or cannot be
    /// verified. A denial must be revoked instead, and a missing feed must be loaded.
    pub(crate) fn may_be_approved(&self) -> bool {
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

impl From<String> for RuleId {
    fn from(text: String) -> Self {
        let built_in = Self::BUILT_IN.into_iter().find(|rule| rule.as_str() == text);
        built_in.unwrap_or_else(|| Self::File(text.into()))
    }
}

impl From<RuleId> for String {
    fn from(rule: RuleId) -> Self {
        rule.as_str().to_owned()
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// Why a version is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub rule: RuleId,
    /// The explanation that follows the version's name: lower case, no full stop.
    pub detail: String,
}

/// Reasons are boxed because most verdicts allow, and evaluation moves verdicts often (12 % of `just bench-policy`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    /// Refused until an instant.
    Hold {
        /// The first instant at which the version may open, if upstream is asked again then.
        until: Timestamp,
        reason: Box<Reason>,
    },
    Deny {
        reason: Box<Reason>,
    },
}

impl Verdict {
    pub(crate) fn deny(rule: RuleId, detail: impl Into<String>) -> Self {
        Self::Deny { reason: Box::new(Reason { rule, detail: detail.into() }) }
    }

    pub(crate) fn hold(until: Timestamp, rule: RuleId, detail: impl Into<String>) -> Self {
        Self::Hold { until, reason: Box::new(Reason { rule, detail: detail.into() }) }
    }

    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow)
    }

    /// Returns the reason, or `None` if the version is allowed.
    pub(crate) fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Allow => None,
            Self::Hold { reason, .. } | Self::Deny { reason } => Some(reason),
        }
    }

    /// Replaces the reason of a hold or a denial.
    #[must_use]
    pub(crate) fn with_reason(self, reason: Reason) -> Self {
        let reason = Box::new(reason);
        match self {
            Self::Allow => self,
            Self::Hold { until, .. } => Self::Hold { until, reason },
            Self::Deny { .. } => Self::Deny { reason },
        }
    }

    /// Returns the verdict that refuses the version for longer.
    #[must_use]
    pub(crate) fn stricter(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Allow, _) | (Self::Hold { .. }, Self::Deny { .. }) => other,
            (Self::Hold { until, .. }, Self::Hold { until: later, .. }) if later > until => other,
            _ => self,
        }
    }

    /// Returns the instant at which a held version opens.
    pub(crate) fn opens_at(&self) -> Option<Timestamp> {
        match self {
            Self::Hold { until, .. } => Some(*until),
            Self::Allow | Self::Deny { .. } => None,
        }
    }
}
