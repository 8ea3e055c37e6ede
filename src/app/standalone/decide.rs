//! Records decisions of operators: plans them against upstream's current versions, writes them to the ledger, and waits until
//! they apply.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::app::error::AppError;
use crate::app::operations;
use crate::app::standalone::{configured_client, firewall};
use crate::clock::Clock;
use crate::config::Config;
use crate::firewall::{InspectedVersion, PackageInspection};
use crate::npm::{PackageSpec, Range, Version};
use crate::policy::Verdict;
use crate::policy::decisions::{ApprovedVersion, Decision, DecisionAction, DecisionProposal, Signature};
use crate::store::sqlite::decision_writer::ApplyStatus;
use crate::store::{DecisionWriter, StoreError};

/// How long to wait for the running server to apply a decision.
const AT_MOST: Duration = Duration::from_secs(5);

/// A recorded decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedDecision {
    /// The decision in the ledger.
    pub decision: Decision,
    /// Whether it is applied.
    pub effect: ApplyStatus,
}

/// What an approval would cover, by upstream's current versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalPlan {
    pub name: String,
    /// The requested version, range or dist-tag.
    pub asked: String,
    /// The refused versions that would be approved.
    pub approved: Vec<ApprovedVersion>,
    /// The versions that an approval cannot allow, with reasons.
    pub left_out: Vec<(String, String)>,
    /// The number of matching versions that are already allowed.
    pub allowed: usize,
    /// Advisory records that the approval must name, but does not.
    pub unnamed: Vec<String>,
    /// Whether a second person must confirm it.
    pub needs_second: bool,
}

/// Plans an approval of `spec` that names `records`: the current versions with their integrity.
///
/// # Errors
/// Returns an error if upstream cannot be queried, or has no matching version.
pub async fn plan_approval(
    config: Config,
    clock: Arc<dyn Clock>,
    spec: &PackageSpec,
    records: &[String],
) -> Result<ApprovalPlan, AppError> {
    let local_client = configured_client(&config);
    operations::expand(&firewall(config, clock)?.value, &local_client, spec, records).await
}

impl ApprovalPlan {
    /// Plans an approval of `spec` that names `records` for an inspected package.
    pub(crate) fn of(inspection: &PackageInspection, spec: &PackageSpec, records: &[String]) -> Result<Self, AppError> {
        let asked = spec.wanted.clone().unwrap_or_else(|| "latest".to_owned());
        let fitting = matching_versions(inspection, &asked);
        if fitting.is_empty() {
            return Err(AppError::NothingFits { name: spec.name.clone(), asked });
        }
        let mut expansion = Self {
            name: inspection.name.as_str().to_owned(),
            asked,
            approved: Vec::new(),
            left_out: Vec::new(),
            allowed: 0,
            unnamed: Vec::new(),
            needs_second: false,
        };
        for version in fitting {
            expansion.add(version, records);
        }
        Ok(expansion)
    }

    fn add(&mut self, version: &InspectedVersion, records: &[String]) {
        if version.verdict.is_allowed() {
            self.allowed += 1;
            return;
        }
        let Some(integrity) = version.integrity.as_ref().filter(|_| is_approvable(&version.verdict)) else {
            let why = version.verdict.reason().map(|reason| format!("{} (rule {})", reason.detail, reason.rule));
            self.left_out.push((version.key.to_string(), why.unwrap_or_default()));
            return;
        };
        self.needs_second |= !version.records.is_empty();
        for record in version.records.iter().filter(|record| !records.contains(record)) {
            if !self.unnamed.contains(record) {
                self.unnamed.push(record.clone());
            }
        }
        self.approved.push(ApprovedVersion { version: version.key.to_string(), integrity: integrity.to_sri(), until: None });
    }

    /// Converts the plan to a decision.
    #[must_use]
    pub fn into_act(self, records: Vec<String>) -> DecisionAction {
        DecisionAction::Approve { package: self.name, asked: self.asked, versions: self.approved, records }
    }
}

