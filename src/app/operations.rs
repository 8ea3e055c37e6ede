//! What a running server answers over its control socket: the operations behind `explain`, `check`, `approve`, `adopt` and others,
//! by its own policy, feeds, decisions and cache. Bounded: few questions are worked on at once.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use url::Url;

use crate::app::standalone::adopt::{self, Adoption, WantedVersions};
use crate::app::standalone::asker;
use crate::app::standalone::decide::ApprovalPlan;
use crate::config::Effective;
use crate::config::effective::OF_PLACES;
use crate::firewall::{Client, Firewall, LockedVersion, Profile};
use crate::npm::{Digest, Integrity, PackageName, PackageSpec};
use crate::policy::Verdict;
use crate::server::admin::{CheckResponse, ClientPolicy, explanation};
use crate::store::{BlobStore, Ledger, SqliteLedger, StoreError};
use crate::units::timestamp;

/// Questions that are worked on at once: each may ask upstream for hundreds of packuments.
const MAX_QUESTIONS: usize = 4;

/// The most entries of one question: packages, or tarballs.
pub(crate) const MAX_ENTRIES: usize = 500;

/// What a server is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Question {
    /// Who it is: a [`Description`].
    Describe,
    /// To write down what it has noted so far.
    Flush,
    /// Whether a version would be served, and why: an [`Explained`].
    Explain { spec: String, at: Option<Timestamp>, profile: usize },
    /// What would become of locked versions: a [`Checked`].
    Check { packages: Vec<LockedVersion>, profile: usize },
    /// What an approval would cover: an [`ApprovalPlan`].
    Expand { spec: String, records: Vec<String>, profile: usize },
    /// What of lockfiles would be adopted: an [`Adoption`].
    Adopt { wanted: WantedVersions, profile: usize },
    /// To take tarballs, by their digests, out of the store, and what is remembered of packages: a [`Purged`].
    Purge { integrities: Vec<String>, packages: Vec<String> },
}

/// What it answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// This.
    Done(Value),
    /// It cannot, for this reason.
    Failed(String),
    /// It does not speak this program's language.
    Refused(String),
}

/// One address of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerDescription {
    /// The address, with its real port.
    pub address: SocketAddr,
    /// The policy that answers there: its place among the policies.
    pub profile: usize,
}

/// One policy of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyDescription {
    /// Its name, or its path.
    pub name: String,
    /// What clients are to agree with.
    pub terms: ClientPolicy,
}

/// A server that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Its version.
    pub version: String,
    /// Where it listens as a registry.
    pub listeners: Vec<ListenerDescription>,
    /// Where it listens as a gateway.
    pub gateways: Vec<SocketAddr>,
    /// The address under which clients reach it, if it is configured.
    pub public_url: Option<Url>,
    /// Its policies.
    pub policies: Vec<PolicyDescription>,
    /// Where packages come from, without credentials.
    pub upstreams: Vec<String>,
    /// Its settings.
    pub settings: Effective,
}

/// What is said of one version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Explained {
    /// For people.
    pub text: String,
    /// For programs.
    pub json: Value,
    /// Whether it would be served.
    pub is_allowed: bool,
    /// What it says in one line.
    pub verdict: String,
    /// The verdicts of the other policies that are not like it, each with its profile.
    pub others: Vec<(usize, String)>,
}

/// What left the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purged {
    /// Tarballs.
    pub tarballs: u64,
    /// Remembered packuments.
    pub packuments: u64,
}

/// What questions are answered by.
pub(crate) struct Operations {
    firewall: Arc<Firewall>,
    ledger: Arc<SqliteLedger>,
    blobs: Arc<dyn BlobStore>,
    description: Mutex<Description>,
    slots: Semaphore,
}

impl Answer {
    pub(crate) fn failed(why: String) -> Self {
        Self::Failed(why)
    }
}

impl Operations {
    pub(crate) fn new(
        firewall: &Arc<Firewall>,
        ledger: &Arc<SqliteLedger>,
        blobs: Arc<dyn BlobStore>,
        description: Description,
    ) -> Self {
        Self {
            firewall: Arc::clone(firewall),
            ledger: Arc::clone(ledger),
            blobs,
            description: Mutex::new(description),
            slots: Semaphore::new(MAX_QUESTIONS),
        }
    }

