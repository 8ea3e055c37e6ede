//! Plans decisions of operators against upstream's current versions, writes them to the ledger, and waits until they apply.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::app::error::AppError;
use crate::app::operations::adoption::{self, Adoption};
use crate::app::operations::approval::ApprovalPlan;
use crate::app::standalone::{configured_client, firewall, open_read_only};
use crate::clock::Clock;
use crate::config::Config;
use crate::npm::{Lockfile, PackageSpec};
use crate::policy::decisions::{Decision, DecisionProposal, Signature};
use crate::store::ApplyStatus;
use crate::store::{DecisionWriter, Ledger as _, StoreError};

/// How long to wait for the running server to apply a decision.
const AT_MOST: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedDecision {
    pub decision: Decision,
    pub effect: ApplyStatus,
}

/// Plans an approval of `spec` that names `records`, by `config` and upstream's current state.
pub(crate) async fn plan_approval(
    config: Config,
    clock: Arc<dyn Clock>,
    spec: &PackageSpec,
    records: &[String],
) -> Result<ApprovalPlan, AppError> {
    let client = configured_client(&config);
    ApprovalPlan::new(&firewall(config, clock)?.value, &client, spec, records).await
}

pub(crate) async fn plan_adoption(config: Config, clock: Arc<dyn Clock>, lockfiles: &[Lockfile]) -> Result<Adoption, AppError> {
    let (mut adoption, wanted) = adoption::wanted(lockfiles);
    let client = configured_client(&config);
    adoption.add(adoption::adopt_wanted(&firewall(config, clock)?.value, &client, wanted).await);
    Ok(adoption)
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
    match writer.confirm(id, by)? {
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
    match writer.revoke(id, by, why)? {
        Some(revision) => await_applied(&writer, id, revision),
        None => Err(conflict_error(&writer, id, "is already revoked")),
    }
}

/// Returns all decisions in the ledger of a data directory, oldest first. A missing ledger counts as empty.
///
/// # Errors
/// Returns an error if an existing ledger cannot be read.
pub fn decisions(data_dir: &Path) -> Result<Vec<Decision>, AppError> {
    Ok(open_read_only(data_dir)?.decisions()?.1)
}

fn await_applied(writer: &DecisionWriter, id: i64, revision: u64) -> Result<RecordedDecision, AppError> {
    let effect = writer.wait_applied(revision, AT_MOST)?;
    let decision = writer.find(id)?.ok_or_else(|| StoreError::Damaged("a recorded decision is missing".into()))?;
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
