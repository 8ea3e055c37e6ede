//! Events of requests for approvals: each change is logged and counted.

use crate::policy::requests::{ApprovalRequest, RequestState, RequestStep, StepKind};
use crate::telemetry::labels::ApprovalRequestLabel;
use crate::telemetry::metrics::Metrics;

/// A request after its last step.
pub struct ApprovalRequestChanged<'a> {
    pub request: &'a ApprovalRequest,
}

impl ApprovalRequestChanged<'_> {
    pub fn emit(&self, metrics: &Metrics) {
        let Some(step) = self.request.steps.last() else { return };
        let label = label(self.request.state, step.kind);
        metrics.operation.approval_requests.of(label).inc();
        self.log(step);
    }

    fn log(&self, step: &RequestStep) {
        macro_rules! log {
            ($message:literal) => {{
                let ApprovalRequest { id, bytes, state, decision, .. } = self.request;
                tracing::info!(
                    request.id = id,
                    package.name = &*bytes.package,
                    package.version = &*bytes.version,
                    request.state = state.as_str(),
                    request.by = step.by.principal.name(),
                    request.subject = &*step.by.subject,
                    request.method = &*step.by.method,
                    request.reason = &*step.detail,
                    decision.id = decision,
                    $message
                )
            }};
        }
        match step.kind {
            StepKind::Asked => log!("approval requested"),
            StepKind::Joined => log!("approval request joined"),
            StepKind::Approved => log!("approval request approved"),
            StepKind::Declined => log!("approval request declined"),
            StepKind::Withdrawn => log!("approval request withdrawn"),
            StepKind::Ended => log!("approval request ended"),
        }
    }
}

fn label(state: RequestState, step: StepKind) -> ApprovalRequestLabel {
    match (step, state) {
        (StepKind::Asked, _) => ApprovalRequestLabel::Asked,
        (StepKind::Joined, _) => ApprovalRequestLabel::Joined,
        (_, RequestState::AwaitsSecond) => ApprovalRequestLabel::AwaitsSecond,
        (_, RequestState::Approved) => ApprovalRequestLabel::Approved,
        (_, RequestState::Declined) => ApprovalRequestLabel::Declined,
        (_, RequestState::Withdrawn | RequestState::Open) => ApprovalRequestLabel::Withdrawn,
        (_, RequestState::Opened) => ApprovalRequestLabel::Opened,
        (_, RequestState::Unpublished) => ApprovalRequestLabel::Unpublished,
        (_, RequestState::Denied) => ApprovalRequestLabel::Denied,
        (_, RequestState::BytesChanged) => ApprovalRequestLabel::BytesChanged,
    }
}

impl Metrics {
    pub fn set_open_approval_requests(&self, open: u64) {
        self.operation.open_approval_requests.set(i64::try_from(open).unwrap_or(i64::MAX));
    }
}
