//! Floor 7: what Coldframe shows below `/-/coldframe/`: health to all, numbers and verdicts to those who may ask. Refuses to
//! judge: verdicts come from whoever it was given.

pub mod explaining;
pub mod pages;

pub use explaining::{Answering, Checked, Judge, Judges, MOST_LOCKED, Wanted};
pub use pages::{Admin, Check, Request};
