//! A requirement of a package or project on another package.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A version requirement of a package or a project on another package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// The package, or the file of the project, that states it.
    pub by: Box<str>,
    /// A version, a dist-tag or a range, as written.
    pub spec: Box<str>,
    /// Whether the project itself states it.
    #[serde(default)]
    pub is_direct: bool,
}

/// The withheld versions of a package, with the requirements they were computed from.
#[derive(Debug)]
pub(crate) struct WithheldVersions {
    pub wants: Arc<[Want]>,
    /// Each hidden entry, with the requirement that no visible version satisfies.
    pub found: Box<[(usize, Want)]>,
}
