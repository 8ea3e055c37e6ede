//! Floor 7: what Coldframe shows below `/-/coldframe/`: health to all, numbers and verdicts to those who may ask. Refuses to
//! judge: verdicts come from whoever it was given.

pub mod columns;
pub mod explaining;
pub mod explanation;
pub mod pages;

pub use columns::Columns;
pub use explaining::{Answering, Checked, Judge, Judges, MOST_LOCKED, Terms, Wanted};
pub use pages::{Admin, Check, Request};
