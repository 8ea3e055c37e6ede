//! The packages that a token may ask for, as globs over names.

use std::fmt;
use std::sync::Arc;

use globset::{GlobSet, GlobSetBuilder};

use crate::npm::PackageName;
use crate::policy::rules::rule::PackageGlob;

/// The most globs of one token, and the most bytes of one glob. A refusal names them.
const MAX_GLOBS: usize = 20;
const MAX_GLOB_BYTES: usize = 100;

/// Globs over package names, such as `@acme/*`. Without globs, every package is in scope. A `*` does not match the slash.
#[derive(Debug, Clone, Default)]
pub struct PackageScope(Option<Arc<ScopeGlobs>>);

#[derive(Debug)]
struct ScopeGlobs {
    texts: Vec<String>,
    set: GlobSet,
}

impl PackageScope {
    /// Compiles globs.
    ///
    /// # Errors
    /// Returns an error if a glob is invalid or too long, or if there are too many.
    pub fn parse<T: AsRef<str>>(globs: &[T]) -> Result<Self, String> {
        if globs.is_empty() {
            return Ok(Self::default());
        }
        if globs.len() > MAX_GLOBS {
            return Err(format!("expected at most {MAX_GLOBS} scopes"));
        }
        let mut set = GlobSetBuilder::new();
        let mut texts = Vec::with_capacity(globs.len());
        for glob in globs.iter().map(AsRef::as_ref) {
            // Names are ASCII without spaces, and a refusal prints the glob.
            if glob.len() > MAX_GLOB_BYTES || !glob.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(format!("expected at most {MAX_GLOB_BYTES} visible ASCII characters: `{}`", glob.escape_debug()));
            }
            set.add(PackageGlob::parse(glob)?.0);
            texts.push(glob.to_owned());
        }
        let set = set.build().map_err(|error| error.to_string())?;
        Ok(Self(Some(Arc::new(ScopeGlobs { texts, set }))))
    }

    /// Checks whether every package is in scope.
    pub fn is_unlimited(&self) -> bool {
        self.0.is_none()
    }

    /// Checks whether a package is in scope.
    pub fn contains(&self, name: &PackageName) -> bool {
        self.0.as_ref().is_none_or(|globs| globs.set.is_match(name.as_str()))
    }

    /// Returns the globs as written.
    pub fn globs(&self) -> &[String] {
        self.0.as_ref().map_or(&[], |globs| &globs.texts)
    }
}

impl PartialEq for PackageScope {
    fn eq(&self, other: &Self) -> bool {
        self.globs() == other.globs()
    }
}

impl Eq for PackageScope {}

impl fmt::Display for PackageScope {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_unlimited() { out.write_str("all packages") } else { out.write_str(&self.globs().join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(globs: &[&str], name: &str) -> bool {
        PackageScope::parse(globs).unwrap().contains(&PackageName::parse(name).unwrap())
    }

    #[test]
    fn glob_of_a_scope_covers_that_scope_alone() {
        assert!(contains(&["@acme/*"], "@acme/ui") && contains(&[], "left-pad"));
        for name in ["left-pad", "acme", "@acme-evil/ui", "@ACME/ui", "@acme2/ui", "@evil/acme"] {
            assert!(!contains(&["@acme/*"], name), "{name}");
        }
        assert!(contains(&["@acme/*", "left-pad"], "left-pad") && contains(&["*"], "left-pad") && !contains(&["*"], "@acme/ui"));
    }

    #[test]
    fn invalid_scopes_are_rejected() {
        for glob in ["", "[", "@acme/\u{202e}", "a b", &"x".repeat(MAX_GLOB_BYTES + 1)] {
            assert!(PackageScope::parse(&[glob]).is_err(), "{glob}");
        }
        assert!(PackageScope::parse(&["a"; MAX_GLOBS + 1]).is_err());
        assert_eq!(PackageScope::parse(&["@acme/*", "x"]).unwrap().to_string(), "@acme/*, x");
    }
}
