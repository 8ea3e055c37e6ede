//! Errors of the firewall, with texts that a client's user can act on.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use crate::firewall::request::BaseUrl;
use crate::net::BudgetTimeout;
use crate::npm::{PackageName, endpoint};
use crate::policy::{Reason, RuleId, Verdict};
use crate::text::{ascii_line, shell_word};
use crate::units::timestamp;
use crate::upstream::UpstreamError;

/// Separates a refusal from the link to its explanation.
pub const EXPLAIN_SEPARATOR: &str = "; why: ";

/// The longest refusal text, in bytes. Bodies and logs contain all of it, headers the beginning.
const MAX_TEXT_BYTES: usize = 2000;

/// The longest reason phrase and header value, in bytes. Proxies and clients limit the status line.
pub const MAX_LINE_BYTES: usize = 200;

/// The least number of bytes that truncation keeps of the version and its detail.
const MIN_DETAIL_BYTES: usize = 40;

/// Shorter wording for headers, applied in this order.
const SHORTER_WORDING: [(&str, &str); 4] = [
    ("; newest allowed: ", "; use "),
    ("; no version is allowed yet", ""),
    (" by coldframe:", ":"),
    ("minimum release age", "minimum age"),
];

/// A refusal by policy. `text` is the complete message as one line of ASCII; the other fields are for logs and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub name: PackageName,
    /// The version; `None` if the whole package is refused.
    pub version: Option<Box<str>>,
    pub rule: RuleId,
    /// When it opens; `None` if it does not open automatically.
    pub opens: Option<Timestamp>,
    /// Names package and version, publish time, rule, opening time, and the newest allowed version.
    pub text: Arc<str>,
    /// The URL of the explanation, if the client can open one.
    pub link: Option<Box<str>>,
    /// How people ask for the version, if the client can reach pages.
    pub request: Option<RequestHint>,
}

/// How people ask for an approval of a refused version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestHint {
    /// The command that asks.
    Command(Box<str>),
    /// What refuses the version yields to no request.
    Forbidden,
}

impl RequestHint {
    /// Returns the text of the JSON field `request`.
    pub fn text(&self) -> &str {
        match self {
            Self::Command(command) => command,
            Self::Forbidden => "forbidden",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)?;
        self.link.as_ref().map_or(Ok(()), |link| write!(out, "{EXPLAIN_SEPARATOR}{link}"))
    }
}

/// An error of a firewall request. Cheap to clone, since every waiter of a shared fetch receives it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FirewallError {
    /// The policy refused the request.
    #[error("{0}")]
    Refused(Arc<Refusal>),
    #[error("{0}")]
    NotFound(Arc<str>),
    /// Upstream failed.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The request exceeds a limit of this API.
    #[error("{0}")]
    TooMuch(Arc<str>),
    /// Upstream sent a packument that cannot be parsed or is inconsistent.
    #[error("cannot read upstream's packument of `{name}`: {detail}")]
    Unreadable {
        name: PackageName,
        /// The cause, with the byte offset where known.
        detail: Arc<str>,
    },
    /// The client's own credentials are not sent to that registry, or are insufficient. The text says what to do.
    #[error("{0}")]
    NotEntitled(Arc<str>),
    /// The client requested more nonexistent names than may be recorded.
    #[error("{0}")]
    TooMany(Arc<str>),
    /// The store or an internal task failed.
    #[error("coldframe failed: {0}")]
    Internal(Arc<str>),
}

/// The result of a firewall request.
pub type Result<T, E = FirewallError> = std::result::Result<T, E>;

impl FirewallError {
    pub(crate) fn unreadable(name: &PackageName, detail: impl fmt::Display) -> Self {
        Self::Unreadable { name: name.clone(), detail: detail.to_string().into() }
    }

    /// Checks whether upstream failed or sent an invalid document, so that a stale packument may be served.
    pub(crate) fn is_upstreams_failure(&self) -> bool {
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
    fn from(BudgetTimeout { after }: BudgetTimeout) -> Self {
        Self::Upstream(UpstreamError::BudgetTimeout { after })
    }
}

impl Refusal {
    /// Returns the refusal of a version; `None` if it is allowed. `nearest` is the newest allowed version to use instead.
    pub(crate) fn of_version(name: &PackageName, version: &str, verdict: &Verdict, nearest: Option<&str>) -> Option<Self> {
        let reason = verdict.reason()?;
        if reason.rule == RuleId::FeedMissing {
            return Self::of_missing_feed(name, Some(version), verdict);
        }
        let manner = if verdict.opens_at().is_some() { "held" } else { "refused" };
        let opening = verdict.opens_at().map(opening).unwrap_or_default();
        let instead =
            nearest.map_or_else(|| "no version is allowed yet".to_owned(), |nearest| format!("newest allowed: {nearest}"));
        let Reason { rule, detail } = reason;
        let text = format!("{name}@{version} is {manner} by coldframe: {detail} (rule {rule}){opening}; {instead}");
        Some(Self::new(name, Some(version), rule, verdict.opens_at(), &text))
    }

    /// Returns the refusal of a package without a visible version. `newest` is its highest version, `first_opens` the earliest
    /// opening.
    pub(crate) fn of_package(
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
        let opening = first_opens.map_or_else(|| "; no version opens automatically".to_owned(), opening);
        let Reason { rule, detail } = reason;
        let text = format!("{name} is held by coldframe: {what}; {name}@{version}: {detail} (rule {rule}){opening}");
        Some(Self::new(name, None, rule, first_opens, &text))
    }

