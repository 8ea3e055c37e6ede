//! Says how much was served, one line per interval and one at the end: the answer to whether anyone uses this server. Says nothing
//! where nothing was.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::app::tasks::TaskEnd;
use crate::telemetry::{Metrics, Served};

/// What was served, and how much of it was told.
pub(crate) struct Summary {
    metrics: Arc<Metrics>,
    interval: Duration,
    told: Mutex<(Served, Instant)>,
}

impl Summary {
    /// A line each `interval`, none at zero.
    pub(crate) fn new(metrics: &Arc<Metrics>, interval: Duration) -> Arc<Self> {
        Arc::new(Self { metrics: Arc::clone(metrics), interval, told: Mutex::new((metrics.served(), Instant::now())) })
    }

    /// Tells it each interval, until it is dropped.
    pub(crate) async fn follow(self: Arc<Self>) -> TaskEnd {
        if self.interval.is_zero() {
            return Ok(());
        }
        loop {
            tokio::time::sleep(self.interval).await;
            self.tell();
        }
    }

    /// Logs what was served since it was last told.
    pub(crate) fn tell(&self) {
        if self.interval.is_zero() {
            return;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, since) = std::mem::replace(&mut *told, (self.metrics.served(), Instant::now()));
        told.0.since(before).emit(since.elapsed());
    }
}
