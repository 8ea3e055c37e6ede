//! Plans an approval: finds the versions that it covers, by upstream's current metadata.

use serde::{Deserialize, Serialize};

use crate::app::error::AppError;
use crate::firewall::{Client, Firewall, InspectedVersion, PackageInspection};
use crate::npm::{PackageSpec, Range, Version};
use crate::policy::Verdict;
use crate::policy::decisions::{ApprovedVersion, DecisionAction};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ApprovalPlan {
    pub(crate) name: String,
    /// The requested version, range or dist-tag.
    pub(crate) asked: String,
    pub(crate) approved: Vec<ApprovedVersion>,
    /// The versions that an approval cannot allow, with reasons.
    pub(crate) left_out: Vec<(String, String)>,
    pub(crate) allowed: usize,
    /// Advisory records that the approval must name, but does not.
    pub(crate) unnamed: Vec<String>,
    pub(crate) needs_second: bool,
}

impl ApprovalPlan {
    /// Plans an approval of `spec` that names `records`: the current versions with their integrity.
    pub(crate) async fn new(
        firewall: &Firewall,
        client: &Client,
        spec: &PackageSpec,
        records: &[String],
    ) -> Result<Self, AppError> {
        let inspection = &firewall.inspect(client, &spec.name).await?;
        let asked = spec.wanted.clone().unwrap_or_else(|| "latest".to_owned());
        let fitting = matching_versions(inspection, &asked);
        if fitting.is_empty() {
            return Err(AppError::NothingFits { name: spec.name.clone(), asked });
        }
        let mut plan = Self { name: inspection.name.as_str().to_owned(), asked, ..Self::default() };
        for version in fitting {
            plan.add(version, records);
        }
        Ok(plan)
    }

    fn add(&mut self, version: &InspectedVersion, records: &[String]) {
        if version.verdict.is_allowed() {
            self.allowed += 1;
            return;
        }
        let Some(integrity) = version.integrity.as_ref().filter(|_| is_approvable(&version.verdict)) else {
            self.left_out.push((version.key.to_string(), why(&version.verdict)));
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

    pub(crate) fn into_act(self, records: Vec<String>) -> DecisionAction {
        DecisionAction::Approve { package: self.name, asked: self.asked, versions: self.approved, records }
    }
}

/// Returns why a version is refused, with the rule.
pub(crate) fn why(verdict: &Verdict) -> String {
    verdict.reason().map(|reason| format!("{} (rule {})", reason.detail, reason.rule)).unwrap_or_default()
}

pub(crate) fn is_approvable(verdict: &Verdict) -> bool {
    verdict.reason().is_none_or(|reason| reason.rule.may_be_approved())
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
