//! Operations that a running server executes for `explain`, `check`, `approve`, `adopt` and other commands over its control
//! socket. They use the server's policy, feeds, decisions and cache. Parallelism is bounded.

pub(crate) mod adoption;
pub(crate) mod approval;
pub(crate) mod messages;
pub(crate) mod requests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::app::core::{Core, local_client};
use crate::app::operations::adoption::adopt_wanted;
use crate::app::operations::approval::ApprovalPlan;
use crate::app::operations::messages::{
    Description, Explained, ListenerDescription, MAX_ENTRIES, OperationReply, OperationRequest,
};
use crate::config::Effective;
use crate::config::effective::OF_PLACES;
use crate::firewall::Profile;
use crate::net::ListenAddress;
use crate::npm::{Digest, Integrity, PackageName, PackageSpec};
use crate::policy::Verdict;
use crate::server::admin::{CheckResponse, ClientPolicy, explanation};
use crate::store::{Ledger as _, SqliteLedger, StoreError};
use crate::units::timestamp;

/// The maximum number of operations in parallel. Each may fetch hundreds of packuments from upstream.
const MAX_PARALLEL: usize = 4;

pub(crate) struct Operations {
    core: Core,
    description: Mutex<Description>,
    slots: Semaphore,
}

impl Operations {
    pub(crate) fn new(core: &Core, description: Description) -> Self {
        Self { core: core.clone(), description: Mutex::new(description), slots: Semaphore::new(MAX_PARALLEL) }
    }

    pub(crate) async fn answer(&self, request: OperationRequest) -> OperationReply {
        self.work(request).await.map_or_else(OperationReply::Failed, OperationReply::Done)
    }

    async fn work(&self, request: OperationRequest) -> Result<Value, String> {
        let _slot = match request {
            OperationRequest::Describe | OperationRequest::Flush => None,
            _ => Some(self.slots.acquire().await.map_err(|closed| closed.to_string())?),
        };
        match request {
            OperationRequest::Describe => Ok(json!(self.describe())),
            OperationRequest::Flush => {
                let ledger = Arc::clone(&self.core.ledger);
                tokio::task::spawn_blocking(move || ledger.flush()).await.map_err(|lost| lost.to_string())?;
                Ok(Value::Null)
            }
            OperationRequest::Explain { spec, at, profile } => {
                self.explain(&read_spec(&spec)?, at, profile).await.map(|explained| json!(explained))
            }
            OperationRequest::Check { packages, profile } => {
                bounded(packages.len())?;
                Ok(json!(CheckResponse::of(&self.core.firewall, &local_client(profile), &packages).await))
            }
            OperationRequest::Expand { spec, records, profile } => {
                let plan = ApprovalPlan::new(&self.core.firewall, &local_client(profile), &read_spec(&spec)?, &records).await;
                plan.map(|plan| json!(plan)).map_err(|error| error_chain(&error))
            }
            OperationRequest::Adopt { wanted, profile } => {
                bounded(wanted.len())?;
                Ok(json!(adopt_wanted(&self.core.firewall, &local_client(profile), wanted).await))
            }
            OperationRequest::Request { user, operation, profile } => {
                requests::perform(&self.core.approval_requests(), (&user, profile), operation).await
            }
            OperationRequest::Purge { integrities, packages } => {
                bounded(integrities.len().max(packages.len()))?;
                let core = self.core.clone();
                let purging = tokio::task::spawn_blocking(move || {
                    let packages: Vec<_> = packages.iter().filter_map(|name| PackageName::parse(name).ok()).collect();
                    let integrities: Vec<_> = integrities.iter().filter_map(|text| Integrity::parse(Some(text), None)).collect();
                    for name in &packages {
                        core.firewall.forget(name);
                    }
                    let purged = purge(&core.ledger, &integrities, &packages, |digest| core.blobs.remove(digest));
                    let Purged { tarballs, packuments } = purged.map_err(|error| error_chain(&error))?;
                    tracing::warn!(tarballs.removed = tarballs, packuments.removed = packuments, "cache purged by an operator");
                    Ok(json!(Purged { tarballs, packuments }))
                });
                purging.await.map_err(|lost| lost.to_string())?
            }
        }
    }

