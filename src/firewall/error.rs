//! Why there is no answer, in words a person can act on.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use jiff::Timestamp;

use crate::firewall::request::BaseUrl;
use crate::net::BudgetTimeout;
use crate::npm::{PackageName, endpoint};
use crate::policy::{RuleId, Verdict};
use crate::text::ascii_line;
use crate::units::timestamp;
use crate::upstream::UpstreamError;

/// What stands between a text and the address of its explanation.
pub const WHY: &str = "; why: ";

/// The longest text of a refusal, in bytes: bodies and logs hold it whole, headers its beginning.
const LONGEST_TEXT: usize = 2000;

/// The longest reason phrase and header, in bytes: proxies and clients limit a status line.
pub const LONGEST_LINE: usize = 200;

/// What is left of the version and its detail, at least, in bytes.
const DETAIL: usize = 40;

/// What a line does without, first to last.
const SHORTER: [(&str, &str); 4] = [
    ("; newest allowed: ", "; use "),
    ("; no version of it is allowed yet", ""),
    (" by coldframe:", ":"),
    ("minimum release age", "minimum age"),
];

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
    /// The address of its explanation, where there is a page to open.
    pub link: Option<Box<str>>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)?;
        self.link.as_ref().map_or(Ok(()), |link| write!(out, "{WHY}{link}"))
    }
}

/// Why there is no answer. Cheap to clone: every waiter of one flight gets it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FirewallError {
    /// The policy says no.
    #[error("{0}")]
    Refused(Arc<Refusal>),
    /// There is no such package, version or tag.
    #[error("{0}")]
    NotFound(Arc<str>),
    /// Upstream did not do its part.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// It asks about more than is answered at once.
    #[error("{0}")]
    TooMuch(Arc<str>),
    /// Upstream sent a packument that cannot be believed.
    #[error("upstream's packument of `{name}` cannot be read: {detail}")]
    Unreadable {
        /// The package.
        name: PackageName,
        /// What is wrong, and at which byte.
        detail: Arc<str>,
    },
    /// The client's own credentials do not go where the answer is, or do not open it: why, and what to do.
    #[error("{0}")]
    NotEntitled(Arc<str>),
    /// The client asked for more than may be recorded.
    #[error("{0}")]
    TooMany(Arc<str>),
    /// The store or a task of ours failed.
    #[error("coldframe failed: {0}")]
    Internal(Arc<str>),
}

impl FirewallError {
    /// Whether upstream failed to answer, or sent what cannot be believed: the last answer may be served then.
    #[must_use]
    pub fn is_upstreams_failure(&self) -> bool {
        match self {
            Self::Unreadable { .. } => true,
            Self::Upstream(error) => !matches!(error, UpstreamError::NotFound | UpstreamError::Denied { .. }),
            Self::Refused(_)
            | Self::NotFound(_)
            | Self::NotEntitled(_)
            | Self::TooMuch(_)
            | Self::TooMany(_)
            | Self::Internal(_) => false,
        }
    }
}

impl From<BudgetTimeout> for FirewallError {
    fn from(no_room: BudgetTimeout) -> Self {
        Self::Upstream(no_room.into())
    }
}

