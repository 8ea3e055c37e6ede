//! Access checks for `/-/coldframe/`: which client may request which page, and the body limit.

use std::borrow::Cow;
use std::fmt::Display;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderMap, HeaderName, ORIGIN, USER_AGENT};
use http::request::Parts;

use crate::firewall::Client;
use crate::net::headers::list;
use crate::net::{Reservation, body};
use crate::policy::Role;
use crate::server::auth::authenticator::Authenticator;
use crate::server::auth::presented::Presented;
use crate::server::auth::tokens::AdminTokens;
use crate::server::client::{ClientResolver, Peer};
use crate::server::config::Config;
use crate::server::error::RequestError;
use crate::upstream::Authorization;

/// Pages for health probes, which send no credentials.
const PUBLIC_PAGES: [&str; 2] = ["healthz", "readyz"];

/// The pages that `explain-access` may open to all clients.
const EXPLAIN_PAGES: [&str; 3] = ["check", "explain", "client-config"];

/// The pages of requests for approvals, and what decides on one.
const REQUEST_PAGE: &str = "requests";
const DECIDING_ACTIONS: [&str; 2] = ["approve", "decline"];

pub(crate) const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// The largest request body. A request for 500 versions with all lockfile data uses a tenth of it.
const MAX_BODY_BYTES: u64 = 2 << 20;

/// The largest body of a page for requests: texts of a few hundred bytes.
const MAX_REQUEST_BODY_BYTES: u64 = 16 << 10;

/// What a page requires of a client.
struct PageAccess {
    role: Role,
    /// Whether the ledger records who changed something, so that a token must say it.
    needs_identity: bool,
    max_body_bytes: u64,
}

impl PageAccess {
    fn of(page: &str, method: &Method) -> Self {
        let mut segments = page.split('/').filter(|segment| !segment.is_empty());
        let (first, action) = (segments.next().unwrap_or_default(), segments.nth(1));
        if first != REQUEST_PAGE {
            let role = if EXPLAIN_PAGES.contains(&first) { Role::Client } else { Role::Admin };
            return Self { role, needs_identity: false, max_body_bytes: MAX_BODY_BYTES };
        }
        let decides = action.is_some_and(|action| DECIDING_ACTIONS.contains(&action));
        Self {
            role: if decides { Role::Approver } else { Role::Requester },
            needs_identity: !matches!(*method, Method::GET | Method::HEAD),
            max_body_bytes: MAX_REQUEST_BODY_BYTES,
        }
    }
}

#[derive(Default)]
pub(crate) struct AdminRequest {
    pub(crate) method: Method,
    /// The decoded path below `/-/coldframe/`.
    pub(crate) page: String,
    pub(crate) query: Option<String>,
    pub(crate) accept: Option<String>,
    pub(crate) agent: String,
    /// The client, or `None` on public pages.
    pub(crate) client: Option<Client>,
    pub(crate) body: Bytes,
}

pub(crate) struct UncheckedRequest<B> {
    pub(crate) peer: Peer,
    pub(crate) head: Parts,
    pub(crate) page: String,
    pub(crate) body: B,
    /// Whether it arrived at a loopback listener.
    pub(crate) on_loopback: bool,
    /// The credential in `Authorization`, which is removed from `head` if it is an access token.
    pub(crate) presented: Presented,
}

/// What opens admin pages.
pub(crate) struct AdminCredentials<'a> {
    /// The tokens of `admin-token-file`, if it is set.
    pub(crate) tokens: Option<Arc<AdminTokens>>,
    /// Access tokens, except in the gateway of a session.
    pub(crate) auth: Option<&'a Authenticator>,
}

