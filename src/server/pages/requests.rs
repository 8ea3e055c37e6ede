//! Requests for approvals: asking on a version's page, the list, and deciding with the digests that the page showed.

use std::fmt::Display;

use askama::Template;
use bytes::Bytes;
use http::{Response, StatusCode};

use crate::firewall::requests::ApprovalRequests;
use crate::firewall::requests::view::{RequestDetails, RequestView, StepView};
use crate::net::Reservation;
use crate::policy::Role;
use crate::policy::requests::Actor;
use crate::server::admin::access::UncheckedRequest;
use crate::server::admin::requests::{self, AskBody, DecisionBody, RequestAction};
use crate::server::error::RequestError;
use crate::server::pages::access::{PageGate, SentForm, Viewer};
use crate::server::pages::frame::{Frame, escaped};
use crate::server::pages::list::{Cell, ListPage, ListTable};
use crate::server::pages::page::Page;
use crate::server::pages::render::render;
use crate::server::pages::request::PageRequest;
use crate::server::pages::sign_in::read_form;
use crate::server::pages::state::Pages;
use crate::server::response::see_other;
use crate::units::timestamp;
use crate::vetting::manifest_changes::ManifestChange;

const TITLE: &str = "Requests";

const NOT_SIGNED_IN: &str = "Sign in with a token of yours to ask or to decide.";

/// A button of a request.
struct RequestForm {
    action: &'static str,
    title: &'static str,
}

#[derive(Template)]
#[template(path = "request.html")]
struct RequestPage {
    frame: Frame,
    id: i64,
    state: String,
    version_path: String,
    rows: Vec<(&'static str, String)>,
    changes: Vec<String>,
    forms: Vec<RequestForm>,
    form_token: String,
    digests: String,
    records: Vec<String>,
    steps: Vec<String>,
    explanation: Option<String>,
}

impl Pages {
    /// Lists the open requests, or those that the query selects.
    pub(super) async fn request_list(&self, request: PageRequest<'_>) -> Response<Bytes> {
        let frame = request.frame.titled(TITLE);
        let Some(requests) = self.admin.requests().filter(|_| request.viewer.role >= Role::Requester) else {
            return frame.message(StatusCode::FORBIDDEN, TITLE, "Requests need the role `requester`, `approver` or `admin`.");
        };
        let found = match requests::list(requests, &request.viewer.client, request.query).await {
            Ok(found) => found.requests,
            Err(error) => return frame.message(StatusCode::BAD_REQUEST, TITLE, &error.text()),
        };
        let row = |view: RequestView| {
            let (asker, reason) =
                view.askers.first().map(|asker| (asker.by.person.clone(), asker.reason.clone())).unwrap_or_default();
            let link = Cell { link: Some(format!("requests/{}", view.id)), ..Cell::text(view.id.to_string()) };
            let version = Cell::version(&view.package, &view.version);
            let others = view.askers.len().saturating_sub(1);
            let by = if others == 0 { asker } else { format!("{asker} and {others} more") };
            vec![link, Cell::text(view.state), Cell::package(&view.package), version, Cell::text(by), Cell::text(reason)]
        };
        let table = ListTable {
            caption: "Requests, newest first".to_owned(),
            columns: &["Number", "State", "Package", "Version", "Asked by", "Reason"],
            rows: found.into_iter().map(row).collect(),
            empty: "No request is open.",
        };
        ListPage::new(frame, vec![table]).response()
    }

    /// Shows a request with everything that an approver needs.
    pub(super) async fn request_page(&self, request: PageRequest<'_>, id: i64) -> Response<Bytes> {
        let viewer = request.viewer;
        let frame = request.frame.titled(format!("Request {id}"));
        let Some(requests) = self.admin.requests().filter(|_| viewer.role >= Role::Requester) else {
            return frame.message(StatusCode::FORBIDDEN, TITLE, "Requests need the role `requester`, `approver` or `admin`.");
        };
        match requests::details(requests, &viewer.client, id).await {
            Ok(details) => {
                let token = viewer.session.as_ref().map(|session| self.sessions.form_token(session));
                render(StatusCode::OK, &RequestPage::new(frame, details, viewer, token))
            }
            Err(error) => frame.message(StatusCode::NOT_FOUND, TITLE, &error.text()),
        }
    }

    /// Asks, or decides, in the name of the person whose session sent the form.
    pub(super) async fn change_request<B: http_body::Body<Data = Bytes, Error: Display> + Send>(
        &self,
        page: Page,
        gate: &PageGate<'_>,
        unchecked: UncheckedRequest<B>,
        share: &mut Reservation,
    ) -> Response<Bytes> {
        let frame = Frame::new(&unchecked.head, &unchecked.page);
        let (form, viewer) = match self.signed_form(gate, unchecked, share).await {
            Ok(read) => read,
            Err(error) => return frame.refusal(&error),
        };
        let identity = viewer.client.identity.clone();
        let (Some(requests), Some(identity)) = (self.admin.requests(), identity) else {
            return frame.message(StatusCode::FORBIDDEN, TITLE, NOT_SIGNED_IN);
        };
        let by = Actor::of(&identity, requests.now());
        let changed = match page {
            Page::RequestAction(id, action) => decide(requests, &viewer, by, (id, action), &form).await,
            _ => ask(requests, &viewer, by, &form).await,
        };
        let root = frame.root.clone();
        match changed {
            Ok(id) => see_other(&format!("{root}requests/{id}")),
            Err((status, text)) => frame.message(status, TITLE, &text),
        }
    }

