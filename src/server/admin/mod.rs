//! Admin pages below `/-/coldframe/`: health for every client, metrics and verdicts for authorized ones. Health and metrics contain
//! no names, addresses or credentials.

pub(crate) mod access;
pub(crate) mod explanation;
pub(crate) mod packages;
pub(crate) mod requests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, HeaderValue};
use http::{Method, Response, StatusCode};
use serde_json::json;
use tokio::time::timeout;

use crate::firewall::ApprovalRequests;
use crate::server::admin::access::AdminRequest;
use crate::server::response::{json_response, text_response};
use crate::telemetry::Metrics;

pub(crate) use packages::{CheckRequest, CheckResponse, ClientPolicy, MAX_CHECKED, SharedInspector};

/// Time limit of a health check. A check that exceeds it counts as failed.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// The path before the version to explain.
const EXPLAIN: &str = "explain/";

/// Checks a part of the process and returns the problem, if any. May block. Sends no upstream requests.
type HealthCheck = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The health checks of a server by name, in the order in which they run. Each component adds its own.
#[derive(Default)]
pub(crate) struct HealthChecks {
    /// The server is ready only if these pass.
    pub(crate) required: Vec<(&'static str, HealthCheck)>,
    /// Problems that are reported and do not affect readiness: with upstream down, cached packages are still served.
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

/// The state of a server.
pub(crate) struct ServerHealth {
    pub(crate) is_ready: bool,
    pub(crate) is_draining: bool,
    /// The result of each check: `ok`, or what is wrong.
    pub(crate) checks: BTreeMap<String, String>,
}

pub(crate) struct Admin {
    metrics: Arc<Metrics>,
    checks: HealthChecks,
    inspector: SharedInspector,
    requests: Option<ApprovalRequests>,
    draining: AtomicBool,
    time_limit: Duration,
}

impl Admin {
    /// Creates the pages. `inspector` evaluates packages.
    pub(crate) fn new(metrics: Arc<Metrics>, checks: HealthChecks, inspector: SharedInspector) -> Self {
        Self { metrics, checks, inspector, requests: None, draining: AtomicBool::new(false), time_limit: CHECK_TIMEOUT }
    }

    pub(crate) fn requests(&self) -> Option<&ApprovalRequests> {
        self.requests.as_ref()
    }

    /// Adds the pages of requests for approvals.
    pub(crate) fn with_requests(self, requests: ApprovalRequests) -> Self {
        Self { requests: Some(requests), ..self }
    }

    /// Reports not ready from now on, so that load balancers use other instances.
    pub(crate) fn begin_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) async fn answer(&self, request: AdminRequest) -> Response<Bytes> {
        let reads = matches!(request.method, Method::GET | Method::HEAD);
        if let Some(requests) = self.requests.as_ref().filter(|_| request.page.split('/').next() == Some(requests::PAGE)) {
            return requests::answer(requests, request).await;
        }
        match &*request.page {
            "healthz" | "readyz" | "metrics" | "client-config" if !reads => method_not_allowed("GET, HEAD"),
            "healthz" => json_response(StatusCode::OK, &json!({ "status": "ok" })),
            "readyz" => self.readiness().await,
            "metrics" => text_response(StatusCode::OK, Metrics::CONTENT_TYPE, self.metrics.render()),
            "client-config" => packages::terms(&self.inspector, &request),
            "check" if request.method != Method::POST => method_not_allowed("POST"),
            "check" => packages::check(&self.inspector, request).await,
            explain if explain.starts_with(EXPLAIN) && !reads => method_not_allowed("GET, HEAD"),
            explain if explain.starts_with(EXPLAIN) => {
                let wanted = explain[EXPLAIN.len()..].to_owned();
                packages::explain(&self.inspector, &wanted, request).await
            }
            _ => json_response(StatusCode::NOT_FOUND, &json!({ "error": "page not found" })),
        }
    }

    async fn readiness(&self) -> Response<Bytes> {
        let ServerHealth { is_ready, is_draining, checks } = self.health().await;
        let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        json_response(status, &json!({ "ready": is_ready, "draining": is_draining, "checks": checks }))
    }

    /// Runs all checks.
    pub(crate) async fn health(&self) -> ServerHealth {
        let is_draining = self.draining.load(Ordering::Relaxed);
        let mut health = ServerHealth { is_ready: !is_draining, is_draining, checks: BTreeMap::new() };
        let HealthChecks { required, warnings } = &self.checks;
        let every = required.iter().map(|check| (check, true)).chain(warnings.iter().map(|warning| (warning, false)));
        for ((name, check), counts) in every {
            let check = check.clone();
            let result = timeout(self.time_limit, tokio::task::spawn_blocking(move || check())).await;
            let found = match result {
                Ok(Ok(Ok(()))) => "ok".to_owned(),
                Ok(Ok(Err(problem))) => problem,
                Ok(Err(error)) => format!("check failed: {error}"),
                Err(_) => format!("check did not finish within {} ms", self.time_limit.as_millis()),
            };
            health.is_ready &= found == "ok" || !counts;
            // A failed check comes first, and a warning of the same name does not replace it.
            if health.checks.get(*name).is_none_or(|known| known == "ok") {
                health.checks.insert((*name).to_owned(), found);
            }
        }
        health
    }
}

fn method_not_allowed(allowed: &'static str) -> Response<Bytes> {
    let mut refused =
        json_response(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": format!("method not allowed, expected {allowed}") }));
    refused.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    refused
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::admin::packages::tests::NoPackages;

    fn admin(ledger: Result<(), String>) -> Admin {
        let mut checks = HealthChecks::default();
        checks.require("ledger", move || ledger.clone());
        Admin::new(Arc::default(), checks, Arc::new(NoPackages))
    }

    async fn get(admin: &Admin, path: &str) -> (u16, String) {
        let response = admin.answer(AdminRequest { page: path.to_owned(), ..AdminRequest::default() }).await;
        (response.status().as_u16(), String::from_utf8(response.into_body().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn ready_when_all_checks_pass() {
        let well = admin(Ok(()));
        assert_eq!(get(&well, "readyz").await, (200, r#"{"checks":{"ledger":"ok"},"draining":false,"ready":true}"#.to_owned()));
        let broken = admin(Err("the disk is full".to_owned()));
        let (status, body) = get(&broken, "readyz").await;
        assert!(status == 503 && body.contains("the disk is full"), "{body}");
        assert_eq!(get(&broken, "healthz").await.0, 200);
    }

    #[tokio::test]
    async fn draining_server_is_alive_but_not_ready() {
        let admin = admin(Ok(()));
        admin.begin_drain();
        assert_eq!(get(&admin, "readyz").await, (503, r#"{"checks":{"ledger":"ok"},"draining":true,"ready":false}"#.to_owned()));
        assert_eq!(get(&admin, "healthz").await.0, 200);
    }

    #[tokio::test]
    async fn hanging_check_times_out() {
        let (release, held) = std::sync::mpsc::sync_channel::<()>(0);
        let held = std::sync::Mutex::new(held);
        let mut checks = HealthChecks::default();
        checks.require("ledger", move || held.lock().unwrap().recv().map_err(|_| "released".to_owned()));
        let mut admin = Admin::new(Arc::default(), checks, Arc::new(NoPackages));
        admin.time_limit = Duration::from_millis(20);
        let (status, body) = get(&admin, "readyz").await;
        drop(release);
        assert!(status == 503 && body.contains("check did not finish within 20 ms"), "{body}");
    }

    #[tokio::test]
    async fn pages_are_read_only_and_unknown_pages_not_found() {
        let admin = admin(Ok(()));
        let (status, numbers) = get(&admin, "metrics").await;
        assert!(status == 200 && numbers.contains("coldframe_requests_total"), "{numbers}");
        assert_eq!(get(&admin, "nothing").await.0, 404);
        let refused =
            admin.answer(AdminRequest { method: Method::POST, page: "healthz".to_owned(), ..AdminRequest::default() }).await;
        assert_eq!((refused.status().as_u16(), refused.headers()["allow"].to_str().unwrap()), (405, "GET, HEAD"));
    }
}
