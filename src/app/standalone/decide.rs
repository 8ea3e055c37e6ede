//! Decisions as people ask for them: worked out against what upstream has now, written down, and waited for until they are
//! in force. Refuses to decide by itself: every decision has an author and a reason.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::app::standalone::{asker_of, firewall};
use crate::app::{AppError, operations};
use crate::clock::Clock;
use crate::config::Config;
use crate::firewall::{InspectedVersion, PackageInspection};
use crate::npm::{PackageSpec, Range, Version};
use crate::policy::Verdict;
use crate::policy::decisions::{ApprovedVersion, Decision, DecisionAction, DecisionProposal, Signature};
use crate::store::sqlite::decision_writer::ApplyStatus;
use crate::store::{DecisionWriter, StoreError};

/// How long a decision waits for the running server to take it in.
const AT_MOST: Duration = Duration::from_secs(5);

/// A decision that was written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedDecision {
    /// It, as the ledger has it.
    pub decision: Decision,
    /// Whether it is in force.
    pub effect: ApplyStatus,
}

/// What an approval would cover, worked out against upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalPlan {
    /// The package.
    pub name: String,
    /// What was asked for.
    pub asked: String,
    /// Versions that are kept back now and would be approved.
    pub approved: Vec<ApprovedVersion>,
    /// Versions that an approval cannot open, and why.
    pub left_out: Vec<(String, String)>,
    /// Versions in what was asked for that are allowed already.
    pub allowed: usize,
    /// Records that the approval has to name, and does not.
    pub unnamed: Vec<String>,
    /// Whether a second person has to confirm it.
    pub needs_second: bool,
}

/// Works out what an approval of `spec` that names `records` covers: the versions there are now, with their bytes' digests.
///
/// # Errors
/// When upstream cannot be asked, or has nothing that fits.
pub async fn expand(
    config: Config,
    clock: Arc<dyn Clock>,
    spec: &PackageSpec,
    records: &[String],
) -> Result<ApprovalPlan, AppError> {
    let asker = asker_of(&config);
    operations::expand(&firewall(config, clock)?.value, &asker, spec, records).await
}

impl ApprovalPlan {
    /// What an approval of `spec` that names `records` covers of a package that looks like this.
    pub(crate) fn of(inspection: &PackageInspection, spec: &PackageSpec, records: &[String]) -> Result<Self, AppError> {
        let asked = spec.wanted.clone().unwrap_or_else(|| "latest".to_owned());
        let fitting = fitting(inspection, &asked);
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
        for one in fitting {
            expansion.add(one, records);
        }
        Ok(expansion)
    }

    fn add(&mut self, one: &InspectedVersion, records: &[String]) {
        if one.verdict.allows() {
            self.allowed += 1;
            return;
        }
        let Some(integrity) = one.integrity.as_ref().filter(|_| may_be_approved(&one.verdict)) else {
            let why = one.verdict.reason().map(|reason| format!("{} (rule {})", reason.detail, reason.rule));
            self.left_out.push((one.key.to_string(), why.unwrap_or_default()));
            return;
        };
        self.needs_second |= !one.records.is_empty();
        for record in one.records.iter().filter(|record| !records.contains(record)) {
            if !self.unnamed.contains(record) {
                self.unnamed.push(record.clone());
            }
        }
        self.approved.push(ApprovedVersion { version: one.key.to_string(), integrity: integrity.to_sri(), until: None });
    }

    /// The decision this leads to.
    #[must_use]
    pub fn into_act(self, records: Vec<String>) -> DecisionAction {
        DecisionAction::Approve { package: self.name, asked: self.asked, versions: self.approved, records }
    }
}

/// Whether an approval can open what was kept back by this verdict.
#[must_use]
pub fn may_be_approved(verdict: &Verdict) -> bool {
    verdict.reason().is_none_or(|reason| reason.rule.may_be_approved())
}

