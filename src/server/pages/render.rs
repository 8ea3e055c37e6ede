//! Renders templates.

use askama::Template;
use bytes::Bytes;
use http::{Response, StatusCode};

use crate::server::response::html_response;

/// Renders a template.
pub(super) fn render(status: StatusCode, page: &impl Template) -> Response<Bytes> {
    match page.render() {
        Ok(html) => html_response(status, &html),
        Err(error) => {
            tracing::error!(error = %error, "page not rendered");
            html_response(
                StatusCode::INTERNAL_SERVER_ERROR,
                "<!doctype html><title>Error</title><p>The page cannot be rendered.</p>",
            )
        }
    }
}