    /// Updates the description after a reload of the configuration.
    pub(crate) fn reloaded(&self, names: &[String], mut settings: Effective) {
        let mut description = self.description();
        // Open addresses do not change at runtime.
        for key in OF_PLACES {
            settings.keep(&description.settings, *key);
        }
        description.settings = settings;
        for (policy, name) in description.policies.iter_mut().zip(names) {
            policy.name.clone_from(name);
        }
    }

    pub(crate) fn addresses(&self) -> Vec<ListenAddress> {
        self.description().listeners.iter().map(ListenerDescription::listen_address).collect()
    }

    fn description(&self) -> MutexGuard<'_, Description> {
        self.description.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn describe(&self) -> Description {
        let mut description = self.description().clone();
        let policy_snapshot = self.core.firewall.policy();
        for (at, policy) in description.policies.iter_mut().enumerate() {
            policy.terms = ClientPolicy::of(policy_snapshot.policy(Profile(at)));
        }
        description.upstreams = self.core.firewall.upstreams();
        description
    }

    async fn explain(&self, spec: &PackageSpec, at: Option<Timestamp>, profile: usize) -> Result<Explained, String> {
        let ask = async |profile: usize| {
            self.core
                .firewall
                .explain(&local_client(profile), &spec.name, spec.wanted.as_deref(), at)
                .await
                .map_err(|error| error.to_string())
        };
        let explanation = ask(profile).await?;
        let verdict = verdict_line(&explanation.verdict);
        let policies: BTreeSet<usize> = self.describe().listeners.iter().map(|listener| listener.profile).collect();
        let mut others = Vec::new();
        for other in policies.into_iter().filter(|other| *other != profile) {
            let line = verdict_line(&ask(other).await?.verdict);
            if line != verdict {
                others.push((other, line));
            }
        }
        Ok(Explained {
            text: explanation::text(&explanation),
            json: explanation.json(),
            is_allowed: explanation.verdict.is_allowed(),
            verdict,
            others,
        })
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Purged {
    pub(crate) tarballs: u64,
    pub(crate) packuments: u64,
}

/// Removes tarballs and cached packuments from the store, and returns how many there were. Blocks.
pub(crate) fn purge(
    ledger: &SqliteLedger,
    integrities: &[Integrity],
    packages: &[PackageName],
    remove: impl Fn(&Digest) -> Result<bool, StoreError>,
) -> Result<Purged, StoreError> {
    let mut purged = Purged::default();
    for integrity in integrities {
        purged.tarballs += u64::from(remove(integrity.strongest())?);
    }
    for name in packages {
        for digest in ledger.documents(name)? {
            purged.packuments += u64::from(remove(&digest)?);
        }
    }
    Ok(purged)
}

pub(crate) fn verdict_line(verdict: &Verdict) -> String {
    let reason = verdict.reason().map(|reason| format!(": {} (rule {})", reason.detail, reason.rule)).unwrap_or_default();
    let opens = verdict.opens_at().map(|opens| format!("; opens {}", timestamp::format_utc_ceil(opens))).unwrap_or_default();
    let word = match verdict {
        Verdict::Allow => "allowed",
        Verdict::Hold { .. } => "held",
        Verdict::Deny { .. } => "denied",
    };
    format!("{word}{reason}{opens}")
}

fn bounded(entries: usize) -> Result<(), String> {
    if entries <= MAX_ENTRIES { Ok(()) } else { Err(format!("too many entries, at most {MAX_ENTRIES} per request")) }
}

fn read_spec(text: &str) -> Result<PackageSpec, String> {
    PackageSpec::parse(text).map_err(|error| error.to_string())
}

/// Renders an error and its causes in one line.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
