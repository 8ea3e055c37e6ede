//! The pages by their addresses.

use http::header::{ACCEPT, USER_AGENT};

use crate::net::headers::{best_media_type, list};
use crate::server::admin::access::UncheckedRequest;
use crate::server::admin::packages::prints_responses;
use crate::server::admin::requests::RequestAction;

/// A page, by its path below `/-/coldframe/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Page {
    Stylesheet,
    SignIn,
    SignOut,
    /// Redirects to the sign-in provider.
    ProviderStart,
    /// Where the provider sends people back to.
    ProviderReply,
    Home,
    /// Redirects to the page of what a search form names.
    Find,
    /// The explanation of `name@spec`.
    Explain(String),
    /// All versions of a package.
    Package(String),
    Overview(OverviewPage),
    /// The list of requests; a form there asks for a version.
    Requests,
    Request(i64),
    /// A form that decides on a request.
    RequestAction(i64, RequestAction),
}

/// A page about all packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OverviewPage {
    Held,
    Refusals,
    Exposure,
    Clients,
    Decisions,
    Feeds,
    Policy,
    Health,
}

impl OverviewPage {
    /// All of them, in the order of the navigation.
    pub(super) const ALL: [Self; 8] =
        [Self::Held, Self::Refusals, Self::Exposure, Self::Clients, Self::Decisions, Self::Feeds, Self::Policy, Self::Health];

    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Refusals => "refusals",
            Self::Exposure => "exposure",
            Self::Clients => "clients",
            Self::Decisions => "decisions",
            Self::Feeds => "feeds",
            Self::Policy => "policy",
            Self::Health => "health",
        }
    }

    /// Returns its name in the navigation, and what it shows.
    pub(super) fn labels(self) -> (&'static str, &'static str) {
        match self {
            Self::Held => ("Held now", "versions below their minimum age, and when they open"),
            Self::Refusals => ("Refusals", "what was refused in the last days, by rule, package and client"),
            Self::Exposure => ("Who has it", "clients that requested a package or a version"),
            Self::Clients => ("Clients", "addresses, labels and tools, and when they were last seen"),
            Self::Decisions => ("Decisions", "approvals, denials, freezes and break-glass"),
            Self::Feeds => ("Feeds", "advisories, and how fresh they are"),
            Self::Policy => ("Policy", "the rules that apply here"),
            Self::Health => ("Health", "whether the server is ready, and its checks"),
        }
    }
}

impl Page {
    pub(super) fn parse(path: &str) -> Option<Self> {
        Some(match path {
            "" => Self::Home,
            "style.css" => Self::Stylesheet,
            "sign-in" => Self::SignIn,
            "sign-out" => Self::SignOut,
            "find" => Self::Find,
            "requests" => Self::Requests,
            _ if !path.contains('/') => Self::Overview(OverviewPage::ALL.into_iter().find(|page| page.path() == path)?),
            _ => match path.split_once('/')? {
                ("sign-in", "start") => Self::ProviderStart,
                ("sign-in", "reply") => Self::ProviderReply,
                ("requests", rest) => match rest.split_once('/') {
                    None => Self::Request(rest.parse().ok()?),
                    Some((id, action)) => Self::RequestAction(id.parse().ok()?, RequestAction::parse(action)?),
                },
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
        let has_no_json =
            matches!(page, Self::Stylesheet | Self::SignIn | Self::SignOut | Self::ProviderStart | Self::ProviderReply);
        (has_no_json || is_for_people()).then_some(page)
    }
}
