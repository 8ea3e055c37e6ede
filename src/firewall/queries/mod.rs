//! The operations of the firewall, one file each.

pub(crate) mod attestations;
pub mod check;
pub(crate) mod egress;
pub mod hidden;
pub(crate) mod inspect;
pub(crate) mod manifest_changes;
pub(crate) mod overview;
pub(crate) mod packument;
pub(crate) mod search;
pub(crate) mod write;
