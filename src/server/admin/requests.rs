//! Admin pages of requests for approvals: `requests`, `requests/ID` and `requests/ID/ACTION`. Roles are checked in `access`; persons
//! and digests in `firewall::requests`.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::form_urlencoded;

use crate::firewall::Client;
use crate::firewall::explain::origin::ExplainedPredecessor;
use crate::firewall::requests::error::ApprovalError;
use crate::firewall::requests::view::{CurrentView, RequestDetails, RequestView};
use crate::firewall::requests::{ApprovalRequests, GivenApproval};
use crate::npm::PackageSpec;
use crate::policy::Role;
use crate::policy::requests::text::{DecidingReason, ProjectName, RequestReason, parse_period};
use crate::policy::requests::{Actor, DEFAULT_PERIOD, MAX_LISTED_REQUESTS, RequestState, Wish};
use crate::server::admin::access::AdminRequest;
use crate::server::admin::{explanation, method_not_allowed};
use crate::server::response::{firewall_status, json_response, refused};
use crate::store::{AskOutcome, RequestFilter};
use crate::text::{json_error, words};

/// The first segment of the path.
pub(crate) const PAGE: &str = "requests";

/// The most records that an approval names, and the most bytes of its digests.
const MAX_RECORDS: usize = 200;
const MAX_DIGEST_BYTES: usize = 2_000;

/// What is asked for: the body of `POST requests`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskBody {
    /// A package with an exact version.
    pub(crate) spec: String,
    pub(crate) reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) project: Option<String>,
    /// A duration such as `30d`.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub(crate) lasts: Option<String>,
}

/// A decision on a request: the body of `approve`, `decline` and `withdraw`, which need less of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DecisionBody {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) digests: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) records: Vec<String>,
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub(crate) lasts: Option<String>,
}

/// The answer to a change.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ChangedRequest {
    pub(crate) request: RequestView,
    /// What the change did: `created`, `joined`, `repeated`, or the new state.
    pub(crate) outcome: String,
    /// Whether the server applies the decision already, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) applied: Option<bool>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RequestList {
    pub(crate) requests: Vec<RequestView>,
}

/// What a person does to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RequestAction {
    Approve,
    Decline,
    Withdraw,
}

words! { RequestAction { Approve = "approve", Decline = "decline", Withdraw = "withdraw", } }

/// Why a request of the API is refused.
pub(crate) enum ApiError {
    Invalid(String),
    Approval(ApprovalError),
}

impl From<ApprovalError> for ApiError {
    fn from(error: ApprovalError) -> Self {
        Self::Approval(error)
    }
}

impl ApiError {
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Invalid(why) => why.clone(),
            Self::Approval(error) => error.to_string(),
        }
    }

    fn response(&self) -> Response<Bytes> {
        let status = match self {
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Approval(error) => status(error),
        };
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(error = self.text(), "approval request failed");
        }
        refused(status, &self.text())
    }
}

/// Answers a page below `requests`.
pub(crate) async fn answer(requests: &ApprovalRequests, request: AdminRequest) -> Response<Bytes> {
    let Some(client) = &request.client else { return refused(StatusCode::FORBIDDEN, "not available without a client") };
    let rest = request.page.strip_prefix(PAGE).unwrap_or_default().trim_start_matches('/');
    let mut segments = rest.split('/').filter(|segment| !segment.is_empty());
    let (id, action, more) = (segments.next(), segments.next(), segments.next());
    let reads = matches!(request.method, Method::GET | Method::HEAD);
    let id = match id.map(str::parse::<i64>) {
        None if reads => return respond(StatusCode::OK, list(requests, client, request.query.as_deref()).await),
        None if request.method == Method::POST => return ask(requests, client, &request).await,
        None => return method_not_allowed("GET, HEAD, POST"),
        Some(Ok(id)) if more.is_none() => id,
        Some(_) => return refused(StatusCode::NOT_FOUND, "page not found"),
    };
    match action.map(RequestAction::parse) {
        None if reads => respond(StatusCode::OK, details(requests, client, id).await),
        None => method_not_allowed("GET, HEAD"),
        Some(Some(_)) if request.method != Method::POST => method_not_allowed("POST"),
        Some(Some(action)) => {
            let body = if request.body.is_empty() { Ok(DecisionBody::default()) } else { parse(&request.body) };
            let Some(by) = actor(requests, client) else { return refused(StatusCode::FORBIDDEN, "an identity is required") };
            let changed = async { change(requests, (client, by), id, (action, body?)).await };
            respond(StatusCode::OK, changed.await)
        }
        Some(None) => refused(StatusCode::NOT_FOUND, "page not found"),
    }
}

