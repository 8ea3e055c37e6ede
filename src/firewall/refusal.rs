//! Why there is no answer, in words a person can act on.

use std::sync::Arc;

use jiff::Timestamp;

use crate::npm::PackageName;
use crate::policy::RuleId;
use crate::upstream::UpstreamError;

/// A refusal by policy. `text` says it all in one line of ASCII; the rest is for those who count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The package.
    pub name: PackageName,
    /// The version, unless the whole package is kept back.
    pub version: Option<Box<str>>,
    /// The rule that decided.
    pub rule: RuleId,
    /// When it opens, if it will.
    pub opens: Option<Timestamp>,
    /// package@version, published when, the rule, when it opens, the newest version that is allowed.
    pub text: Arc<str>,
}

/// Why there is no answer. Cheap to clone: every waiter of one flight gets it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Rejection {
    /// The policy says no.
    #[error("{}", .0.text)]
    Refused(Arc<Refusal>),
    /// There is no such package, version or tag.
    #[error("{0}")]
    NotFound(Arc<str>),
    /// Upstream did not do its part.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// Upstream sent a packument that cannot be believed.
    #[error("upstream's packument of `{name}` cannot be read: {detail}")]
    Unreadable {
        /// The package.
        name: PackageName,
        /// What is wrong, and at which byte.
        detail: Arc<str>,
    },
    /// The store or a task of ours failed.
    #[error("coldframe failed: {0}")]
    Internal(Arc<str>),
}
