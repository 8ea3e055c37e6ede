//! Signing in with a token, and signing out.

use std::fmt::Display;

use askama::Template;
use aws_lc_rs::error::Unspecified;
use bytes::Bytes;
use http::{Response, StatusCode};

use crate::net::{Reservation, body};
use crate::server::admin::access::UncheckedRequest;
use crate::server::auth::oidc::OidcSignIn;
use crate::server::auth::presented::Presented;
use crate::server::auth::sessions::{SessionSubject, Transport};
use crate::server::error::RequestError;
use crate::server::pages::access::{PageGate, SentForm, check_form_origin};
use crate::server::pages::frame::Frame;
use crate::server::pages::page::Page;
use crate::server::pages::render::render;
use crate::server::pages::state::Pages;
use crate::server::response::{error_status, see_other, with_cookie};

/// The largest form.
const MAX_FORM_BYTES: u64 = 8 << 10;

/// The longest address to return to.
const MAX_NEXT_BYTES: usize = 1_000;

pub(super) const PLAIN_HTTP: &str = "Signing in needs HTTPS, because a session would cross the network in plain text. Open this page over \
    HTTPS (set `public-url` to the address of the proxy in front of this server), or on the machine that the server runs on. The \
    setting `explain-access` can open explanations to clients that are not signed in.";

const TITLE: &str = "Sign in";

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage<'a> {
    frame: &'a Frame,
    problem: Option<String>,
    form: Option<SignInForm>,
}

struct SignInForm {
    form_token: String,
    next: String,
    /// The host of the sign-in provider.
    provider: Option<String>,
    /// The address to return to, escaped for a query.
    escaped_next: String,
}

impl Pages {
    /// Returns the sign-in page.
    pub(super) fn sign_in_page<B>(&self, gate: &PageGate<'_>, unchecked: &UncheckedRequest<B>, frame: &Frame) -> Response<Bytes> {
        let next = unchecked.head.uri.query().unwrap_or_default();
        let next =
            url::form_urlencoded::parse(next.as_bytes()).find(|(name, _)| name == "next").map(|(_, value)| value.into_owned());
        self.form(gate, unchecked, frame, (StatusCode::OK, next.unwrap_or_default(), None))
    }

    /// Returns the sign-in page instead of a page that needs a viewer.
    pub(super) fn sign_in_first<B>(
        &self,
        gate: &PageGate<'_>,
        unchecked: &UncheckedRequest<B>,
        frame: &Frame,
    ) -> Response<Bytes> {
        let raw = unchecked.head.uri.path().split_once("/-/coldframe/").map_or("", |(_, below)| below);
        let query = unchecked.head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let problem = "This page needs an access token of this server.".to_owned();
        self.form(gate, unchecked, frame, (StatusCode::UNAUTHORIZED, format!("{raw}{query}"), Some(problem)))
    }

    /// Returns the form, with the status, the address to return to, and the problem of an earlier attempt.
    fn form<B>(
        &self,
        gate: &PageGate<'_>,
        unchecked: &UncheckedRequest<B>,
        frame: &Frame,
        (status, next, problem): (StatusCode, String, Option<String>),
    ) -> Response<Bytes> {
        let frame = frame.titled_copy(TITLE);
        let Some(transport) = gate.transport(&unchecked.peer, &unchecked.head) else {
            let page = SignInPage { frame: &frame, problem: Some(PLAIN_HTTP.to_owned()), form: None };
            return render(StatusCode::FORBIDDEN, &page);
        };
        let Ok((form_token, cookie)) = self.sessions.sign_in_form(transport) else { return no_randomness(frame) };
        let next = if is_own_path(&next) { next } else { String::new() };
        let page = SignInPage { frame: &frame, problem, form: Some(SignInForm::new(form_token, next, self.oidc.as_ref())) };
        with_cookie(render(status, &page), &cookie)
    }

    /// Begins or ends a session by a form that one of our pages sent.
    pub(super) async fn change_session<B: http_body::Body<Data = Bytes, Error: Display> + Send>(
        &self,
        page: Page,
        gate: &PageGate<'_>,
        unchecked: UncheckedRequest<B>,
        share: &mut Reservation,
    ) -> Response<Bytes> {
        let frame = Frame::new(&unchecked.head, &unchecked.page);
        let Some(transport) = gate.transport(&unchecked.peer, &unchecked.head) else {
            return frame.message(StatusCode::FORBIDDEN, TITLE, PLAIN_HTTP);
        };
        match read_form(gate, unchecked, transport, share).await {
            Ok((form, unchecked)) if page == Page::SignOut => self.sign_out(&unchecked, transport, &form, frame),
            Ok((form, unchecked)) => self.sign_in(gate, &unchecked, (transport, &form), frame).await,
            Err(error) => frame.refusal(&error),
        }
    }

    /// Begins a session with the token of a form.
    async fn sign_in(
        &self,
        gate: &PageGate<'_>,
        unchecked: &UncheckedRequest<()>,
        (transport, form): (Transport, &SentForm),
        frame: Frame,
    ) -> Response<Bytes> {
        let headers = &unchecked.head.headers;
        let next = form.field("next");
        if !self.sessions.is_sign_in_form(headers, transport, &form.field("form")) {
            let problem = "The form has expired, or your browser keeps no cookies. Try again.".to_owned();
            return self.form(gate, unchecked, &frame, (StatusCode::FORBIDDEN, next, Some(problem)));
        }
        let subject = match self.subject(gate, unchecked, form.field("token").trim()).await {
            Ok(subject) => subject,
            Err(error) => {
                return self.form(gate, unchecked, &frame, (error_status(&error), next, Some(error.to_string())));
            }
        };
        let Ok(cookie) = self.sessions.replace(headers, subject, transport) else { return no_randomness(frame) };
        let next = if is_own_path(&next) { next } else { String::new() };
        with_cookie(see_other(&format!("./{next}")), &cookie)
    }

