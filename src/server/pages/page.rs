//! The pages by their addresses.

use http::header::{ACCEPT, USER_AGENT};

use crate::net::headers::{best_media_type, list};
use crate::server::admin::access::UncheckedRequest;
use crate::server::admin::packages::prints_responses;

/// A page, by its path below `/-/coldframe/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Page {
    Stylesheet,
    SignIn,
    SignOut,
    Home,
    /// Redirects to the page of what a search form names.
    Find,
    /// The explanation of `name@spec`.
    Explain(String),
    /// All versions of a package.
    Package(String),
}

impl Page {
    pub(super) fn parse(path: &str) -> Option<Self> {
        Some(match path {
            "" => Self::Home,
            "style.css" => Self::Stylesheet,
            "sign-in" => Self::SignIn,
            "sign-out" => Self::SignOut,
            "find" => Self::Find,
            _ => match path.split_once('/')? {
                ("explain", spec) if !spec.is_empty() => Self::Explain(spec.to_owned()),
                ("packages", name) if !name.is_empty() => Self::Package(name.to_owned()),
                _ => return None,
            },
        })
    }

    /// Returns the page that a request is for. Programs get the JSON of the same address, if there is one.
    pub(crate) fn of<B>(unchecked: &UncheckedRequest<B>) -> Option<Self> {
        let page = Self::parse(&unchecked.page)?;
        let headers = &unchecked.head.headers;
        let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        let accept = list(headers, &ACCEPT);
        let offered =
            if prints_responses(agent) { ["text/plain", "application/json"] } else { ["application/json", "text/plain"] };
        let is_for_people = || best_media_type(accept.as_deref(), &[offered[0], offered[1], "text/html"]) == 2;
        let has_no_json = matches!(page, Self::Stylesheet | Self::SignIn | Self::SignOut);
        (has_no_json || is_for_people()).then_some(page)
    }
}