/// Checks whether an approval can override a verdict.
#[must_use]
pub fn is_approvable(verdict: &Verdict) -> bool {
    verdict.reason().is_none_or(|reason| reason.rule.may_be_approved())
}

/// Records a decision and waits until it applies. Blocks.
///
/// # Errors
/// Returns an error if the data directory or its ledger cannot be used.
pub fn record_decision(data_dir: &Path, proposal: &DecisionProposal) -> Result<RecordedDecision, AppError> {
    let mut writer = DecisionWriter::open(data_dir)?;
    let (id, revision) = writer.decide(proposal)?;
    await_applied(&writer, id, revision)
}

/// Confirms decision `id` as a second person and waits until it applies. Blocks.
///
/// # Errors
/// Returns an error if the decision awaits no confirmation, if `by` is its author, or if the ledger cannot be used.
pub fn confirm(data_dir: &Path, id: i64, by: &Signature) -> Result<RecordedDecision, AppError> {
    let mut writer = DecisionWriter::open(data_dir)?;
    let confirmed = writer.confirm(id, by)?;
    match confirmed {
        Some(revision) => await_applied(&writer, id, revision),
        None => Err(conflict_error(&writer, id, "awaits no confirmation")),
    }
}

/// Revokes decision `id` and waits until the change applies. Blocks.
///
/// # Errors
/// Returns an error if there is no such active decision, or if the ledger cannot be used.
pub fn revoke(data_dir: &Path, id: i64, by: &Signature, why: &str) -> Result<RecordedDecision, AppError> {
    let mut writer = DecisionWriter::open(data_dir)?;
    let revoked = writer.revoke(id, by, why)?;
    match revoked {
        Some(revision) => await_applied(&writer, id, revision),
        None => Err(conflict_error(&writer, id, "is already revoked")),
    }
}

/// Returns all decisions in the ledger of a data directory, oldest first. A missing ledger counts as empty.
///
/// # Errors
/// Returns an error if an existing ledger cannot be read.
pub fn decisions(data_dir: &Path) -> Result<Vec<Decision>, AppError> {
    use crate::store::Ledger as _;
    let ledger = crate::app::standalone::open_read_only(data_dir)?;
    Ok(ledger.decisions()?.1)
}

fn await_applied(writer: &DecisionWriter, id: i64, revision: u64) -> Result<RecordedDecision, AppError> {
    let effect = writer.wait_applied(revision, AT_MOST)?;
    let decision = writer.find(id)?;
    let decision = decision.ok_or_else(|| StoreError::Damaged("a recorded decision is missing".into()))?;
    Ok(RecordedDecision { decision, effect })
}

fn conflict_error(writer: &DecisionWriter, id: i64, reason: &'static str) -> AppError {
    match writer.find(id) {
        Ok(Some(decision)) if decision.proposal.needs_second && decision.second.is_none() && decision.revoked.is_none() => {
            AppError::Undecidable { id, why: "must be confirmed by another system user than its author; `SUDO_USER` is ignored" }
        }
        Ok(Some(_)) => AppError::Undecidable { id, why: reason },
        Ok(None) => AppError::Undecidable { id, why: "is not in this ledger" },
        Err(error) => error.into(),
    }
}

/// Returns the versions that `asked` matches: one version, the target of a dist-tag, or all versions in a range.
fn matching_versions<'a>(inspection: &'a PackageInspection, asked: &str) -> Vec<&'a InspectedVersion> {
    let of_key = |key: &str| inspection.versions.iter().find(|version| *version.key == *key);
    if let Some(version) = of_key(asked) {
        return vec![version];
    }
    if let Some((_, target)) = inspection.dist_tags.iter().find(|(tag, _)| **tag == *asked) {
        return of_key(target).into_iter().collect();
    }
    let Some(range) = Range::parse(asked) else { return Vec::new() };
    let takes = |version: &Version| range.matches(version);
    inspection.versions.iter().filter(|version| version.version.as_ref().is_some_and(takes)).collect()
}