fn actor(requests: &ApprovalRequests, client: &Client) -> Option<Actor> {
    client.identity.as_deref().map(|identity| Actor::of(identity, requests.now()))
}

fn respond<T: Serialize>(status: StatusCode, result: Result<T, ApiError>) -> Response<Bytes> {
    match result {
        Ok(value) => json_response(status, &json!(value)),
        Err(error) => error.response(),
    }
}

async fn ask(requests: &ApprovalRequests, client: &Client, request: &AdminRequest) -> Response<Bytes> {
    let Some(by) = actor(requests, client) else { return refused(StatusCode::FORBIDDEN, "an identity is required") };
    let asked = async { ask_for(requests, client, by, parse(&request.body)?).await };
    let asked = asked.await;
    let is_new = asked.as_ref().is_ok_and(|changed| changed.outcome == "created");
    respond(if is_new { StatusCode::CREATED } else { StatusCode::OK }, asked)
}

/// Asks for a version in the name of `by`.
pub(crate) async fn ask_for(
    requests: &ApprovalRequests,
    client: &Client,
    by: Actor,
    body: AskBody,
) -> Result<ChangedRequest, ApiError> {
    let invalid = |name: &str| {
        let name = name.to_owned();
        move |expected: String| ApiError::Invalid(format!("invalid `{name}`: {expected}"))
    };
    let spec = PackageSpec::parse(&body.spec).map_err(|error| ApiError::Invalid(error.to_string()))?;
    let wish = Wish {
        reason: RequestReason::parse(&body.reason).map_err(invalid("reason"))?,
        project: body.project.as_deref().map(ProjectName::parse).transpose().map_err(invalid("project"))?,
        lasts: period(body.lasts.as_deref())?.unwrap_or(DEFAULT_PERIOD),
    };
    let asked = requests.ask(client, by, &spec, wish).await?;
    let outcome = match asked.outcome {
        AskOutcome::Created(_) => "created",
        AskOutcome::Joined(_) => "joined",
        _ => "repeated",
    };
    Ok(ChangedRequest { request: (&asked.request).into(), outcome: outcome.to_owned(), applied: None })
}

/// Changes a request in the name of `by`.
pub(crate) async fn change(
    requests: &ApprovalRequests,
    (client, by): (&Client, Actor),
    id: i64,
    (action, body): (RequestAction, DecisionBody),
) -> Result<ChangedRequest, ApiError> {
    let reason = || {
        let reason = body.reason.as_deref().unwrap_or_default();
        DecidingReason::parse(reason).map_err(|expected| ApiError::Invalid(format!("invalid `reason`: {expected}")))
    };
    let (request, applied) = match action {
        RequestAction::Withdraw => (requests.withdraw(client, by, id).await?, None),
        RequestAction::Decline => (requests.decline(client, by, id, reason()?).await?, None),
        RequestAction::Approve => {
            let given = GivenApproval { reason: reason()?, ..given(&body)? };
            let (request, approved) = requests.approve(client, by, id, given).await?;
            // The next request of a client must see the decision.
            let applied = requests.until_applied(approved.revision).await;
            (request, Some(applied))
        }
    };
    let outcome = request.state.as_str().to_owned();
    Ok(ChangedRequest { request: (&request).into(), outcome, applied })
}

fn given(body: &DecisionBody) -> Result<GivenApproval, ApiError> {
    let expected = "`digests` must be those that the request shows; show it, compare, and send them back";
    let digests = body.digests.clone().ok_or_else(|| ApiError::Invalid(expected.to_owned()))?;
    if digests.len() > MAX_DIGEST_BYTES || body.records.len() > MAX_RECORDS {
        return Err(ApiError::Invalid(expected.to_owned()));
    }
    let reason = DecidingReason::parse("approved").map_err(ApiError::Invalid)?;
    Ok(GivenApproval { digests, records: body.records.clone(), reason, lasts: period(body.lasts.as_deref())? })
}

