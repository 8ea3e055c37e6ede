//! Operations that a running server executes for `explain`, `check`, `approve`, `adopt` and other commands over its control
//! socket. They use the server's policy, feeds, decisions and cache. Parallelism is bounded.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use url::Url;

use crate::app::core::Core;
use crate::app::listeners::BoundListener;
use crate::app::standalone::adopt::{self, Adoption, WantedVersions};
use crate::app::standalone::decide::ApprovalPlan;
use crate::app::standalone::local_client;
use crate::config::effective::OF_PLACES;
use crate::config::{Config, Effective, SettingKey};
use crate::firewall::{Client, Firewall, LockedVersion, Profile};
use crate::npm::{Digest, Integrity, PackageName, PackageSpec};
use crate::policy::Verdict;
use crate::server::admin::{CheckResponse, ClientPolicy, explanation};
use crate::store::{Ledger, SqliteLedger, StoreError};
use crate::units::timestamp;

/// The maximum number of operations in parallel. Each may fetch hundreds of packuments from upstream.
const MAX_QUESTIONS: usize = 4;

/// The maximum number of entries of one request: packages or tarballs.
pub(crate) const MAX_ENTRIES: usize = 500;

/// A request to a running server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Question {
    /// Describes the server; the answer is a [`Description`].
    Describe,
    /// Writes pending ledger rows.
    Flush,
    /// Explains the verdict on a version; the answer is an [`Explained`].
    Explain { spec: String, at: Option<Timestamp>, profile: usize },
    /// Checks locked versions; the answer is a [`CheckResponse`].
    Check { packages: Vec<LockedVersion>, profile: usize },
    /// Plans an approval; the answer is an [`ApprovalPlan`].
    Expand { spec: String, records: Vec<String>, profile: usize },
    /// Plans the adoption of lockfile entries; the answer is an [`Adoption`].
    Adopt { wanted: WantedVersions, profile: usize },
    /// Removes tarballs by digest and cached packuments by package; the answer is a [`Purged`].
    Purge { integrities: Vec<String>, packages: Vec<String> },
}

/// The answer to a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum OperationReply {
    /// The result.
    Done(Value),
    /// The operation failed, for this reason.
    Failed(String),
    /// The server does not support this request.
    Refused(String),
}

/// One address of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerDescription {
    /// The address, with its real port.
    pub address: SocketAddr,
    /// The index of its policy.
    pub profile: usize,
}

/// One policy of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyDescription {
    /// The name or path.
    pub name: String,
    /// The settings that clients should use.
    pub terms: ClientPolicy,
}

/// A running server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    pub version: String,
    /// The registry addresses.
    pub listeners: Vec<ListenerDescription>,
    /// The gateway addresses.
    pub gateways: Vec<SocketAddr>,
    /// The configured public URL.
    pub public_url: Option<Url>,
    pub policies: Vec<PolicyDescription>,
    /// The upstream registries, without credentials.
    pub upstreams: Vec<String>,
    pub settings: Effective,
}

/// The explanation of the verdict on one version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Explained {
    /// The explanation as text.
    pub text: String,
    /// The explanation as JSON.
    pub json: Value,
    /// Whether the version would be served.
    pub is_allowed: bool,
    /// The verdict in one line.
    pub verdict: String,
    /// The differing verdicts of other policies, with their profiles.
    pub others: Vec<(usize, String)>,
}

/// What was removed from the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purged {
    /// The number of tarballs.
    pub tarballs: u64,
    /// The number of cached packuments.
    pub packuments: u64,
}

/// Executes operations on a running server.
pub(crate) struct Operations {
    core: Core,
    description: Mutex<Description>,
    slots: Semaphore,
}

impl Description {
    /// Describes a server with these registry listeners and gateway addresses.
    pub(crate) fn new(config: &Config, bound: &[BoundListener], gateways: Vec<SocketAddr>) -> Self {
        let listeners: Vec<_> =
            bound.iter().map(|bound| ListenerDescription { address: bound.address, profile: bound.profile.0 }).collect();
        let names: Vec<_> = config.policies.files.names.iter().map(|name| config.settings.policy_path(name)).collect();
        let mut settings = config.settings.effective().clone();
        let listen = listeners.iter().map(|listener| match (listener.profile, names.get(listener.profile)) {
            (0, _) | (_, None) => listener.address.to_string(),
            (_, Some(policy)) => format!("{}={policy}", listener.address),
        });
        settings.set(SettingKey::Listen, listen.collect());
        if !gateways.is_empty() {
            settings.set(SettingKey::Gateway, gateways.iter().map(ToString::to_string).collect());
        }
        // The answer to a request has the current ones.
        let unknown = ClientPolicy { minimum_release_age_seconds: 0, exclude: Vec::new() };
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            listeners,
            gateways,
            public_url: config.server.public_url.clone(),
            policies: names.into_iter().map(|name| PolicyDescription { name, terms: unknown.clone() }).collect(),
            upstreams: Vec::new(),
            settings,
        }
    }
}

impl OperationReply {
    pub(crate) fn failed(why: String) -> Self {
        Self::Failed(why)
    }
}

impl Operations {
    pub(crate) fn new(core: &Core, description: Description) -> Self {
        Self { core: core.clone(), description: Mutex::new(description), slots: Semaphore::new(MAX_QUESTIONS) }
    }

    /// Executes one operation.
    pub(crate) async fn answer(&self, question: Question) -> OperationReply {
        match self.work(question).await {
            Ok(answer) => OperationReply::Done(answer),
            Err(why) => OperationReply::Failed(why),
        }
    }

