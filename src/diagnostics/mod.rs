//! Errors in a policy file, with their location and the allowed values. All errors are collected, not only the first.

pub mod source;
pub mod suggest;

pub use source::{SourceFile, SourceSpan, redact_credentials};

use std::fmt;

use crate::text::{printable, single_line};

/// Characters of a problem text before it is cut.
const MAX_PROBLEM_CHARS: usize = 240;

/// One error in a file.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    pub place: SourceSpan,
    /// The problem in lower case, with the value last after a colon.
    pub problem: String,
    /// The allowed values; may be empty.
    pub allowed: String,
}

impl Diagnostic {
    #[must_use]
    pub fn new(place: SourceSpan, problem: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self { place, problem: shortened(problem.into()), allowed: allowed.into() }
    }
}

/// Cuts a problem text. It ends with the value, which may be very long; its start identifies it.
fn shortened(problem: String) -> String {
    match problem.char_indices().nth(MAX_PROBLEM_CHARS) {
        Some((end, _)) => format!("{}…", problem.get(..end).unwrap_or_default()),
        None => problem,
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.place.position();
        let head = format!("{}:{line}:{column}: {}", self.place.file.path.display(), self.problem);
        write!(out, "{}\n{}", single_line(&head), printable(&self.place.excerpt(true)))?;
        if self.allowed.is_empty() { Ok(()) } else { write!(out, "\n   = allowed: {}", single_line(&self.allowed)) }
    }
}

/// All errors found, in the order of the files. Never empty.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Diagnostics(pub(crate) Vec<Diagnostic>);

impl Diagnostics {
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, noun) = (self.0.len(), if self.0.len() == 1 { "error" } else { "errors" });
        write!(out, "{count} {noun} in the policy")?;
        for mistake in &self.0 {
            write!(out, "\n\n{mistake}")?;
        }
        Ok(())
    }
}