/// Checks a request. Health probes always pass. A body is read only after the check.
pub(crate) async fn authorize<B: http_body::Body<Data = Bytes, Error: Display> + Send>(
    credentials: AdminCredentials<'_>,
    resolver: &ClientResolver,
    config: &Config,
    unchecked: UncheckedRequest<B>,
    share: &mut Reservation,
) -> Result<AdminRequest, RequestError> {
    let UncheckedRequest { peer, head, page, body, on_loopback, presented } = unchecked;
    let query = head.uri.query().map(str::to_owned);
    if PUBLIC_PAGES.contains(&page.as_str()) {
        return Ok(AdminRequest { method: head.method, page, query, ..AdminRequest::default() });
    }
    refuse_other_sites(&head)?;
    let explains = page.split('/').next().is_some_and(|first| EXPLAIN_PAGES.contains(&first));
    let access = PageAccess::of(&page, &head.method);
    let client = match with_token(credentials.auth, resolver, (&peer, &head, presented), access.role)? {
        Some(client) => client,
        None if access.role == Role::Client && is_certified(resolver, &peer, &head) => {
            resolver.resolve(&peer, &head).map_err(RequestError::Headers)?
        }
        None => match operator(credentials.tokens, resolver, &peer, &head).await {
            // The token must not be sent upstream. An authenticated admin may use the configured credentials.
            Ok(operator) => Client { authorization: Authorization::Lent, ..operator },
            // Under DNS rebinding the `Host` header is not ours, so such a page gets no access.
            Err(error) => match (resolver.admin_client(&peer, &head), credentials.auth.filter(|auth| auth.is_required())) {
                (Some((client, _)), Some(auth)) => return Err(auth.missing(&client.base)),
                (Some((client, is_local)), None) if (explains && config.explains_to_all) || (is_local && on_loopback) => client,
                _ => return Err(error),
            },
        },
    };
    if access.needs_identity && client.identity.is_none() {
        return Err(RequestError::IdentityRequired);
    }
    let body = if head.method == Method::POST {
        body::collect_into(body, config.body_limit.min(access.max_body_bytes), config.body_timeout, share).await?
    } else {
        Bytes::new()
    };
    let agent = head.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default().to_owned();
    let accept = list(&head.headers, &ACCEPT).map(Cow::into_owned);
    Ok(AdminRequest { method: head.method, page, query, accept, agent, client: Some(client), body })
}

/// Returns the client of a request with an access token, or `None` if it has none. Fails if the token is invalid, or if its role is
/// below `needed`.
pub(crate) fn with_token(
    auth: Option<&Authenticator>,
    resolver: &ClientResolver,
    (peer, head, presented): (&Peer, &Parts, Presented),
    needed: Role,
) -> Result<Option<Client>, RequestError> {
    let Some(auth) = auth.filter(|_| matches!(presented, Presented::Token(_))) else { return Ok(None) };
    let client = resolver.resolve(peer, head).map_err(RequestError::Headers)?;
    let Some(identity) = auth.authenticate(client.address, presented)? else { return Ok(None) };
    if identity.role < needed {
        return Err(RequestError::RoleTooLow { needed: needed.as_str(), role: identity.role.as_str() });
    }
    Ok(Some(Client { identity: Some(identity), authorization: Authorization::Lent, ..client }))
}

/// Checks whether the connection of a request has the identity of a client certificate.
fn is_certified(resolver: &ClientResolver, peer: &Peer, head: &Parts) -> bool {
    peer.identity.is_some() && resolver.resolve(peer, head).is_ok_and(|client| client.identity.is_some())
}

/// Returns the client of a request with a token of `admin-token-file`.
pub(crate) async fn operator(
    tokens: Option<Arc<AdminTokens>>,
    resolver: &ClientResolver,
    peer: &Peer,
    head: &Parts,
) -> Result<Client, RequestError> {
    match tokens {
        None => Err(RequestError::AdminDisabled),
        Some(tokens) if !tokens.authenticate(&head.headers).await => Err(RequestError::AdminTokenRequired),
        Some(_) => resolver.resolve(peer, head).map_err(RequestError::Headers),
    }
}

/// Rejects requests that a page of another site made a browser send. They would run with the rights of that machine.
pub(crate) fn refuse_other_sites(head: &Parts) -> Result<(), RequestError> {
    let word = |name: &HeaderName| head.headers.get(name).map(|value| value.to_str().unwrap_or("?").trim().to_ascii_lowercase());
    let reads = matches!(head.method, Method::GET | Method::HEAD);
    // A link to an explanation may be followed from any site: the page is displayed, and the other site cannot read it.
    let is_followed_link =
        reads && word(&SEC_FETCH_MODE).as_deref() == Some("navigate") && word(&SEC_FETCH_DEST).as_deref() == Some("document");
    let is_own = word(&SEC_FETCH_SITE).is_none_or(|site| site == "same-origin" || site == "none");
    if !is_own && !is_followed_link {
        return Err(RequestError::CrossSite("`sec-fetch-site` names another site"));
    }
    if word(&ORIGIN).is_some_and(|origin| !is_same_host(&origin, head)) {
        return Err(RequestError::CrossSite("`origin` names another site"));
    }
    // A form of another site can send three types without a preflight. Programs may omit the type; browsers then send `Origin`.
    if head.method == Method::POST && head.headers.contains_key(CONTENT_TYPE) && !is_json(&head.headers) {
        return Err(RequestError::CrossSite("`content-type` is not `application/json`"));
    }
    Ok(())
}

