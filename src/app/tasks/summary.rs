//! Logs how much was served, once per interval and at shutdown. Nothing is logged if nothing was served.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::app::supervisor::TaskEnd;
use crate::telemetry::{Metrics, Served};

pub(crate) struct Summary {
    metrics: Arc<Metrics>,
    interval: Duration,
    last: Mutex<(Served, Instant)>,
}

impl Summary {
    /// Creates a summary that is logged once per `interval`; zero disables it.
    pub(crate) fn new(metrics: &Arc<Metrics>, interval: Duration) -> Arc<Self> {
        Arc::new(Self { metrics: Arc::clone(metrics), interval, last: Mutex::new((metrics.requests.served(), Instant::now())) })
    }

    pub(crate) async fn follow(self: Arc<Self>) -> TaskEnd {
        if self.interval.is_zero() {
            return Ok(());
        }
        loop {
            tokio::time::sleep(self.interval).await;
            self.log();
        }
    }

    /// Logs what was served since the last summary.
    pub(crate) fn log(&self) {
        if self.interval.is_zero() {
            return;
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, since) = std::mem::replace(&mut *last, (self.metrics.requests.served(), Instant::now()));
        last.0.since(before).emit(since.elapsed());
    }
}
