//! The pages that judge packages. They send requests upstream and name packages, so `access` lets only clients on this machine and
//! operators ask for them, unless a setting says otherwise.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::form_urlencoded;

use crate::firewall::{CheckedVersion, Client, Explanation, FirewallError, LockedVersion};
use crate::net::headers::best_media_type;
use crate::npm::PackageSpec;
use crate::policy::Policy;
use crate::server::admin::explanation;
use crate::server::admin::response::{AdminRequest, page, text};
use crate::upstream::UpstreamError;

/// The most versions that one request may ask about.
pub const MOST_LOCKED: usize = 500;

/// The most ranges of one version, and the most bytes of one: no lockfile has a package that is asked for in more ways.
pub const MOST_RANGES: usize = 1_000;
const LONGEST_RANGE: usize = 1_024;

/// An answer that takes its time.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who judges packages.
pub trait PackageInspector: Send + Sync {
    /// One outcome for each of `locked`, in their order.
    fn check<'a>(&'a self, asker: &'a Client, locked: &'a [LockedVersion]) -> BoxFuture<'a, Vec<CheckedVersion>>;

    /// What is to be said of one version, as of `at` where it is given.
    fn explain<'a>(
        &'a self,
        asker: &'a Client,
        spec: &'a PackageSpec,
        at: Option<Timestamp>,
    ) -> BoxFuture<'a, Result<Explanation, FirewallError>>;

    /// What clients are to agree with.
    fn terms(&self, asker: &Client) -> ClientPolicy;

    /// Where packages come from, without credentials.
    fn upstreams(&self) -> Vec<String>;
}

/// Who judges packages, shared.
pub type SharedInspector = Arc<dyn PackageInspector>;

/// The body of a request for `check`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CheckRequest {
    /// The versions, at most [`MOST_LOCKED`].
    pub packages: Vec<LockedVersion>,
}

/// The body of its answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CheckResponse {
    /// What came out for each, in the order of the request.
    pub packages: Vec<CheckedVersion>,
    /// Where packages come from, without credentials.
    pub upstreams: Vec<String>,
}

/// What clients are to agree with, so that they do not choose what is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientPolicy {
    /// How old a release must be before it is served, in seconds; zero where none needs to be.
    pub minimum_release_age_seconds: u64,
    /// Globs of packages whose releases need not be.
    pub exclude: Vec<String>,
}

impl ClientPolicy {
    /// Those of a policy.
    #[must_use]
    pub fn of(policy: &Policy) -> Self {
        let age = policy.minimum_age();
        let seconds = age.as_secs() + u64::from(age.subsec_nanos() > 0);
        Self { minimum_release_age_seconds: seconds, exclude: policy.excluded().iter().map(ToString::to_string).collect() }
    }

    /// How old a release must be.
    #[must_use]
    pub fn age(&self) -> Duration {
        Duration::from_secs(self.minimum_release_age_seconds)
    }
}

pub(crate) fn terms(judge: &SharedInspector, request: &AdminRequest) -> Response<Bytes> {
    match &request.visitor {
        Some(asker) => page(StatusCode::OK, &json!(judge.terms(asker))),
        None => not_here(),
    }
}

pub(crate) async fn check(judge: &SharedInspector, request: AdminRequest) -> Response<Bytes> {
    let Some(asker) = request.visitor else { return not_here() };
    let wanted = match serde_json::from_slice::<CheckRequest>(&request.body) {
        Ok(wanted) if wanted.packages.len() <= MOST_LOCKED => wanted,
        Ok(_) => return refused(StatusCode::PAYLOAD_TOO_LARGE, &format!("at most {MOST_LOCKED} packages are judged at once")),
        Err(wrong) => return refused(StatusCode::BAD_REQUEST, &format!("the body does not list packages: {wrong}")),
    };
    let is_beyond =
        |one: &LockedVersion| one.ranges.len() > MOST_RANGES || one.ranges.iter().any(|range| range.len() > LONGEST_RANGE);
    if let Some(one) = wanted.packages.iter().find(|one| is_beyond(one)) {
        let name = crate::firewall::error::one_line(&one.name);
        let told = format!("at most {MOST_RANGES} ranges of {LONGEST_RANGE} bytes are taken of one version: `{name}`");
        return refused(StatusCode::PAYLOAD_TOO_LARGE, &told);
    }
    let checked = CheckResponse { packages: judge.check(&asker, &wanted.packages).await, upstreams: judge.upstreams() };
    page(StatusCode::OK, &json!(checked))
}

/// Explains the version that `wanted` names, in the way that whoever asks reads.
pub(crate) async fn explain(judge: &SharedInspector, wanted: &str, request: AdminRequest) -> Response<Bytes> {
    let reader = ResponseFormat::of(&request);
    let Some(asker) = request.visitor else { return reader.refusal(StatusCode::FORBIDDEN, NOT_HERE) };
    let spec = match PackageSpec::parse(wanted) {
        Ok(spec) => spec,
        Err(wrong) => return reader.refusal(StatusCode::BAD_REQUEST, &wrong.to_string()),
    };
    let at = match instant(request.query.as_deref()) {
        Ok(at) => at,
        Err(wrong) => return reader.refusal(StatusCode::BAD_REQUEST, wrong),
    };
    match judge.explain(&asker, &spec, at).await {
        Ok(explained) => match reader {
            ResponseFormat::Program => page(StatusCode::OK, &explained.json()),
            ResponseFormat::Terminal => text(StatusCode::OK, PLAIN, explanation::text(&explained)),
            ResponseFormat::Browser => browsed(StatusCode::OK, explanation::html(&explained)),
        },
        Err(rejection) => reader.refusal(status(&rejection), &rejection.to_string()),
    }
}

