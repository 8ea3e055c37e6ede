//! Errors in configuration and policy files: the problem, its origin, and the allowed values. One run reports all of them.

mod report;
mod source;
pub(crate) mod suggest;

pub use report::{Diagnostic, Diagnostics, Origin};
pub use source::{SourceFile, SourceSpan, redact_credentials};