    async fn work(&self, question: Question) -> Result<Value, String> {
        let _slot = match question {
            Question::Describe | Question::Flush => None,
            _ => Some(self.slots.acquire().await.map_err(|closed| closed.to_string())?),
        };
        match question {
            Question::Describe => Ok(json!(self.describe())),
            Question::Flush => {
                let ledger = Arc::clone(&self.core.ledger);
                tokio::task::spawn_blocking(move || ledger.flush()).await.map_err(|lost| lost.to_string())?;
                Ok(Value::Null)
            }
            Question::Explain { spec, at, profile } => {
                self.explain(&read_spec(&spec)?, at, profile).await.map(|explained| json!(explained))
            }
            Question::Check { packages, profile } => {
                bounded(packages.len())?;
                let packages = self.core.firewall.check(&of_profile(profile), &packages).await;
                Ok(json!(CheckResponse { packages, upstreams: self.core.firewall.upstreams() }))
            }
            Question::Expand { spec, records, profile } => {
                let expanded = expand(&self.core.firewall, &of_profile(profile), &read_spec(&spec)?, &records).await;
                expanded.map(|expansion| json!(expansion)).map_err(|error| error_chain(&error))
            }
            Question::Adopt { wanted, profile } => {
                bounded(wanted.len())?;
                let adoption: Adoption = adopt::adopt_wanted(&self.core.firewall, &of_profile(profile), wanted).await;
                Ok(json!(adoption))
            }
            Question::Purge { integrities, packages } => {
                bounded(integrities.len().max(packages.len()))?;
                let core = self.core.clone();
                let purging = tokio::task::spawn_blocking(move || {
                    let packages: Vec<_> = packages.iter().filter_map(|name| PackageName::parse(name).ok()).collect();
                    let integrities: Vec<_> = integrities.iter().filter_map(|text| Integrity::parse(Some(text), None)).collect();
                    for name in &packages {
                        core.firewall.forget(name);
                    }
                    let purged = purge(&core.ledger, &integrities, &packages, |digest| core.blobs.remove(digest));
                    let purged = purged.map_err(|error| error_chain(&error))?;
                    tracing::warn!(
                        tarballs.removed = purged.tarballs,
                        packuments.removed = purged.packuments,
                        "cache purged by an operator"
                    );
                    Ok::<_, String>(purged)
                });
                purging.await.map_err(|lost| lost.to_string())?.map(|purged| json!(purged))
            }
        }
    }

    /// Updates the description after a reload of the configuration.
    pub(crate) fn reloaded(&self, names: &[String], settings: Effective) {
        let mut description = self.description.lock().unwrap_or_else(PoisonError::into_inner);
        let mut settings = settings;
        // Open addresses do not change at runtime.
        for key in OF_PLACES {
            settings.keep(&description.settings, *key);
        }
        description.settings = settings;
        for (policy, name) in description.policies.iter_mut().zip(names) {
            policy.name.clone_from(name);
        }
    }

    /// Returns the registry addresses.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let description = self.description.lock().unwrap_or_else(PoisonError::into_inner);
        description.listeners.iter().map(|listener| listener.address).collect()
    }

    fn describe(&self) -> Description {
        let mut description = self.description.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let policy_snapshot = self.core.firewall.policy();
        for (at, policy) in description.policies.iter_mut().enumerate() {
            policy.terms = ClientPolicy::of(policy_snapshot.policy(Profile(at)));
        }
        description.upstreams = self.core.firewall.upstreams();
        description
    }

    async fn explain(&self, spec: &PackageSpec, at: Option<Timestamp>, profile: usize) -> Result<Explained, String> {
        let ask = async |profile: usize| {
            let client = of_profile(profile);
            self.core.firewall.explain(&client, &spec.name, spec.wanted.as_deref(), at).await.map_err(|error| error.to_string())
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

/// Renders a verdict in one line.
#[must_use]
pub fn verdict_line(verdict: &Verdict) -> String {
    let reason = verdict.reason().map(|reason| format!(": {} (rule {})", reason.detail, reason.rule)).unwrap_or_default();
    let opens = verdict.opens_at().map(|opens| format!("; opens {}", timestamp::format_utc_ceil(opens))).unwrap_or_default();
    let word = match verdict {
        Verdict::Allow => "allowed",
        Verdict::Hold { .. } => "held",
        Verdict::Deny { .. } => "denied",
    };
    format!("{word}{reason}{opens}")
}

/// Plans an approval of `spec` that names `records`.
pub(crate) async fn expand(
    firewall: &Firewall,
    client: &Client,
    spec: &PackageSpec,
    records: &[String],
) -> Result<ApprovalPlan, crate::app::error::AppError> {
    ApprovalPlan::of(&firewall.inspect(client, &spec.name).await?, spec, records)
}

fn of_profile(profile: usize) -> Client {
    Client { profile: Profile(profile), ..local_client() }
}

fn bounded(entries: usize) -> Result<(), String> {
    if entries <= MAX_ENTRIES { Ok(()) } else { Err(format!("too many entries, at most {MAX_ENTRIES} per request")) }
}

fn read_spec(text: &str) -> Result<PackageSpec, String> {
    PackageSpec::parse(text).map_err(|error| error.to_string())
}

/// Renders an error and its causes in one line.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Removes tarballs and cached packuments, and returns how many there were. Blocks.
///
/// # Errors
/// Returns an error if the ledger cannot be read, or if a file cannot be removed.
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

/// Splits packages into parts that fit into one request.
pub(crate) fn parts_of(wanted: WantedVersions) -> Vec<WantedVersions> {
    let mut parts = vec![WantedVersions::new()];
    for (name, versions) in wanted {
        if parts.last().is_none_or(|part| part.len() >= MAX_ENTRIES) {
            parts.push(WantedVersions::new());
        }
        if let Some(part) = parts.last_mut() {
            part.insert(name, versions);
        }
    }
    parts
}