const PLAIN: &str = "text/plain; charset=utf-8";

/// What a browser may do for a page of ours: nothing but draw it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const NOT_HERE: &str = "asked from another machine: coldframe answers this there only with `explain-to = \"everybody\"`; \
    on the machine where it runs, `coldframe explain` does";

/// Who reads an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResponseFormat {
    Program,
    Terminal,
    Browser,
}

impl ResponseFormat {
    /// What the request says of it: a browser asks for HTML, a program for JSON. Who takes anything is a program, unless
    /// it is known to print what it gets.
    fn of(request: &AdminRequest) -> Self {
        let prints = ["curl/", "Wget/", "HTTPie/", "xh/"].iter().any(|tool| request.agent.starts_with(tool));
        let mut offered = [("application/json", Self::Program), ("text/plain", Self::Terminal), ("text/html", Self::Browser)];
        if prints {
            offered.swap(0, 1);
        }
        offered[best_media_type(request.accept.as_deref(), &offered.map(|(media, _)| media))].1
    }

    fn refusal(self, status: StatusCode, why: &str) -> Response<Bytes> {
        match self {
            Self::Program => refused(status, why),
            Self::Terminal => text(status, PLAIN, format!("{}\n", crate::text::single_line(why))),
            Self::Browser => browsed(status, explanation::html_of_one_line("no explanation", why)),
        }
    }
}

/// A page for a browser, which is to fetch nothing for it, run nothing in it, and show it in no frame.
fn browsed(status: StatusCode, html: String) -> Response<Bytes> {
    let mut response = text(status, "text/html; charset=utf-8", html);
    for (name, value) in [("content-security-policy", POLICY), ("referrer-policy", "no-referrer")] {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

/// The instant of `?at=`, where there is one.
fn instant(query: Option<&str>) -> Result<Option<Timestamp>, &'static str> {
    let mut pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let Some((_, text)) = pairs.find(|(name, _)| name == "at") else { return Ok(None) };
    // A `+` that nobody escaped is a blank in a query.
    let parsed = text.replace(' ', "+").parse();
    parsed.map(Some).map_err(|_| "`at` is no instant with its offset; allowed: such as `2026-03-31T01:00Z`")
}

fn status(rejection: &FirewallError) -> StatusCode {
    match rejection {
        FirewallError::NotFound(_) | FirewallError::Upstream(UpstreamError::NotFound | UpstreamError::MissingPage { .. }) => {
            StatusCode::NOT_FOUND
        }
        FirewallError::Refused(_) | FirewallError::NotEntitled(_) => StatusCode::FORBIDDEN,
        FirewallError::TooMuch(_) => StatusCode::PAYLOAD_TOO_LARGE,
        FirewallError::Upstream(_) | FirewallError::Unreadable { .. } => StatusCode::BAD_GATEWAY,
        FirewallError::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
        FirewallError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn not_here() -> Response<Bytes> {
    refused(StatusCode::FORBIDDEN, NOT_HERE)
}

fn refused(status: StatusCode, why: &str) -> Response<Bytes> {
    page(status, &json!({ "error": why }))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Judges nothing.
    pub(in crate::server::admin) struct Nobody;

    impl PackageInspector for Nobody {
        fn check<'a>(&'a self, _asker: &'a Client, _locked: &'a [LockedVersion]) -> BoxFuture<'a, Vec<CheckedVersion>> {
            Box::pin(async { Vec::new() })
        }

        fn explain<'a>(
            &'a self,
            _asker: &'a Client,
            _spec: &'a PackageSpec,
            _at: Option<Timestamp>,
        ) -> BoxFuture<'a, Result<Explanation, FirewallError>> {
            Box::pin(async { Err(FirewallError::NotFound("there is nothing".into())) })
        }

        fn terms(&self, _asker: &Client) -> ClientPolicy {
            ClientPolicy { minimum_release_age_seconds: 0, exclude: Vec::new() }
        }

        fn upstreams(&self) -> Vec<String> {
            Vec::new()
        }
    }

    #[test]
    fn an_answer_is_in_the_words_of_its_reader() {
        let reader = |accept: Option<&str>, agent: &str| {
            ResponseFormat::of(&AdminRequest {
                accept: accept.map(str::to_owned),
                agent: agent.to_owned(),
                ..AdminRequest::default()
            })
        };
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        assert_eq!(reader(Some(browser), "Mozilla/5.0"), ResponseFormat::Browser);
        assert_eq!(reader(Some("*/*"), "curl/8.5.0"), ResponseFormat::Terminal);
        assert_eq!(reader(None, "curl/8.5.0"), ResponseFormat::Terminal);
        assert_eq!(reader(Some("application/json"), "curl/8.5.0"), ResponseFormat::Program);
        assert_eq!(reader(Some("text/plain"), "node"), ResponseFormat::Terminal);
        assert_eq!((reader(Some("*/*"), "node"), reader(None, "")), (ResponseFormat::Program, ResponseFormat::Program));
    }

    #[test]
    fn an_instant_has_an_offset() {
        assert_eq!(instant(None), Ok(None));
        assert_eq!(instant(Some("x=1")), Ok(None));
        let noon = Ok(Some("2026-03-31T12:00:00Z".parse().unwrap()));
        for written in ["at=2026-03-31T12:00Z", "at=2026-03-31T14:00+02:00", "x=1&at=2026-03-31T14%3A00%2B02%3A00"] {
            assert_eq!(instant(Some(written)), noon, "{written}");
        }
        for wrong in ["at=", "at=yesterday", "at=2026-03-31", "at=2026-03-31T12:00"] {
            assert!(instant(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
