//! Package names and specs (`@acme/ui`, `@acme/ui@^2`). Refuses to know where a name lives or how a URL escapes it.

use std::fmt;
use std::sync::Arc;

/// The longest name npm accepts, in bytes, scope included (`validate-npm-package-name`).
const LONGEST: usize = 214;

/// A package name in its one canonical spelling: decoded, with its scope, case kept.
///
/// Legacy names with upper case letters exist and are case sensitive, so nothing is folded.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackageName(Arc<str>);

/// What is wrong with a package name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("a package name cannot be empty")]
    Empty,
    /// Longer than npm accepts.
    #[error("a package name has at most {LONGEST} bytes")]
    TooLong,
    /// A scope without a name, or a second slash.
    #[error("a scoped name is written `@scope/name`: `{0}`")]
    Scope(String),
    /// A character or a first letter that npm never allowed.
    #[error("not a package name: `{0}`")]
    Characters(String),
}

impl PackageName {
    /// Parses a decoded name.
    ///
    /// # Errors
    /// Whatever npm refuses even for its oldest packages: empty, too long, a leading `.` or `_`, a character that a URL
    /// would have to escape.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > LONGEST {
            return Err(NameError::TooLong);
        }
        let unscoped = match text.strip_prefix('@') {
            None => text,
            Some(rest) => {
                let (scope, name) = rest.split_once('/').ok_or_else(|| NameError::Scope(text.escape_debug().to_string()))?;
                if !is_part(scope) {
                    return Err(NameError::Scope(text.escape_debug().to_string()));
                }
                name
            }
        };
        if !is_part(unscoped) || unscoped.starts_with('@') {
            return Err(NameError::Characters(text.escape_debug().to_string()));
        }
        if matches!(text, "node_modules" | "favicon.ico") {
            return Err(NameError::Characters(text.to_owned()));
        }
        Ok(Self(text.into()))
    }

    /// The name as npm writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The scope with its `@`, if there is one.
    #[must_use]
    pub fn scope(&self) -> Option<&str> {
        self.0.starts_with('@').then(|| self.0.split_once('/').map(|(scope, _)| scope)).flatten()
    }

    /// The name without its scope: what a tarball's file name starts with.
    #[must_use]
    pub fn unscoped(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, name)| name)
    }

    /// The name as one path segment, the way npm asks a registry for a packument (`@acme%2fui`).
    #[must_use]
    pub fn to_segment(&self) -> String {
        self.0.replace('/', "%2f")
    }
}

/// Whether npm ever allowed `part` as a scope or a name: URL-safe, not hidden, nothing that walks up a path.
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

/// `name`, or `name@what`: what a person types to mean a package, a version, a tag or a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageSpec {
    /// The package.
    pub name: PackageName,
    /// What follows the `@`: a version, a dist-tag or a range, not yet told apart.
    pub wanted: Option<String>,
}

impl PackageSpec {
    /// Parses `axios`, `axios@1.14.1`, `@acme/ui@^2`.
    ///
    /// # Errors
    /// The name's, when it is not a package name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let at = text.char_indices().skip(1).find(|(_, letter)| *letter == '@').map(|(at, _)| at);
        let (name, wanted) = match at {
            None => (text, None),
            Some(at) => (&text[..at], Some(text[at + 1..].trim().to_owned())),
        };
        Ok(Self { name: PackageName::parse(name)?, wanted: wanted.filter(|wanted| !wanted.is_empty()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_scope_or_none() {
        let scoped = PackageName::parse("@acme/ui").unwrap();
        assert_eq!((scoped.scope(), scoped.unscoped(), scoped.to_segment().as_str()), (Some("@acme"), "ui", "@acme%2fui"));
        let plain = PackageName::parse("JSONStream").unwrap();
        assert_eq!((plain.scope(), plain.unscoped()), (None, "JSONStream"));
    }

    #[test]
    fn what_walks_up_a_path_or_hides_is_no_name() {
        for wrong in [
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
            assert!(PackageName::parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(PackageName::parse(&"a".repeat(215)).is_err());
    }

    #[test]
    fn a_spec_splits_at_the_second_at() {
        let spec = PackageSpec::parse("@acme/ui@^2").unwrap();
        assert_eq!((spec.name.as_str(), spec.wanted.as_deref()), ("@acme/ui", Some("^2")));
        assert_eq!(PackageSpec::parse("axios").unwrap().wanted, None);
    }
}
