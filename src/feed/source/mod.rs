//! Sources of feeds: directories and HTTP.

pub(crate) mod directory;
pub(crate) mod download;
pub(crate) mod remote;
