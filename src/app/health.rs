//! The health checks of a server. Each component adds its own.

use std::sync::Arc;

use crate::server::admin::HealthCheck;

/// Named checks, in the order in which they run.
#[derive(Default)]
pub(crate) struct HealthChecks {
    /// The server is ready only if these pass.
    pub(crate) required: Vec<(&'static str, HealthCheck)>,
    /// Problems that are reported and do not affect readiness.
    pub(crate) warnings: Vec<(&'static str, HealthCheck)>,
}

impl HealthChecks {
    pub(crate) fn require(&mut self, name: &'static str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.required.push((name, Arc::new(check)));
    }

    pub(crate) fn warn(&mut self, name: &'static str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.warnings.push((name, Arc::new(check)));
    }
}
