//! Statuses of upstream responses, and the errors they become.

use std::sync::Arc;

use http::StatusCode;

use crate::net::ClientResponse;
use crate::text::ascii_line;
use crate::upstream::error::UpstreamError;
use crate::upstream::fetch_target::FetchTarget;
use crate::upstream::headers::retry_after;

/// Maximum bytes read from an error's body, and maximum length of the message passed on.
pub(crate) const ERROR_BODY: u64 = 64 << 10;
const ERROR_MESSAGE: usize = 200;

/// Checks whether a status says that the server, or one behind it, cannot answer now.
pub(crate) fn is_overloaded(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502..=504)
}

pub(crate) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Converts an unsuccessful response to an error. Reads a bounded part of the body for the message of a denial.
pub(crate) async fn refusal(target: &FetchTarget, response: ClientResponse) -> UpstreamError {
    let host = target.host();
    let status = response.status.as_u16();
    match status {
        404 | 410 => UpstreamError::NotFound,
        401 | 403 => UpstreamError::Denied { host, status, message: message(response).await },
        200..=399 => UpstreamError::Broken { host, detail: format!("unexpected status {status}").into() },
        _ => UpstreamError::Status { host, status, retry_after: retry_after(&response.headers).map(Arc::from) },
    }
}

/// Returns upstream's message: `error` or `message` of a JSON body, else the reason phrase.
async fn message(response: ClientResponse) -> Arc<str> {
    #[derive(serde::Deserialize)]
    struct ErrorBody {
        error: Option<String>,
        message: Option<String>,
    }
    let phrase = response.reason.clone().or_else(|| response.status.canonical_reason().map(str::to_owned)).unwrap_or_default();
    // If the body cannot be read, the reason phrase is used.
    let body = response.body.collect(ERROR_BODY, None).await.unwrap_or_default();
    let words = serde_json::from_slice::<ErrorBody>(&body).ok().and_then(|words| words.error.or(words.message));
    message_line(&words.filter(|words| !words.trim().is_empty()).unwrap_or(phrase)).into()
}

/// Converts upstream's message to one short line of ASCII. Runs of whitespace and control characters become one space.
fn message_line(text: &str) -> String {
    let plain: Vec<&str> =
        text.split(|letter: char| letter.is_whitespace() || letter.is_control()).filter(|word| !word.is_empty()).collect();
    ascii_line(&plain.join(" "), ERROR_MESSAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_message_is_one_line_of_ascii() {
        assert_eq!(message_line("  a\r\nb\u{1b}[0m\tc\u{2028}é "), "a b [0m c ?");
        assert_eq!(message_line(&"x".repeat(1_000)).len(), 200);
    }
}
