//! Packuments: parses a document into an index of byte spans, and renders it without hidden versions.

use crate::text::words;

pub mod dependencies;
pub(crate) mod dependency_source;
pub mod dist_tags;
pub mod index;
pub(crate) mod json;
pub(crate) mod manifest;
pub mod manifest_digest;
pub mod parse;
pub(crate) mod people;
pub mod release_shape;
pub mod render;
pub mod signatures;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PackumentForm {
    /// `application/json`
    Full,
    /// `application/vnd.npm.install-v1+json`
    Abbreviated,
}

words! { PackumentForm { Full = "full", Abbreviated = "abbreviated", } }