impl Refusal {
    /// A version that is kept back. `nearest` is the newest version that is allowed instead.
    #[must_use]
    pub fn of_version(name: &PackageName, version: &str, verdict: &Verdict, nearest: Option<&str>) -> Option<Self> {
        let reason = verdict.reason()?;
        if reason.rule == RuleId::FeedMissing {
            return Self::of_missing_feed(name, Some(version), verdict);
        }
        let manner = if verdict.opens().is_some() { "held" } else { "refused" };
        let mut text = format!("{name}@{version} is {manner} by coldframe: {} (rule {})", reason.detail, reason.rule);
        if let Some(opens) = verdict.opens() {
            let _ = write!(text, "; opens {}", timestamp::tell_opening(opens));
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
            link: None,
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
        if reason.rule == RuleId::FeedMissing {
            return Self::of_missing_feed(name, None, verdict);
        }
        let what = if count == 1 { "its only version".to_owned() } else { format!("all its {count} versions") };
        let mut text = format!("{name} is held by coldframe: {what}; {name}@{version}: {} (rule {})", reason.detail, reason.rule);
        match first_opens {
            Some(opens) => {
                let _ = write!(text, "; opens {}", timestamp::tell_opening(opens));
            }
            None => text.push_str("; none will open by itself"),
        }
        Some(Self {
            name: name.clone(),
            version: None,
            rule: reason.rule.clone(),
            opens: first_opens,
            text: one_line(&text).into(),
            link: None,
        })
    }

    /// Everything is refused for want of a feed: it is the feed that is to blame, and no package.
    fn of_missing_feed(name: &PackageName, version: Option<&str>, verdict: &Verdict) -> Option<Self> {
        let reason = verdict.reason()?;
        let what = version.map_or_else(|| name.to_string(), |version| format!("{name}@{version}"));
        let text = format!(
            "coldframe refuses everything: {} (rule {}); it opens when the feed is read, ask the operator; asked for: {what}",
            reason.detail, reason.rule
        );
        let (rule, version) = (reason.rule.clone(), version.map(Into::into));
        Some(Self { name: name.clone(), version, rule, opens: None, text: one_line(&text).into(), link: None })
    }

    /// The same refusal with the address of its explanation, for whoever came by way of `base`.
    #[must_use]
    pub fn linked(self, base: &BaseUrl) -> Self {
        let link = link(base, &self.name, self.version.as_deref());
        Self { link: link.map(Into::into), ..self }
    }

    /// Text and address in at most `longest` bytes, for a header. What is too long is said in fewer words; then the text is what is
    /// cut, and an address that leaves it less than half stays away.
    #[must_use]
    pub fn within(&self, longest: usize) -> String {
        let mut text = self.text.to_string();
        let whole = |text: &str| text.len() + self.link.as_ref().map_or(0, |link| WHY.len() + link.len());
        for (long, short) in SHORTER {
            if whole(&text) <= longest {
                break;
            }
            text = text.replace(long, short);
        }
        let tail = self.link.as_ref().map(|link| format!("{WHY}{link}")).filter(|tail| tail.len() <= longest / 2);
        let tail = tail.unwrap_or_default();
        let room = longest - tail.len();
        if text.len() <= room {
            return format!("{text}{tail}");
        }
        // What is said of the version in detail goes first: the rule, the opening and what to use instead stay.
        let (detail, rest) =
            text.rfind(" (rule ").filter(|at| text.len() - at + DETAIL <= room).map_or((&*text, ""), |at| text.split_at(at));
        let kept: String = detail.chars().take(room.saturating_sub(rest.len() + 3)).collect();
        format!("{}...{rest}{tail}", kept.trim_end())
    }
}

/// The address of an explanation, for whoever came by way of `base`; `None` where our pages are not below it.
#[must_use]
pub fn link(base: &BaseUrl, name: &PackageName, version: Option<&str>) -> Option<String> {
    base.explains.then(|| endpoint::explanation(&base.text, name, version))
}

/// `text` as one line of visible ASCII, as a refusal holds it.
#[must_use]
pub fn one_line(text: &str) -> String {
    ascii_line(text, LONGEST_TEXT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_that_is_too_long_for_a_line_keeps_its_address() {
        let name = PackageName::parse("axios").unwrap();
        let base = BaseUrl { text: "http://127.0.0.1:4873".into(), remembered: true, explains: true, intercepted: None };
        let verdict = Verdict::deny(RuleId::Denied, "x".repeat(500));
        let refusal = Refusal::of_version(&name, "1.14.1", &verdict, None).unwrap();
        let tail = "; why: http://127.0.0.1:4873/-/coldframe/explain/axios@1.14.1";
        let linked = refusal.clone().linked(&base);
        let line = linked.within(400);
        assert!(line.len() == 400 && line.ends_with(&format!("xxx... (rule denied){tail}")), "{line}");
        assert_eq!(linked.to_string(), format!("{}{tail}", refusal.text));
        let held = Refusal { text: "axios@1.14.1 is held by coldframe: published 2026-04-03 11:00 UTC, minimum release age 72 h (rule minimum-age); opens 2026-04-06 11:00 UTC; newest allowed: 1.14.0".into(), ..refusal.clone() };
        let line = held.linked(&base).within(LONGEST_LINE);
        assert_eq!(
            line,
            format!(
                "axios@1.14.1 is held: published 2026-04-03 11:00 UTC, minimum release age 72 h (rule minimum-age); opens 2026-04-06 11:00 UTC; use 1.14.0{tail}"
            )
        );
        assert!(!linked.within(80).contains("why"), "an address is not cut");
        assert_eq!(refusal.linked(&BaseUrl { explains: false, ..base }).link, None);
    }
}
