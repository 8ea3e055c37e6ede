//! Signing in at an OIDC provider: the redirect to it, and its reply.

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use url::form_urlencoded;

use crate::server::admin::access::{UncheckedRequest, refuse_other_sites};
use crate::server::auth::oidc::{OidcSignIn, ProviderReply};
use crate::server::auth::sessions::{BrowserSessions, PendingSignIn, SessionSubject, Transport};
use crate::server::error::RequestError;
use crate::server::pages::access::PageGate;
use crate::server::pages::frame::Frame;
use crate::server::pages::page::Page;
use crate::server::pages::sign_in::{PLAIN_HTTP, is_own_path, no_randomness};
use crate::server::pages::state::Pages;
use crate::server::response::{see_other, with_cookie};
use crate::text::ascii_line;

const TITLE: &str = "Sign in";

/// The longest text of a provider that a page repeats.
const MAX_REASON_BYTES: usize = 200;

const NOT_BEGUN: &str = "This sign-in was not begun in this browser, or it took more than ten minutes. Try again.";

impl Pages {
    /// Begins a sign-in at the provider, or ends one with its reply.
    pub(super) async fn at_provider<B>(
        &self,
        page: Page,
        gate: &PageGate<'_>,
        unchecked: &UncheckedRequest<B>,
        frame: Frame,
    ) -> Response<Bytes> {
        let Some(oidc) = &self.oidc else {
            return frame.message(StatusCode::NOT_FOUND, TITLE, "No sign-in provider is configured.");
        };
        let Some(transport) = gate.transport(&unchecked.peer, &unchecked.head) else {
            return frame.message(StatusCode::FORBIDDEN, TITLE, PLAIN_HTTP);
        };
        match page {
            Page::ProviderReply => self.provider_reply((oidc, transport), gate, unchecked, frame).await,
            _ => self.start_at_provider((oidc, transport), gate, unchecked, frame).await,
        }
    }

    /// Redirects to the provider.
    async fn start_at_provider<B>(
        &self,
        (oidc, transport): (&OidcSignIn, Transport),
        gate: &PageGate<'_>,
        unchecked: &UncheckedRequest<B>,
        frame: Frame,
    ) -> Response<Bytes> {
        if let Err(error) = refuse_other_sites(&unchecked.head) {
            return frame.refusal(&error);
        }
        let redirect = match reply_address(gate, unchecked) {
            Ok(redirect) => redirect,
            Err(error) => return frame.refusal(&error),
        };
        let next = Some(parameter(&unchecked.head, "next")).filter(|next| is_own_path(next)).unwrap_or_default();
        let Ok((pending, cookie)) = self.sessions.begin_at_provider(next, transport) else { return no_randomness(frame) };
        match oidc.start(&pending, &redirect).await {
            Ok(url) => with_cookie(see_other(url.as_str()), &cookie),
            Err(error) => frame.refusal(&error),
        }
    }

    /// Begins a session for the person that the provider sends back.
    async fn provider_reply<B>(
        &self,
        (oidc, transport): (&OidcSignIn, Transport),
        gate: &PageGate<'_>,
        unchecked: &UncheckedRequest<B>,
        frame: Frame,
    ) -> Response<Bytes> {
        let headers = &unchecked.head.headers;
        let Some(pending) = self.sessions.find_at_provider(headers, transport, &parameter(&unchecked.head, "state")) else {
            return frame.message(StatusCode::FORBIDDEN, TITLE, NOT_BEGUN);
        };
        let next = pending.next.clone();
        let ended = BrowserSessions::end_at_provider(transport);
        match self.signed_in(oidc, gate, unchecked, pending).await {
            Ok(id) => {
                let Ok(cookie) = self.sessions.replace(headers, SessionSubject::Token(id), transport) else {
                    return no_randomness(frame);
                };
                let root = frame.root.clone();
                with_cookie(with_cookie(frame.continued(&format!("{root}{next}")), &cookie), &ended)
            }
            Err(SignInError::Provider(reason)) => with_cookie(
                frame.message(StatusCode::FORBIDDEN, TITLE, &format!("The provider refused the sign-in: {reason}")),
                &ended,
            ),
            Err(SignInError::Request(error)) => with_cookie(frame.refusal(&error), &ended),
        }
    }

    async fn signed_in<B>(
        &self,
        oidc: &OidcSignIn,
        gate: &PageGate<'_>,
        unchecked: &UncheckedRequest<B>,
        pending: PendingSignIn,
    ) -> Result<i64, SignInError> {
        let problem = parameter(&unchecked.head, "error");
        if !problem.is_empty() {
            return Err(SignInError::Provider(ascii_line(&problem, MAX_REASON_BYTES)));
        }
        let client = gate.resolver.resolve(&unchecked.peer, &unchecked.head).map_err(RequestError::Headers)?;
        let redirect = reply_address(gate, unchecked)?;
        let reply = ProviderReply { code: parameter(&unchecked.head, "code"), redirect, pending };
        Ok(oidc.finish(client.address, &reply).await?)
    }
}

enum SignInError {
    /// The provider's own reason.
    Provider(String),
    Request(RequestError),
}

impl From<RequestError> for SignInError {
    fn from(error: RequestError) -> Self {
        Self::Request(error)
    }
}

/// Returns the address that the provider sends people back to. The provider accepts only those that are registered there.
fn reply_address<B>(gate: &PageGate<'_>, unchecked: &UncheckedRequest<B>) -> Result<String, RequestError> {
    let client = gate.resolver.resolve(&unchecked.peer, &unchecked.head).map_err(RequestError::Headers)?;
    Ok(format!("{}/-/coldframe/sign-in/reply", client.base.text))
}

/// Returns a parameter of the query; empty if it is missing.
fn parameter(head: &Parts, name: &str) -> String {
    let query = head.uri.query().unwrap_or_default();
    let found = form_urlencoded::parse(query.as_bytes()).find(|(known, _)| known == name);
    found.map(|(_, value)| value.into_owned()).unwrap_or_default()
}
