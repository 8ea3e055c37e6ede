//! Requests for approvals as JSON: the same for the HTTP API, the control socket and `--json`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::firewall::requests::current::CurrentVersion;
use crate::policy::requests::{Actor, ApprovalRequest, Asker, RequestStep};
use crate::vetting::manifest_changes::ManifestChange;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestView {
    pub id: i64,
    pub package: String,
    pub version: String,
    /// The digests that it was made for.
    pub digests: String,
    pub state: String,
    /// The first one asked first.
    pub askers: Vec<AskerView>,
    /// The decision that an approval recorded.
    pub decision: Option<i64>,
    /// What happened to it, oldest first.
    pub steps: Vec<StepView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ActorView {
    pub person: String,
    pub is_machine: bool,
    /// The label of the token, or the name of the user.
    pub subject: String,
    pub method: String,
    pub at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AskerView {
    pub by: ActorView,
    pub reason: String,
    pub project: Option<String>,
    /// How long the version is needed, in seconds.
    pub lasts_seconds: u64,
    pub withdrawn: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepView {
    pub step: String,
    pub by: ActorView,
    pub detail: String,
}

/// What an approver decides on, for an open request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CurrentView {
    /// An approval must return these.
    pub digests: String,
    /// An approval must name these, and then needs a second person.
    pub records: Vec<String>,
    pub needs_second: bool,
    pub opens: Option<Timestamp>,
}

/// A request with everything that an approver needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestDetails {
    pub request: RequestView,
    /// `None` if the request is not open.
    pub current: Option<CurrentView>,
    /// The explanation of the version, as `coldframe explain --json` prints it.
    pub explanation: Option<Value>,
    /// The same as text.
    pub text: Option<String>,
    /// Who answers for the package, by policy files.
    pub owners: Vec<OwnerView>,
    /// What the manifest changed. `None` if there is no earlier version.
    pub changes: Option<ManifestComparison>,
    /// Who installed other versions of the package. `None` for people who cannot decide.
    pub used_by: Option<PackageUsers>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerView {
    pub people: Vec<String>,
    /// Whether one of them must approve.
    pub must_approve: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestComparison {
    /// The earlier version.
    pub with: String,
    pub changes: Vec<ManifestChange>,
    /// How many more changes there are.
    pub more: usize,
}

/// Clients that received tarballs of a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PackageUsers {
    /// The most recent ones.
    pub clients: Vec<PackageUser>,
    /// How many there are.
    pub total: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PackageUser {
    /// The label and the address.
    pub client: String,
    /// The version that it received last.
    pub version: String,
    pub times: u64,
    pub last: Timestamp,
}

impl From<&ApprovalRequest> for RequestView {
    fn from(request: &ApprovalRequest) -> Self {
        let ApprovalRequest { id, bytes, state, askers, decision, steps, .. } = request;
        Self {
            id: *id,
            package: bytes.package.clone(),
            version: bytes.version.clone(),
            digests: bytes.digests.clone(),
            state: state.as_str().to_owned(),
            askers: askers.iter().map(AskerView::from).collect(),
            decision: *decision,
            steps: steps.iter().map(StepView::from).collect(),
        }
    }
}

impl From<&Actor> for ActorView {
    fn from(actor: &Actor) -> Self {
        let Actor { principal, subject, method, at } = actor;
        Self {
            person: principal.name().to_owned(),
            is_machine: principal.is_machine(),
            subject: subject.clone(),
            method: method.clone(),
            at: *at,
        }
    }
}

impl From<&Asker> for AskerView {
    fn from(asker: &Asker) -> Self {
        let Asker { by, wish, withdrawn } = asker;
        Self {
            by: by.into(),
            reason: wish.reason.to_string(),
            project: wish.project.as_ref().map(ToString::to_string),
            lasts_seconds: wish.lasts.as_secs(),
            withdrawn: *withdrawn,
        }
    }
}

impl From<&RequestStep> for StepView {
    fn from(step: &RequestStep) -> Self {
        Self { step: step.kind.as_str().to_owned(), by: (&step.by).into(), detail: step.detail.clone() }
    }
}

impl From<&CurrentVersion> for CurrentView {
    fn from(current: &CurrentVersion) -> Self {
        Self {
            digests: current.digests.clone(),
            needs_second: !current.records.is_empty(),
            records: current.records.clone(),
            opens: current.verdict.opens_at(),
        }
    }
}
