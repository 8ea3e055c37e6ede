//! One unparsed value and its origin.

use crate::diagnostics::Origin;

#[derive(Debug, Clone)]
pub struct RawValue {
    pub text: String,
    pub origin: Origin,
    /// The keys of its table, if it was written as one.
    pub fields: Vec<RawField>,
}

/// One key of a table and its value.
#[derive(Debug, Clone)]
pub struct RawField {
    pub name: String,
    pub value: RawValue,
}

impl RawValue {
    /// Creates a value without table keys.
    #[must_use]
    pub fn new(text: impl Into<String>, origin: impl Into<Origin>) -> Self {
        Self { text: text.into(), origin: origin.into(), fields: Vec::new() }
    }

    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Self> {
        self.fields.iter().find(|field| field.name == name).map(|field| &field.value)
    }
}
