//! Answers requests for pages.

use std::fmt::Display;

use bytes::Bytes;
use http::{Method, Response, StatusCode};

use crate::net::Reservation;
use crate::npm::PackageSpec;
use crate::server::admin::access::{UncheckedRequest, refuse_other_sites};
use crate::server::pages::access::PageGate;
use crate::server::pages::frame::{self, Frame};
use crate::server::pages::page::{OverviewPage, Page};
use crate::server::pages::request::PageRequest;
use crate::server::pages::state::Pages;
use crate::server::response::{see_other, stylesheet};

impl Pages {
    /// Answers a request for a page.
    pub(crate) async fn answer<B: http_body::Body<Data = Bytes, Error: Display> + Send>(
        &self,
        page: Page,
        gate: &PageGate<'_>,
        unchecked: UncheckedRequest<B>,
        share: &mut Reservation,
    ) -> Response<Bytes> {
        let is_read = matches!(unchecked.head.method, Method::GET | Method::HEAD);
        let is_post = unchecked.head.method == Method::POST;
        let frame = Frame::new(&unchecked.head, &unchecked.page);
        match page {
            Page::Stylesheet => stylesheet(include_str!("templates/style.css")),
            page @ (Page::SignIn | Page::SignOut) if is_post => self.change_session(page, gate, unchecked, share).await,
            page @ (Page::Requests | Page::RequestAction(..)) if is_post => {
                self.change_request(page, gate, unchecked, share).await
            }
            page @ (Page::ProviderStart | Page::ProviderReply) if is_read => {
                self.at_provider(page, gate, &unchecked, frame).await
            }
            Page::SignIn if is_read => self.sign_in_page(gate, &unchecked, &frame),
            _ if !is_read || matches!(page, Page::SignOut | Page::RequestAction(..)) => {
                frame.message(StatusCode::METHOD_NOT_ALLOWED, "Nothing here", "This address cannot be opened in this way.")
            }
            page => self.readable(page, gate, &unchecked, frame).await,
        }
    }

    /// Returns a page that changes nothing, if the viewer may see it.
    async fn readable<B>(
        &self,
        page: Page,
        gate: &PageGate<'_>,
        unchecked: &UncheckedRequest<B>,
        frame: Frame,
    ) -> Response<Bytes> {
        if let Err(error) = refuse_other_sites(&unchecked.head) {
            return frame.message(StatusCode::FORBIDDEN, "Refused", &error.to_string());
        }
        let viewer = match self.identify(gate, unchecked).await {
            Ok(Some(viewer)) => viewer,
            Ok(None) if frame.is_from_other_site => return frame.refreshed(),
            Ok(None) => return self.sign_in_first(gate, unchecked, &frame),
            Err(error) => return frame.refusal(&error),
        };
        // Redirects of people whose address lacks the slash that relative links need.
        if page == Page::Home && !unchecked.head.uri.path().ends_with('/') {
            return see_other("coldframe/");
        }
        let frame = frame.of_viewer(&viewer, viewer.session.as_ref().map(|session| self.sessions.form_token(session)));
        let request = PageRequest { viewer: &viewer, frame, query: unchecked.head.uri.query() };
        match page {
            Page::Find => find(request),
            Page::Explain(spec) => self.explained(request, &spec).await,
            Page::Package(name) => self.package(request, &name).await,
            Page::Requests => self.request_list(request).await,
            Page::Request(id) => self.request_page(request, id).await,
            Page::Overview(page) => self.page_about_all(page, request).await,
            _ => frame::home(request.frame),
        }
    }

    async fn page_about_all(&self, page: OverviewPage, request: PageRequest<'_>) -> Response<Bytes> {
        if !request.viewer.sees_all_packages() {
            let text = "This page needs a token with the role `approver` or `admin` and without a scope.";
            return request.frame.message(StatusCode::FORBIDDEN, "Not available", text);
        }
        match page {
            OverviewPage::Held => self.held(request).await,
            OverviewPage::Refusals => self.refusals(request).await,
            OverviewPage::Exposure => self.exposure(request).await,
            OverviewPage::Clients => self.clients(request).await,
            OverviewPage::Decisions => self.decisions(request),
            OverviewPage::Feeds => self.feeds(request),
            OverviewPage::Policy => self.policy(request),
            OverviewPage::Health => self.health(request).await,
        }
    }
}

/// Redirects to the page of a package or a version.
fn find(request: PageRequest<'_>) -> Response<Bytes> {
    let wanted = request.parameter("package").unwrap_or_default();
    match PackageSpec::parse(wanted.trim()) {
        Ok(spec) => see_other(&match &spec.wanted {
            Some(wanted) => format!("explain/{}@{}", frame::name_path(&spec.name), frame::escaped(wanted)),
            None => format!("packages/{}", frame::name_path(&spec.name)),
        }),
        Err(error) => request.frame.message(StatusCode::BAD_REQUEST, "Cannot search", &error.to_string()),
    }
}