    /// Answers a question.
    pub(crate) async fn answer(&self, question: Question) -> Answer {
        match self.work(question).await {
            Ok(answer) => Answer::Done(answer),
            Err(why) => Answer::Failed(why),
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
                let ledger = Arc::clone(&self.ledger);
                tokio::task::spawn_blocking(move || ledger.flush()).await.map_err(|lost| lost.to_string())?;
                Ok(Value::Null)
            }
            Question::Explain { spec, at, profile } => {
                self.explain(&read_spec(&spec)?, at, profile).await.map(|told| json!(told))
            }
            Question::Check { packages, profile } => {
                bounded(packages.len())?;
                let packages = self.firewall.check(&of_profile(profile), &packages).await;
                Ok(json!(CheckResponse { packages, upstreams: self.firewall.upstreams() }))
            }
            Question::Expand { spec, records, profile } => {
                let expanded = expand(&self.firewall, &of_profile(profile), &read_spec(&spec)?, &records).await;
                expanded.map(|expansion| json!(expansion)).map_err(|wrong| told(&wrong))
            }
            Question::Adopt { wanted, profile } => {
                bounded(wanted.len())?;
                let adoption: Adoption = adopt::adopt_wanted(&self.firewall, &of_profile(profile), wanted).await;
                Ok(json!(adoption))
            }
            Question::Purge { integrities, packages } => {
                bounded(integrities.len().max(packages.len()))?;
                let (blobs, ledger, firewall) = (Arc::clone(&self.blobs), Arc::clone(&self.ledger), Arc::clone(&self.firewall));
                let purging = tokio::task::spawn_blocking(move || {
                    let packages: Vec<_> = packages.iter().filter_map(|name| PackageName::parse(name).ok()).collect();
                    let integrities: Vec<_> = integrities.iter().filter_map(|text| Integrity::parse(Some(text), None)).collect();
                    for name in &packages {
                        firewall.forget(name);
                    }
                    let purged = purge(&ledger, &integrities, &packages, |digest| blobs.remove(digest));
                    let purged = purged.map_err(|wrong| told(&wrong))?;
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

    /// Replaces the settings, which were read again.
    pub(crate) fn reloaded(&self, names: &[String], settings: Effective) {
        let mut description = self.description.lock().unwrap_or_else(PoisonError::into_inner);
        let mut settings = settings;
        // The addresses that are open stay as they are.
        for key in OF_PLACES {
            settings.keep(&description.settings, *key);
        }
        description.settings = settings;
        for (policy, name) in description.policies.iter_mut().zip(names) {
            policy.name.clone_from(name);
        }
    }

    /// The addresses that are listened on as a registry.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let description = self.description.lock().unwrap_or_else(PoisonError::into_inner);
        description.listeners.iter().map(|listener| listener.address).collect()
    }

    fn describe(&self) -> Description {
        let mut description = self.description.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let world = self.firewall.world();
        for (at, policy) in description.policies.iter_mut().enumerate() {
            policy.terms = ClientPolicy::of(world.policy(Profile(at)));
        }
        description.upstreams = self.firewall.upstreams();
        description
    }

    async fn explain(&self, spec: &PackageSpec, at: Option<Timestamp>, profile: usize) -> Result<Explained, String> {
        let ask = async |profile: usize| {
            let asker = of_profile(profile);
            self.firewall.explain(&asker, &spec.name, spec.wanted.as_deref(), at).await.map_err(|wrong| wrong.to_string())
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
            is_allowed: explanation.verdict.allows(),
            verdict,
            others,
        })
    }
}

/// What a verdict says, in a line.
#[must_use]
pub fn verdict_line(verdict: &Verdict) -> String {
    let reason = verdict.reason().map(|reason| format!(": {} (rule {})", reason.detail, reason.rule)).unwrap_or_default();
    let opens = verdict.opens().map(|opens| format!("; opens {}", timestamp::tell_opening(opens))).unwrap_or_default();
    let word = match verdict {
        Verdict::Allow => "allowed",
        Verdict::Hold { .. } => "held",
        Verdict::Deny { .. } => "denied",
    };
    format!("{word}{reason}{opens}")
}

/// Works out what an approval of `spec` that names `records` covers.
pub(crate) async fn expand(
    firewall: &Firewall,
    asker: &Client,
    spec: &PackageSpec,
    records: &[String],
) -> Result<ApprovalPlan, crate::app::AppError> {
    ApprovalPlan::of(&firewall.inspect(asker, &spec.name).await?, spec, records)
}

fn of_profile(profile: usize) -> Client {
    Client { profile: Profile(profile), ..asker() }
}

fn bounded(entries: usize) -> Result<(), String> {
    if entries <= MAX_ENTRIES { Ok(()) } else { Err(format!("at most {MAX_ENTRIES} entries are taken at once")) }
}

fn read_spec(text: &str) -> Result<PackageSpec, String> {
    PackageSpec::parse(text).map_err(|wrong| wrong.to_string())
}

/// An error and its causes in one line.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Takes tarballs out of a store, and what is remembered of packages; what was there. Blocks.
///
/// # Errors
/// When the ledger cannot be read, or something cannot be removed.
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

/// Packages that one question names, with the versions and digests that lockfiles hold of them.
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
