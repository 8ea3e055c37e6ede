//! A request for a page that its viewer may see.

use url::form_urlencoded;

use crate::server::pages::access::Viewer;
use crate::server::pages::frame::Frame;

/// A request for a page that a viewer may see.
pub(super) struct PageRequest<'a> {
    pub(super) viewer: &'a Viewer,
    pub(super) frame: Frame,
    pub(super) query: Option<&'a str>,
}

impl PageRequest<'_> {
    /// Returns a parameter of the query.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        let mut pairs = form_urlencoded::parse(self.query.unwrap_or_default().as_bytes());
        pairs.find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
    }

    /// Returns the position of a list to show, which the parameter `from` names.
    pub(super) fn position(&self) -> usize {
        self.parameter("from").and_then(|from| from.parse().ok()).unwrap_or(0)
    }
}
