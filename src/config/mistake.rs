//! Configuration errors: the problem, its origin, and the allowed values. Errors are collected, so that one run reports all of
//! them.

use std::fmt;

pub use crate::diagnostics::{SourceFile, SourceSpan, redact_credentials};
use crate::text::{printable, single_line};

/// Where a value or an error comes from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A flag, such as `--listen`.
    Flag(String),
    /// An environment variable.
    Variable(String),
    /// A span of the configuration file.
    File(SourceSpan),
    /// Passed by a program that embeds Coldframe, or by another process.
    Given,
    /// npm's configuration; the text names the file and the key.
    Npm(String),
    /// A default value.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Variable(name) | Self::Npm(name) => out.write_str(name),
            Self::File(place) => {
                let (line, column) = place.position();
                write!(out, "{}:{line}:{column}", place.file.path.display())
            }
            Self::Given => out.write_str("given"),
            Self::Default => out.write_str("default"),
        }
    }
}

/// One configuration error.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    /// Where the error is.
    pub origin: Origin,
    /// The problem: lower case, with the value last after a colon.
    pub problem: String,
    /// The allowed values; may be empty.
    pub allowed: String,
    /// Whether the text after the `=` may be shown. It must not be for unknown keys, whose value may be a token.
    pub shows_line: bool,
}

impl Diagnostic {
    /// Creates an error whose whole line may be shown.
    #[must_use]
    pub fn new(origin: Origin, problem: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self { origin, problem: problem.into(), allowed: allowed.into(), shows_line: true }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::Default => out.write_str(&single_line(&self.problem))?,
            _ => out.write_str(&single_line(&format!("{}: {}", self.origin, self.problem)))?,
        }
        if let Origin::File(place) = &self.origin {
            write!(out, "\n{}", printable(&place.excerpt(self.shows_line)))?;
        }
        if self.allowed.is_empty() { Ok(()) } else { write!(out, "\n   = allowed: {}", single_line(&self.allowed)) }
    }
}

/// All errors that were found, ordered by file, environment and flags. Never empty.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// Returns `value` if there are no errors and it is present.
    ///
    /// # Errors
    /// Returns the sorted errors otherwise.
    pub(crate) fn or<T>(mut mistakes: Vec<Diagnostic>, value: Option<T>) -> Result<T, Self> {
        if let (true, Some(value)) = (mistakes.is_empty(), value) {
            return Ok(value);
        }
        mistakes.sort_by_key(|mistake| match &mistake.origin {
            Origin::File(place) => (0, place.span.start),
            Origin::Npm(_) | Origin::Default => (1, 0),
            Origin::Variable(_) => (2, 0),
            Origin::Flag(_) | Origin::Given => (3, 0),
        });
        Err(Self(mistakes))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0.iter()
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(mistake: Diagnostic) -> Self {
        Self(vec![mistake])
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, noun) = (self.0.len(), if self.0.len() == 1 { "error" } else { "errors" });
        write!(out, "{count} {noun} in the configuration")?;
        for mistake in &self.0 {
            write!(out, "\n\n{mistake}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn newlines_in_values_are_escaped() {
        let mistake = Diagnostic::new(Origin::Flag("--config".to_owned()), "cannot read `x\n::error::y`", "z\nw");
        assert_eq!(mistake.to_string(), "--config: cannot read `x\\n::error::y`\n   = allowed: z\\nw");
    }

    #[test]
    fn error_is_marked_below_its_line() {
        let file = Arc::new(SourceFile { path: "x.toml".into(), text: "a = 1\r\n\tñ = 22 # why\r\n".to_owned() });
        let span = file.text.find("22").map(|at| at..at + 2).unwrap();
        let mistake = Diagnostic::new(Origin::File(SourceSpan { file, span }), "is wrong", "");
        assert_eq!(mistake.to_string(), "x.toml:2:6: is wrong\n 2 | \tñ = 22 # why\n   | \t    ^^");
    }
}