    /// Returns a form and the viewer whose session sent it.
    async fn signed_form<B: http_body::Body<Data = Bytes, Error: Display> + Send>(
        &self,
        gate: &PageGate<'_>,
        unchecked: UncheckedRequest<B>,
        share: &mut Reservation,
    ) -> Result<(SentForm, Viewer), RequestError> {
        let not_ours = || RequestError::CrossSite("sign in, open the page again, and send its form");
        let transport = gate.transport(&unchecked.peer, &unchecked.head).ok_or_else(not_ours)?;
        let (form, unchecked) = read_form(gate, unchecked, transport, share).await?;
        let viewer = self.identify(gate, &unchecked).await?.ok_or_else(not_ours)?;
        let session = viewer.session.as_ref().ok_or_else(not_ours)?;
        if !self.sessions.is_form_token(session, &form.field("form")) {
            return Err(not_ours());
        }
        Ok((form, viewer))
    }
}

async fn ask(requests: &ApprovalRequests, viewer: &Viewer, by: Actor, form: &SentForm) -> Result<i64, (StatusCode, String)> {
    need(viewer, Role::Requester)?;
    let optional = |name: &str| Some(form.field(name)).filter(|text| !text.trim().is_empty());
    let body =
        AskBody { spec: form.field("spec"), reason: form.field("reason"), project: optional("project"), lasts: optional("for") };
    let asked = requests::ask_for(requests, &viewer.client, by, body).await;
    asked.map(|changed| changed.request.id).map_err(|error| (StatusCode::CONFLICT, error.text()))
}

async fn decide(
    requests: &ApprovalRequests,
    viewer: &Viewer,
    by: Actor,
    (id, action): (i64, RequestAction),
    form: &SentForm,
) -> Result<i64, (StatusCode, String)> {
    need(viewer, if action == RequestAction::Withdraw { Role::Requester } else { Role::Approver })?;
    let optional = |name: &str| Some(form.field(name)).filter(|text| !text.trim().is_empty());
    let body = DecisionBody {
        reason: optional("reason"),
        digests: optional("digests"),
        records: form.fields("record"),
        lasts: optional("for"),
    };
    let changed = requests::change(requests, (&viewer.client, by), id, (action, body)).await;
    changed.map(|changed| changed.request.id).map_err(|error| (StatusCode::CONFLICT, error.text()))
}

fn need(viewer: &Viewer, needed: Role) -> Result<(), (StatusCode, String)> {
    let text = || format!("This needs the role `{}`.", needed.as_str());
    if viewer.role >= needed { Ok(()) } else { Err((StatusCode::FORBIDDEN, text())) }
}

fn change_text(change: &ManifestChange) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
    format!("{} {}: {} became {}", change.member, change.name, text(&change.old), text(&change.new))
}

impl RequestPage {
    fn new(frame: Frame, details: RequestDetails, viewer: &Viewer, form_token: Option<String>) -> Self {
        let RequestDetails { request, current, text, owners, changes, .. } = details;
        let mut rows = vec![
            ("package", request.package.clone()),
            ("version", request.version.clone()),
            ("digests", request.digests.clone()),
        ];
        for asker in &request.askers {
            let project = asker.project.as_ref().map(|project| format!(", for {project}")).unwrap_or_default();
            rows.push((
                "asked by",
                format!("{} ({}){project}: {}", asker.by.person, timestamp::format_utc(asker.by.at), asker.reason),
            ));
        }
        for owner in &owners {
            rows.push(("owners", owner.people.join(", ")));
        }
        let opens = current.as_ref().and_then(|current| current.opens);
        rows.extend(opens.map(|opens| ("opens", timestamp::format_utc_ceil(opens))));
        let person = viewer.client.identity.as_ref().map(|identity| identity.principal.name());
        let is_asker = request.askers.iter().any(|asker| Some(&*asker.by.person) == person);
        let forms = [
            (viewer.role >= Role::Approver, "approve", "Approve"),
            (viewer.role >= Role::Approver, "decline", "Decline"),
            (is_asker, "withdraw", "Withdraw"),
        ];
        let is_open = current.is_some() && form_token.is_some();
        let forms = forms.into_iter().filter(|(is_possible, ..)| is_open && *is_possible);
        let step = |step: &StepView| {
            let detail = if step.detail.is_empty() { String::new() } else { format!(": {}", step.detail) };
            format!("{}, {} by {}{detail}", timestamp::format_utc(step.by.at), step.step, step.by.person)
        };
        let comparison = changes.map(|comparison| (comparison.with, comparison.changes)).unwrap_or_default();
        Self {
            id: request.id,
            state: format!("{}@{}: {}", request.package, request.version, request.state),
            version_path: format!("explain/{}@{}", request.package, escaped(&request.version)),
            rows,
            changes: comparison.1.iter().map(|change| format!("since {}: {}", comparison.0, change_text(change))).collect(),
            forms: forms.map(|(_, action, title)| RequestForm { action, title }).collect(),
            form_token: form_token.unwrap_or_default(),
            digests: current.as_ref().map(|current| current.digests.clone()).unwrap_or_default(),
            records: current.map(|current| current.records).unwrap_or_default(),
            steps: request.steps.iter().map(step).collect(),
            explanation: text,
            frame,
        }
    }
}
