//! Package names and specs (`@acme/ui`, `@acme/ui@^2`).

use std::fmt;
use std::sync::Arc;

/// The longest name npm accepts, in bytes, scope included (`validate-npm-package-name`).
pub(crate) const MAX_NAME_BYTES: usize = 214;

/// A package name in canonical form: decoded, with its scope, case preserved.
///
/// Legacy names with upper-case letters exist and are case-sensitive, so case is not folded.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackageName(Arc<str>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("package name is empty")]
    Empty,
    #[error("package name is longer than {MAX_NAME_BYTES} bytes")]
    TooLong,
    #[error("invalid scoped package name, expected `@scope/name`: `{0}`")]
    Scope(String),
    #[error("invalid package name: `{0}`")]
    Characters(String),
}

impl PackageName {
    /// Parses a decoded name.
    ///
    /// # Errors
    /// Returns an error for names that npm rejects even for its oldest packages: empty, too long, a leading `.` or `_`, or a
    /// character that a URL must escape.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_NAME_BYTES {
            return Err(NameError::TooLong);
        }
        let unscoped = match text.strip_prefix('@') {
            None => text,
            Some(rest) => {
                let split = rest.split_once('/').filter(|(scope, _)| is_part(scope));
                split.ok_or_else(|| NameError::Scope(text.escape_debug().to_string()))?.1
            }
        };
        // `is_part` rejects a second `@`.
        if !is_part(unscoped) || matches!(text, "node_modules" | "favicon.ico") {
            return Err(NameError::Characters(text.escape_debug().to_string()));
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn scope(&self) -> Option<&str> {
        self.0.starts_with('@').then(|| self.0.split_once('/').map(|(scope, _)| scope)).flatten()
    }

    /// Returns the name without its scope, the start of a tarball's file name.
    pub(crate) fn unscoped(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, name)| name)
    }

    /// Returns the name as one path segment, as npm requests a packument (`@acme%2fui`).
    pub fn to_segment(&self) -> String {
        self.0.replace('/', "%2f")
    }
}

/// Checks whether npm ever allowed `part` as a scope or name: URL-safe, not hidden, no path traversal.
fn is_part(part: &str) -> bool {
    let url_safe =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'!' | b'~' | b'*' | b'\'' | b'(' | b')');
    !part.is_empty() && !part.starts_with('.') && !part.starts_with('_') && part.bytes().all(url_safe)
}

impl fmt::Display for PackageName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for PackageName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, out)
    }
}

/// `name` or `name@wanted`, as a user names a package, version, tag or range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageSpec {
    pub name: PackageName,
    /// The version, dist-tag or range after the `@`, not yet distinguished.
    pub wanted: Option<String>,
}

impl PackageSpec {
    /// Parses `axios`, `axios@1.14.1`, `@acme/ui@^2`.
    ///
    /// # Errors
    /// Returns an error if the name is invalid.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let (name, wanted) = split_spec(text).unwrap_or((text, ""));
        let wanted = Some(wanted.trim().to_owned()).filter(|wanted| !wanted.is_empty());
        Ok(Self { name: PackageName::parse(name)?, wanted })
    }
}

/// Splits `name@spec` at the `@` that does not start a scope.
pub(crate) fn split_spec(text: &str) -> Option<(&str, &str)> {
    let (at, _) = text.char_indices().skip(1).find(|(_, ch)| *ch == '@')?;
    Some((&text[..at], &text[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scoped_and_unscoped_names_parse() {
        let scoped = PackageName::parse("@acme/ui").unwrap();
        assert_eq!((scoped.scope(), scoped.unscoped(), scoped.to_segment().as_str()), (Some("@acme"), "ui", "@acme%2fui"));
        let plain = PackageName::parse("JSONStream").unwrap();
        assert_eq!((plain.scope(), plain.unscoped()), (None, "JSONStream"));
    }

    #[test]
    fn path_traversal_and_hidden_names_are_rejected() {
        for invalid in [
            "",
            "..",
            ".hidden",
            "_private",
            "a/b",
            "@acme",
            "@acme/",
            "@/ui",
            "@acme/ui/x",
            "@acme/..",
            "a b",
            "a\0",
            "a%2fb",
            "@@a/b",
            "é",
        ] {
            assert!(PackageName::parse(invalid).is_err(), "{invalid:?}");
        }
        assert!(PackageName::parse(&"a".repeat(215)).is_err());
    }

    #[test]
    fn spec_splits_at_the_version_separator() {
        let spec = PackageSpec::parse("@acme/ui@^2").unwrap();
        assert_eq!((spec.name.as_str(), spec.wanted.as_deref()), ("@acme/ui", Some("^2")));
        assert_eq!(PackageSpec::parse("axios").unwrap().wanted, None);
    }
}
