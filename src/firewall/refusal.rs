//! Why there is no answer, in words a person can act on.

use std::fmt::Write as _;
use std::sync::Arc;

use jiff::Timestamp;

use crate::npm::{PackageName, instant};
use crate::policy::{RuleId, Verdict};
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

impl Refusal {
    /// A version that is kept back. `nearest` is the newest version that is allowed instead.
    #[must_use]
    pub fn of_version(name: &PackageName, version: &str, verdict: &Verdict, nearest: Option<&str>) -> Option<Self> {
        let reason = verdict.reason()?;
        let manner = if verdict.opens().is_some() { "held" } else { "refused" };
        let mut text = format!("{name}@{version} is {manner} by coldframe: {} (rule {})", reason.detail, reason.rule);
        if let Some(opens) = verdict.opens() {
            let _ = write!(text, "; opens {}", instant::tell_opening(opens));
        }
        match nearest {
            Some(nearest) => {
                let _ = write!(text, "; newest allowed: {nearest}");
            }
            None => text.push_str("; no version of it is allowed yet"),
        }
        Some(Self {
            name: name.clone(),
            version: Some(version.into()),
            rule: reason.rule.clone(),
            opens: verdict.opens(),
            text: one_line(&text).into(),
        })
    }

    /// A package none of whose versions is shown. `newest` is the highest of them, `first_opens` the first to open.
    #[must_use]
    pub fn of_package(
        name: &PackageName,
        count: usize,
        newest: (&str, &Verdict),
        first_opens: Option<Timestamp>,
    ) -> Option<Self> {
        let (version, verdict) = newest;
        let reason = verdict.reason()?;
        let what = if count == 1 { "its only version".to_owned() } else { format!("all its {count} versions") };
        let mut text = format!("{name} is held by coldframe: {what}; {name}@{version}: {} (rule {})", reason.detail, reason.rule);
        match first_opens {
            Some(opens) => {
                let _ = write!(text, "; opens {}", instant::tell_opening(opens));
            }
            None => text.push_str("; none will open by itself"),
        }
        Some(Self {
            name: name.clone(),
            version: None,
            rule: reason.rule.clone(),
            opens: first_opens,
            text: one_line(&text).into(),
        })
    }
}

/// `text` as one line of printable ASCII, whatever upstream wrote into it: a reason phrase and headers hold nothing else.
#[must_use]
pub fn one_line(text: &str) -> String {
    printable(text).replace('\n', " ")
}

/// `text` in printable ASCII and line feeds.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter == '\n' || letter.is_ascii_graphic() || letter == ' ' { letter } else { '?' }).collect()
}
