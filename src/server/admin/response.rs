//! Responses of the admin pages.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::text::printable;

/// The content security policy: no resources and no scripts.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(crate) fn json_response(status: StatusCode, json: &Value) -> Response<Bytes> {
    text_response(status, "application/json", printable(&json.to_string()).into_owned())
}

pub(crate) fn text_response(status: StatusCode, media_type: &'static str, text: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Returns an HTML page that loads no resources, runs no scripts and cannot be framed.
pub(crate) fn html_response(status: StatusCode, html: String) -> Response<Bytes> {
    let mut response = text_response(status, "text/html; charset=utf-8", html);
    for (name, value) in [("content-security-policy", POLICY), ("referrer-policy", "no-referrer")] {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

pub(crate) fn refused(status: StatusCode, why: &str) -> Response<Bytes> {
    json_response(status, &json!({ "error": why }))
}