    /// Returns the refusal of all packages because a feed is missing. The text blames the feed, not the package.
    fn of_missing_feed(name: &PackageName, version: Option<&str>, verdict: &Verdict) -> Option<Self> {
        let reason = verdict.reason()?;
        let what = version.map_or_else(|| name.to_string(), |version| format!("{name}@{version}"));
        let text = format!(
            "coldframe refuses all packages: {} (rule {}); opens when the feed is loaded, ask the operator; requested: {what}",
            reason.detail, reason.rule
        );
        Some(Self::new(name, version, &reason.rule, None, &text))
    }

    fn new(name: &PackageName, version: Option<&str>, rule: &RuleId, opens: Option<Timestamp>, text: &str) -> Self {
        let (version, rule) = (version.map(Into::into), rule.clone());
        Self { name: name.clone(), version, rule, opens, text: one_line(text).into(), link: None, request: None }
    }

    /// Adds the link to the explanation for a client that used `base`.
    pub(crate) fn with_link(self, base: &BaseUrl) -> Self {
        let link = explain_link(base, &self.name, self.version.as_deref());
        Self { link: link.map(Into::into), ..self }
    }

    /// Adds the command by which a client that used `base` asks for the version.
    pub(crate) fn with_request_command(self, base: &BaseUrl) -> Self {
        let command = |version: &str| {
            let spec = format!("{}@{version}", self.name);
            let (spec, server) = (shell_word(&spec), shell_word(&base.text));
            RequestHint::Command(one_line(&format!("coldframe request {spec} --server {server} --reason TEXT")).into())
        };
        let request = self.version.as_deref().filter(|_| base.serves_admin).map(command);
        Self { request, ..self }
    }

    /// Adds that the version cannot be asked for.
    pub(crate) fn without_request(self, base: &BaseUrl) -> Self {
        let request = self.version.as_ref().filter(|_| base.serves_admin).map(|_| RequestHint::Forbidden);
        Self { request, ..self }
    }

    /// Returns text and link in at most `longest` bytes, for a header. Shorter wording is tried first, then the text is cut. A
    /// link that takes more than half of the line is left out.
    pub(crate) fn truncated(&self, longest: usize) -> String {
        let mut text = self.text.to_string();
        let whole = |text: &str| text.len() + self.link.as_ref().map_or(0, |link| EXPLAIN_SEPARATOR.len() + link.len());
        for (long, short) in SHORTER_WORDING {
            if whole(&text) <= longest {
                break;
            }
            text = text.replace(long, short);
        }
        let tail = self.link.as_ref().map(|link| format!("{EXPLAIN_SEPARATOR}{link}"));
        let tail = tail.filter(|tail| tail.len() <= longest / 2).unwrap_or_default();
        let limit = longest - tail.len();
        if text.len() <= limit {
            return format!("{text}{tail}");
        }
        // The detail is cut first. The rule, the opening and the version to use instead are kept.
        let (detail, rest) = text
            .rfind(" (rule ")
            .filter(|at| text.len() - at + MIN_DETAIL_BYTES <= limit)
            .map_or((&*text, ""), |at| text.split_at(at));
        let kept: String = detail.chars().take(limit.saturating_sub(rest.len() + 3)).collect();
        format!("{}...{rest}{tail}", kept.trim_end())
    }
}

fn opening(opens: Timestamp) -> String {
    format!("; opens {}", timestamp::format_utc_ceil(opens))
}

/// Returns the URL of an explanation for a client that used `base`; `None` if the admin pages are not below it.
pub(crate) fn explain_link(base: &BaseUrl, name: &PackageName, version: Option<&str>) -> Option<String> {
    base.serves_admin.then(|| endpoint::explain_url(&base.text, name, version))
}

/// Returns `text` as one line of printable ASCII, cut to the length of a refusal.
pub(crate) fn one_line(text: &str) -> String {
    ascii_line(text, MAX_TEXT_BYTES)
}

/// Returns the error for a version, dist-tag or range that matches nothing.
pub(crate) fn no_version(name: &PackageName, wanted: &str) -> FirewallError {
    FirewallError::NotFound(one_line(&format!("no version of {name} matches: {wanted}")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_refusal_keeps_rule_and_link() {
        let name = PackageName::parse("axios").unwrap();
        let base = BaseUrl { text: "http://127.0.0.1:4873".into(), cacheable: true, serves_admin: true, intercepted: None };
        let verdict = Verdict::deny(RuleId::Denied, "x".repeat(500));
        let refusal = Refusal::of_version(&name, "1.14.1", &verdict, None).unwrap();
        let tail = "; why: http://127.0.0.1:4873/-/coldframe/explain/axios@1.14.1";
        let linked = refusal.clone().with_link(&base);
        let line = linked.truncated(400);
        assert!(line.len() == 400 && line.ends_with(&format!("xxx... (rule denied){tail}")), "{line}");
        assert_eq!(linked.to_string(), format!("{}{tail}", refusal.text));
        let held = Refusal { text: "axios@1.14.1 is held by coldframe: published 2026-04-03 11:00 UTC, minimum release age 72 h (rule minimum-age); opens 2026-04-06 11:00 UTC; newest allowed: 1.14.0".into(), ..refusal.clone() };
        let line = held.with_link(&base).truncated(MAX_LINE_BYTES);
        assert_eq!(
            line,
            format!(
                "axios@1.14.1 is held: published 2026-04-03 11:00 UTC, minimum release age 72 h (rule minimum-age); opens 2026-04-06 11:00 UTC; use 1.14.0{tail}"
            )
        );
        assert!(!linked.truncated(80).contains("why"), "a link is never cut");
        assert_eq!(refusal.with_link(&BaseUrl { serves_admin: false, ..base }).link, None);
    }
}