/// Checks whether an origin (`https://coldframe.example:4873`) is the requested host. Behind a proxy, the scheme may differ.
pub(crate) fn is_same_host(origin: &str, head: &Parts) -> bool {
    let requested = requested_host(head);
    let Some((scheme, host)) = origin.split_once("://") else { return false };
    let usual = if scheme == "https" { ":443" } else { ":80" };
    let plain = |host: &str| host.trim_end_matches(usual).to_ascii_lowercase();
    requested.is_some_and(|requested| plain(requested) == plain(host))
}

/// Returns the host that a request names, with its port.
pub(crate) fn requested_host(head: &Parts) -> Option<&str> {
    head.uri.authority().map(http::uri::Authority::as_str).or_else(|| head.headers.get(HOST)?.to_str().ok())
}

fn is_json(headers: &HeaderMap) -> bool {
    let written = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    written.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_accepted(method: &str, headers: &[(&str, &str)]) -> bool {
        let request = http::Request::builder().method(method).uri("/-/coldframe/check").header("host", "127.0.0.1:4873");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        refuse_other_sites(&request.body(()).unwrap().into_parts().0).is_ok()
    }

    #[test]
    fn requests_need_a_role_by_what_is_done_and_changes_an_identity() {
        let access = |method: Method, page: &str| {
            let access = PageAccess::of(page, &method);
            (access.role, access.needs_identity)
        };
        assert_eq!(access(Method::GET, "requests"), (Role::Requester, false));
        assert_eq!(access(Method::GET, "requests/7"), (Role::Requester, false));
        assert_eq!(access(Method::POST, "requests"), (Role::Requester, true));
        assert_eq!(access(Method::POST, "requests/7/withdraw"), (Role::Requester, true));
        for page in ["requests/7/approve", "requests/7/decline", "/requests//7//approve/", "requests/7/approve/x"] {
            assert_eq!(access(Method::POST, page), (Role::Approver, true), "{page}");
        }
        assert_eq!(access(Method::GET, "explain/axios"), (Role::Client, false));
        assert_eq!(access(Method::GET, "explain/requests"), (Role::Client, false));
        assert_eq!((access(Method::GET, "metrics"), access(Method::GET, "")), ((Role::Admin, false), (Role::Admin, false)));
    }

    #[test]
    fn cross_site_request_is_refused() {
        const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");
        assert!(is_accepted("POST", &[JSON]) && is_accepted("POST", &[]) && is_accepted("GET", &[]));
        assert!(is_accepted("POST", &[JSON, ("sec-fetch-site", "same-origin"), ("origin", "http://127.0.0.1:4873")]));
        for headers in [
            &[JSON, ("sec-fetch-site", "cross-site")][..],
            &[JSON, ("sec-fetch-site", "same-site")],
            &[JSON, ("sec-fetch-site", "")],
            &[JSON, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")],
            &[JSON, ("origin", "https://evil.example")],
            &[JSON, ("origin", "null")],
            &[JSON, ("origin", "http://127.0.0.1:4874")],
            &[("content-type", "text/plain")],
            &[("content-type", "application/x-www-form-urlencoded")],
            &[("content-type", "text/plain; application/json")],
        ] {
            assert!(!is_accepted("POST", headers), "{headers:?}");
        }
        let link = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        assert!(is_accepted("GET", &[link[0], link[1], ("sec-fetch-dest", "document")]));
        assert!(!is_accepted("GET", &[link[0], link[1], ("sec-fetch-dest", "iframe")]) && !is_accepted("GET", &link[..1]));
        assert!(is_accepted("GET", &[("sec-fetch-site", "none")]) && !is_accepted("GET", &[("origin", "https://evil.example")]));
    }
}
