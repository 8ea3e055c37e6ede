//! Waits that tests can end by moving the clock.

use std::time::Duration;

use crate::clock::Clock;
use crate::units::timestamp;

/// How often the clock is read.
const TICK: Duration = Duration::from_millis(500);

/// Waits for `delay` by the server's clock. Ends by the monotonic one at the latest, because the wall clock may be set back.
pub(crate) async fn wait(clock: &dyn Clock, delay: Duration) {
    let due = timestamp::saturating_add(clock.now(), delay);
    let is_due = async {
        while clock.now() < due {
            tokio::time::sleep(TICK).await;
        }
    };
    // Either end will do.
    let _ = tokio::time::timeout(delay, is_due).await;
}
