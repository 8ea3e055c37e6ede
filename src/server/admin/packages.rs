//! Admin pages about packages. They ask upstream and name packages, so `access` limits them unless a setting opens them.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::form_urlencoded;

use crate::firewall::error::one_line;
use crate::firewall::{CheckedVersion, Client, Explanation, Firewall, FirewallError, LockedVersion};
use crate::net::headers::best_media_type;
use crate::npm::PackageSpec;
use crate::policy::Policy;
use crate::server::admin::access::AdminRequest;
use crate::server::admin::explanation;
use crate::server::response::{firewall_status, json_response, refused, text_response};
use crate::text::json_error;
use crate::upstream::UpstreamError;

/// Maximum number of versions per check request.
pub(crate) const MAX_CHECKED: usize = 500;

/// Maximum number of ranges per version, and their maximum length in bytes. No lockfile needs more.
pub(crate) const MAX_RANGES: usize = 1_000;
const MAX_RANGE_BYTES: usize = 1_024;

pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

pub(crate) trait PackageInspector: Send + Sync {
    /// Returns one outcome for each of `locked`, in the same order.
    fn check<'a>(&'a self, client: &'a Client, locked: &'a [LockedVersion]) -> BoxFuture<'a, CheckResponse>;

    /// Explains one version, as of `at` if given.
    fn explain<'a>(
        &'a self,
        client: &'a Client,
        spec: &'a PackageSpec,
        at: Option<Timestamp>,
    ) -> BoxFuture<'a, Result<Explanation, FirewallError>>;

    fn terms(&self, client: &Client) -> ClientPolicy;
}

impl PackageInspector for Firewall {
    fn check<'a>(&'a self, client: &'a Client, locked: &'a [LockedVersion]) -> BoxFuture<'a, CheckResponse> {
        Box::pin(CheckResponse::of(self, client, locked))
    }

    fn explain<'a>(
        &'a self,
        client: &'a Client,
        spec: &'a PackageSpec,
        at: Option<Timestamp>,
    ) -> BoxFuture<'a, Result<Explanation, FirewallError>> {
        Box::pin(self.explain(client, &spec.name, spec.wanted.as_deref(), at))
    }

    fn terms(&self, client: &Client) -> ClientPolicy {
        ClientPolicy::of(self.policy().policy(client.profile))
    }
}

pub(crate) type SharedInspector = Arc<dyn PackageInspector>;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CheckRequest {
    /// The versions, at most [`MAX_CHECKED`].
    pub(crate) packages: Vec<LockedVersion>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CheckResponse {
    pub(crate) packages: Vec<CheckedVersion>,
    /// The upstream URLs without credentials.
    pub(crate) upstreams: Vec<String>,
}

/// The client settings that match the policy, so that clients do not select versions that are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClientPolicy {
    /// The minimum age of a release in seconds. Zero means none.
    pub(crate) minimum_release_age_seconds: u64,
    pub(crate) exclude: Vec<String>,
}

impl CheckResponse {
    pub(crate) async fn of(firewall: &Firewall, client: &Client, locked: &[LockedVersion]) -> Self {
        Self { packages: firewall.check(client, locked).await, upstreams: firewall.upstreams() }
    }
}

impl ClientPolicy {
    pub(crate) fn of(policy: &Policy) -> Self {
        let age = policy.minimum_age();
        let seconds = age.as_secs() + u64::from(age.subsec_nanos() > 0);
        Self { minimum_release_age_seconds: seconds, exclude: policy.excluded.iter().map(ToString::to_string).collect() }
    }

    pub(crate) fn age(&self) -> Duration {
        Duration::from_secs(self.minimum_release_age_seconds)
    }
}

pub(crate) fn terms(inspector: &SharedInspector, request: &AdminRequest) -> Response<Bytes> {
    match &request.client {
        Some(client) => json_response(StatusCode::OK, &json!(inspector.terms(client))),
        None => refused(StatusCode::FORBIDDEN, NOT_HERE),
    }
}

pub(crate) async fn check(inspector: &SharedInspector, request: AdminRequest) -> Response<Bytes> {
    let Some(client) = request.client else { return refused(StatusCode::FORBIDDEN, NOT_HERE) };
    let wanted = match serde_json::from_slice::<CheckRequest>(&request.body) {
        Ok(wanted) if wanted.packages.len() <= MAX_CHECKED => wanted,
        Ok(_) => return refused(StatusCode::PAYLOAD_TOO_LARGE, &format!("too many packages, expected at most {MAX_CHECKED}")),
        Err(error) => return refused(StatusCode::BAD_REQUEST, &format!("invalid request body: {}", json_error(&error))),
    };
    let is_beyond =
        |entry: &LockedVersion| entry.ranges.len() > MAX_RANGES || entry.ranges.iter().any(|range| range.len() > MAX_RANGE_BYTES);
    if let Some(entry) = wanted.packages.iter().find(|entry| is_beyond(entry)) {
        let name = one_line(&entry.name);
        let message = format!("too many or too long ranges, expected at most {MAX_RANGES} of {MAX_RANGE_BYTES} bytes: `{name}`");
        return refused(StatusCode::PAYLOAD_TOO_LARGE, &message);
    }
    json_response(StatusCode::OK, &json!(inspector.check(&client, &wanted.packages).await))
}

