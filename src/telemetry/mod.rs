//! Floor 3: what Coldframe says about itself. One struct an event; `emit()` writes the log line and moves the counter.

pub mod clock;

pub use clock::{Clock, ManualClock, SystemClock};
