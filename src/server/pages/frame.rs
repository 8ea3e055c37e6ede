//! What all pages share: title, links, the viewer, messages and lists that are cut into pages.

use askama::Template;
use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use percent_encoding::utf8_percent_encode;

use crate::npm::PackageName;
use crate::npm::endpoint::ESCAPED;
use crate::policy::Role;
use crate::server::admin::access::SEC_FETCH_SITE;
use crate::server::error::RequestError;
use crate::server::pages::access::Viewer;
use crate::server::pages::page::OverviewPage;
use crate::server::pages::render::render;
use crate::server::response::error_status;

/// The path of the pages.
const BASE: &str = "/-/coldframe/";

pub(super) struct ShownLink {
    pub(super) path: &'static str,
    pub(super) text: &'static str,
    pub(super) about: &'static str,
    pub(super) is_current: bool,
}

pub(super) struct ShownViewer {
    pub(super) subject: String,
    pub(super) role: &'static str,
    /// The token of the sign-out form; `None` without a session.
    pub(super) form_token: Option<String>,
}

pub(super) struct Frame {
    pub(super) title: String,
    /// The relative path to the pages, so that links work below any prefix.
    pub(super) root: String,
    pub(super) links: Vec<ShownLink>,
    pub(super) viewer: Option<ShownViewer>,
    pub(super) version: &'static str,
    /// Whether a link on another site was followed. Browsers then keep back the session.
    pub(super) is_from_other_site: bool,
    path: String,
}

/// Links to the neighbours of a part of a list.
#[derive(Default)]
pub(super) struct Pager {
    pub(super) previous: Option<String>,
    pub(super) next: Option<String>,
}

#[derive(Template)]
#[template(path = "message.html")]
struct MessagePage<'a> {
    frame: &'a Frame,
    text: &'a str,
    /// Where the page goes at once; an empty address is the page itself.
    refresh: Option<&'a str>,
}

#[derive(Template)]
#[template(path = "home.html")]
struct HomePage {
    frame: Frame,
}

impl Frame {
    /// Creates the frame of a request, without a viewer.
    pub(super) fn new(head: &Parts, page: &str) -> Self {
        let below = head.uri.path().split_once(BASE).map_or("", |(_, below)| below);
        let depth = below.matches('/').count();
        let site = head.headers.get(SEC_FETCH_SITE).map(|site| site.to_str().unwrap_or_default());
        let reads = matches!(head.method, Method::GET | Method::HEAD);
        Self {
            title: "Coldframe".to_owned(),
            root: if depth == 0 { "./".to_owned() } else { "../".repeat(depth) },
            links: Vec::new(),
            viewer: None,
            version: env!("CARGO_PKG_VERSION"),
            is_from_other_site: reads && matches!(site, Some("cross-site" | "same-site")),
            path: page.to_owned(),
        }
    }

    pub(super) fn titled(self, title: impl Into<String>) -> Self {
        Self { title: title.into(), ..self }
    }

    /// Returns the frame of another page at the same address, without a viewer.
    pub(super) fn titled_copy(&self, title: &str) -> Self {
        Self {
            title: title.to_owned(),
            root: self.root.clone(),
            links: Vec::new(),
            viewer: None,
            version: self.version,
            is_from_other_site: self.is_from_other_site,
            path: self.path.clone(),
        }
    }

    /// Adds the viewer, and the links to what the viewer may see.
    pub(super) fn of_viewer(self, viewer: &Viewer, form_token: Option<String>) -> Self {
        let links = OverviewPage::ALL.into_iter().filter(|_| viewer.sees_all_packages()).map(|page| {
            let (text, about) = page.labels();
            ShownLink { path: page.path(), text, about, is_current: page.path() == self.path }
        });
        let (text, about) = ("Requests", "requests for approvals, and decisions on them");
        let requests = ShownLink { path: "requests", text, about, is_current: self.path == "requests" };
        let links = (viewer.role >= Role::Requester).then_some(requests).into_iter().chain(links);
        let shown = ShownViewer { subject: viewer.subject.clone(), role: viewer.role.as_str(), form_token };
        Self { links: links.collect(), viewer: Some(shown), ..self }
    }

    /// Returns a page with one sentence.
    pub(super) fn message(self, status: StatusCode, title: &str, text: &str) -> Response<Bytes> {
        let frame = self.titled(title);
        render(status, &MessagePage { frame: &frame, text, refresh: None })
    }

    /// Returns a page that requests itself again from this site, so that the browser sends the session.
    pub(super) fn refreshed(self) -> Response<Bytes> {
        let frame = self.titled("Opening the page");
        render(StatusCode::OK, &MessagePage { frame: &frame, text: "You followed a link from another site.", refresh: Some("") })
    }

    /// Returns a page that goes to another page of ours. A redirect would count as coming from the site before.
    pub(super) fn continued(self, next: &str) -> Response<Bytes> {
        let frame = self.titled("Signed in");
        render(StatusCode::OK, &MessagePage { frame: &frame, text: "You are signed in.", refresh: Some(next) })
    }

    /// Returns the page of a refusal.
    pub(super) fn refusal(self, error: &RequestError) -> Response<Bytes> {
        self.message(error_status(error), "Not available", &error.to_string())
    }
}

impl Pager {
    /// Returns the links of the part of a list that starts at `from`, if there are `total` entries.
    pub(super) fn new((from, limit): (usize, usize), total: usize, query: &[(&str, &str)]) -> Self {
        let next = from.saturating_add(limit);
        Self::of_links((from > 0).then(|| from.saturating_sub(limit)), (next < total).then_some(next), query)
    }

    /// Returns the links to positions.
    pub(super) fn of_links(previous: Option<usize>, next: Option<usize>, query: &[(&str, &str)]) -> Self {
        let link = |from: usize| {
            let mut text = url::form_urlencoded::Serializer::new(String::from("?"));
            text.extend_pairs(query.iter().filter(|(_, value)| !value.is_empty())).append_pair("from", &from.to_string());
            text.finish()
        };
        Self { previous: previous.map(link), next: next.map(link) }
    }
}

pub(super) fn home(frame: Frame) -> Response<Bytes> {
    render(StatusCode::OK, &HomePage { frame })
}

/// Returns the path of a package, in which a scope has its own segment.
pub(super) fn name_path(name: &PackageName) -> String {
    name.as_str()
        .split('/')
        .map(|part| part.strip_prefix('@').map_or_else(|| escaped(part), |scope| format!("@{}", escaped(scope))))
        .collect::<Vec<_>>()
        .join("/")
}

pub(super) fn escaped(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}