/// Explains the version that `wanted` names, in the format that the client accepts.
pub(crate) async fn explain(inspector: &SharedInspector, wanted: &str, request: AdminRequest) -> Response<Bytes> {
    let reader = ResponseFormat::of(&request);
    let Some(client) = request.client else { return reader.refusal(StatusCode::FORBIDDEN, NOT_HERE) };
    let spec = match PackageSpec::parse(wanted) {
        Ok(spec) => spec,
        Err(error) => return reader.refusal(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let at = match instant(request.query.as_deref()) {
        Ok(at) => at,
        Err(error) => return reader.refusal(StatusCode::BAD_REQUEST, error),
    };
    match inspector.explain(&client, &spec, at).await {
        Ok(explained) => match reader {
            ResponseFormat::Program => json_response(StatusCode::OK, &explained.json()),
            ResponseFormat::Terminal => text_response(StatusCode::OK, PLAIN, explanation::text(&explained)),
        },
        Err(error) => reader.refusal(status(&error), &error.to_string()),
    }
}

const PLAIN: &str = "text/plain; charset=utf-8";

const NOT_HERE: &str = "not available to other machines; set `explain-access = \"all\"`; \
    or run `coldframe explain` on the server";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResponseFormat {
    Program,
    Terminal,
}

impl ResponseFormat {
    /// Selects the format. A client that accepts anything gets JSON, unless it is a known command-line tool.
    fn of(request: &AdminRequest) -> Self {
        let mut offered = [("application/json", Self::Program), ("text/plain", Self::Terminal)];
        if prints_responses(&request.agent) {
            offered.swap(0, 1);
        }
        offered[best_media_type(request.accept.as_deref(), &offered.map(|(media, _)| media))].1
    }

    fn refusal(self, status: StatusCode, why: &str) -> Response<Bytes> {
        match self {
            Self::Program => refused(status, why),
            Self::Terminal => text_response(status, PLAIN, format!("{}\n", crate::text::single_line(why))),
        }
    }
}

/// Checks whether a client prints responses on a terminal.
pub(crate) fn prints_responses(agent: &str) -> bool {
    ["curl/", "Wget/", "HTTPie/", "xh/"].iter().any(|tool| agent.starts_with(tool))
}

/// Parses the instant in `?at=`, if present.
pub(crate) fn instant(query: Option<&str>) -> Result<Option<Timestamp>, &'static str> {
    let mut pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let Some((_, text)) = pairs.find(|(name, _)| name == "at") else { return Ok(None) };
    // An unescaped `+` is decoded as a space.
    let parsed = text.replace(' ', "+").parse();
    parsed.map(Some).map_err(|_| "invalid `at`, expected an instant with offset such as `2026-03-31T01:00Z`")
}

/// Returns the status of an error. Every failure of upstream is a 502 here.
pub(crate) fn status(error: &FirewallError) -> StatusCode {
    match error {
        FirewallError::Upstream(UpstreamError::NotFound | UpstreamError::MissingPage { .. }) => StatusCode::NOT_FOUND,
        FirewallError::Upstream(_) => StatusCode::BAD_GATEWAY,
        error => firewall_status(error).0,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An inspector without packages.
    pub(in crate::server::admin) struct NoPackages;

    impl PackageInspector for NoPackages {
        fn check<'a>(&'a self, _asker: &'a Client, _locked: &'a [LockedVersion]) -> BoxFuture<'a, CheckResponse> {
            Box::pin(async { CheckResponse { packages: Vec::new(), upstreams: Vec::new() } })
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
    }

    #[test]
    fn response_format_follows_the_client() {
        let reader = |accept: Option<&str>, agent: &str| {
            ResponseFormat::of(&AdminRequest {
                accept: accept.map(str::to_owned),
                agent: agent.to_owned(),
                ..AdminRequest::default()
            })
        };
        assert_eq!(reader(Some("*/*"), "curl/8.5.0"), ResponseFormat::Terminal);
        assert_eq!(reader(None, "curl/8.5.0"), ResponseFormat::Terminal);
        assert_eq!(reader(Some("application/json"), "curl/8.5.0"), ResponseFormat::Program);
        assert_eq!(reader(Some("text/plain"), "node"), ResponseFormat::Terminal);
        assert_eq!((reader(Some("*/*"), "node"), reader(None, "")), (ResponseFormat::Program, ResponseFormat::Program));
    }

    #[test]
    fn instant_requires_an_offset() {
        assert_eq!(instant(None), Ok(None));
        assert_eq!(instant(Some("x=1")), Ok(None));
        let noon = Ok(Some("2026-03-31T12:00:00Z".parse().unwrap()));
        for written in ["at=2026-03-31T12:00Z", "at=2026-03-31T14:00+02:00", "x=1&at=2026-03-31T14%3A00%2B02%3A00"] {
            assert_eq!(instant(Some(written)), noon, "{written}");
        }
        for query in ["at=", "at=yesterday", "at=2026-03-31", "at=2026-03-31T12:00"] {
            assert!(instant(Some(query)).is_err(), "{query}");
        }
    }
}
