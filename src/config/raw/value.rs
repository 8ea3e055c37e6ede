//! One unparsed value and its origin.

use crate::diagnostics::{Diagnostic, Origin, redact_credentials};

#[derive(Debug, Clone)]
pub struct RawValue {
    pub text: String,
    pub origin: Origin,
    /// The keys and values of its table, if it was written as one.
    pub fields: Vec<(String, RawValue)>,
}

impl RawValue {
    /// Creates a value without table keys.
    pub(crate) fn new(text: impl Into<String>, origin: impl Into<Origin>) -> Self {
        Self { text: text.into(), origin: origin.into(), fields: Vec::new() }
    }

    pub(crate) fn field(&self, wanted: &str) -> Option<&Self> {
        self.fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| value)
    }

    /// Creates the error for a value that cannot be parsed. `flaw` continues a sentence that starts with `name`.
    pub(crate) fn flawed(&self, name: &str, flaw: &str, allowed: impl Into<String>) -> Diagnostic {
        let text = redact_credentials(&self.text).escape_debug().to_string();
        Diagnostic::new(self.origin.clone(), format!("`{name}` {flaw}: `{text}`"), allowed)
    }
}
