//! One error with its origin, and reports of many.

use std::fmt;

use crate::diagnostics::source::SourceSpan;
use crate::text::{printable, single_line};

/// Characters of a problem text before it is cut.
const MAX_PROBLEM_CHARS: usize = 240;

/// Where a value or an error comes from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A flag, such as `--listen`.
    Flag(String),
    Variable(String),
    File(SourceSpan),
    /// Passed by a program that embeds Coldframe, or by another process.
    Given,
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Variable(name) => out.write_str(name),
            Self::File(place) => {
                let (line, column) = place.position();
                write!(out, "{}:{line}:{column}", place.file.path.display())
            }
            Self::Given => out.write_str("given"),
            Self::Default => out.write_str("default"),
        }
    }
}

impl From<SourceSpan> for Origin {
    fn from(place: SourceSpan) -> Self {
        Self::File(place)
    }
}

#[derive(Debug, Clone)]
pub struct Diagnostic {
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
    pub fn new(origin: impl Into<Origin>, problem: impl Into<String>, allowed: impl Into<String>) -> Self {
        let mut problem = problem.into();
        // It ends with the value, which may be very long; its start identifies it.
        if let Some((end, _)) = problem.char_indices().nth(MAX_PROBLEM_CHARS) {
            problem.truncate(end);
            problem.push('…');
        }
        Self { origin: origin.into(), problem, allowed: allowed.into(), shows_line: true }
    }

    pub fn place(&self) -> Option<&SourceSpan> {
        match &self.origin {
            Origin::File(place) => Some(place),
            _ => None,
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::Default => out.write_str(&single_line(&self.problem))?,
            _ => out.write_str(&single_line(&format!("{}: {}", self.origin, self.problem)))?,
        }
        if let Origin::File(place) = &self.origin {
            let key = |line: &str| line.find('=').map_or(line.len(), |at| at + 1);
            let excerpt = place.excerpt(|line| if self.shows_line { line } else { &line[..key(line)] });
            write!(out, "\n{}", printable(&excerpt))?;
        }
        if self.allowed.is_empty() { Ok(()) } else { write!(out, "\n   = allowed: {}", single_line(&self.allowed)) }
    }
}

/// All errors in one subject. Never empty.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Diagnostics {
    /// What the errors are in: `configuration` or `policy`.
    pub(crate) subject: &'static str,
    pub(crate) errors: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Returns `value`, or if there are errors these, ordered by file, npm's configuration, environment and flags.
    pub(crate) fn or<T>(mut errors: Vec<Diagnostic>, value: Option<T>) -> Result<T, Self> {
        if let (true, Some(value)) = (errors.is_empty(), value) {
            return Ok(value);
        }
        errors.sort_by_key(|error| match &error.origin {
            Origin::File(place) => (0, place.span.start),
            Origin::Default => (1, 0),
            Origin::Variable(_) => (2, 0),
            Origin::Flag(_) | Origin::Given => (3, 0),
        });
        Err(Self { subject: "configuration", errors })
    }

    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.errors.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, noun) = (self.errors.len(), if self.errors.len() == 1 { "error" } else { "errors" });
        write!(out, "{count} {noun} in the {}", self.subject)?;
        for error in &self.errors {
            write!(out, "\n\n{error}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::diagnostics::source::SourceFile;

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