/// Writes a decision down and waits until it is in force. Blocks.
///
/// # Errors
/// When the data directory or its ledger cannot be used.
pub fn decide(data_dir: &Path, proposal: &DecisionProposal) -> Result<RecordedDecision, AppError> {
    let mut desk = DecisionWriter::open(data_dir).map_err(AppError::DataDir)?;
    let (id, revision) = desk.decide(proposal).map_err(AppError::DataDir)?;
    taken(&desk, id, revision)
}

/// Adds a second person's name to decision `id`, and waits until it is in force. Blocks.
///
/// # Errors
/// When it awaits nobody, or `by` is its author; when the ledger cannot be used.
pub fn confirm(data_dir: &Path, id: i64, by: &Signature) -> Result<RecordedDecision, AppError> {
    let mut desk = DecisionWriter::open(data_dir).map_err(AppError::DataDir)?;
    let confirmed = desk.confirm(id, by).map_err(AppError::DataDir)?;
    match confirmed {
        Some(revision) => taken(&desk, id, revision),
        None => Err(why_not(&desk, id, "awaits no second person")),
    }
}

/// Takes decision `id` back, and waits until it is out of force. Blocks.
///
/// # Errors
/// When there is none to take back; when the ledger cannot be used.
pub fn revoke(data_dir: &Path, id: i64, by: &Signature, why: &str) -> Result<RecordedDecision, AppError> {
    let mut desk = DecisionWriter::open(data_dir).map_err(AppError::DataDir)?;
    let revoked = desk.revoke(id, by, why).map_err(AppError::DataDir)?;
    match revoked {
        Some(revision) => taken(&desk, id, revision),
        None => Err(why_not(&desk, id, "was taken back already")),
    }
}

/// Every decision in the ledger of a data directory, oldest first; none where there is no ledger yet.
///
/// # Errors
/// When the ledger is there and cannot be read.
pub fn decisions(data_dir: &Path) -> Result<Vec<Decision>, AppError> {
    use crate::store::Ledger as _;
    let ledger = crate::app::standalone::glimpse(data_dir)?;
    Ok(ledger.decisions().map_err(AppError::DataDir)?.1)
}

fn taken(desk: &DecisionWriter, id: i64, revision: u64) -> Result<RecordedDecision, AppError> {
    let effect = desk.await_effect(revision, AT_MOST).map_err(AppError::DataDir)?;
    let decision = desk.find(id).map_err(AppError::DataDir)?;
    let decision =
        decision.ok_or_else(|| AppError::DataDir(StoreError::Damaged("a decision is not where it was written".into())))?;
    Ok(RecordedDecision { decision, effect })
}

fn why_not(desk: &DecisionWriter, id: i64, else_: &'static str) -> AppError {
    match desk.find(id) {
        Ok(Some(decision)) if decision.proposal.needs_second && decision.second.is_none() && decision.revoked.is_none() => {
            AppError::Undecidable {
                id,
                why: "needs another person than its author: another user of this system, whatever `SUDO_USER` says",
            }
        }
        Ok(Some(_)) => AppError::Undecidable { id, why: else_ },
        Ok(None) => AppError::Undecidable { id, why: "is not in this ledger" },
        Err(wrong) => AppError::DataDir(wrong),
    }
}

/// What `asked` means over everything upstream has: one version, a dist-tag's target, or all that a range takes.
fn fitting<'a>(inspection: &'a PackageInspection, asked: &str) -> Vec<&'a InspectedVersion> {
    let of_key = |key: &str| inspection.versions.iter().find(|one| *one.key == *key);
    if let Some(one) = of_key(asked) {
        return vec![one];
    }
    if let Some((_, target)) = inspection.dist_tags.iter().find(|(tag, _)| **tag == *asked) {
        return of_key(target).into_iter().collect();
    }
    let Some(range) = Range::parse(asked) else { return Vec::new() };
    let takes = |version: &Version| range.matches(version);
    inspection.versions.iter().filter(|one| one.version.as_ref().is_some_and(takes)).collect()
}