fn period(text: Option<&str>) -> Result<Option<Duration>, ApiError> {
    text.map(parse_period).transpose().map_err(|expected| ApiError::Invalid(format!("invalid `for`: {expected}")))
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::Invalid(format!("invalid request body: {}", json_error(&error))))
}

/// Lists requests. The query selects by `state` (a state, `open` for all that are open, or `all`) and `package`, and pages with `before`.
pub(crate) async fn list(requests: &ApprovalRequests, client: &Client, query: Option<&str>) -> Result<RequestList, ApiError> {
    let mut filter = RequestFilter { states: open_states(), limit: MAX_LISTED_REQUESTS, ..RequestFilter::default() };
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*name {
            "state" if value == "open" => filter.states = open_states(),
            "state" if value == "all" => filter.states = Vec::new(),
            "state" => {
                let state = RequestState::parse(&value.replace('-', " "));
                filter.states = vec![state.ok_or_else(|| ApiError::Invalid(unknown_state()))?];
            }
            "package" => filter.package = Some(value.into_owned()),
            "before" => {
                let before =
                    value.parse().map_err(|_| ApiError::Invalid("`before` must be the number of a request".to_owned()))?;
                filter.before = Some(before);
            }
            _ => return Err(ApiError::Invalid("unknown parameter, expected `state`, `package` or `before`".to_owned())),
        }
    }
    let found = requests.list(client, filter).await?;
    Ok(RequestList { requests: found.iter().map(RequestView::from).collect() })
}

fn open_states() -> Vec<RequestState> {
    RequestState::ALL.iter().copied().filter(|state| state.is_open()).collect()
}

fn unknown_state() -> String {
    let words: Vec<_> = RequestState::ALL.iter().map(|state| format!("`{}`", state.as_str().replace(' ', "-"))).collect();
    format!("unknown state, expected `all` or one of {}", words.join(", "))
}

/// Returns a request with everything that an approver needs.
pub(crate) async fn details(requests: &ApprovalRequests, client: &Client, id: i64) -> Result<RequestDetails, ApiError> {
    let (request, current) = requests.current(client, id).await?;
    let mut details = RequestDetails {
        request: (&request).into(),
        current: current.as_ref().map(CurrentView::from),
        explanation: None,
        text: None,
        owners: requests.owners(&request),
        changes: None,
        used_by: None,
    };
    if current.is_some() {
        let explained = requests.explain(client, &request).await?;
        let predecessor = match &explained.seen.origin.predecessor {
            Some(ExplainedPredecessor::Version(version)) => Some(&**version),
            _ => None,
        };
        details.changes = requests.manifest_changes(client, &request, predecessor).await?;
        details.explanation = Some(explained.json());
        details.text = Some(explanation::text(&explained));
    }
    // Who installs what is for people who decide.
    let is_decider = client.identity.as_ref().is_none_or(|identity| identity.role >= Role::Approver);
    if is_decider {
        details.used_by = Some(requests.used_by(&request).await?);
    }
    Ok(details)
}

fn status(error: &ApprovalError) -> StatusCode {
    match error {
        ApprovalError::NotFound(_) => StatusCode::NOT_FOUND,
        ApprovalError::NotExact(_) => StatusCode::BAD_REQUEST,
        ApprovalError::Forbidden { .. }
        | ApprovalError::NotYours(_)
        | ApprovalError::NotAnOwner { .. }
        | ApprovalError::Deciding(_) => StatusCode::FORBIDDEN,
        ApprovalError::TooManyOpen(_) | ApprovalError::TooManyToday | ApprovalError::TooMany => StatusCode::TOO_MANY_REQUESTS,
        ApprovalError::Allowed(_)
        | ApprovalError::Declined { .. }
        | ApprovalError::NotOpen { .. }
        | ApprovalError::DigestsDiffer(_)
        | ApprovalError::RecordsDiffer { .. }
        | ApprovalError::DecisionEnded(_) => StatusCode::CONFLICT,
        ApprovalError::Firewall(error) => firewall_status(error).0,
        ApprovalError::Store(_) | ApprovalError::TaskFailed => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