    /// Returns whom a token identifies. Wrong tokens count as guesses of the client.
    async fn subject<B>(
        &self,
        gate: &PageGate<'_>,
        unchecked: &UncheckedRequest<B>,
        token: &str,
    ) -> Result<SessionSubject, RequestError> {
        let client = gate.resolver.resolve(&unchecked.peer, &unchecked.head).map_err(RequestError::Headers)?;
        let presented = Presented::parse(&format!("Bearer {token}"));
        if let Some(tokens) = &gate.credentials.tokens
            && tokens.contains(token).await
        {
            tracing::info!(client.address = %client.address, "signed in with an admin token");
            return Ok(SessionSubject::AdminToken(self.sessions.sign_admin_token(token.as_bytes())));
        }
        match self.auth.authenticate(client.address, presented)? {
            Some(identity) => {
                tracing::info!(client.address = %client.address, client.user = &*identity.subject, "signed in with an access token");
                identity.token().map(SessionSubject::Token).ok_or(RequestError::TaskFailed)
            }
            None => Err(self.auth.refuse_unknown(client.address)),
        }
    }

    /// Ends the session of a form.
    fn sign_out(&self, unchecked: &UncheckedRequest<()>, transport: Transport, form: &SentForm, frame: Frame) -> Response<Bytes> {
        let Some(session) = self.sessions.find(&unchecked.head.headers, transport) else { return see_other("./") };
        if !self.sessions.is_form_token(&session, &form.field("form")) {
            return frame.message(
                StatusCode::FORBIDDEN,
                "Not signed out",
                "The form has expired. Go back, reload the page, and try again.",
            );
        }
        match self.sessions.end(&session, transport) {
            Ok(cookie) => with_cookie(see_other("./"), &cookie),
            Err(Unspecified) => no_randomness(frame),
        }
    }
}

impl SignInForm {
    fn new(form_token: String, next: String, oidc: Option<&OidcSignIn>) -> Self {
        let escaped_next = url::form_urlencoded::byte_serialize(next.as_bytes()).collect();
        Self { form_token, next, provider: oidc.map(OidcSignIn::host), escaped_next }
    }
}

/// Reads a form that one of our pages sent.
pub(super) async fn read_form<B: http_body::Body<Data = Bytes, Error: Display> + Send>(
    gate: &PageGate<'_>,
    unchecked: UncheckedRequest<B>,
    transport: Transport,
    share: &mut Reservation,
) -> Result<(SentForm, UncheckedRequest<()>), RequestError> {
    check_form_origin(&unchecked.head, transport)?;
    let UncheckedRequest { peer, head, page, body: sent, on_loopback, presented } = unchecked;
    let body = body::collect_into(sent, MAX_FORM_BYTES, gate.config.body_timeout, share).await?;
    Ok((SentForm::new(body), UncheckedRequest { peer, head, page, body: (), on_loopback, presented }))
}

/// Checks whether an address to return to is the relative path of a page. Anything else could lead to another site.
pub(super) fn is_own_path(next: &str) -> bool {
    let path = next.split('?').next().unwrap_or_default();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"@/._~%+-?=&".contains(&byte);
    let has_dots = path.split('/').any(|segment| segment.is_empty() || matches!(segment, "." | ".."));
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    next.len() <= MAX_NEXT_BYTES
        && next.bytes().all(is_plain)
        && !has_dots
        && Page::parse(&decoded).is_some_and(|page| {
            !matches!(
                page,
                Page::Stylesheet
                    | Page::SignIn
                    | Page::SignOut
                    | Page::ProviderStart
                    | Page::ProviderReply
                    | Page::RequestAction(..)
            )
        })
}

pub(super) fn no_randomness(frame: Frame) -> Response<Bytes> {
    tracing::error!("no random numbers for a session");
    frame.message(StatusCode::INTERNAL_SERVER_ERROR, TITLE, "The system has no random numbers. Try again later.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_pages_are_returned_to() {
        for own in ["explain/axios@1.14.1", "explain/@acme/ui@1.0.0-rc.1+b", "packages/@acme%2fui?from=100", "explain/a@1%3C2"] {
            assert!(is_own_path(own), "{own}");
        }
        // An escaped slash ends no segment of a path, so this is an invalid name of a package and no other path.
        assert!(is_own_path("explain/..%2f.."));
        for other in [
            "https://evil.example",
            "//evil.example",
            "/evil",
            "\\evil",
            "/\\evil",
            "explain/../..",
            "javascript:alert(1)",
            "explain//evil",
            "./explain/a",
            "explain/a\r\nx: y",
            "explain/\u{202e}",
            "sign-out",
            "sign-in",
            "style.css",
            "nothing",
            "a:b",
            &format!("explain/{}", "a".repeat(MAX_NEXT_BYTES)),
        ] {
            assert!(!is_own_path(other), "{other}");
        }
    }
}
