//! Who views a page: by an access token, an admin token, a session, or as a client of this machine.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, ORIGIN};
use http::request::Parts;

use crate::firewall::{Client, Profile};
use crate::net::Scheme;
use crate::net::headers::split_host;
use crate::policy::Role;
use crate::server::admin::access::{
    AdminCredentials, SEC_FETCH_SITE, UncheckedRequest, is_same_host, operator, requested_host, with_token,
};
use crate::server::auth::sessions::{BrowserSession, SessionSubject, Transport};
use crate::server::client::{ClientResolver, Peer, is_loopback_host};
use crate::server::config::Config;
use crate::server::error::RequestError;
use crate::server::pages::state::Pages;
use crate::upstream::Authorization;

/// What decides who may see a page.
pub(crate) struct PageGate<'a> {
    pub(crate) credentials: AdminCredentials<'a>,
    pub(crate) resolver: &'a ClientResolver,
    pub(crate) config: &'a Config,
    pub(crate) profile: Profile,
}

/// Who views a page.
pub(super) struct Viewer {
    pub(super) client: Client,
    pub(super) role: Role,
    pub(super) subject: String,
    pub(super) session: Option<BrowserSession>,
}

impl PageGate<'_> {
    /// Returns how browsers reach this server, or `None` if their cookies would cross the network in plain text.
    pub(super) fn transport(&self, peer: &Peer, head: &Parts) -> Option<Transport> {
        let (client, is_local) = self.resolver.admin_client(peer, head)?;
        let host = requested_host(head).map(|host| split_host(host).0.to_ascii_lowercase());
        if is_local && peer.scheme == Scheme::Http && host.is_some_and(|host| is_loopback_host(&host)) {
            return Some(Transport::LoopbackHttp);
        }
        client.base.text.starts_with("https://").then_some(Transport::Https)
    }
}

impl Pages {
    /// Returns who sends a request; `None` if that is not known and the page is not open to all clients.
    pub(super) async fn identify<B>(
        &self,
        gate: &PageGate<'_>,
        unchecked: &UncheckedRequest<B>,
    ) -> Result<Option<Viewer>, RequestError> {
        let UncheckedRequest { peer, head, on_loopback, presented, .. } = unchecked;
        let with_profile = |client: Client| Client { profile: gate.profile, ..client };
        if let Some(client) = with_token(Some(&self.auth), gate.resolver, (peer, head, *presented), Role::Client)? {
            let identity = client.identity.clone();
            let (role, subject) = identity.map_or((Role::Client, String::new()), |of| (of.role, of.subject.to_string()));
            return Ok(Some(Viewer { client: with_profile(client), role, subject, session: None }));
        }
        if head.headers.contains_key(AUTHORIZATION)
            && let Ok(client) = operator(gate.credentials.tokens.clone(), gate.resolver, peer, head).await
        {
            return Ok(Some(Viewer::operator(with_profile(client), None)));
        }
        if let Some(viewer) = self.of_session(gate, peer, head).await? {
            return Ok(Some(Viewer { client: with_profile(viewer.client), ..viewer }));
        }
        if self.auth.is_required() {
            return Ok(None);
        }
        let Some((client, is_local)) = gate.resolver.admin_client(peer, head) else { return Ok(None) };
        let role = match (is_local && *on_loopback, gate.config.explains_to_all) {
            (true, _) => Role::Admin,
            (false, true) => Role::Client,
            (false, false) => return Ok(None),
        };
        let subject = if role == Role::Admin { "this machine" } else { "not signed in" }.to_owned();
        Ok(Some(Viewer { client: with_profile(client), role, subject, session: None }))
    }

    /// Returns the viewer of a session. The token that began it is looked up again.
    async fn of_session(&self, gate: &PageGate<'_>, peer: &Peer, head: &Parts) -> Result<Option<Viewer>, RequestError> {
        let Some(session) = self.session(gate, peer, head) else { return Ok(None) };
        let client = gate.resolver.resolve(peer, head).map_err(RequestError::Headers)?;
        let client = Client { authorization: Authorization::Lent, ..client };
        match &session.subject {
            SessionSubject::Token(id) => Ok(self.auth.identity_of(*id).ok().map(|identity| Viewer {
                role: identity.role,
                subject: identity.subject.to_string(),
                client: Client { identity: Some(identity), ..client },
                session: Some(session),
            })),
            SessionSubject::AdminToken(signature) => {
                let Some(tokens) = &gate.credentials.tokens else { return Ok(None) };
                let is_valid = tokens.read().await.iter().any(|known| self.sessions.is_admin_token(known.as_bytes(), signature));
                Ok(is_valid.then(|| Viewer::operator(client, Some(session))))
            }
        }
    }

    /// Returns the session of a request, whose token may have ended.
    pub(super) fn session(&self, gate: &PageGate<'_>, peer: &Peer, head: &Parts) -> Option<BrowserSession> {
        self.sessions.find(&head.headers, gate.transport(peer, head)?)
    }
}

impl Viewer {
    /// Checks whether the viewer may see pages about all packages. A token with a scope does not open them.
    pub(super) fn sees_all_packages(&self) -> bool {
        let is_limited = self.client.identity.as_ref().is_some_and(|identity| !identity.scope.is_unlimited());
        self.role >= Role::Approver && !is_limited
    }

    /// Returns the viewer with a token of `admin-token-file`.
    fn operator(client: Client, session: Option<BrowserSession>) -> Self {
        let client = Client { authorization: Authorization::Lent, ..client };
        Self { client, role: Role::Admin, subject: "admin token".to_owned(), session }
    }
}

/// Checks that a form was sent by a page of ours. Every browser states the origin, or the site, of what sends a form.
pub(super) fn check_form_origin(head: &Parts, transport: Transport) -> Result<(), RequestError> {
    let text =
        |name: &http::HeaderName| head.headers.get(name).map(|value| value.to_str().unwrap_or("?").trim().to_ascii_lowercase());
    let (site, origin) = (text(&SEC_FETCH_SITE), text(&ORIGIN));
    if site.as_deref().is_some_and(|site| site != "same-origin") {
        return Err(RequestError::CrossSite("`sec-fetch-site` names another site"));
    }
    let has_scheme = |origin: &str| transport == Transport::LoopbackHttp || origin.starts_with("https://");
    match origin {
        Some(origin) if !is_same_host(&origin, head) => return Err(RequestError::CrossSite("`origin` names another site")),
        Some(origin) if !has_scheme(&origin) => return Err(RequestError::CrossSite("the form was sent without HTTPS")),
        None if site.is_none() => return Err(RequestError::CrossSite("neither `origin` nor `sec-fetch-site` is present")),
        _ => {}
    }
    let form = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if form.split(';').next().unwrap_or_default().trim() != "application/x-www-form-urlencoded" {
        return Err(RequestError::CrossSite("`content-type` is not that of a form"));
    }
    Ok(())
}

/// The fields of a sent form.
pub(super) struct SentForm(Bytes);

impl SentForm {
    pub(super) fn new(body: Bytes) -> Self {
        Self(body)
    }

    /// Returns all values of a field.
    pub(super) fn fields(&self, name: &str) -> Vec<String> {
        let pairs = url::form_urlencoded::parse(&self.0);
        pairs.filter(|(known, _)| known == name).map(|(_, value)| value.into_owned()).collect()
    }

    /// Returns the first value of a field; empty if it is missing.
    pub(super) fn field(&self, name: &str) -> String {
        let mut pairs = url::form_urlencoded::parse(&self.0);
        pairs.find(|(known, _)| known == name).map(|(_, value)| value.into_owned()).unwrap_or_default()
    }
}
