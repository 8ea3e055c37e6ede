//! The two forms of a packument.

/// The form of a packument, by media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PackumentForm {
    /// `application/json`
    Full,
    /// `application/vnd.npm.install-v1+json`
    Abbreviated,
}
