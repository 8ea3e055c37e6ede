//! What Coldframe shows below `/-/coldframe/`: health to all, numbers and verdicts to those who may ask. Refuses to
//! judge: verdicts come from whoever it was given.

pub mod access;
pub mod explanation;
pub mod packages;
pub mod response;

pub use packages::{Answering, Checked, Judge, Judges, MOST_LOCKED, Terms, Wanted};
pub use response::{Admin, Check, Request};
