//! What is wrong with a policy, where, and what is allowed there. Refuses to stop at the first mistake.

pub mod source;
pub mod suggest;

pub use source::{SourceFile, SourceSpan, blot_credentials};

use std::fmt;

use crate::text::{printable, single_line};

/// Letters of a problem that are told.
const LONGEST: usize = 240;

/// One mistake.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    /// Where.
    pub place: SourceSpan,
    /// What is wrong: lower case, the value last after a colon.
    pub problem: String,
    /// What is allowed there; may be empty.
    pub allowed: String,
}

impl Diagnostic {
    /// A mistake.
    #[must_use]
    pub fn new(place: SourceSpan, problem: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self { place, problem: shortened(problem.into()), allowed: allowed.into() }
    }
}

/// A problem ends with the value, which may be a page long: the start of it tells which.
fn shortened(problem: String) -> String {
    match problem.char_indices().nth(LONGEST) {
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

/// Every mistake that was found, in the order of the files. Never empty.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Diagnostics(pub(crate) Vec<Diagnostic>);

impl Diagnostics {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, noun) = (self.0.len(), if self.0.len() == 1 { "mistake" } else { "mistakes" });
        write!(out, "{count} {noun} in the policy")?;
        for mistake in &self.0 {
            write!(out, "\n\n{mistake}")?;
        }
        Ok(())
    }
}
