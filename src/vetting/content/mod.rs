//! What the files of a tarball hold: marks that rules on behaviour combine, native programs, and the files that others name.
//!
//! Reading is one pass over each file and linear in its length, whatever it holds.

pub(crate) mod kind;
pub(crate) mod marks;
mod runs;
mod scan;
mod tokens;

pub(crate) use scan::{ContentScan, ScanBudget, scan};
