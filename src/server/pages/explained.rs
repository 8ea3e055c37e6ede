//! The page of one version: what is refused and why, until when, and what to take instead.

use askama::Template;
use bytes::Bytes;
use http::{Response, StatusCode};

use crate::firewall::Explanation;
use crate::npm::{PackageName, PackageSpec};
use crate::policy::{Role, TraceStep};
use crate::server::admin::packages::{instant, status};
use crate::server::pages::frame::{Frame, name_path};
use crate::server::pages::render::render;
use crate::server::pages::request::PageRequest;
use crate::server::pages::state::Pages;
use crate::store::Exposure;
use crate::units::timestamp;

/// Clients that are listed.
pub(super) const MAX_INSTALLS: usize = 50;

/// The requests of a client for a tarball.
pub(super) struct ShownInstall {
    pub(super) client: String,
    pub(super) tool: String,
    pub(super) version: String,
    pub(super) outcome: &'static str,
    pub(super) times: u64,
    pub(super) first: String,
    pub(super) last: String,
}

struct ShownStep {
    class: String,
    rule: String,
    action: String,
    outcome: &'static str,
    detail: String,
}

#[derive(Template)]
#[template(path = "version.html")]
struct VersionPage {
    frame: Frame,
    name: String,
    name_path: String,
    outcome: &'static str,
    verdict: &'static str,
    reason: String,
    rows: Vec<(&'static str, String)>,
    facts: Vec<(&'static str, String)>,
    steps: Vec<ShownStep>,
    installs: Option<Vec<ShownInstall>>,
    most_installs: usize,
    /// The token of the form that asks for the version; `None` if the viewer cannot.
    ask: Option<String>,
    spec: String,
}

impl Pages {
    pub(super) async fn explained(&self, request: PageRequest<'_>, spec: &str) -> Response<Bytes> {
        const TITLE: &str = "Cannot explain";
        let spec = match PackageSpec::parse(spec) {
            Ok(spec) => spec,
            Err(error) => return request.frame.message(StatusCode::BAD_REQUEST, TITLE, &error.to_string()),
        };
        let at = match instant(request.query) {
            Ok(at) => at,
            Err(error) => return request.frame.message(StatusCode::BAD_REQUEST, TITLE, error),
        };
        match self.firewall.explain(&request.viewer.client, &spec.name, spec.wanted.as_deref(), at).await {
            Ok(explanation) => {
                let installs = self.installs(&request, &spec.name, Some(explanation.version.clone())).await;
                let may_ask = request.viewer.role >= Role::Requester && explanation.outcome() != "allow" && at.is_none();
                let session = request.viewer.session.as_ref().filter(|_| may_ask);
                let ask = session.map(|session| self.sessions.form_token(session));
                render(StatusCode::OK, &VersionPage { ask, ..VersionPage::new(request.frame, &explanation, installs) })
            }
            Err(error) => request.frame.message(status(&error), TITLE, &error.to_string()),
        }
    }

    /// Returns who requested a package, if the viewer may know.
    pub(super) async fn installs(
        &self,
        request: &PageRequest<'_>,
        name: &PackageName,
        version: Option<Box<str>>,
    ) -> Option<Vec<ShownInstall>> {
        if request.viewer.role < Role::Approver {
            return None;
        }
        let name = name.clone();
        let rows = self.read(move |ledger| ledger.last_requests(&name, version.as_deref(), MAX_INSTALLS)).await.ok()?;
        Some(rows.into_iter().map(ShownInstall::new).collect())
    }
}

impl ShownInstall {
    pub(super) fn new(row: Exposure) -> Self {
        let Exposure { client, tool, tool_version, version, outcome, times, first, last, .. } = row;
        Self {
            client,
            tool: format!("{tool} {tool_version}"),
            version,
            outcome: outcome.as_str(),
            times,
            first: timestamp::format_utc(first),
            last: timestamp::format_utc(last),
        }
    }
}

impl VersionPage {
    fn new(frame: Frame, explanation: &Explanation, installs: Option<Vec<ShownInstall>>) -> Self {
        let steps = explanation.steps.iter().map(|step: &TraceStep| ShownStep {
            class: step.outcome.as_str().replace(' ', "-"),
            rule: step.rule.as_str().to_owned(),
            action: step.action.clone(),
            outcome: step.outcome.as_str(),
            detail: step.detail.clone(),
        });
        let reason = explanation.verdict.reason().map(|reason| format!("by the rule {}: {}", reason.rule, reason.detail));
        Self {
            frame: frame.titled(explanation.headline()),
            name: explanation.name.as_str().to_owned(),
            name_path: name_path(&explanation.name),
            outcome: explanation.outcome(),
            verdict: match explanation.outcome() {
                "allow" => "Allowed",
                "hold" => "Held",
                _ => "Denied",
            },
            reason: reason.unwrap_or_default(),
            rows: explanation.rows(),
            facts: explanation.seen.rows(),
            steps: steps.collect(),
            installs,
            most_installs: MAX_INSTALLS,
            ask: None,
            spec: format!("{}@{}", explanation.name, explanation.version),
        }
    }
}
